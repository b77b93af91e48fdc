"""Reading data sets in YOLO's format: images, and beside each a text with a line `class cx cy w h` for every object.

Coordinates are fractions of the image's sides. A line of a polygon, `class x1 y1 x2 y2 x3 y3 ...`, stands for its box.

No library is used: those that read YOLO (datumaro, fiftyone, supervision, pylabel, globox) need OpenCV, pandas or a
database, and str.split and float are enough.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tinydet_lite.errors import UserError
from tinydet_lite.preprocess import IMAGE_SUFFIXES
from tinydet_tf.data.labelled import (
    ALL,
    MAX_CLASSES,
    OTHER_PICTURES,
    SPLIT_NAMES,
    SPLITS,
    LabelledBox,
    LabelledImage,
    check_class_names,
    file_names,
    folders_below,
    read_text,
    shown,
)
from tinydet_tf.data.layouts import (
    FolderPair,
    entries,
    folders_of_one_set,
    has_pairs,
    located_pairs,
    split_of,
    subfolder,
)
from tinydet_tf.data.locating import FileFinder, StemFinder, is_path, pass_over, some
from tinydet_tf.data.opening import Skipped, read_header

_LOG = logging.getLogger(__name__)


#: Each that is there gives its splits; those of a folder without splits count only where no other does.
LAYOUTS = (
    FolderPair("images/{split}", "labels/{split}"),  # Ultralytics
    FolderPair("{split}/images", "{split}/labels"),  # Roboflow
    FolderPair("{split}", "{split}"),  # Roboflow's Darknet
    FolderPair("images/{split}", "images/{split}"),  # labelImg, sorted by hand
    FolderPair("obj_{split}_data", "obj_{split}_data"),  # CVAT
    FolderPair("images", "labels"),  # Label Studio
    FolderPair(".", "."),  # labelImg
)
_YAML_SUFFIXES = (".yaml", ".yml")
_YAML_STEMS = ("data", "dataset")
_YAML_KEYS = {"names", "nc", "train", "val"}
#: Darknet's settings, as CVAT writes them: lines of key = value.
_DARKNET_SETTINGS = "obj.data"
#: Files with a class name a line, in the data folder or beside the labels: labelImg's and Label Studio's, Darknet's,
#: Roboflow's.
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
#: Text files that tools put beside labels and that hold no labels.
_NO_LABELS = {
    "classes", "predefined_classes", "labels", "notes", "readme", "readme.dataset", "readme.roboflow", "license",
    "requirements", "train", "val", "valid", "test", "trainval", "autosplit_train", "autosplit_val", "autosplit_test",
}  # fmt: skip
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


#: What the yaml of a data set has, whatever its name.
_KEYS_OF_A_SET = {"names", "train"}


def _is_yolo(path: Path) -> bool:
    with contextlib.suppress(UserError):
        return _read_yaml(path).keys() >= _KEYS_OF_A_SET
    return False


def yolo_source(path: Path) -> Path | None:
    """What `YoloFolder` is to read: a data.yaml (`path` itself or one in it), else `path` if it has images and labels.

    None: nothing of YOLO is there.
    """
    if path.is_file():
        return path if path.suffix.lower() in _YAML_SUFFIXES or path.name == _DARKNET_SETTINGS else None
    for stem in (*_YAML_STEMS, Path(os.path.abspath(path)).name):
        for suffix in _YAML_SUFFIXES:
            candidate = path / f"{stem}{suffix}"
            # Other tools use these file names too: a file counts only if it has one of the keys of a YOLO data set.
            if candidate.is_file() and _YAML_KEYS & _read_yaml(candidate).keys():
                return candidate
    # Ultralytics names a set's yaml after the set, not after its folder.
    others = [name for name in entries(path) if name.lower().endswith(_YAML_SUFFIXES) and not name.startswith(".")]
    if len(others) > 1:  # settings of a training, say
        others = [name for name in others if _is_yolo(path / name)]
    if len(others) > 1:
        raise UserError(f"{path} has several YAML files of a data set ({some(others)}); give the path of one")
    if others and _read_yaml(path / others[0]).keys() >= _KEYS_OF_A_SET:
        return path / others[0]
    if (path / _DARKNET_SETTINGS).is_file():
        return path / _DARKNET_SETTINGS
    return path if _layout(path) else None


class YoloFolder:
    """A LabelledDataset (labelled.py) of YOLO, given by one of these:

    - data.yaml with train, val and test (a folder, a list of images as .txt, or several of these), relative to its
      path, or, where that does not exist, to its own folder; names (list or dictionary) or nc. Nothing in it is run
      or fetched.
    - Darknet's obj.data, which names lists of images and the file of the class names
    - one of LAYOUTS: also what a data.yaml without splits stands for. Without splits, lists beside it that Darknet
      would be given (train.txt, val.txt) are its splits.

    An image's labels are where its path's last `images` reads `labels`, or, where there is no such folder, beside it.
    An image without them has no objects. Names come from data.yaml, from one of the files that tools write
    (classes.txt, obj.names), or are class0, class1, ... up to nc or to the highest that occurs.

    Args:
        source: what `yolo_source` gives.

    Raises:
        UserError: something is missing, malformed or inconsistent; the message names the file and the line.
    """

    first_category_id = 0

    def __init__(self, source: Path) -> None:
        self.source = source
        self._root = Path(os.path.abspath(source if source.is_dir() else source.parent))
        self._label_folders: dict[Path, Path] = {}  # by image folder
        self._listings: dict[Path, list[str]] = {}  # of image and label folders
        self._label_finders: dict[Path, StemFinder] = {}  # by label folder
        self._paths: dict[str, list[Path]] = {}  # images of each split
        settings: dict[Any, Any] = {}
        if source.is_file():
            settings = _read_darknet(source) if source.name == _DARKNET_SETTINGS else _read_yaml(source)
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
        labels_of = self._label_paths(paths)
        if not any(labels_of.values()):
            raise UserError(
                f"none of the {len(paths)} images of the {split} split of {self.source} has labels; "
                f"expected for instance {self._label_folder(paths[0].parent) / f'{paths[0].stem}.txt'}"
            )
        self._tell(split, labels_of)
        lost = 0
        skipped = Skipped(len(paths), f"the {split} split of {self.source}")
        for path, label_path in labels_of.items():
            labels = _read_labels(label_path) if label_path else []
            for label in labels:
                if label.class_index >= len(self.class_names):
                    raise UserError(
                        f"{label_path}:{label.line} has class {label.class_index}, but {self.source} has "
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
        for split, names in SPLIT_NAMES.items():
            for name in names:
                entry = settings.get(name)
                if not entry:
                    continue
                given = entry if isinstance(entry, list) else [entry]
                if not all(isinstance(value, str) for value in given):
                    raise UserError(
                        f"{self.source}: {name} is {shown.repr(entry)}; expected a folder, a .txt, or a list of these"
                    )
                if split == "test" and not any(self._existing(value) for value in given):
                    # Tools write test: test/images whether they export one or not.
                    _LOG.warning("%s: test is %s, which is not there: there is no test split", self.source, entry)
                    break
                splits[split] = [self._resolved(name, value) for value in given]
                break
        owners: dict[str, str] = {}
        for split, places in splits.items():
            for place in places:
                if owners.setdefault(place, split) != split:
                    _LOG.warning("%s: %s and %s are both %s", self.source, owners[place], split, place)
        return splits

    def _base_folder(self, path: Any) -> Path:
        """What data.yaml's paths are relative to."""
        if path is None or path == "":
            return self._root
        if not isinstance(path, str):
            raise UserError(f"{self.source}: path is {shown.repr(path)}; expected a folder")
        base = self._root / path
        if os.path.exists(base):
            return base
        # The path is that of the machine where the data was made, or is relative to Ultralytics' own data folder.
        _LOG.info("%s: there is no path %s; its own folder is taken", self.source, base)
        return self._root

    def _resolved(self, name: str, entry: str) -> str:
        found = self._existing(entry)
        if found is None:
            raise UserError(
                f"{self.source}: {name} is {shown.repr(entry)}, but there is no {self._base / entry}; "
                "put the images there (nothing is downloaded)"
            )
        return found

    def _existing(self, entry: str) -> str | None:
        """The folder or list that an entry of data.yaml means."""
        # Roboflow writes ../train/images and means train/images beside data.yaml; Ultralytics reads it so too.
        for value in (entry, entry.removeprefix("../")):
            path = self._base / value
            if os.path.exists(path):
                return os.path.abspath(path)
        # The entry is of another machine: as much of its end as there is here, two parts at least unless it is a list.
        parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            path = self._base.joinpath(*parts[start:])
            long_enough = start == 0 or len(parts) - start >= 2 or split_of(path.stem) is not None
            if long_enough and is_path(str(path)) and os.path.exists(path):
                _LOG.warning("%s: there is no %s; %s is taken", self.source, shown.repr(entry), path)
                return os.path.abspath(path)
        return None

    def _image_paths(self, split: str) -> list[Path]:
        """The images of a split, each once."""
        if split not in self._paths:
            paths: list[Path] = []
            for entry in map(Path, self._splits[split]):
                if entry.is_dir():
                    folders = self._folders_in(entry)
                    found = [folder / name for folder in folders for name in self._names_in(folder)]
                    paths += sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
                else:
                    paths += self._listed_images(entry)
            where = ", ".join(self._splits[split])
            if not paths:
                unread = [n for place in self._splits[split] for n in self._names_in(Path(place)) if _is_picture(n)]
                those = f" ({some(unread)} cannot be read)" if unread else ""
                raise UserError(
                    f"the {split} split of {self.source} has no images in {where}; expected *.jpg, *.png, ...{those}"
                )
            unique = list(dict.fromkeys(paths))
            if len(unique) < len(paths):
                counts = collections.Counter(paths)
                twice = [path.name for path, count in counts.items() if count > 1]
                _LOG.warning(
                    "%s: %d images are listed more than once (%s) and taken once", where, len(twice), some(twice)
                )
            self._paths[split] = unique
        return self._paths[split]

    def _folders_in(self, place: Path) -> list[Path]:
        """Those of a split's pictures. The set's own folder may hold other things, in folders without labels."""
        folders = list(folders_below(place))
        if place != self._root or _labels_beside(place) is not None:
            return folders
        labelled = [folder for folder in folders if has_pairs(folder, folder, ".txt")] or [place]
        others = [
            (folder / name).relative_to(place).as_posix()
            for folder in folders
            if folder not in labelled
            for name in self._names_in(folder)
            if _is_picture(name)
        ]
        pass_over(place, others, "pictures in folders that have no labels")
        return labelled

    def _listed_images(self, path: Path) -> list[Path]:
        if path.suffix.lower() != ".txt":
            raise UserError(f"{self.source} names {path}; expected a folder of images or a .txt that lists them")
        lines = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
        images: list[Path | None] = []
        for _, line in lines:
            candidates = [Path(os.path.abspath(base / line)) for base in (path.parent, self._base)]
            images.append(next((candidate for candidate in candidates if os.path.exists(candidate)), None))
        missing = [index for index, image in enumerate(images) if image is None]
        if missing:
            finder = FileFinder(self._base, path)
            for index, found in zip(missing, finder.find([lines[index][1] for index in missing]), strict=True):
                if found is None:
                    number, line = lines[index]
                    raise UserError(
                        f"{path}:{number} names image {shown.repr(line)}; "
                        f"there is no {Path(os.path.abspath(path.parent / line))}"
                    )
                images[index] = found
        return [image for image in images if image is not None]

    def _names_in(self, folder: Path) -> list[str]:
        if folder not in self._listings:
            self._listings[folder] = file_names(folder) if folder.is_dir() else []
        return self._listings[folder]

    def _label_folder(self, folder: Path) -> Path:
        if folder not in self._label_folders:
            counterpart = _labels_beside(folder)
            self._label_folders[folder] = counterpart if counterpart and counterpart.is_dir() else folder
        return self._label_folders[folder]

    def _labels_in(self, folder: Path) -> StemFinder:
        if folder not in self._label_finders:
            names = [name for name in self._names_in(folder) if name.lower().endswith(".txt")]
            self._label_finders[folder] = StemFinder(names)
        return self._label_finders[folder]

    def _label_paths(self, paths: Sequence[Path]) -> dict[Path, Path | None]:
        """The label file of each image; None: it has none."""
        found: dict[Path, Path | None] = {}
        stems: dict[Path, set[str]] = {}  # of the images whose labels are in a folder, those of every split
        for folder in dict.fromkeys(path.parent for path in paths):
            pictures = (os.path.splitext(name)[0] for name in self._names_in(folder) if _is_picture(name))
            stems.setdefault(self._label_folder(folder), set()).update(pictures)
        for path in paths:
            folder = self._label_folder(path.parent)
            labels = self._labels_in(folder)
            names = labels.find(path.stem, stems[folder])
            if len(names) > 1:
                raise UserError(
                    f"image {path} has several label files in {folder} ({some(names)}); expected one, {path.stem}.txt"
                )
            found[path] = folder / names[0] if names else None
        return found

    def _tell(self, split: str, labels_of: dict[Path, Path | None]) -> None:
        """Names the labels without an image, the pictures that cannot be read or are in no split, and the images
        without labels."""
        alike = [
            f"{label.name} for {path.name}" for path, label in labels_of.items() if label and label.stem != path.stem
        ]
        if alike:
            _LOG.warning(
                "%s: %d images have their labels under another spelling (%s)", self.source, len(alike), some(alike)
            )
        everywhere = set(labels_of)
        for other in self.splits:
            with contextlib.suppress(UserError):  # what is wrong with another split is told where that is read
                everywhere.update(self._image_paths(other))
        owned = {label for label in self._label_paths(list(everywhere)).values() if label}
        folders = list(dict.fromkeys(path.parent for path in labels_of))
        for place in dict.fromkeys(map(self._label_folder, folders)):
            beside = [folder for folder in folders if self._label_folder(folder) == place]
            pictures = [name for folder in beside for name in self._names_in(folder) if _is_picture(name)]
            unlisted = {os.path.splitext(name)[0] for name in pictures if name.lower().endswith(IMAGE_SUFFIXES)}
            alone = [
                name
                for stem, names in self._labels_in(place).by_stem.items()
                for name in names
                if place / name not in owned and stem not in unlisted and stem.lower() not in _NO_LABELS
            ]
            pass_over(place, alone, "label files without an image that can be read")
        # Beside images/train and images/val, in `images` itself.
        above = [f.parent for f in folders if split_of(f.name) is not None and f.parent.name.lower() == "images"]
        for folder in dict.fromkeys([*folders, *above]):
            names = self._names_in(folder)
            unread = [name for name in names if name.lower().endswith(OTHER_PICTURES)]
            pass_over(folder, unread, "pictures in formats that are not read; convert them to JPEG or PNG")
            images = (name for name in names if name.lower().endswith(IMAGE_SUFFIXES))
            pass_over(folder, [n for n in images if folder / n not in everywhere], "images that are in no split")
        shared = collections.Counter(label for label in labels_of.values() if label)
        several = [label.name for label, count in shared.items() if count > 1]
        if several:
            _LOG.warning(
                "%s: %d label files belong to several images of the same name (%s); each image gets their boxes",
                self.source, len(several), some(several),
            )  # fmt: skip
        without = [path.name for path, label in labels_of.items() if label is None]
        if without:
            # Usual for pictures without objects; where most have none, the files may have other names.
            _LOG.log(
                logging.WARNING if 2 * len(without) > len(labels_of) else logging.INFO,
                "%s: %d of %d images of %s have no label file and are taken as background (%s)",
                self.source, len(without), len(labels_of), split, some(without),
            )  # fmt: skip

    def _class_names(self, settings: dict[Any, Any]) -> tuple[str, ...]:
        source = self.source
        names = _named_classes(source, settings.get("names"))
        count = settings.get("nc")
        if count is not None and (type(count) is not int or not 1 <= count <= MAX_CLASSES):
            raise UserError(f"{source}: nc is {shown.repr(count)}; expected a number of classes, 1 to {MAX_CLASSES}")
        if names and count is not None and count != len(names):
            raise UserError(f"{source}: nc is {count}, but names has {len(names)}; make them agree")
        if not names:
            source, names = self._names_from_files()
        if not names:
            names = [f"class{index}" for index in range(count or self._highest_class() + 1)]
        check_class_names(source, names)
        return tuple(names)

    def _names_from_files(self) -> tuple[Path, list[str]]:
        """Class names from a file in the data folder, else from those beside the labels, which must agree."""
        folders = [self._root]
        for split in self.splits:
            images: dict[Path, None] = {}
            with contextlib.suppress(UserError):  # told where the split is read
                images = dict.fromkeys(path.parent for path in self._image_paths(split))
            folders += [place for folder in images for place in (folder, self._label_folder(folder))]
        found: dict[Path, list[str]] = {}
        for folder in dict.fromkeys(folders):
            for name in _NAME_FILES:
                if (folder / name).is_file():
                    found.setdefault(folder, _class_lines(folder / name))
                    break
            if folder == self._root and folder in found:
                return next(folder / name for name in _NAME_FILES if (folder / name).is_file()), found[folder]
        if len({tuple(names) for names in found.values()}) > 1:
            first, second = list(found)[:2]
            raise UserError(f"{first} and {second} have files of different class names; expected the same in all")
        return next(iter(found.items()), (self.source, []))

    def _highest_class(self) -> int:
        label_paths = {
            label for split in self.splits for label in self._label_paths(self._image_paths(split)).values() if label
        }
        highest = max((label.class_index for path in label_paths for label in _read_labels(path)), default=-1)
        if highest < 0:
            raise UserError(f"{self.source} has neither names nor a label; nothing to train on")
        if highest >= MAX_CLASSES:
            raise UserError(f"{self.source} has labels of class {highest}; expected 0 to {MAX_CLASSES - 1}")
        return highest


