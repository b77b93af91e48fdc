"""Where the files of data sets lie, as the common tools leave them: COCO's table, and the search through all tables.

Those of Pascal VOC and YOLO are in voc.py and yolo.py.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tinydet_lite.errors import UserError, os_reason
from tinydet_lite.preprocess import IMAGE_SUFFIXES
from tinydet_tf.data.labelled import ALL, SPLIT_NAMES, SPLITS, file_names, folders_below

#: The part of a layout that is its split itself, whichever split is asked for.
ANY = "any"


class Layout(NamedTuple):
    """Where a tool puts an annotation file and its images, relative to the data folder; letters' case is free.

    annotations: {split} is any name of a split (SPLIT_NAMES), {split}* may have more behind it.
    images: the best first. {split} is the name found, {name} the annotation file's behind "instances_".
    part: what the file is where its name says no split: ALL images of the set, or ANY split.
    """

    tool: str
    annotations: str
    images: tuple[str, ...]
    part: str = ALL


#: The first that has a split is taken; a file that is a split goes before one that is not.
LAYOUTS = (
    Layout("TinyDet", "{split}/instances.json", ("{split}/images",)),
    Layout(
        "COCO, CVAT", "annotations/instances_{split}*.json",
        ("{name}", "images/{name}", "{split}", "images/{split}", "images"),
    ),
    Layout("Roboflow", "{split}/_annotations.coco.json", ("{split}/images", "{split}")),
    Layout("FiftyOne", "{split}/labels.json", ("{split}/data",)),
    Layout("Label Studio", "{split}/result.json", ("{split}/images", "{split}")),
    Layout("others", "{split}/annotations.json", ("{split}/images", "{split}")),
    Layout("others", "annotations/{split}.json", ("{split}", "images/{split}", "images")),
    Layout("others", "labels/{split}.json", ("{split}", "images/{split}", "images")),
    Layout("others", "{split}.json", ("{split}", "images/{split}", "images")),
    Layout("TinyDet", "instances.json", ("images",), ANY),
    Layout("CVAT", "annotations/instances_default.json", ("images/default", "default", "images")),
    Layout("Label Studio", "result.json", ("images", ".")),
    Layout("FiftyOne", "labels.json", ("data",)),
    Layout("Roboflow", "_annotations.coco.json", ("images", ".")),
    Layout("others", "annotations/instances.json", ("images",)),
    Layout("others", "annotations/annotations.json", ("images",)),
    Layout("others", "annotations.json", ("images", ".")),
)  # fmt: skip


class FolderPair(NamedTuple):
    """Folders of images and of their labels, relative to the data folder; {split} is any name of a split, letters' case
    is free. Where they are the same folder, a label file must lie beside its image.
    """

    images: str
    labels: str


class Located(NamedTuple):
    """An annotation file and its image folder; None: which is not there, and was expected at `wanted`."""

    annotation_file: Path
    image_dir: Path | None
    wanted: Path


def coco_parts(directory: Path) -> dict[str, list[Located]]:
    """The COCO files of a data set by the part that they are: some of SPLITS, ALL and ANY.

    Several for one part are of one layout, and ambiguous; those without images are left out where others have them.

    Raises:
        UserError: a folder cannot be read.
    """
    parts: dict[str, list[Located]] = {}
    listing = functools.cache(entries)  # a folder may hold a hundred thousand pictures
    for layout in LAYOUTS:
        of_layout: dict[str, list[Located]] = {}
        for file, split, written in _matching(directory, layout.annotations, listing, Path.is_file):
            name = file.stem.removeprefix("instances_")
            folders = [folder.format(split=written, name=name) for folder in layout.images]
            paths = (subfolder(directory, folder, listing) for folder in folders)
            found = next((path for path in paths if path is not None), None)
            located = Located(file, found, directory / folders[0])
            of_layout.setdefault(split or layout.part, []).append(located)
        for part, all_of_part in of_layout.items():
            with_images = [located for located in all_of_part if located.image_dir is not None]
            if part not in parts or (with_images and parts[part][0].image_dir is None):
                parts[part] = with_images or all_of_part
    return parts


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name means, in any case; None: none."""
    lower = name.lower()
    return next((split for split in SPLITS if lower in SPLIT_NAMES[split]), None)


