"""Reading data sets in Pascal VOC's format: an xml for each image, in the layouts that tools leave (`LAYOUTS`).

VOC counts pixels from 1 and includes the last one, so that xmin..xmax covers the continuous corners xmin - 1 .. xmax.
Some tools write continuous corners, which begin at 0, instead: first_pixel=0 takes the numbers as they are.

No library is used: those that read VOC (datumaro, fiftyone, supervision, pylabel, globox) need OpenCV, pandas or a
database, and the standard library's XML parser is enough.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import math
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tinydet_lite.errors import UserError, os_reason
from tinydet_lite.preprocess import IMAGE_SUFFIXES
from tinydet_tf.data.labelled import (
    ALL,
    OTHER_PICTURES,
    LabelledBox,
    LabelledImage,
    check_class_names,
    file_names,
    folders_below,
    read_text,
    shown,
)
from tinydet_tf.data.layouts import FolderPair, folders_of_one_set, has_pairs, located_pairs, split_of, subfolder
from tinydet_tf.data.locating import FileFinder, StemFinder, pass_over, some
from tinydet_tf.data.opening import Skipped, read_header

_LOG = logging.getLogger(__name__)


#: What the folders are called, by the tool that we know it of or by hand, and where a split's name stands.
_IMAGES = ("JPEGImages", "images", "data")
_ANNOTATIONS = ("Annotations", "labels", "annots", "Annotations/xmls")
_PLACES = ("{}", "{{split}}/{}", "{}/{{split}}")
#: The first that is there is taken.
LAYOUTS = (
    *(
        FolderPair(place.format(images), place.format(annotations))
        for place, images, annotations in itertools.product(_PLACES, _IMAGES, _ANNOTATIONS)
    ),
    FolderPair("{split}", "{split}"),  # Roboflow
    FolderPair(".", "."),  # labelImg
)
#: Where neither these nor YOLO's are: each xml beside its picture, as labelImg writes them.
BESIDE = FolderPair("images/{split}", "images/{split}")
_LISTS = "ImageSets/Main"
#: The lists that may be a split, the best first. VOC2007 and 2012 have train and val; others have trainval and test.
_LISTS_OF = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}
_MAX_SIDE = 2**31 - 1
#: What tools write for <difficult>, besides 0 and 1.
_DIFFICULT = {"": False, "unspecified": False, "false": False, "no": False, "true": True, "yes": True}


@dataclasses.dataclass(frozen=True)
class _Object:
    name: str
    corners: tuple[float, float, float, float]  # as they are written
    difficult: bool


@dataclasses.dataclass(frozen=True)
class _Annotation:
    """The content of one xml. size: None where the file does not say it."""

    file_name: str
    size: tuple[int, int] | None
    objects: tuple[_Object, ...]


class _Place(NamedTuple):
    """Where the xml and the images of a part of the set are, and the files there: path without suffix -> names."""

    annotations: Path
    images: Path
    xml: StemFinder
    pictures: StemFinder


def voc_root(directory: Path) -> Path | None:
    """The folder in one of LAYOUTS: `directory` or the one VOC* in it (VOCdevkit); None: there is none.

    Raises:
        UserError: there are several VOC* in it.
    """
    if _layout(directory):
        return directory
    roots = [folder for folder in sorted(directory.glob("VOC*")) if _layout(folder)]
    if len(roots) > 1:
        raise UserError(f"{directory} has several VOC sets ({', '.join(r.name for r in roots)}); give one of them")
    return roots[0] if roots else None


def has_pairs_below(directory: Path) -> bool:
    """Whether xml lie beside their pictures in BESIDE, or anywhere below a folder that has no splits."""
    return bool(_beside(directory))


def _beside(root: Path) -> dict[str, tuple[Path, Path]]:
    """As `_layout`, of sets whose xml lie beside their pictures."""
    if found := _layout(root, (BESIDE,)):
        return found
    below = folders_of_one_set(root)
    return {ALL: (root, root)} if any(has_pairs(folder, folder, ".xml") for folder in below) else {}


def _layout(root: Path, layouts: Sequence[FolderPair] = LAYOUTS) -> dict[str, tuple[Path, Path]]:
    """Folders of xml and of images by part of the set; empty where the folder is not VOC's."""
    for pair, folders in located_pairs(root, layouts):
        # The two names together are VOC's alone: there the xml may be missing, which is an error later.
        certain = "JPEGImages" in pair.images and "Annotations" in pair.labels
        found = {
            part: (annotations, images)
            for part, images, annotations in folders
            if certain or has_pairs(images, annotations, ".xml")
        }
        if found:
            return found
    return {}


