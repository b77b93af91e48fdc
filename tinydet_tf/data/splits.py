"""Where images come from: from a configuration, or the word behind --data, to the images of a split.

"digits" is a data set with a name, drawn by data/digits.py. Here alone that name is resolved.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from tinydet_lite.errors import UserError
from tinydet_tf.config import DIGITS, Config, DataConfig
from tinydet_tf.data.coco import CocoDataset, load_coco, locate_split
from tinydet_tf.data.digits import CLASS_NAMES, digits_folder
from tinydet_tf.data.opening import usable

_LOG = logging.getLogger(__name__)


def is_digits(data: DataConfig) -> bool:
    """Whether a configuration means the embedded set, by its name or by naming nothing; jsons go before it."""
    return named(data).root == DIGITS and data.train_json is None and data.val_json is None


def named(data: DataConfig) -> DataConfig:
    """The same with the digits named, where no data set is."""
    return data if _given(data) else dataclasses.replace(data, root=DIGITS)


def data_of(config: Config) -> DataConfig:
    """What a model was trained on. Runs of version 0.1 on digits name nothing, and are known by their classes.

    Raises:
      UserError: the model does not say: it was imported, or trained on something that was not kept.
    """
    if not _given(config.data) and config.class_names != CLASS_NAMES:
        raise UserError(
            "the model does not say what data it was trained on; give --data with images like it will see, or --data "
            f"{DIGITS} for the embedded set"
        )
    return named(config.data)


def set_name(config: Config) -> str:
    """The name of the set that a model was trained on; "" where it is not one that the project makes itself."""
    return DIGITS if is_digits(config.data) and config.class_names == CLASS_NAMES else ""


def described(data: DataConfig) -> str:
    """For people: "the embedded digits set", or the folder or file."""
    return "the embedded digits set" if is_digits(data) else str(data.root or data.train_json or data.val_json)


def load_split(data: DataConfig, split: str) -> CocoDataset:
    """The images that can be used (opening.py) of the split "train", "val" or "test" that a configuration names, or of
    "all" of a set without splits; of the embedded digits where it names none.

    Raises:
      UserError: a file that is missing or wrong, or too many images that cannot be used.
    """
    data = named(data)
    jsons = {"train": (data.train_json, data.train_images), "val": (data.val_json, data.val_images)}
    json, images = jsons.get(split, (None, None))
    if json or images:
        if not (json and images):
            raise UserError(f"--{split}-json and --{split}-images belong together; give both")
        dataset = load_coco(Path(json), Path(images))
    elif data.root == DIGITS:
        if Path(DIGITS).is_dir():
            _LOG.warning("%s is the embedded set; ./%s, which is here too, is the folder", DIGITS, DIGITS)
        folder = digits_folder(
            seed=data.digits_seed, num_train=data.digits_train_images, num_val=data.digits_val_images
        )
        dataset = load_coco(*locate_split(folder, split))
    elif data.root is not None:
        # With a val split from elsewhere nothing has to be held out.
        whole = split == "train" and data.val_json is not None
        located = locate_split(Path(data.root), split, voc_first_pixel=data.voc_first_pixel)
        dataset = load_coco(*(located._replace(half=None) if whole else located))
    elif split not in jsons:
        raise UserError(f"there is no {split} split: the data is given by jsons for train and val; give --data DIR")
    else:
        raise UserError(f"--{split}-json is missing; give --{split}-json and --{split}-images too")
    return usable(dataset.subset(data.limit))


def preparation(data: DataConfig) -> dict[str, Any]:
    """What the input pipeline does to training images, as arguments of `build_pipeline` and `make_stages`."""
    # A mirrored 2 is no 2.
    flips = not is_digits(data) if data.horizontal_flip is None else data.horizontal_flip
    return {
        "horizontal_flip": flips,
        "augmentation": data.augmentation,
        "mosaic": data.mosaic,
        "copy_paste": data.copy_paste,
        "cache": data.cache,
    }


def _given(data: DataConfig) -> bool:
    return not (data.root is None and data.train_json is None and data.val_json is None)
