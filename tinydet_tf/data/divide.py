"""A data set of COCO's format as one json a split, where it is to be divided into train and val."""

from __future__ import annotations

from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import Entries, load_coco, locate_split, read_json
from tinydet_tf.data.convert import ConvertedSplit, check_fraction
from tinydet_tf.data.labelled import ALL, val_indices
from tinydet_tf.data.layouts import coco_parts


def is_coco(path: Path) -> bool:
    """Whether a path is a folder in one of the layouts of COCO's format."""
    return path.is_dir() and bool(coco_parts(path))


def divide_coco(path: Path, val_fraction: float | None, seed: int) -> dict[str, ConvertedSplit]:
    """ "train" and "val" of a set without a val split, each entry as it was; file names relative to the image folder.

    Args:
        val_fraction: share of the images that goes to val; each split gets at least one image.
        seed: decides which images go to val.

    Raises:
        UserError: as `load_coco`; the set has splits, or the fraction is missing or out of range.
    """
    check_fraction(val_fraction)
    parts = coco_parts(path)
    if len(parts) > 1:
        raise UserError(f"{path} has the splits {', '.join(parts)} in COCO's format; train --data reads it as it is")
    if val_fraction is None:
        raise UserError("the data has no val split; give --val-fraction, for example 0.2")
    located = locate_split(path, ALL)
    dataset = load_coco(*located)
    entries = Entries(located.annotation_file, read_json(located.annotation_file))
    document, owners = entries.document, entries.owners().tolist()
    chosen = val_indices([image.path for image in dataset.images], val_fraction, seed)
    names = [image.path.relative_to(located.image_dir).as_posix() for image in dataset.images]
    splits = {}
    for split in ("train", "val"):
        kept = {index for index in range(len(names)) if (index in chosen) == (split == "val")}
        content = {
            **document,
            "images": [{**document["images"][index], "file_name": names[index]} for index in sorted(kept)],
            "annotations": [a for a, owner in zip(document["annotations"], owners, strict=True) if owner in kept],
        }
        splits[split] = ConvertedSplit(content, located.image_dir)
    return splits
