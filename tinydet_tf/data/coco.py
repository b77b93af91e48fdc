"""Finds and reads data sets in COCO's format; folders of other formats are converted to it first.

N is the number of boxes of one image. Boxes are continuous corners x1, y1, x2, y2 in pixels of the source image
(0 <= x1 < x2 <= width), float32; classes are 0..C-1 in the order of the ascending category ids.

What COCO's json says of an image (width, height, boxes) refers to the pixels that a viewer shows, after the
orientation that EXIF may ask for, unless its size is that of the stored pixels alone (opening.py). COCO's own images
carry no orientation, so the question arises only for other data sets.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from tinydet_lite.errors import UserError, os_reason, printable
from tinydet_lite.preprocess import IMAGE_SUFFIXES
from tinydet_tf.commands import command_text
from tinydet_tf.data.convert import converted_split, set_below
from tinydet_tf.data.labelled import (
    ALL,
    OTHER_PICTURES,
    check_class_names,
    choose_part,
    file_names,
    shown,
    val_indices,
)
from tinydet_tf.data.layouts import ANY, Located, coco_parts, entries
from tinydet_tf.data.locating import NAMED, FileFinder, is_inside, pass_over, some
from tinydet_tf.data.opening import Skipped, read_header

_LOG = logging.getLogger(__name__)

# Boxes that end up thinner than this, in pixels, are dropped, as mmdetection 1.x does: an inclusive box has at least
# one pixel, so a thinner one would turn inside out.
_MIN_SIDE = 1.0
# Annotators' boxes often pass the border by a rounding error; only more than this counts as clipped.
_CLIP_TOLERANCE = 0.5
_MAX_SIDE = 2**31 - 1  # pixels; no image format has more
# tf.data and numpy hold ids as int64; a float knows every integer only up to here.
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FLOAT_INTEGERS = 2**53
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclasses.dataclass(frozen=True, eq=False)
class CocoImage:
    """One image and its boxes; the arrays are read-only.

    width, height: 0 where the json says none and the file cannot be read; `opening.usable` leaves such an image out.
    boxes: float32 [N, 4]; classes: int32 [N]; is_crowd: bool [N], boxes around groups, which are not trained on.
    as_stored: the boxes mean the stored pixels, without the orientation that EXIF asks for.
    """

    id: int
    path: Path
    width: int
    height: int
    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    as_stored: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotations of a file as evaluation needs them, checked, unclipped and with their own areas; A annotations.

    image_ids, category_ids: int64 [A]; boxes: float64 [A, 4] x, y, width, height in pixels; areas: float64 [A], pixels;
    crowd: bool [A].
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class CocoDataset:
    """Images in the order of the file. category_ids[c] and class_names[c] belong to class c.

    clipped, dropped: how many boxes of the file were, also in a subset.
    truth: of all images of the file, also in a subset.
    text_ids: what the file calls the images, by CocoImage.id, where it has ids that are no integers; else empty.
    left_out: images that `opening.usable` found to be unusable, with their boxes, which are no longer among `images`.
    skipped: what is told of these and later ones; None: `usable` has not looked at the images.
    """

    images: tuple[CocoImage, ...]
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    annotation_file: Path
    clipped: int
    dropped: int
    truth: GroundTruth
    text_ids: Mapping[int, int | str] = dataclasses.field(default_factory=dict)
    left_out: tuple[CocoImage, ...] = ()
    skipped: Skipped | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)

    def classes_without_boxes(self) -> tuple[str, ...]:
        """Names of the classes without a box (crowds do not count): they can be neither learnt nor measured."""
        found = {c for image in self.images for c in image.classes[~image.is_crowd].tolist()}
        return tuple(name for index, name in enumerate(self.class_names) if index not in found)

    def subset(self, limit: int | None) -> CocoDataset:
        """The first `limit` images in the order of the file; None: all.

        Raises:
            UserError: limit is below 1.
        """
        if limit is None:
            return self
        if limit < 1:
            raise UserError(f"cannot take {limit} images of {self.annotation_file}: expected at least 1")
        return dataclasses.replace(self, images=self.images[:limit])


class Split(NamedTuple):
    """Where a split is: the arguments of `load_coco`.

    half: "train" or "val" of a file that is to be divided, None: all of it. sharing: the annotation files whose images
    are in the folder too; None: not known.
    """

    annotation_file: Path
    image_dir: Path
    half: str | None = None
    sharing: tuple[Path, ...] | None = None


def locate_split(directory: Path | str, split: str, *, voc_first_pixel: int = 1) -> Split:
    """Find a split ("train", "val", "test"; "all" of a set without splits) in any of the layouts that are known.

    First those of COCO's format (layouts.py), then those of Pascal VOC and YOLO (voc.py, yolo.py) or a data.yaml. For
    the latter the annotation file is a json in the cache, converted anew by every call. A set without a val split is
    validated on its test split or, without one, divided (`val_indices`). directory/instances.json with
    directory/images/ is the split itself, whichever is asked for. A folder with nothing of this stands for the one
    folder in it that has (`set_below`).

    Args:
        voc_first_pixel: what VOC's boxes count from (voc.py).

    Raises:
        UserError: the directory is missing, holds none of these, or several files that may be the split; or what is
            wrong with the files of a folder that is converted.
    """
    directory = Path(directory)
    if not directory.is_dir():
        converted = converted_split(directory, split) if directory.is_file() else None
        if converted is not None:
            return Split(*converted)
        if directory.name.lower().endswith(_ARCHIVES):
            raise UserError(f"{directory} is an archive; unpack it and give the folder")
        what = "is not a folder" if directory.exists() else "does not exist"
        raise UserError(f"data folder {directory} {what}; expected COCO's, Pascal VOC's or YOLO's layout")
    parts = coco_parts(directory)
    chosen = (ANY, False) if ANY in parts and split not in parts else choose_part(directory, parts, split)
    with_images = chosen is not None and parts[chosen[0]][0].image_dir is not None
    # A json without images may be of something else.
    converted = None if with_images else converted_split(directory, split, voc_first_pixel=voc_first_pixel)
    if converted is not None:
        return Split(*converted)
    if chosen is not None:
        part, divided = chosen
        return _located(directory, split, parts, part, divided=divided and ANY not in parts)
    inner = None if parts else set_below(directory)
    if inner is not None:
        return locate_split(inner, split, voc_first_pixel=voc_first_pixel)
    if split == ALL and parts:
        raise UserError(f"{directory} has splits ({', '.join(parts)}); name one of them")
    known = f", only {', '.join(parts)}" if parts else f", which holds {_content(directory)}"
    raise UserError(
        f"no {split} split in {directory}{known}: expected {split}/instances.json with {split}/images/, "
        f"annotations/instances_{split}*.json with {split}*/, instances.json with images/, "
        "Pascal VOC's Annotations/ with JPEGImages/, YOLO's data.yaml or images/ with labels/, or what the tools in "
        "docs/data.md leave"
    )


def _content(directory: Path) -> str:
    """For people: how many files of each kind are in a folder, and its folders."""
    folders = [name for name in entries(directory) if (directory / name).is_dir()]
    kinds = collections.Counter(Path(name).suffix.lower() or "files without suffix" for name in file_names(directory))
    words = [f"{count} {printable(kind)}" for kind, count in kinds.most_common(NAMED)]
    return ", ".join([*words, *([f"{len(folders)} folders ({some(folders)})"] if folders else [])]) or "nothing"


def _located(directory: Path, split: str, parts: dict[str, list[Located]], part: str, *, divided: bool) -> Split:
    found = parts[part]
    if len(found) > 1:
        names = ", ".join(located.annotation_file.relative_to(directory).as_posix() for located in found)
        raise UserError(
            f"{directory} has several {split} splits ({names}); name one by its annotation file and image folder"
        )
    annotation_file, image_dir, wanted = found[0]
    if image_dir is None:
        raise UserError(f"{annotation_file} has no image folder; expected {wanted}, put the images there")
    others = tuple(
        located.annotation_file
        for name in parts
        for located in parts[name]
        if located.annotation_file != annotation_file and located.image_dir == image_dir
    )
    return Split(annotation_file, image_dir, split if divided else None, others)


def load_coco(
    annotation_file: Path | str,
    image_dir: Path | str | None,
    half: str | None = None,
    sharing: tuple[Path, ...] | None = None,
) -> CocoDataset:
    """Read a json of COCO's format and check that its images exist (by listing folders, without opening images).

    Boxes are clipped to their image; those thinner than a pixel afterwards are dropped. Both are counted,
    and logged in one line. A category that is the root of all others and has no box, as Roboflow writes, is left out.

    Args:
        half: "train" or "val": that part of the images alone, divided by `val_indices`; what is counted is of all.
        sharing: of the other annotation files whose images are in the folder. Pictures there that none of the files
            lists are named in a warning; None: that is not asked.
        image_dir: None: the images need not be there, and the json has to give their sizes.

    Raises:
        UserError: something is missing, malformed or inconsistent; the message names the file and the entry.
    """
    annotation_file = Path(annotation_file)
    document = read_json(annotation_file)
    if image_dir is not None and not Path(image_dir).is_dir():
        raise UserError(f"image folder {image_dir} (for {annotation_file}) does not exist or is not a folder")
    entries = Entries(annotation_file, document)

    entries.leave_out_root()
    category_ids, names = entries.column("categories", "id", int), entries.column("categories", "name", str)
    entries.check_unique("categories", category_ids)
    by_id = sorted(zip(category_ids, names, strict=True))
    check_class_names(annotation_file, [name for _, name in by_id])

    image_ids, text_ids = entries.image_ids()
    if not image_ids:
        raise UserError(f"{annotation_file} lists no images; expected at least one")
    file_names = entries.column("images", "file_name", str)
    if image_dir is None:
        entries.check_sizes()
        paths = [Path(name) for name in file_names]
    else:
        paths = _image_paths(annotation_file, Path(image_dir), file_names, sharing)
    sizes = image_sizes(annotation_file, document["images"], paths)  # int64 [images, 2]: width, height

    entries.check_unique("annotations", entries.ids("annotations", "id"))
    image_index = entries.owners()
    class_index = entries.indices("annotations", "category_id", [category_id for category_id, _ in by_id])
    crowd = entries.crowds()
    corners = read_corners(annotation_file, document["annotations"])
    given_boxes = np.array([entry["bbox"] for entry in document["annotations"]], np.float64).reshape(-1, 4)
    areas = entries.areas(given_boxes)
    measured = (given_boxes[:, 2:] >= 0).all(axis=1)  # nothing can be found in a box that is inside out

    limits = np.where(sizes > 0, sizes, np.inf)  # what is of no known size is left out later, with its boxes
    limits = np.tile(limits, 2)[image_index]
    clipped_corners = np.clip(corners, 0.0, limits)
    kept = (clipped_corners[:, 2:] - clipped_corners[:, :2] >= _MIN_SIDE).all(axis=1)
    moved = (np.abs(clipped_corners - corners) > _CLIP_TOLERANCE).any(axis=1)

    # Group by image: a stable sort keeps the file's order within an image.
    order = np.flatnonzero(kept)
    order = order[np.argsort(image_index[order], kind="stable")]
    ends = np.searchsorted(image_index[order], np.arange(len(image_ids) + 1))
    boxes = clipped_corners[order].astype(np.float32)
    classes, crowds = class_index[order].astype(np.int32), crowd[order]
    for array in (boxes, classes, crowds):
        array.setflags(write=False)
    images = tuple(
        CocoImage(
            id=image_id,
            path=path,
            width=width,
            height=height,
            boxes=boxes[start:end],
            classes=classes[start:end],
            is_crowd=crowds[start:end],
        )
        for image_id, path, (width, height), start, end in zip(
            image_ids, paths, sizes.tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True
        )
    )
    clipped, dropped = int((moved & kept).sum()), int((~kept).sum())
    _warn_of_copies(annotation_file, paths)
    if clipped or dropped:
        _LOG.warning(
            "%s: of %d boxes, %d clipped to their image and %d dropped (thinner than a pixel inside it)",
            annotation_file,
            len(corners),
            clipped,
            dropped,
        )
    if half is not None:
        images = _half(annotation_file, images, half)
    return CocoDataset(
        images=images,
        category_ids=tuple(category_id for category_id, _ in by_id),
        class_names=tuple(name for _, name in by_id),
        annotation_file=annotation_file,
        clipped=clipped,
        dropped=dropped,
        truth=GroundTruth(
            image_ids=np.array(image_ids, np.int64)[image_index[measured]],
            category_ids=np.array([category_id for category_id, _ in by_id], np.int64)[class_index[measured]],
            boxes=given_boxes[measured],
            areas=areas[measured],
            crowd=crowd[measured],
        ),
        text_ids=text_ids,
    )


def _half(annotation_file: Path, images: tuple[CocoImage, ...], half: str) -> tuple[CocoImage, ...]:
    """The images of "train" or "val" of a set that has no val split."""
    try:
        validated = val_indices([image.path for image in images])
    except UserError as error:
        raise UserError(f"{annotation_file} has no val split, and {error}") from None
    kept = tuple(image for index, image in enumerate(images) if (index in validated) == (half == "val"))
    _tell_division(annotation_file, len(images), len(validated))
    return kept


@functools.cache  # once, though both halves are read
def _tell_division(annotation_file: Path, count: int, validated: int) -> None:
    _LOG.warning(
        "%s has no val split and is divided, every time in the same way: train is %d and val %d of its %d images "
        "(%s divides otherwise)",
        annotation_file, count - validated, validated, count, command_text("convert-dataset"),
    )  # fmt: skip


def _warn_of_copies(annotation_file: Path, paths: list[Path]) -> None:
    """Two entries that name one file, as where two annotation jobs were merged."""
    counts = collections.Counter(paths)
    copies = [path.name for path, count in counts.items() if count > 1]
    if copies:
        _LOG.warning(
            "%s: %d image files are listed more than once (%s), each time with its own boxes: every entry is trained "
            "and measured as if the others' objects were background; merge their annotations under one entry",
            annotation_file, len(copies), some(copies),
        )  # fmt: skip


def read_json(annotation_file: Path) -> dict[str, Any]:
    try:
        with annotation_file.open("rb") as stream:
            document = json.load(stream)
    except FileNotFoundError:
        raise UserError(f"annotation file {annotation_file} does not exist") from None
    except OSError as error:
        raise UserError(f"annotation file {annotation_file} cannot be read: {os_reason(error)}") from error
    except (ValueError, RecursionError) as error:  # no json, no text, a number of thousands of digits, nested deeply
        raise UserError(f"annotation file {annotation_file} is not valid json: {error}") from error
    if not isinstance(document, dict):
        raise UserError(
            f"{annotation_file} is not of COCO's format: it holds a {type(document).__name__}, "
            "expected an object with images, annotations and categories"
        )
    for key in ("images", "annotations", "categories"):
        if key not in document:
            raise UserError(
                f'{annotation_file} is not of COCO\'s format: no "{key}"; '
                "expected an object with images, annotations and categories"
            )
        value = document[key]
        if not isinstance(value, list):
            raise UserError(
                f'{annotation_file} is not of COCO\'s format: "{key}" is a {type(value).__name__}, expected a list'
            )
        for index, entry in enumerate(value):
            if not isinstance(entry, dict):
                raise UserError(
                    f"{annotation_file} is not of COCO's format: {key}[{index}] is a {type(entry).__name__}, "
                    "expected an object"
                )
    return document


class Entries:
    """Columns of the three lists of a json, checked; errors name the file, the list and the entry."""

    def __init__(self, annotation_file: Path, document: dict[str, Any]) -> None:
        self.file = annotation_file
        self.document = document

    def leave_out_root(self) -> None:
        """Drops the category that Roboflow puts above all others, under which nothing is labelled."""
        categories = self.document["categories"]
        roots = [
            c for c in categories if c.get("supercategory") in (None, "", "none") and isinstance(c.get("name"), str)
        ]
        for root in roots:
            under = [c for c in categories if c is not root]
            if not under or any(c.get("supercategory") != root["name"] for c in under):
                continue
            if any(entry.get("category_id") == root.get("id") for entry in self.document["annotations"]):
                return
            _LOG.warning(
                "%s: category %s (%s) is left out: it has no box and is only what the other %d belong to",
                self.file, shown.repr(root["name"]), shown.repr(root.get("id")), len(under),
            )  # fmt: skip
            self.document = {**self.document, "categories": under}
            return

    def ids(self, table: str, key: str) -> list[Any]:
        """Ids that may be text: all integers, or, where one is text, all of them as text."""
        values = [entry.get(key) for entry in self.document[table]]
        if not any(isinstance(value, str) for value in values):
            return self.column(table, key, int)
        for index, value in enumerate(values):
            if not isinstance(value, str) and _as_int(value) is None:
                where = f'{self.file}: {table}[{index}] has "{key}" {shown.repr(value)}'
                raise UserError(f"{where}, expected text or an integer of at most 64 bits, as the others")
        return [value if isinstance(value, str) else str(_as_int(value)) for value in values]

    def image_ids(self) -> tuple[list[int], dict[int, int | str]]:
        """Integers for the images, and what the file calls them where that is text (else empty).

        Text that is an integer becomes that; where any is not, the images are counted from 1.
        """
        ids = self.ids("images", "id")
        self.check_unique("images", ids)
        if not any(isinstance(value, str) for value in ids):
            return ids, {}
        numbers = [int(text) if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) else None for text in ids]
        integers = [n for n in numbers if n is not None]
        if len(integers) < len(ids):
            integers = list(range(1, len(ids) + 1))
        given = [entry["id"] for entry in self.document["images"]]
        return integers, dict(zip(integers, given, strict=True))

    def owners(self) -> np.ndarray:
        """For each annotation the position of its image: int64 [A]."""
        position = {str(value): index for index, value in enumerate(self.ids("images", "id"))}
        return self._positions("annotations", "image_id", position, self.ids("annotations", "image_id"))

    def column(self, table: str, key: str, kind: type) -> list[Any]:
        """The values of one key, all of the type `kind`; for int, whole floats are converted (`_as_int`)."""
        values = [entry.get(key) for entry in self.document[table]]
        # Exact types: bool is an int to Python, not to COCO. One set over a million values takes milliseconds.
        fits = {type(value) for value in values} <= {kind}
        if fits and (kind is not int or not values or (min(values) >= _INT64_MIN and max(values) <= _INT64_MAX)):
            return values
        converted = [_as_int(value) if kind is int else value for value in values]
        for index, value in enumerate(converted):
            if type(value) is not kind:
                wanted = {int: "an integer of at most 64 bits", str: "a string"}[kind]
                where = f"{self.file}: {table}[{index}]"
                if key not in self.document[table][index]:
                    raise UserError(f'{where} has no "{key}"; expected {wanted}')
                raise UserError(f'{where} has "{key}" {shown.repr(values[index])}, expected {wanted}')
        return converted

    def crowds(self) -> np.ndarray:
        """iscrowd of each annotation, bool [A]: 0 or 1, which some tools write as text, a float or true; none is 0."""
        return np.array([bool(self._number(index, "iscrowd", 0.0, "0 or 1", {0.0, 1.0}))
                         for index in range(len(self.document["annotations"]))], bool)  # fmt: skip

    def areas(self, boxes: np.ndarray) -> np.ndarray:
        """area of each annotation, float64 [A] pixels; where there is none, that of its box, [A, 4] x, y, w, h."""
        with np.errstate(over="ignore"):
            of_box = np.prod(boxes[:, 2:], 1)
        # A box that is inside out is dropped, whatever area its tool computed for it (w * h is negative then).
        inside_out: list[bool] = np.any(boxes[:, 2:] < 0, axis=1).tolist()
        wanted = "a number of square pixels, zero or more"
        return np.array(
            [
                0.0 if dropped else self._number(index, "area", float(own), wanted)
                for index, (own, dropped) in enumerate(zip(of_box.tolist(), inside_out, strict=True))
            ],
            np.float64,
        )

    def _number(self, index: int, key: str, default: float, wanted: str, allowed: set[float] | None = None) -> float:
        """An annotation's optional number. Text that is a number counts as that; null is as if the key were missing."""
        entry = self.document["annotations"][index]
        value = entry.get(key)
        if value is None:
            return default
        number = math.nan
        if isinstance(value, int | float | str):
            text = value.strip().lower() if isinstance(value, str) else value
            with contextlib.suppress(ValueError, OverflowError):
                number = float({"true": 1, "false": 0}.get(text, text) if allowed and isinstance(text, str) else text)
        if not math.isfinite(number) or number < 0 or (allowed is not None and number not in allowed):
            raise UserError(
                f"{self.file}: annotations[{index}] (id {shown.repr(entry.get('id'))}) has {key} "
                f"{shown.repr(value)}, expected {wanted}"
            )
        return number

    def check_unique(self, table: str, ids: list[Any]) -> None:
        if len(set(ids)) != len(ids):
            seen: set[int | str] = set()
            for value in ids:
                if value in seen:
                    raise UserError(
                        f"{self.file}: id {shown.repr(value)} appears more than once in {table}; ids must be unique"
                    )
                seen.add(value)

    def check_sizes(self) -> None:
        for index, entry in enumerate(self.document["images"]):
            for key in ("width", "height"):
                if entry.get(key) is None:
                    raise UserError(f'{self.file}: images[{index}] has no "{key}"; give the data with its images')

    def indices(self, table: str, key: str, ids: list[int]) -> np.ndarray:
        """For each entry the position of its `key` in ids: int64 [entries]."""
        position = {str(value): index for index, value in enumerate(ids)}
        return self._positions(table, key, position, self.column(table, key, int))

    def _positions(self, table: str, key: str, position: dict[str, int], values: list[Any]) -> np.ndarray:
        found = np.array([position.get(str(value), -1) for value in values], np.int64)
        if (found < 0).any():
            index = int(np.argmax(found < 0))
            listed = {"image_id": "images", "category_id": "categories"}[key]
            raise UserError(
                f"{self.file}: {table}[{index}] (id {self.document[table][index].get('id')}) has {key} "
                f"{shown.repr(values[index])}, which {listed} does not list"
            )
        return found