def _layout(root: Path) -> dict[str, list[Path]]:
    """What has the images of each split, where they and their labels are at one of LAYOUTS, or beside each other in
    folders below: folders, or the list of a split."""
    splits: dict[str, list[Path]] = {}
    for pair, folders in located_pairs(root, LAYOUTS):
        for split, images, labels in folders:
            if (split == ALL and splits) or (images == labels and not has_pairs(images, labels, ".txt")):
                continue
            if pair.images == "." and not _has_names(root):
                continue  # pictures with texts beside them may be anything
            found = splits.setdefault(split, [])
            found += [images] if images not in found else []
    if ALL in splits and (lists := _split_lists(root)):
        return {split: [path] for split, path in lists.items()}
    return {split: splits[split] for split in (*SPLITS, ALL) if split in splits} or _in_folders(root)


def _has_names(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _NAME_FILES)


def _in_folders(root: Path) -> dict[str, list[Path]]:
    """As `_layout`, of labels beside their pictures in folders below, each with its file of names, as labelImg writes
    it, or below a folder that has one."""
    named = _has_names(root)
    below = folders_of_one_set(root)
    found = any((named or _has_names(folder)) and has_pairs(folder, folder, ".txt") for folder in below)
    return {ALL: [root]} if found else {}


def _split_lists(root: Path) -> dict[str, Path]:
    """Darknet's lists of the images of each split, in a folder that no data.yaml or obj.data explains."""
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        paths = [root / f"{prefix}{name}.txt" for prefix in ("", "autosplit_") for name in names]
        lists = [path for path in paths if path.is_file() and _lists_images(path)]
        if lists:
            found[split] = lists[0]
    return found if "train" in found else {}


