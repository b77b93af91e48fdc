"""Reading data sets in YOLO's format: images, and beside each a text with a line `class cx cy w h` for every object.

Coordinates are fractions of the image's sides. A line of a polygon, `class x1 y1 x2 y2 x3 y3 ...`, stands for its box.

No library is used: those that read YOLO (datumaro, fiftyone, supervision, pylabel, globox) need OpenCV, pandas or a
database, and str.split and float are enough.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tinydet_lite.errors import UserError
from tinydet_tf.data.labelled import (
    ALL,
    IMAGE_SUFFIXES,
    MAX_CLASSES,
    LabelledBox,
    LabelledImage,
    check_class_names,
    file_names,
    read_text,
    shown,
)
from tinydet_tf.data.opening import Skipped, read_header

_LOG = logging.getLogger(__name__)

_YAML_SUFFIXES = (".yaml", ".yml")
_YAML_STEMS = ("data", "dataset")
_YAML_KEYS = {"names", "nc", "train", "val"}
#: Names of a split in data.yaml and of its folder, the best first; Roboflow writes valid.
_NAMES_OF = {"train": ("train",), "val": ("val", "valid", "test")}
#: How far a fraction may be outside of 0..1: rounding errors are smaller than this, coordinates in pixels larger.
_TOLERANCE = 0.01


class _Label(NamedTuple):
    """One object's corners, as fractions of the image's sides. line: its line in the label file, from 1."""

    line: int
    class_index: int
    x1: float
    y1: float
    x2: float
    y2: float


def yolo_source(path: Path) -> Path | None:
    """What `YoloFolder` is to read: a data.yaml (`path` itself or one in it), else `path` if it has images and labels.

    None: nothing of YOLO is there.
    """
    if path.is_file():
        return path if path.suffix.lower() in _YAML_SUFFIXES else None
    for stem in (*_YAML_STEMS, Path(os.path.abspath(path)).name):
        for suffix in _YAML_SUFFIXES:
            candidate = path / f"{stem}{suffix}"
            # Other tools use these file names too: a file counts only if it has one of the keys of a YOLO data set.
            if candidate.is_file() and _YAML_KEYS & _read_yaml(candidate).keys():
                return candidate
    return path if _layout(path) else None


class YoloFolder:
    """A LabelledDataset (labelled.py) of YOLO, in one of these layouts:

    - data.yaml with train and val (a folder, a list of images as .txt, or several of these), relative to its path, or,
      where that does not exist, to its own folder; names (list or dictionary) or nc. Nothing in it is run or fetched.
    - images/{train,val} with labels/{train,val}, or {train,valid}/images with {train,valid}/labels: also what a
      data.yaml without train and val stands for
    - images/ with labels/: no splits, ALL

    An image's labels are where its path's last `images` reads `labels`, or, where there is no such folder, beside it.
    An image without them has no objects. Names come from data.yaml, from classes.txt, or are class0, class1, ... up to
    nc or to the highest that occurs.

    Args:
        source: what `yolo_source` gives.

    Raises:
        UserError: something is missing, malformed or inconsistent; the message names the file and the line.
    """

    first_category_id = 0

    def __init__(self, source: Path) -> None:
        self._source = source
        self._root = Path(os.path.abspath(source if source.is_dir() else source.parent))
        self._label_folders: dict[Path, Path] = {}  # by image folder
        self._listings: dict[Path, set[str]] = {}  # by label folder
        settings = {} if source.is_dir() else _read_yaml(source)
        if "kpt_shape" in settings:
            raise UserError(f"{source} has kpt_shape: labels with keypoints are not read; expected boxes or polygons")
        self._base = self._base_folder(settings.get("path"))
        self._splits = self._configured_splits(settings) or {
            split: [str(folder) for folder in folders] for split, folders in _layout(self._root).items()
        }
        if not self._splits:
            raise UserError(f"{source} names no train and val, and {self._root} has no images/ with labels/")
        self.splits = tuple(self._splits)
        self.class_names = self._class_names(settings)

    def read(self, split: str) -> list[LabelledImage]:
        images = []
        paths = self._image_paths(split)
        labels_of = {path: self._label_path(path) for path in paths}
        if not any(map(self._is_there, labels_of.values())):
            raise UserError(
                f"none of the {len(paths)} images of the {split} split of {self._source} has labels; "
                f"expected for instance {labels_of[paths[0]]}"
            )
        lost = 0
        skipped = Skipped(len(paths), f"the {split} split of {self._source}")
        for path, label_path in labels_of.items():
            labels = self._labels(label_path)
            for label in labels:
                if label.class_index >= len(self.class_names):
                    raise UserError(
                        f"{label_path}:{label.line} has class {label.class_index}, but {self._source} has "
                        f"{len(self.class_names)} classes, 0 to {len(self.class_names) - 1}"
                    )
            try:
                width, height = read_header(path).upright
            except UserError as error:
                skipped.note(path, error)
                lost += len(labels)
                continue
            boxes = tuple(
                LabelledBox(e.class_index, e.x1 * width, e.y1 * height, e.x2 * width, e.y2 * height) for e in labels
            )
            images.append(LabelledImage(path, width, height, boxes))
        skipped.tell(objects=lost)
        return images

    def _configured_splits(self, settings: dict[Any, Any]) -> dict[str, list[str]]:
        """Absolute paths of the folders and lists of each split that data.yaml names."""
        splits: dict[str, list[str]] = {}
        for split, names in _NAMES_OF.items():
            for name in names:
                entry = settings.get(name)
                if not entry:
                    continue
                entries = entry if isinstance(entry, list) else [entry]
                if not all(isinstance(value, str) for value in entries):
                    raise UserError(
                        f"{self._source}: {name} is {shown.repr(entry)}; expected a folder, a .txt, or a list of these"
                    )
                if name == "test":
                    _LOG.warning("%s has no val: validation is on test", self._source)
                splits[split] = [self._resolved(name, value) for value in entries]
                break
        return splits

    def _base_folder(self, path: Any) -> Path:
        """What data.yaml's paths are relative to."""
        if path is None or path == "":
            return self._root
        if not isinstance(path, str):
            raise UserError(f"{self._source}: path is {shown.repr(path)}; expected a folder")
        base = self._root / path
        if os.path.exists(base):
            return base
        # The path is that of the machine where the data was made, or is relative to Ultralytics' own data folder.
        _LOG.info("%s: there is no path %s; its own folder is taken", self._source, base)
        return self._root

    def _resolved(self, name: str, entry: str) -> str:
        # Roboflow writes ../train/images and means train/images beside data.yaml; Ultralytics reads it so too.
        for value in (entry, entry.removeprefix("../")):
            path = self._base / value
            if os.path.exists(path):
                return os.path.abspath(path)
        raise UserError(
            f"{self._source}: {name} is {shown.repr(entry)}, but there is no {self._base / entry}; "
            "put the images there (nothing is downloaded)"
        )

    def _image_paths(self, split: str) -> list[Path]:
        paths: dict[Path, None] = {}
        for entry in map(Path, self._splits[split]):
            if entry.is_dir():
                found = [Path(folder) / name for folder, _, _ in os.walk(entry) for name in file_names(Path(folder))]
                paths.update(dict.fromkeys(sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)))
            else:
                paths.update(dict.fromkeys(self._listed_images(entry)))
        if not paths:
            where = ", ".join(self._splits[split])
            raise UserError(f"the {split} split of {self._source} has no images in {where}; expected *.jpg, *.png, ...")
        return list(paths)

    def _listed_images(self, path: Path) -> list[Path]:
        if path.suffix.lower() != ".txt":
            raise UserError(f"{self._source} names {path}; expected a folder of images or a .txt that lists them")
        images = []
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if not line.strip():
                continue
            candidates = [Path(os.path.abspath(base / line.strip())) for base in (path.parent, self._base)]
            image = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
            if image is None:
                raise UserError(f"{path}:{number} names image {shown.repr(line.strip())}; there is no {candidates[0]}")
            images.append(image)
        return images

    def _label_path(self, image: Path) -> Path:
        folder = image.parent
        if folder not in self._label_folders:
            counterpart = _labels_beside(folder)
            self._label_folders[folder] = counterpart if counterpart and counterpart.is_dir() else folder
        return self._label_folders[folder] / f"{image.stem}.txt"

    def _is_there(self, label_path: Path) -> bool:
        folder = label_path.parent
        if folder not in self._listings:
            self._listings[folder] = set(file_names(folder))
        return label_path.name in self._listings[folder]

    def _labels(self, label_path: Path) -> list[_Label]:
        """The objects of a label file; none where there is no such file."""
        return _read_labels(label_path) if self._is_there(label_path) else []

    def _class_names(self, settings: dict[Any, Any]) -> tuple[str, ...]:
        source = self._source
        names = _named_classes(source, settings.get("names"))
        count = settings.get("nc")
        if count is not None and (type(count) is not int or not 1 <= count <= MAX_CLASSES):
            raise UserError(f"{source}: nc is {shown.repr(count)}; expected a number of classes, 1 to {MAX_CLASSES}")
        if names and count is not None and count != len(names):
            raise UserError(f"{source}: nc is {count}, but names has {len(names)}; make them agree")
        if not names and (self._root / "classes.txt").is_file():
            source = self._root / "classes.txt"
            names = [line.strip() for line in read_text(source).splitlines() if line.strip()]
        if not names:
            names = [f"class{index}" for index in range(count or self._highest_class() + 1)]
        check_class_names(source, names)
        return tuple(names)

    def _highest_class(self) -> int:
        label_paths = {self._label_path(path) for split in self.splits for path in self._image_paths(split)}
        highest = max((label.class_index for path in label_paths for label in self._labels(path)), default=-1)
        if highest < 0:
            raise UserError(f"{self._source} has neither names nor a label; nothing to train on")
        if highest >= MAX_CLASSES:
            raise UserError(f"{self._source} has labels of class {highest}; expected 0 to {MAX_CLASSES - 1}")
        return highest