def _as_int(value: Any) -> int | None:
    """An integer that fits int64, None for anything else. 40.0 is one: many exporters write every number as a float."""
    if type(value) is float and value.is_integer() and abs(value) <= _FLOAT_INTEGERS:
        return int(value)
    return value if type(value) is int and _INT64_MIN <= value <= _INT64_MAX else None


def read_corners(annotation_file: Path, annotations: list[dict[str, Any]]) -> np.ndarray:
    """COCO's x, y, width, height as corners, not yet clipped: float64 [annotations, 4]."""
    raw = [entry.get("bbox") for entry in annotations]
    try:
        values = np.array(raw) if raw else np.zeros((0, 4))
    except ValueError:  # of different lengths
        values = np.zeros(0)
    if values.ndim != 2 or values.shape[1] != 4 or values.dtype.kind not in "if" or not np.isfinite(values).all():
        for index, (entry, bbox) in enumerate(zip(annotations, raw, strict=True)):
            where = f"{annotation_file}: annotations[{index}] (id {entry.get('id')})"
            if bbox is None:
                raise UserError(f"{where} has no bbox; expected [x, y, width, height]")
            if not _is_bbox(bbox):
                raise UserError(
                    f"{where} has bbox {shown.repr(bbox)}, expected four finite numbers [x, y, width, height]"
                )
    corners = values.astype(np.float64)
    with np.errstate(over="ignore"):  # a corner at infinity is clipped like any other
        corners[:, 2:] += corners[:, :2]
    return corners


