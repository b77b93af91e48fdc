"""From any picture to the pixels the network sees: upright, RGB, uint8, stretched to S x S.

Shape letters: H, W the picture's height and width, S the network's input size.

Training, evaluation and the edge all use these functions, so the three see the same pixels: no nearest neighbour, and
a JPEG of 1.5 megapixels and more is decoded at a fraction of its size (`load_resized`), where twice the network's input
is left in both directions. Colour profiles are ignored, as COCO's published results ignore them.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .errors import UserError, os_reason, shortened

# The colour behind transparent pixels. A mid grey, because both a black and a white drawing stay visible on
# it.
BACKGROUND_RGB = (128, 128, 128)

# Asked for by name: Pillow also opens EPS and the like, some of them through other programs. Phones' MPO is
# JPEG.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
# How their files' names end, in any case.
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".pjpeg", ".pjp")
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")

# EXIF orientations of pictures that lie on their side in the file.
_SIDEWAYS = (5, 6, 7, 8)
# And of those where what ends the file's rows or columns is the upright picture's left or upper side.
_ENDS_LEFT, _ENDS_ABOVE = (2, 3, 6, 7), (3, 4, 7, 8)

# Pixels from which on a JPEG may be decoded at a fraction. A smaller one takes milliseconds; as a path, an image or an
# array it gives the same to the last bit.
_LARGE = 1_500_000

# What Pillow's decoders raise on damaged files, beside OSError: they are many, by many authors.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, AttributeError,
    NotImplementedError, RuntimeError, struct.error, zlib.error, MemoryError,
)  # fmt: skip

ImageSource = Union[str, "os.PathLike[str]", Image.Image, NDArray[Any]]


def load_image(path: str | os.PathLike[str], *, turned: bool = True) -> Image.Image:
    """Decode a picture into an upright RGB image.

    The EXIF orientation is applied. Grey, 16-bit grey, palette, CMYK and YCbCr pictures become RGB;
    transparent ones are laid on BACKGROUND_RGB. Of an animation the first frame is taken.

    Args:
        path: a JPEG, PNG, BMP, WebP, GIF or TIFF file.
        turned: False leaves the pixels as they are stored, for annotations that were made by a tool which does not
            look at the orientation. (A TIFF is turned all the same.)

    Returns:
        A PIL image of mode RGB, fully decoded, without EXIF orientation.

    Raises:
        UserError: no such file, not a picture, truncated or otherwise damaged, or too large to decode safely.
    """
    with opened_image(path) as image:
        return _upright_rgb(image, str(Path(path)), turned=turned)


def pictures_in(path: str | os.PathLike[str]) -> int:
    """How many pictures a file holds: pages of a TIFF, frames of an animation. A phone's second one is its preview.

    Raises:
        UserError: as `load_image`.
    """
    if Path(path).suffix.lower() in JPEG_SUFFIXES:
        return 1
    with opened_image(path) as image:
        return 1 if image.format in ("JPEG", "MPO") else int(getattr(image, "n_frames", 1))


def load_resized(
    path: str | os.PathLike[str], size: int, *, turned: bool = True
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """A picture as a network of input size S sees it; of a large JPEG only a half, a quarter or an eighth is decoded.

    JPEG's decoder gives such a fraction for less than the whole: of 12 megapixels a quarter of each side, for S = 320,
    in a quarter of the time, and it is shrunk in a tenth. It must have 1.5 megapixels, and at least 2 S are left in
    both directions, so that the result differs from `resize_to(as_rgb_array(path), S)` by half a grey level on average.

    Args:
        path, turned: as of `load_image`.
        size: S, in pixels.

    Returns:
        (uint8 [S, S, 3], RGB, upright; (W, H) of the whole picture)

    Raises:
        UserError: as `load_image`.
    """
    with opened_image(path) as image:
        width, height = image.size
        if image.format in ("JPEG", "MPO") and width * height >= _LARGE:
            image.draft(image.mode, (2 * size, 2 * size))
        fraction = next(n for n in (1, 2, 4, 8) if -(-width // n) == image.width and -(-height // n) == image.height)
        turn = image.getexif().get(ExifTags.Base.Orientation) if fraction > 1 and turned else None
        upright = _upright_rgb(image, str(Path(path)), turned=turned)
    if fraction == 1:
        return resize_to(np.asarray(upright), size), upright.size
    whole = (height, width) if turn in _SIDEWAYS else (width, height)
    # The last row and column in the file may be a part of a pixel: rounded up, the picture would be wider than it is.
    right, below = whole[0] / fraction, whole[1] / fraction
    left = upright.width - right if turn in _ENDS_LEFT else 0.0
    above = upright.height - below if turn in _ENDS_ABOVE else 0.0
    box = (left, above, left + right, above + below)
    return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR, box=box)), whole


@contextmanager
def opened_image(file: str | os.PathLike[str] | io.BytesIO, name: str | None = None) -> Iterator[Image.Image]:
    """A picture's header, as Pillow reads it; what goes wrong here or in the block is a UserError.

    Args:
        name: for messages; None: the path.

    Raises:
        UserError: see `load_image`.
    """
    shown = str(file if isinstance(file, io.BytesIO) else Path(file)) if name is None else name
    with _decoding(shown), Image.open(file, formats=FORMATS) as image:
        yield image


def decode_image(data: bytes, name: str) -> Image.Image:
    """As `load_image`, of a file's bytes; `name` is for messages."""
    with opened_image(io.BytesIO(data), name) as image:
        return _upright_rgb(image, name)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """What Pillow raises over a picture, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such image file") from error
    except IsADirectoryError as error:
        raise UserError(f"{name} is a folder; an image file was expected") from error
    except PermissionError as error:
        raise UserError(f"{name}: {os_reason(error)}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image; expected one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{name} has more than {limit // 10**6} million pixels; make it smaller first") from error
    except _DECODE_ERRORS as error:
        raise UserError(f"{name} does not decode ({shortened(error)}); it may be truncated or damaged") from error


def as_rgb_array(image: ImageSource) -> NDArray[np.uint8]:
    """Any accepted form of picture as upright RGB pixels.

    Args:
        image: a path; a PIL image of any mode (its EXIF orientation is applied); or a uint8 RGB array [H, W,
            3].

    Returns:
        uint8 [H, W, 3], RGB, C-contiguous. Treat it as read-only: it may share memory with `image`.

    Raises:
        UserError: it is none of these, is empty, or does not decode.
    """
    if isinstance(image, (str, os.PathLike)):
        return np.asarray(load_image(image))
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "") or "the PIL image")
        with _decoding(name):  # Image.open only reads the header, so a damaged file may come to light as late as here
            return np.asarray(_upright_rgb(image, name))
    if isinstance(image, np.ndarray):
        return _checked_array(image)
    raise UserError(
        f"an image of type {type(image).__module__}.{type(image).__qualname__} came; "
        "expected a path, a PIL image or a uint8 RGB array [H, W, 3]"
    )


def resize_to(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Stretch a picture to the network's square input; its aspect is not kept, as in training.

    Pillow's bilinear filter widens when it shrinks, that is, it antialiases; OpenCV's and TensorFlow's
    defaults do not.

    Args:
        image: uint8 [H, W, 3], as `as_rgb_array` gives it.
        size: S, in pixels.

    Returns:
        uint8 [S, S, 3]; `image` itself where it has that size already.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _checked_array(image: NDArray[Any]) -> NDArray[np.uint8]:
    came = f"an array of shape {list(image.shape)} and dtype {image.dtype} came"
    wanted = "expected uint8 RGB [H, W, 3]"
    if image.ndim != 3 or image.shape[2] != 3:
        advice = ""
        if image.ndim == 2:
            advice = "; for a grey image repeat it with np.stack([grey] * 3, axis=-1)"
        elif image.ndim == 4:
            advice = "; give one image at a time"
        elif image.ndim == 3 and image.shape[2] == 4:
            advice = "; for RGBA give a PIL image, or leave out the alpha channel"
        raise UserError(f"{came}; {wanted}{advice}")
    if image.dtype != np.uint8:
        advice = (
            "; values of 0..1 convert with (image * 255).round().astype(np.uint8)" if image.dtype.kind == "f" else ""
        )
        raise UserError(f"{came}; {wanted}{advice}")
    if image.size == 0:
        raise UserError(f"{came}; an image needs at least one pixel")
    return np.ascontiguousarray(image)


def _upright_rgb(image: Image.Image, name: str, *, turned: bool = True) -> Image.Image:
    """Decode `image` wholly and return a new upright RGB image (or `image` itself, if it is one already)."""
    if image.width == 0 or image.height == 0:
        raise UserError(f"{name} has no pixels ({image.width} x {image.height})")
    image.load()
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return _deep_grey_to_rgb(upright, name)
    if upright.has_transparency_data:
        # In RGBA every kind of transparency meets: an alpha channel, a palette's, one colour declared clear.
        layered = upright.convert("LA") if upright.mode == "La" else upright
        behind = Image.new("RGBA", upright.size, (*BACKGROUND_RGB, 255))
        return Image.alpha_composite(behind, layered.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey (mode I;16*, or I in older Pillows) -> RGB. Pillow itself would clip at 255."""
    if image.mode == "F":
        raise UserError(f"{name} has floating-point pixels, whose white is unknown; save it with 8 or 16 bits")
    values = np.asarray(image).astype(np.int32)  # [H, W]
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{name} has grey values from {values.min()} to {values.max()}; expected 16 bits (0 to 65535)")
    grey = ((values + 128) // 257).astype(np.uint8)  # 65535 -> 255, rounded
    pixels = np.repeat(grey[..., np.newaxis], 3, axis=-1)  # [H, W, 3]
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        pixels[values == clear] = BACKGROUND_RGB
    return Image.fromarray(pixels)