def _layout(root: Path) -> dict[str, list[Path]]:
    """The image folders of each split, where they and their labels are at the usual places."""
    splits = {}
    for split, names in _NAMES_OF.items():
        for name in names:
            folders = [folder for folder in (root / "images" / name, root / name / "images") if _has_labels(folder)]
            if folders:
                splits[split] = folders
                break
    if not splits and _has_labels(root / "images"):
        return {ALL: [root / "images"]}
    return splits


def _has_labels(folder: Path) -> bool:
    labels = _labels_beside(folder)
    return folder.is_dir() and labels is not None and labels.is_dir()


def _labels_beside(folder: Path) -> Path | None:
    """The folder with its last part `images` as `labels`; None: it has no such part."""
    parts = list(folder.parts)
    for index in reversed(range(len(parts))):
        if parts[index] == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :])
    return None


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        settings = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"{path} is not YAML ({reason}); expected YOLO's data.yaml") from error
    if not isinstance(settings, dict):
        raise UserError(
            f"{path} holds a {type(settings).__name__}; expected YOLO's data.yaml with train, val and names"
        )
    return settings


def _named_classes(source: Path, names: Any) -> list[str]:
    """data.yaml's names, by class; empty where it has none."""
    if names is None:
        return []
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{source}: names has keys {shown.repr(list(names))}; expected 0 to {len(names) - 1}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{source}: names is {shown.repr(names)}; expected a list or a dictionary of classes")
    for index, name in enumerate(names):
        # YAML makes a number of an unquoted 7, which still is the name that was written. Of an unquoted yes it makes
        # True, and what was written is lost.
        if type(name) not in (str, int):
            raise UserError(f"{source}: names[{index}] is {shown.repr(name)}; expected a name, in quotes")
    return [str(name) for name in names]