def entries(folder: Path) -> list[str]:
    """Names of what a folder holds, sorted; empty where there is no such folder.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {os_reason(error)}") from error


def folders_of_one_set(root: Path) -> list[Path]:
    """A folder and all below it; empty where one is a split's, which is of a set that root may hold several of."""
    folders = list(folders_below(root))
    parts = (part for folder in folders for part in folder.relative_to(root).parts)
    return [] if any(map(split_of, parts)) else folders


def subfolder(directory: Path, relative: str, listing: Callable[[Path], list[str]] = entries) -> Path | None:
    """A folder below a folder; of that name, or of one that differs only in the case of its letters."""
    path = directory / relative
    if path.is_dir():
        return path
    if not directory.is_dir():
        return None
    path = directory
    for part in Path(relative).parts:
        alike = [name for name in listing(path) if name.lower() == part.lower() and (path / name).is_dir()]
        if len(alike) != 1:
            return None
        path = path / alike[0]
    return path


def located_pairs(root: Path, pairs: Iterable[FolderPair]) -> Iterator[tuple[FolderPair, list[tuple[str, Path, Path]]]]:
    """What is there of each pair: its split or ALL, images, labels. Of a split that is there twice, the first name.

    Raises:
        UserError: a folder cannot be read.
    """
    listing = functools.cache(entries)  # a folder may hold a hundred thousand pictures
    for pair in pairs:
        found: dict[str, tuple[int, Path, str]] = {}
        for images, split, written in _matching(root, pair.images, listing, Path.is_dir):
            rank = SPLIT_NAMES[split].index(written.lower()) if split else 0
            found[split or ALL] = min(found.get(split or ALL, (rank, images, written)), (rank, images, written))
        placed = [
            (split, images, subfolder(root, pair.labels.format(split=written), listing))
            for split, (_, images, written) in found.items()
        ]
        yield pair, [(split, images, labels) for split, images, labels in placed if labels is not None]


def has_pairs(images: Path, labels: Path, suffix: str) -> bool:
    """Whether there is a label file of that suffix; where labels are among the images, one of an image's name."""
    stems = {os.path.splitext(name)[0] for name in file_names(labels) if name.lower().endswith(suffix)}
    if images != labels:
        return bool(stems)
    names = (name for name in file_names(images) if name.lower().endswith(IMAGE_SUFFIXES))
    return any(os.path.splitext(name)[0] in stems for name in names)


def _matching(
    directory: Path, template: str, listing: Callable[[Path], list[str]], is_kind: Callable[[Path], bool]
) -> list[tuple[Path, str | None, str]]:
    """The files or folders of a template: path, its split, and the split's name as it is written there."""
    places: list[tuple[Path, str | None, str]] = [(directory, None, "")]
    *folders, last = template.split("/")
    for part, wanted in [*((folder, Path.is_dir) for folder in folders), (last, is_kind)]:
        following: list[tuple[Path, str | None, str]] = []
        before, has_split, behind = part.partition("{split}")
        pattern = re.compile(fnmatch.translate(f"{before}*{behind.removeprefix('*')}"), re.IGNORECASE)
        for path, split, written in places:
            if not has_split:
                inner = path / part if wanted is Path.is_file else subfolder(path, part, listing)
                following += [(inner, split, written)] if inner is not None and wanted(inner) else []
                continue
            for name in listing(path):
                middle = name[len(before) : len(name) - len(behind.removeprefix("*"))]
                known = split_of(middle) or (_begins(middle) if behind.startswith("*") else None)
                if pattern.match(name) is not None and known is not None and wanted(path / name):
                    following.append((path / name, known, middle))
        places = following
    return places


def _begins(name: str) -> str | None:
    return next((split for split in SPLITS if name.lower().startswith(split)), None)
