"""How the images of a data set are opened, and what becomes of one that cannot be used: one rule for all commands.

An image that cannot be used (it is missing, empty, damaged, no image, too large to decode safely, or of another size
than its annotations say) is left out together with its objects, in training, validation, evaluation, calibration and
conversion alike. The first few are named with the reason, beside how many there are. More than SHARE of the images and
more than MOST of them, or all, are an error.

`usable` looks at a whole data set before anything is done with it. It reads the header of each file and its end, where
a file that was cut short gives itself away, and decodes what leaves a doubt: about a tenth of a millisecond an image.
Damage in the middle of a file shows when the image is decoded; it is counted there (`Skipped.skip`), and training takes
the next image in its place, so that the epoch keeps its length (`NextUsable`).

Orientation. What annotations say refers to the picture as viewers show it, turned as EXIF asks for. Some tools do not
turn pictures. Where a json's (or a VOC xml's) size is that of the stored pixels and not that of the turned picture, its
boxes mean the stored pixels, which are then what is read. Where both sizes are the same (a square, or an orientation of
half a turn or a mirror), the other images of the data set decide: if some of them mean stored pixels and none means
turned ones, so does this one. YOLO's files have no sizes: their pictures are turned.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

import numpy as np
from PIL import ExifTags

from tinydet_lite.detector import Prepared
from tinydet_lite.errors import UserError
from tinydet_lite.preprocess import load_image, load_resized, opened_image

if TYPE_CHECKING:
    from tinydet_tf.data.coco import CocoDataset, CocoImage

_LOG = logging.getLogger(__name__)

#: More broken images than both are an error.
SHARE, MOST = 0.01, 3
#: How many of them a line names.
_NAMED = 3
#: Reading headers waits for the disk more than it computes.
_THREADS = 8
_TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Header:
    """Sides of the stored pixels, and EXIF's orientation: 1 is upright, 2 to 8 ask for a turn or a mirror."""

    width: int
    height: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the picture as viewers show it."""
        return (self.height, self.width) if self.orientation in _TRANSPOSED else (self.width, self.height)


def read_header(path: Path) -> Header:
    """What a file says of itself; decodes it where header and end leave a doubt whether it is whole.

    Raises:
        UserError: see `load_image`.
    """
    with opened_image(path) as image, open(path, "rb") as file:
        width, height = image.size
        if image.format in ("JPEG", "MPO"):
            whole, tagged = _ends_with(file, b"\xff\xd9"), True
        elif image.format == "WEBP":
            whole, tagged = _riff_is_whole(file), True
        elif image.format == "PNG":
            kinds = _png_chunks(file)
            # Pillow decodes a PNG to look for an orientation, which these kinds of chunks alone can hold.
            whole, tagged = b"IEND" in kinds, bool(kinds & {b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
        else:
            # No short check is known. Pillow turns a TIFF while it decodes.
            return Header(*load_image(path).size, 1)
        orientation: Any = image.getexif().get(ExifTags.Base.Orientation) if tagged else None  # of any type
    if not whole:
        load_image(path)
    return Header(width, height, orientation if isinstance(orientation, int) and 2 <= orientation <= 8 else 1)


def _ends_with(file: BinaryIO, marker: bytes) -> bool:
    file.seek(-len(marker), os.SEEK_END)
    return file.read() == marker


def _riff_is_whole(file: BinaryIO) -> bool:
    start = file.read(8)
    return file.seek(0, os.SEEK_END) >= 8 + int.from_bytes(start[4:], "little")


def _png_chunks(file: BinaryIO) -> set[bytes]:
    """The kinds of a PNG's chunks; without IEND where the file is cut short."""
    kinds: set[bytes] = set()
    size = file.seek(0, os.SEEK_END)
    position = 8
    while position + 12 <= size and b"IEND" not in kinds:
        file.seek(position)
        start = file.read(8)
        position += 12 + int.from_bytes(start[:4], "big")
        if position <= size:
            kinds.add(start[4:])
    return kinds