def _read_labels(path: Path) -> list[_Label]:
    lines = enumerate(read_text(path).splitlines(), 1)
    return [_label(f"{path}:{number}", number, line.split()) for number, line in lines if line.strip()]


def _label(where: str, number: int, fields: list[str]) -> _Label:
    if len(fields) < 5:
        raise UserError(f"{where} has {len(fields)} fields; expected class cx cy w h")
    if len(fields) == 6:
        raise UserError(f"{where} has 6 fields; expected class cx cy w h (are these detections with a confidence?)")
    if len(fields) % 2 == 0:
        raise UserError(f"{where} has {len(fields)} fields; expected class cx cy w h, or a class and a polygon's x y")
    try:
        values = [float(field) for field in fields]
    except ValueError:
        raise UserError(f"{where} is {shown.repr(' '.join(fields))}; expected numbers, class cx cy w h") from None
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where} has a number that is not finite; expected class cx cy w h")
    if values[0] < 0 or not values[0].is_integer():
        raise UserError(f"{where} has class {fields[0][:80]}; expected 0, 1, 2, ...")
    coordinates = values[1:]
    outside = [field for field, value in zip(fields[1:], coordinates, strict=True) if not _is_fraction(value)]
    if outside:
        raise UserError(
            f"{where} has {outside[0][:80]}; expected fractions of the image's width and height, 0 to 1, not pixels"
        )
    return _Label(number, int(values[0]), *_corners(coordinates))


def _is_fraction(value: float) -> bool:
    return -_TOLERANCE <= value <= 1 + _TOLERANCE


def _corners(coordinates: list[float]) -> Iterable[float]:
    if len(coordinates) > 4:
        xs, ys = coordinates[::2], coordinates[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    cx, cy, width, height = coordinates
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