def _lists_images(path: Path) -> bool:
    """By its first line: labels and other texts may have such a name."""
    first, *_ = read_text(path).strip().split("\n")
    return first.strip().lower().endswith(IMAGE_SUFFIXES)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES + OTHER_PICTURES)


def _labels_beside(folder: Path) -> Path | None:
    """The folder with its last part `images` as `labels`; None: it has no such part."""
    parts = list(folder.parts)
    for index in reversed(range(len(parts))):
        if parts[index].lower() == "images":
            relative = "/".join(["labels", *parts[index + 1 :]])
            return subfolder(Path(*parts[:index]), relative) or Path(*parts[:index], relative)
    return None


def _read_darknet(path: Path) -> dict[Any, Any]:
    """Darknet's obj.data as the settings of a data.yaml: names of the classes, and the lists of images."""
    settings: dict[Any, Any] = {}
    for line in read_text(path).splitlines():
        key, equals, value = line.partition("=")
        if equals and value.strip():
            settings[key.strip().lower()] = value.strip()
    names = settings.pop("names", "obj.names")
    # CVAT writes data/obj.names for what lies beside obj.data.
    places = [path.parent / names, path.parent / Path(names.replace("\\", "/")).name]
    names_file = next((place for place in places if place.is_file()), None)
    if names_file is None:
        raise UserError(f"{path} names {shown.repr(names)} for the class names; there is no {places[0]}")
    kept = {key: value for key, value in settings.items() if any(key in keys for keys in SPLIT_NAMES.values())}
    return {**kept, "names": _class_lines(names_file)}


def _class_lines(path: Path) -> list[str]:
    """A class's name a line. The number of its line is its id: an empty one counts, but for those at the end."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


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
