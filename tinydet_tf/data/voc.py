"""Reading data sets in Pascal VOC's format: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt.

VOC counts pixels from 1 and includes the last one, so that xmin..xmax covers the continuous corners xmin - 1 .. xmax.

No library is used: those that read VOC (datumaro, fiftyone, supervision, pylabel, globox) need OpenCV, pandas or a
database, and the standard library's XML parser is enough.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from xml.etree import ElementTree

from tinydet_lite.errors import UserError, os_reason
from tinydet_tf.data.labelled import (
    ALL,
    IMAGE_SUFFIXES,
    LabelledBox,
    LabelledImage,
    check_class_names,
    file_names,
    read_text,
    shown,
)
from tinydet_tf.data.opening import Skipped, read_header

_LOG = logging.getLogger(__name__)

_ANNOTATIONS, _IMAGES, _LISTS = "Annotations", "JPEGImages", Path("ImageSets") / "Main"
#: The lists that may be a split, the best first. VOC2007 and 2012 have train and val; others have trainval and test.
_LISTS_OF = {"train": ("train", "trainval"), "val": ("val", "test")}
_MAX_SIDE = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class _Object:
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclasses.dataclass(frozen=True)
class _Annotation:
    """The content of one xml. size: None where the file does not say it."""

    file_name: str
    size: tuple[int, int] | None
    objects: tuple[_Object, ...]


def voc_root(directory: Path) -> Path | None:
    """The folder with Annotations/ and JPEGImages/: `directory` or the one VOC* in it (VOCdevkit); None: there is none.

    Raises:
        UserError: there are several VOC* in it.
    """
    roots = [folder for folder in (directory, *sorted(directory.glob("VOC*"))) if _is_root(folder)]
    if len(roots) > 1 and roots[0] != directory:
        raise UserError(f"{directory} has several VOC sets ({', '.join(r.name for r in roots)}); give one of them")
    return roots[0] if roots else None


def _is_root(folder: Path) -> bool:
    return (folder / _ANNOTATIONS).is_dir() and (folder / _IMAGES).is_dir()


class VocFolder:
    """A LabelledDataset (labelled.py) of Pascal VOC.

    Classes are the names of the objects of every list, sorted, so that they do not depend on the split. "difficult"
    objects are ignored ones. Without ImageSets/Main every image that has an xml is in the one split ALL. Reads every
    listed xml, images only where an xml gives no size.

    Args:
        root: what `voc_root` gives.

    Raises:
        UserError: something is missing, malformed or inconsistent; the message names the file and the entry.
    """

    first_category_id = 1

    def __init__(self, root: Path) -> None:
        self._root = root
        found = file_names(root / _ANNOTATIONS)
        self._annotation_names = {Path(name).stem: name for name in found if name.lower().endswith(".xml")}
        if not self._annotation_names:
            raise UserError(f"{root / _ANNOTATIONS} has no .xml; expected one an image")
        self._lists = self._read_lists()
        self.splits = tuple(self._lists)
        listed = dict.fromkeys([*(n for names in self._lists.values() for n in names), *self._named_elsewhere()])
        self._annotations = {n: _read_xml(root / _ANNOTATIONS / self._annotation_names[n]) for n in listed}
        names = sorted({o.name for a in self._annotations.values() for o in a.objects})
        if not names:
            raise UserError(f"{root / _ANNOTATIONS}: none of {len(listed)} .xml has an object; nothing to train on")
        check_class_names(root / _ANNOTATIONS, names)
        self.class_names = tuple(names)
        self._images: dict[str, list[str]] = {}  # stem -> file names
        for name in file_names(root / _IMAGES):
            if name.lower().endswith(IMAGE_SUFFIXES):
                self._images.setdefault(Path(name).stem, []).append(name)

    def read(self, split: str) -> list[LabelledImage]:
        index = {name: position for position, name in enumerate(self.class_names)}
        images = []
        lost = 0
        skipped = Skipped(len(self._lists[split]), f"the {split} split of {self._root}")
        for stem in self._lists[split]:
            annotation = self._annotations[stem]
            path = self._image_path(stem, annotation)
            try:
                width, height = annotation.size or read_header(path).upright
            except UserError as error:
                skipped.note(path, error)
                lost += len(annotation.objects)
                continue
            boxes = tuple(LabelledBox(index[o.name], *o.corners, o.difficult) for o in annotation.objects)
            images.append(LabelledImage(path, width, height, boxes))
        skipped.tell(objects=lost)
        return images

    def _read_lists(self) -> dict[str, list[str]]:
        """Names of the images of each split, in the order of its list; all of them where there are no lists."""
        folder = self._root / _LISTS
        lists: dict[str, list[str]] = {}
        for split, candidates in _LISTS_OF.items():
            for candidate in candidates:
                if (folder / f"{candidate}.txt").is_file():
                    if candidate == "test":
                        _LOG.warning("%s has no val.txt: validation is on test.txt", folder)
                    lists[split] = self._read_list(folder / f"{candidate}.txt")
                    break
        if set(lists) == {"train", "val"} and not (folder / "train.txt").is_file():
            # trainval has the images of a val.txt, too.
            validated = set(lists["val"])
            lists["train"] = [name for name in lists["train"] if name not in validated]
            if not lists["train"]:
                raise UserError(f"{folder}: val.txt has every image of trainval.txt; nothing is left to train on")
        return lists or {ALL: sorted(self._annotation_names)}

    def _named_elsewhere(self) -> list[str]:
        """Annotated images of lists that are no split here; a test list often comes without its annotations."""
        lists = [self._root / _LISTS / f"{name}.txt" for name in ("train", "val", "trainval", "test")]
        names = [line.strip() for path in lists if path.is_file() for line in read_text(path).splitlines()]
        return [name for name in names if name in self._annotation_names]

    def _read_list(self, path: Path) -> list[str]:
        names: dict[str, None] = {}
        for number, line in enumerate(read_text(path).splitlines(), 1):
            name = line.strip()
            if not name:
                continue
            if name not in self._annotation_names:
                raise UserError(
                    f"{path}:{number} names {shown.repr(name)}, but there is no {name[:80]}.xml in "
                    f"{self._root / _ANNOTATIONS}; expected an image's name without extension a line"
                )
            names[name] = None
        if not names:
            raise UserError(f"{path} names no image; expected an image's name without extension a line")
        return list(names)

    def _image_path(self, stem: str, annotation: _Annotation) -> Path:
        """The image with the xml's own name, else that of <filename>, which many tools do not update on a move."""
        folder = self._root / _IMAGES
        found = self._images.get(stem, [])
        if len(found) != 1:
            named = [n for n in self._images.get(Path(annotation.file_name).stem, []) if n == annotation.file_name]
            if not named:
                several = f"several images ({', '.join(found)})" if found else "no image"
                raise UserError(
                    f"{self._root / _ANNOTATIONS / self._annotation_names[stem]} has {several} in {folder}; "
                    f"expected one named {stem}, or as its <filename> says"
                )
            found = named
        return folder / found[0]


class _DocumentTypeError(Exception):
    pass


class _NoDocumentType(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE: no annotation needs one, and its entities could expand without end or read files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _DocumentTypeError


def _read_xml(path: Path) -> _Annotation:
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDocumentType()))
    except _DocumentTypeError:
        raise UserError(f"{path} has a DOCTYPE, which an annotation does not need; remove it") from None
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
    difficult = (node.findtext("difficult") or "").strip()
    if difficult not in ("", "0", "1"):
        raise UserError(f"{where} ({name}) has <difficult> {shown.repr(difficult)}; expected 0 or 1")
    return _Object(name, (x1 - 1, y1 - 1, x2, y2), difficult == "1")


def _number(where: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where} has {key} {shown.repr(text)}; expected a finite number of pixels")
    return value
