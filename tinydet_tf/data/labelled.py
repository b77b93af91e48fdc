"""The common result of the VOC and YOLO readers: images with labelled boxes, by split.

Boxes are continuous corners x1, y1, x2, y2 in pixels of the decoded image. They are those of the annotations: load_coco
later clips and counts boxes that reach outside of the image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
import reprlib
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tinydet_lite.errors import UserError, os_reason
from tinydet_lite.metadata import is_label

_LOG = logging.getLogger(__name__)

#: The splits that commands name.
SPLITS = ("train", "val", "test")
#: The split of a folder that has no splits.
ALL = "all"
#: What --split takes.
SPLIT_CHOICES = (*SPLITS, ALL)
#: Names of a split in file and folder names, in any case.
SPLIT_NAMES = {
    "train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing"),
}  # fmt: skip
#: Pictures in formats that are not read. Where they lie beside others, a warning names them.
OTHER_PICTURES = (
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".raf",
    ".orf", ".rw2", ".psd", ".svg", ".tga", ".ppm", ".pgm", ".exr", ".dcm",
)  # fmt: skip
#: The share of a set without a val split that becomes one, where nobody says which.
VAL_FRACTION = 0.2
#: What Roboflow puts into the name of a picture and of each of its augmented copies.
_COPY = re.compile(r"\.rf\.[0-9A-Za-z]{16,}(?=\.\w+$)")
#: A file with more classes is taken for damaged; LVIS, a large set, has 1,203.
MAX_CLASSES = 10_000

#: Shortens values in messages: a malformed value may have any length and depth.
shown = reprlib.Repr()
shown.maxstring = shown.maxlong = shown.maxother = 80


class LabelledBox(NamedTuple):
    """class_index: 0..C-1; ignored: neither an object to find nor background."""

    class_index: int
    x1: float
    y1: float
    x2: float
    y2: float
    ignored: bool = False


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    path: Path
    width: int
    height: int
    boxes: tuple[LabelledBox, ...]


class LabelledDataset(Protocol):
    """A data set in a format of its own.

    source: the folder or file that it is read from; splits: some of SPLITS, or ALL alone; class_names: the classes of
    all splits together; first_category_id: the category id of class 0; the other classes have the ids after it.
    """

    source: Path
    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    first_category_id: int

    def read(self, split: str) -> list[LabelledImage]:
        """The images of one of `splits`, in the order of its list or sorted by name."""


def choose_part(source: Path, parts: Collection[str], split: str) -> tuple[str, bool] | None:
    """Which part of a data set a split is, and whether it is divided into train and val (`val_indices`).

    A set without val is validated on test; one that has neither is divided. `split` may be ALL, for all of a set that
    has one part.

    Args:
        parts: what the set has, of SPLITS and ALL.

    Returns:
        None where the set has no such split.
    """
    held_out = "val" in parts or "test" in parts
    if split in parts and (split != "train" or held_out):
        return split, False
    if split == "val" and "test" in parts:
        _LOG.warning("%s has no val split: validation is on test", source)
        return "test", False
    if split == ALL:
        return (next(iter(parts)), False) if len(parts) == 1 else None
    whole = next((part for part in ("train", ALL) if part in parts), None)
    if split not in ("train", "val") or whole is None or (split == "val" and held_out):
        return None
    return whole, not held_out


def val_indices(paths: Sequence[Path], fraction: float = VAL_FRACTION, seed: int = 0) -> set[int]:
    """Which of the images are for validation: a random `fraction` of them, at least one and not all.

    Chance is drawn from a picture's name and seed alone: where pictures are added, those that were trained on do not
    become val's, but for a few at the border. Roboflow's augmented copies of a picture have one draw.

    Args:
        paths: of the images; what they have in common, as the folder of the set, does not count.

    Raises:
        UserError: there are fewer than two.
    """
    if len(paths) < 2:
        raise UserError("the data has one image; a train and a val split need two")
    chosen = min(max(round(fraction * len(paths)), 1), len(paths) - 1)
    common = os.path.commonpath([path.parent for path in paths])
    names = [unicodedata.normalize("NFC", _COPY.sub("", path.relative_to(common).as_posix())) for path in paths]
    draws = [hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest() for name in names]
    return set(sorted(range(len(paths)), key=draws.__getitem__)[:chosen])


def check_class_names(source: Path, names: Sequence[str]) -> None:
    """Refuses class names that could not be labels of an exported model, and names the file that they come from.

    Raises:
        UserError: there is none, there are too many, one is no label (`is_label`), or two are the same.
    """
    if not 1 <= len(names) <= MAX_CLASSES:
        raise UserError(f"{source} has {len(names)} classes; expected 1 to {MAX_CLASSES}")
    for index, name in enumerate(names):
        if not is_label(name):
            raise UserError(
                f"{source}: class {index} is named {shown.repr(name)}; "
                "expected one line of valid text, not empty, without space around it"
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UserError(f"{source}: two classes are named {shown.repr(twice)}; names must be unique")


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: it is missing, cannot be read, or is no UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {os_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def file_names(folder: Path) -> list[str]:
    """Names of what a folder holds besides folders and hidden files, sorted; one call of the system.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            # macOS leaves ._NAME.jpg beside NAME.jpg on other systems' disks; these are no images.
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {os_reason(error)}") from error


def folders_below(folder: Path) -> Iterator[Path]:
    """A folder and all below it, sorted; links to folders are followed, each folder is visited once.

    Hidden ones are left out: Jupyter, say, keeps copies of pictures in them.
    """
    seen = set()
    for place, names, _ in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield Path(place)