class VocFolder:
    """A LabelledDataset (labelled.py) of Pascal VOC.

    Classes are the names of the objects of every list, sorted, so that they do not depend on the split. "difficult"
    objects are ignored ones. Without lists and folders of splits every image that has an xml is in the one split ALL.
    Reads every listed xml, images only where an xml gives no size.

    Args:
        root: what `voc_root` gives, or a folder that `has_pairs_below`.
        first_pixel: 1 or 0, see above.

    Raises:
        UserError: something is missing, malformed or inconsistent; the message names the file and the entry.
    """

    first_category_id = 1

    def __init__(self, root: Path, first_pixel: int = 1) -> None:
        self.source, self._first_pixel = root, first_pixel
        self._places = {part: _place(*folders) for part, folders in (_layout(root) or _beside(root)).items()}
        lists = subfolder(root, _LISTS) if ALL in self._places else None
        self._list_folder = lists or root
        self._lists = self._read_lists() if lists is not None else {}
        self._listed = {name for names in self._lists.values() for name in names}
        self.splits = tuple(self._lists or self._places)
        named = self._named()
        self._annotations = {path: _read_xml(path) for part in named for path in named[part].values()}
        names = sorted({o.name for a in self._annotations.values() for o in a.objects})
        where = next(iter(self._places.values())).annotations
        if not names:
            raise UserError(f"{where}: none of {len(self._annotations)} .xml has an object; nothing to train on")
        check_class_names(where, names)
        self.class_names = tuple(names)

    def read(self, split: str) -> list[LabelledImage]:
        part = split if split in self._places else ALL
        place = self._places[part]
        listed = split in self._lists
        stems = self._checked_list(split) if listed else sorted(place.xml.by_stem)
        annotations = {stem: self._annotations[_xml_path(place, stem)] for stem in stems}
        paths = self._image_paths(place, annotations, listed=listed)
        self._tell(place, paths)
        self._tell_of_zeros(place, {stem: annotations[stem] for stem in paths})
        index = {name: position for position, name in enumerate(self.class_names)}
        shift = self._first_pixel
        images = []
        lost = 0
        skipped = Skipped(len(paths), f"the {split} split of {self.source}")
        for stem, path in paths.items():
            annotation = annotations[stem]
            try:
                width, height = annotation.size or read_header(path).upright
            except UserError as error:
                skipped.note(path, error)
                lost += len(annotation.objects)
                continue
            boxes = tuple(
                LabelledBox(index[o.name], o.corners[0] - shift, o.corners[1] - shift, *o.corners[2:], o.difficult)
                for o in annotation.objects
            )
            images.append(LabelledImage(path, width, height, boxes))
        skipped.tell(objects=lost)
        return images

    def _read_lists(self) -> dict[str, dict[str, int]]:
        """Names of the images of each split, in the order of its list, and their lines in it."""
        lists: dict[str, dict[str, int]] = {}
        for split, candidates in _LISTS_OF.items():
            for candidate in candidates:
                if self._list_path(candidate) is not None:
                    lists[split] = self._read_list(candidate)
                    break
        if "train" in lists and self._list_path("train") is None:
            # trainval has the images of a val.txt, too.
            held_out = next((split for split in ("val", "test") if split in lists), "")
            lists["train"] = {n: line for n, line in lists["train"].items() if n not in lists.get(held_out, {})}
            if not lists["train"]:
                raise UserError(
                    f"{self._list_folder}: {held_out}.txt has every image of trainval.txt; nothing is left to train on"
                )
        return lists

    def _list_path(self, name: str) -> Path | None:
        """The file of a list, by one of its split's names (layouts.py) in any case: Validation.txt is val.txt."""
        if (self._list_folder / f"{name}.txt").is_file():
            return self._list_folder / f"{name}.txt"
        if not self._list_folder.is_dir():
            return None
        stems = [file[:-4] for file in file_names(self._list_folder) if file.lower().endswith(".txt")]
        alike = sorted(stem for stem in stems if name in (stem.lower(), split_of(stem)))
        return self._list_folder / f"{alike[0]}.txt" if alike else None

    def _read_list(self, name: str) -> dict[str, int]:
        path = self._list_path(name)
        assert path is not None
        names: dict[str, int] = {}
        twice = []
        for number, line in enumerate(read_text(path).splitlines(), 1):
            stem = line.strip().replace("\\", "/")
            if stem in names:
                twice.append(stem)
            elif stem:
                names[stem] = number
        pass_over(path, twice, "names that it has already")
        if not names:
            raise UserError(f"{path} names no image; expected an image's name without extension a line")
        return names

    def _checked_list(self, split: str) -> list[str]:
        path = next(p for n in _LISTS_OF[split] if (p := self._list_path(n)) is not None)
        place = self._places[ALL]
        stems = []
        alike = []
        for name, number in self._lists[split].items():
            stem = _listed_xml(place, name, self._listed)
            if stem is None:
                raise UserError(
                    f"{path}:{number} names {shown.repr(name)}, but there is no {name[:80]}.xml in "
                    f"{place.annotations}; expected an image's name without extension a line"
                )
            alike += [] if name.startswith(stem) else [f"{stem}.xml for {name}"]
            stems.append(stem)
        if alike:
            _LOG.warning("%s: %d names are written another way than their xml (%s)", path, len(alike), some(alike))
        return stems

    def _named(self) -> dict[str, dict[str, Path]]:
        """The xml that classes are collected from: all of the set, or of the lists, a test list's included."""
        named = {}
        for part, place in self._places.items():
            stems: Iterable[str] = place.xml.by_stem
            if self._lists:
                lists = list(self._lists.values())
                if all(self._list_path(name) is not None for name in ("train", "trainval")):
                    lists.append(self._read_list("trainval"))
                found = (_listed_xml(place, name, self._listed) for names in lists for name in names)
                stems = dict.fromkeys(stem for stem in found if stem is not None)
            named[part] = {stem: _xml_path(place, stem) for stem in stems}
        return named

    def _image_paths(self, place: _Place, annotations: dict[str, _Annotation], *, listed: bool) -> dict[str, Path]:
        """The image with the xml's own name, else that of <filename>, which many tools do not update on a move.

        An xml without an image is passed over where no list asks for it.
        """
        paths: dict[str, Path] = {}
        by_file_name: dict[str, str] = {}  # of those whose image has another name
        alike: list[str] = []
        for stem, annotation in annotations.items():
            found = place.pictures.find(stem, place.xml.by_stem)
            exact = stem in place.pictures.by_stem
            if len(found) == 1 and (exact or not annotation.file_name):
                paths[stem] = place.images / found[0]
                alike += [] if exact else [f"{found[0]} for {stem}.xml"]
            else:
                # Several images have the xml's name, or none has: <filename> says which it is.
                by_file_name[stem] = annotation.file_name
        finder = FileFinder(place.images, place.annotations)
        named = dict(zip(by_file_name, finder.find(list(by_file_name.values())), strict=True))
        without = []
        for stem, path in named.items():
            found = place.pictures.find(stem, place.xml.by_stem)
            if path is not None and path.suffix.lower() in IMAGE_SUFFIXES:
                paths[stem] = path
            elif len(found) == 1:
                paths[stem] = place.images / found[0]
                alike.append(f"{found[0]} for {stem}.xml")
            elif found or listed:
                several = f"several images ({', '.join(found)})" if found else "no image"
                raise UserError(
                    f"{_xml_path(place, stem)} has {several} in {place.images}; "
                    f"expected one named {stem}, or as its <filename> says"
                )
            else:
                without.append(f"{stem}.xml")
        if alike:
            _LOG.warning("%s: %d xml have images of another spelling (%s)", place.annotations, len(alike), some(alike))
        pass_over(place.annotations, without, f"xml without an image in {place.images}")
        if not paths:
            raise UserError(
                f"{place.annotations}: none of {len(annotations)} .xml has an image in {place.images} that can be read "
                f"({', '.join(IMAGE_SUFFIXES)})"
            )
        counts = collections.Counter(paths.values())
        pass_twice = [path.name for path, count in counts.items() if count > 1]
        if pass_twice:
            _LOG.warning(
                "%s: %d images have several xml (%s): each is trained on as if the others' objects were background",
                place.annotations, len(pass_twice), some(pass_twice),
            )  # fmt: skip
        return {stem: paths[stem] for stem in annotations if stem in paths}

    def _tell(self, place: _Place, paths: dict[str, Path]) -> None:
        """Names the pictures that have no xml and those that cannot be read."""
        used = {path.relative_to(place.images).as_posix() for path in paths.values()}
        others = [
            name
            for stem, names in place.pictures.by_stem.items()
            for name in names
            if stem not in place.xml.by_stem and name not in used
        ]
        pass_over(place.images, others, "pictures without an xml (one without objects is taken as background)")
        unread = [name for name in sorted(_walk(place.images)) if name.lower().endswith(OTHER_PICTURES)]
        pass_over(place.images, unread, "pictures in formats that are not read; convert them to JPEG or PNG")
        if self._lists:
            alone = [stem for stem in sorted(place.xml.by_stem) if _xml_path(place, stem) not in self._annotations]
            pass_over(place.annotations, alone, f"xml that no list in {self._list_folder} names")

    def _tell_of_zeros(self, place: _Place, annotations: dict[str, _Annotation]) -> None:
        if self._first_pixel == 0:
            return
        zeros = [s for s, a in annotations.items() if any(0 <= min(o.corners[:2]) < 1 for o in a.objects)]
        if zeros:
            _LOG.warning(
                "%s: %d xml have a box that begins at 0 (the first is %s.xml), but VOC counts pixels from 1: if their "
                "tool counts from 0, every box is read a pixel too wide and high; data.voc_first_pixel=0 reads them so",
                place.annotations, len(zeros), zeros[0],
            )  # fmt: skip


