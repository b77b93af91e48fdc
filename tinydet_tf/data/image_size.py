"""The size of an image file as it decodes, read from its header."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tinydet_lite.errors import UserError

_ORIENTATION_TAG = 0x0112
_TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height


def header_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, with the orientation that EXIF asks for applied.

    Raises:
        UserError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            transposed = image.getexif().get(_ORIENTATION_TAG) in _TRANSPOSED
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} is not readable ({error}); its annotation gives no width and height") from error
    return (height, width) if transposed else (width, height)