def load_pixels(path: Path, width: int, height: int, *, as_stored: bool = False) -> np.ndarray:
    """Decode an image: uint8 [height, width, 3].

    Args:
        width, height: what its annotations say. Where that is the size of the stored pixels alone, these are given.
        as_stored: give the stored pixels, not those that EXIF's orientation makes of them.

    Raises:
        UserError: it does not decode, or has another size. Boxes are not adapted to the other size: nobody knows what
            was done to the image in between.
    """

    def load(turned: bool) -> tuple[np.ndarray, tuple[int, int]]:
        image = load_image(path, turned=turned)
        return np.asarray(image), image.size

    return _of_size(load, path, (width, height), as_stored)


def load_prepared(path: Path, width: int, height: int, input_size: int, *, as_stored: bool = False) -> Prepared:
    """An image as a Detector prepares the file itself (`tinydet_lite.preprocess.load_resized`).

    Args, Raises: as of `load_pixels`.
    """

    def load(turned: bool) -> tuple[np.ndarray, tuple[int, int]]:
        return load_resized(path, input_size, turned=turned)

    return Prepared((width, height), _of_size(load, path, (width, height), as_stored))


def _of_size(
    load: Callable[[bool], tuple[np.ndarray, tuple[int, int]]], path: Path, said: tuple[int, int], as_stored: bool
) -> np.ndarray:
    """What `load` gives, turned or as stored, for a picture of the size that its annotations say."""
    pixels, found = load(not as_stored)
    if not as_stored and found == said[::-1] != said:
        stored, stored_size = load(False)
        pixels, found = (stored, stored_size) if stored_size == said else (pixels, found)
    if found != said:
        raise _another_size(path, found, said)
    return pixels


def _another_size(path: Path, found: tuple[int, int], said: tuple[int, int]) -> UserError:
    turned = " (turned by a quarter?)" if found == said[::-1] else ""
    return UserError(
        f"{path} decodes to {found[0]}x{found[1]} pixels, but its json says {said[0]}x{said[1]}{turned}; "
        "correct width, height and boxes there, or the image"
    )


class Skipped:
    """The images of a data set that cannot be used: tells of them, and stops where they are too many. For threads.

    Args:
        total: how many images the data set has, these included.
        where: the data set, for messages.
    """

    def __init__(self, total: int, where: str) -> None:
        self._total, self._where = total, where
        self._reasons: dict[Path, str] = {}
        self._told = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._reasons)

    def note(self, path: Path, error: UserError) -> None:
        """Counts an image, once, and says nothing yet."""
        text = str(error)
        with self._lock:
            if path not in self._reasons:
                # Behind the semicolon is advice for somebody who has only this image.
                self._reasons[path] = text.rpartition("; ")[0] or text

    def tell(self, *, objects: int = 0) -> None:
        """Warns of what was noted since the last time, in a line.

        Args:
            objects: in these images.

        Raises:
            UserError: too many images cannot be used, or none can.
        """
        with self._lock:
            count, reasons = len(self._reasons), list(self._reasons.values())
            if count and count == self._total:
                raise UserError(f"none of the {count} images of {self._where} can be used: {_first(reasons)}")
            if count > MOST and count > SHARE * self._total:
                raise UserError(
                    f"{count} of {self._total} images of {self._where} cannot be used, which is more than one in a "
                    f"hundred: {_first(reasons)}; repair them or take them out of the data"
                )
            if count > self._told:
                inside = f" and the {objects} objects in them" if objects else ""
                new = _first(reasons[self._told :])
                _LOG.warning("%s: skipping %d of %d images%s: %s", self._where, count, self._total, inside, new)
            self._told = count

    def skip(self, path: Path, error: UserError) -> None:
        """As `note` and `tell`."""
        with self._lock:
            self.note(path, error)
            self.tell()