def _place(annotations: Path, images: Path) -> _Place:
    xml = StemFinder(name for name in sorted(_walk(annotations)) if name.lower().endswith(".xml"))
    if not xml.by_stem:
        raise UserError(f"{annotations} has no .xml; expected one an image")
    twice = [names for names in xml.by_stem.values() if len(names) > 1]
    if twice:
        raise UserError(f"{annotations} has {' and '.join(twice[0])}; expected one xml an image")
    pictures = StemFinder(name for name in sorted(_walk(images)) if name.lower().endswith(IMAGE_SUFFIXES))
    return _Place(annotations, images, xml, pictures)


def _walk(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it; hidden ones left out."""
    for place in folders_below(folder):
        yield from ((place.relative_to(folder) / name).as_posix() for name in file_names(place))


def _listed_xml(place: _Place, name: str, names: Container[str]) -> str | None:
    """The xml, without its suffix, that a line of a list means; names: those of every list."""
    for stem in (name, os.path.splitext(name)[0]):  # some tools list file names
        if stem in place.xml.by_stem:
            return stem
    found = place.xml.find(name, names)
    return os.path.splitext(found[0])[0] if len(found) == 1 else None


def _xml_path(place: _Place, stem: str) -> Path:
    return place.annotations / place.xml.by_stem[stem][0]


def _read_xml(path: Path) -> _Annotation:
    try:
        content = path.read_bytes()
        if b"<!DOCTYPE" in content.replace(b"\0", b""):  # of UTF-16 too: its entities could expand without end
            raise UserError(f"{path} has a DOCTYPE, which an annotation does not need; remove it")
        root = ElementTree.fromstring(content)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {os_reason(error)}") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # an odd encoding raises the latter two
        raise UserError(f"{path} is damaged ({error}); expected an annotation in Pascal VOC's XML") from error
    if root.tag != "annotation":
        raise UserError(f"{path} holds <{root.tag[:80]}>; expected an <annotation> in Pascal VOC's XML")
    objects = tuple(_object(f"{path}: object {n}", node) for n, node in enumerate(root.findall("object"), 1))
    return _Annotation((root.findtext("filename") or "").strip(), _size(path, root), objects)


def _size(path: Path, root: ElementTree.Element) -> tuple[int, int] | None:
    """The size that the xml says; None where it says none, or 0, as tools write that never open the image."""
    texts = [(root.findtext(f"size/{key}") or "").strip() for key in ("width", "height")]
    if any(text in ("", "0") for text in texts):
        return None
    sizes = [_number(f"{path}: <size>", key, text) for key, text in zip(("width", "height"), texts, strict=True)]
    if not all(size.is_integer() and 1 <= size <= _MAX_SIDE for size in sizes):
        raise UserError(f"{path}: <size> is {shown.repr(texts)}; expected a width and a height in whole pixels")
    return int(sizes[0]), int(sizes[1])


def _object(where: str, node: ElementTree.Element) -> _Object:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where} has no <name>; expected its class")
    box = node.find("bndbox")
    if box is None:
        raise UserError(f"{where} ({name}) has no <bndbox>; expected xmin, ymin, xmax and ymax")
    keys = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (_number(f"{where} ({name})", key, (box.findtext(key) or "").strip()) for key in keys)
    return _Object(name, (x1, y1, x2, y2), _difficult(f"{where} ({name})", (node.findtext("difficult") or "").strip()))


def _difficult(where: str, text: str) -> bool:
    known = _DIFFICULT.get(text.lower())
    if known is not None:
        return known
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value not in (0, 1):
        raise UserError(f"{where} has <difficult> {shown.repr(text)}; expected 0 or 1")
    return value == 1


def _number(where: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where} has {key} {shown.repr(text)}; expected a finite number of pixels")
    return value
