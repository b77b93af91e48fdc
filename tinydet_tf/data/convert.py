"""From Pascal VOC and YOLO folders to COCO's json, whose images stay where they are.

Everything else, pycocotools included, reads COCO's format. A converted split is therefore a json file; `locate_split`
keeps its files in the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from tinydet_lite.errors import UserError, os_reason
from tinydet_lite.files import atomic_write
from tinydet_tf.data.cache import cache_folder
from tinydet_tf.data.labelled import SPLITS, LabelledDataset, LabelledImage, choose_part, val_indices
from tinydet_tf.data.layouts import coco_parts, entries
from tinydet_tf.data.locating import some
from tinydet_tf.data.voc import VocFolder, has_pairs_below, voc_root
from tinydet_tf.data.yolo import YoloFolder, yolo_source

_LOG = logging.getLogger(__name__)

FORMATS = ("voc", "yolo")
ANNOTATION_FILE = "instances.json"
_NAME_LENGTH = 40  # characters of the data folder's name in its cache folder's name, for people who look there


@dataclasses.dataclass(frozen=True)
class ConvertedSplit:
    """document: COCO's json, file names relative to image_dir."""

    document: dict[str, Any]
    image_dir: Path

    def to_bytes(self) -> bytes:
        return (json.dumps(self.document) + "\n").encode()


def open_folder(path: Path, format: str | None = None, *, voc_first_pixel: int = 1) -> LabelledDataset | None:
    """The data set at a path: a VOC or YOLO folder, or YOLO's data.yaml.

    Args:
        format: one of FORMATS; None tries each, VOC first, and last xml beside their pictures in folders below.
        voc_first_pixel: what VOC's boxes count from (voc.py).

    Returns:
        None where it is of neither format.

    Raises:
        UserError: the folder is of the format, but something in it is missing, malformed or inconsistent.
    """
    if format in ("voc", None):
        root = voc_root(path)
        if root is not None:
            return VocFolder(root, voc_first_pixel)
    if format in ("yolo", None):
        source = yolo_source(path)
        if source is not None:
            return YoloFolder(source)
    if format in ("voc", None) and has_pairs_below(path):
        return VocFolder(path, voc_first_pixel)
    return None


def set_below(path: Path) -> Path | None:
    """The folder of a data set in a folder that is none itself: what an archive was unpacked into, say.

    Returns:
        None where there is none in the folders in it, nor in those in them.

    Raises:
        UserError: there are several.
    """
    level = [path]
    for _ in range(2):
        level = [folder / name for folder in level for name in entries(folder) if _may_be_set(folder / name)]
        found = [folder for folder in level if is_set(folder)]
        if len(found) > 1:
            names = some([folder.relative_to(path).as_posix() for folder in found])
            raise UserError(f"{path} has {len(found)} data sets in it ({names}); give one of them")
        if found:
            _LOG.info("%s: the data set is in %s", path, found[0])
            return found[0]
    return None


def _may_be_set(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__"))  # __MACOSX, say


def is_set(path: Path) -> bool:
    """Whether a folder is laid out as a data set of any format."""
    return bool(coco_parts(path) or voc_root(path) or yolo_source(path) or has_pairs_below(path))


def converted_split(path: Path, split: str, *, voc_first_pixel: int = 1) -> tuple[Path, Path, str | None] | None:
    """(annotation file, image folder, half) of a VOC or YOLO folder's split, the file written to the cache.

    half: "train" or "val" where the file is of a set without a val split, which is to be divided (`choose_part`). The
    file is replaced where it differs.

    Returns:
        None where the path is of neither format.

    Raises:
        UserError: as `open_folder`; or there is no such split; or the cache cannot be written.
    """
    folder = open_folder(path, voc_first_pixel=voc_first_pixel)
    if folder is None:
        return None
    chosen = choose_part(path, folder.splits, split)
    if chosen is None:
        raise UserError(f"{path} has no {split} split, only {', '.join(folder.splits)}; name one of these")
    part, divided = chosen
    converted = coco_split(folder, folder.read(part))
    absolute = os.path.abspath(path)
    digest = hashlib.sha256(os.fsencode(absolute) + (b"" if voc_first_pixel else b"\0from 0")).hexdigest()[:12]
    target = cache_folder() / "converted" / f"{Path(absolute).name[:_NAME_LENGTH]}-{digest}" / part / ANNOTATION_FILE
    _write_if_changed(target, converted.to_bytes())
    _LOG.info("%s: %d images of %s, as COCO's json in %s", path, len(converted.document["images"]), part, target)
    return target, converted.image_dir, split if divided else None


def coco_split(folder: LabelledDataset, images: list[LabelledImage]) -> ConvertedSplit:
    """COCO's json of some images of a folder. Ignored boxes become crowds; the area is that of the box.

    Raises:
        UserError: the images have no folder in common (they are on several drives).
    """
    try:
        image_dir = Path(os.path.commonpath({str(image.path.parent) for image in images}))
    except ValueError as error:
        raise UserError(f"the images are on several drives ({images[0].path}, ...); put them on one") from error
    annotations = [
        {
            "image_id": image_id,
            "category_id": folder.first_category_id + box.class_index,
            "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
            "area": (box.x2 - box.x1) * (box.y2 - box.y1),
            "iscrowd": int(box.ignored),
        }
        for image_id, image in enumerate(images, 1)
        for box in image.boxes
    ]
    document = {
        "images": [
            {
                "id": image_id,
                "file_name": image.path.relative_to(image_dir).as_posix(),
                "width": image.width,
                "height": image.height,
            }
            for image_id, image in enumerate(images, 1)
        ],
        # Ids start at 1, because pycocotools takes the annotation id 0 for "none".
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
        "categories": [{"id": folder.first_category_id + c, "name": name} for c, name in enumerate(folder.class_names)],
    }
    return ConvertedSplit(document, image_dir)


def train_and_val(folder: LabelledDataset, val_fraction: float | None, seed: int) -> dict[str, list[LabelledImage]]:
    """The images of "train", "val" and "test", if there is one; where there is no val, a random part of the others.

    Args:
        val_fraction: share of the images that goes to val; each split gets at least one image.
        seed: decides which images go to val.

    Raises:
        UserError: the fraction is out of range, is missing and needed, is given and not needed, or there is one image.
    """
    check_fraction(val_fraction)
    if "val" in folder.splits or "test" in folder.splits:
        if val_fraction is not None:
            raise UserError("the data has a val split of its own; leave --val-fraction out")
        if "train" not in folder.splits:
            raise UserError("the data has a val split and none for train; expected both, or no val")
        parts = [part for split in SPLITS if (part := choose_part(folder.source, folder.splits, split)) is not None]
        return {split: folder.read(part) for split, (part, _) in zip(SPLITS, parts, strict=False)}
    if val_fraction is None:
        raise UserError("the data has no val split; give --val-fraction, for example 0.2")
    images = folder.read(folder.splits[0])
    chosen = val_indices([image.path for image in images], val_fraction, seed)
    return {
        "train": [image for index, image in enumerate(images) if index not in chosen],
        "val": [image for index, image in enumerate(images) if index in chosen],
    }


def check_fraction(val_fraction: float | None) -> None:
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction is {val_fraction:g}; expected more than 0 and less than 1")


def _write_if_changed(target: Path, content: bytes) -> None:
    """Writes the file unless it holds the content already.

    Several processes of one run convert the same data; none may replace a file while another reads it.
    """
    try:
        if target.is_file() and target.read_bytes() == content:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache {target.parent} ({os_reason(error)}); "
            "set TINYDET_CACHE to a folder that can be written"
        ) from error
    atomic_write(target, content)