def _is_bbox(bbox: Any) -> bool:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return False
    try:
        return all(type(value) in (int, float) and math.isfinite(value) for value in bbox)
    except OverflowError:  # an integer that no float can hold
        return False


def _image_paths(
    annotation_file: Path, image_dir: Path, file_names: list[str], sharing: tuple[Path, ...] | None
) -> list[Path]:
    """The images' paths, all of which exist and lie inside image_dir."""
    finder = FileFinder(image_dir, annotation_file)
    found = finder.find(file_names)
    for index, (file_name, path) in enumerate(zip(file_names, found, strict=True)):
        if path is None and not is_inside(file_name):
            raise UserError(
                f"{annotation_file}: images[{index}] has file_name {shown.repr(file_name)}, "
                f"expected a path inside the image folder {image_dir}"
            )
    missing = [file_name for file_name, path in zip(file_names, found, strict=True) if path is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(file_names)} images of {annotation_file} are missing in {image_dir}, "
            f"the first is {missing[0]}"
        )
    paths = [path for path in found if path is not None]
    if sharing is not None:
        _tell_unlisted(image_dir, finder, paths, sharing)
    return paths


def _tell_unlisted(image_dir: Path, finder: FileFinder, paths: list[Path], sharing: tuple[Path, ...]) -> None:
    """Names the pictures beside the images that no annotation file lists, and those that cannot be read."""
    names = [image_dir / folder / name for folder, listing in finder.listings.items() for name in sorted(listing)]
    unlisted = set(names) - set(paths)
    if not unlisted:
        return
    listed_elsewhere = {
        PureWindowsPath(str(entry.get("file_name"))).name for file in sharing for entry in read_json(file)["images"]
    }
    alone = [path.name for path in names if path in unlisted and path.name not in listed_elsewhere]
    pictures = [name for name in alone if name.lower().endswith(IMAGE_SUFFIXES)]
    pass_over(image_dir, pictures, "pictures that no annotation file lists (one without objects is listed too)")
    unread = [name for name in alone if name.lower().endswith(OTHER_PICTURES)]
    pass_over(image_dir, unread, "pictures in formats that are not read; convert them to JPEG or PNG")


def image_sizes(annotation_file: Path, images: list[dict[str, Any]], paths: list[Path]) -> np.ndarray:
    """Width and height, from the json or, where it does not say, the file: int64 [images, 2]; 0 where neither does."""
    sizes = np.empty((len(images), 2), np.int64)
    for index, (entry, path) in enumerate(zip(images, paths, strict=True)):
        width, height = entry.get("width"), entry.get("height")
        if width is None or height is None:
            try:
                width, height = read_header(path).upright
            except UserError:
                sizes[index] = 0
                continue
        for axis, (key, value) in enumerate((("width", width), ("height", height))):
            pixels = _as_int(value)
            if pixels is None or not 1 <= pixels <= _MAX_SIDE:
                raise UserError(
                    f'{annotation_file}: images[{index}] has "{key}" {shown.repr(value)}, '
                    f"expected a positive integer of at most {_MAX_SIDE}"
                )
            sizes[index, axis] = pixels
    return sizes