def _first(reasons: Sequence[str]) -> str:
    more = len(reasons) - _NAMED
    return "; ".join(reasons[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


class NextUsable(Generic[Item]):
    """A function from an index to `load(index)`, or to that of the next index that loads. For threads.

    Args:
        load: raises UserError where an image cannot be used.
        paths: of the images; after the last one the search goes on at the first.
        skipped: what is told of them.
    """

    def __init__(self, load: Callable[[int], Item], paths: Sequence[Path], skipped: Skipped) -> None:
        self._load, self._paths, self._skipped = load, paths, skipped
        self._broken: set[int] = set()

    def __call__(self, index: int) -> Item:
        """
        Raises:
            UserError: too many images cannot be used, or none can.
        """
        for candidate in itertools.chain(range(index, len(self._paths)), range(index)):
            if candidate in self._broken:
                continue
            try:
                return self._load(candidate)
            except UserError as error:
                self._broken.add(candidate)
                self._skipped.skip(self._paths[candidate], error)
        raise UserError("no image is left that can be used; the warnings above say why")


def usable_paths(paths: Sequence[Path], where: str) -> tuple[list[int], Skipped]:
    """Which of some files are images, by their positions, and what was told of the others.

    Raises:
        UserError: too many are none, or all.
    """
    skipped = Skipped(len(paths), where)
    found = _all(read_header, paths)
    for path, result in zip(paths, found, strict=True):
        if isinstance(result, UserError):
            skipped.note(path, result)
    skipped.tell()
    return [index for index, result in enumerate(found) if not isinstance(result, UserError)], skipped


def usable(dataset: CocoDataset) -> CocoDataset:
    """The data set without the images that cannot be used; those whose boxes mean stored pixels are marked.

    A data set that has been looked at is given back as it is.

    Raises:
        UserError: too many images cannot be used, or none can.
    """
    if dataset.skipped is not None:
        return dataset
    where = str(dataset.annotation_file)
    skipped = Skipped(len(dataset.images), where)
    found = _all(_meaning, dataset.images)
    meanings = set(map(str, found))
    undecided = _STORED if _STORED in meanings and _TURNED not in meanings else _UPRIGHT
    images: list[CocoImage] = []
    left_out: list[CocoImage] = []
    for image, meaning in zip(dataset.images, found, strict=True):
        if isinstance(meaning, UserError):
            skipped.note(image.path, meaning)
            left_out.append(image)
            continue
        stored = (undecided if meaning == _EITHER else meaning) == _STORED
        images.append(dataclasses.replace(image, as_stored=True) if stored else image)
    skipped.tell(objects=objects_in(left_out))
    if marked := [image.path for image in images if image.as_stored]:
        _LOG.warning(
            "%s: %d of %d images have an EXIF orientation and the size that they have without it (the first is %s): "
            "their boxes mean the pixels as stored, so these are read, not turned",
            where, len(marked), len(images), marked[0],
        )  # fmt: skip
    return dataclasses.replace(dataset, images=tuple(images), left_out=tuple(left_out), skipped=skipped)


def objects_in(images: Sequence[CocoImage]) -> int:
    """How many objects the images have, crowds not counted."""
    return sum(int((~image.is_crowd).sum()) for image in images)


_UPRIGHT, _TURNED, _STORED, _EITHER = "upright", "turned", "stored", "either"


def _meaning(image: CocoImage) -> str:
    """What an image's size says of its boxes: _EITHER where there is an orientation and one size with and without.

    Raises:
        UserError: it cannot be used.
    """
    header = read_header(image.path)
    stored, said = (header.width, header.height), (image.width, image.height)
    if said not in (header.upright, stored):
        raise _another_size(image.path, header.upright, said)
    if header.orientation == 1:
        return _UPRIGHT
    if header.upright == stored:
        return _EITHER
    return _STORED if said == stored else _TURNED


def _all(look: Callable[[Any], Item], items: Sequence[Any]) -> list[Item | UserError]:
    """`look` of each, or the UserError that it raised."""

    def attempt(item: Any) -> Item | UserError:
        try:
            return look(item)
        except UserError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(attempt, items))
