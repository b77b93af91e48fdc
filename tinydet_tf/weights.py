"""Detector weights on disk: a .weights.h5 that says which detector it belongs to.

The file is Keras' own format; the whole `Config` (variant, architecture, classes) travels in it as an attribute, so
that evaluate.py and export.py need nothing beside it. A run folder is read through its best weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import yaml

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_path
from tinydet_tf.config import Config, config_from_dict, model_config, save_config
from tinydet_tf.model.detector import TinyDet

SUFFIX = ".weights.h5"
BEST, LAST = f"best{SUFFIX}", f"last{SUFFIX}"
_ATTRIBUTE = "tinydet_config"
#: Where Keras puts the bias of the class scores: layers are counted by type, this is the R-CNN head's second Dense.
_CLASS_BIAS = "rcnn_head/layers/dense_1/vars/1"


def save_weights(detector: TinyDet, config: Config, path: Path) -> None:
    """Writes the weights and the configuration, whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        detector.save_weights(str(temporary))
        with h5py.File(temporary, "r+") as file:
            file.attrs[_ATTRIBUTE] = save_config(config)


def weights_file(path: str | Path) -> Path:
    """The weights that a RUN folder or a file name stands for: a run's best, else its last."""
    path = Path(path)
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path} holds neither {BEST} nor {LAST}; give a run folder that train.py wrote")
    if not path.is_file():
        raise UserError(f"model {path} does not exist; give a run folder or a {SUFFIX} file")
    return path


def read_config(path: Path) -> Config | None:
    """The configuration that travels in a weights file; None where another program wrote it.

    Raises:
      UserError: the file is not HDF5, or its configuration is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get(_ATTRIBUTE)
    except OSError as error:
        raise UserError(f"{path} is not a weights file or is damaged ({_line(error)}); give a {SUFFIX} file") from error
    if text is None:
        return None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: its configuration is damaged; save the weights again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: its configuration is damaged; save the weights again")
    return config_from_dict(values)


def load_detector(path: str | Path, *, variant: str | None = None) -> tuple[TinyDet, Config]:
    """The detector of a run folder or weights file, ready for inference, and its configuration.

    Args:
      path: RUN or WEIGHTS.
      variant: what the caller expects; needed only for weights that do not say it themselves.

    Raises:
      UserError: no such file, damaged, another variant or class count.
    """
    file = weights_file(path)
    config = read_config(file)
    if config is None:
        config = _guess_config(file, variant)
    elif variant is not None and variant != config.variant:
        raise UserError(f"{file} holds TinyDet-{config.variant}, --variant says {variant}; leave --variant out")
    detector = TinyDet(config.model, len(config.class_names))
    load_weights(detector, file)
    return detector, config


def load_weights(detector: TinyDet, file: Path) -> None:
    """Fills every variable of the detector from the file.

    Raises:
      UserError: the file is of another architecture or class count, or damaged.
    """
    saved = read_config(file)
    if saved is not None and len(saved.class_names) != detector.num_classes:
        raise UserError(
            f"{file} was trained on {len(saved.class_names)} classes, this detector has {detector.num_classes}; "
            "use the data it was trained on"
        )
    if saved is not None and saved.model.backbone != detector.config.backbone:
        raise UserError(
            f"{file} holds TinyDet-{saved.variant} ({saved.model.backbone}), this detector is built on "
            f"{detector.config.backbone}; give --variant {saved.variant}"
        )
    try:
        detector.load_weights(str(file))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{file} does not fit the detector or is damaged ({_line(error)})") from error


def _guess_config(file: Path, variant: str | None) -> Config:
    """For weights without a configuration: the variant as told, the class count from the head's bias."""
    if variant is None:
        raise UserError(f"{file} does not say which detector it is; give --variant S, M or L")
    with h5py.File(file, "r") as content:
        bias = content.get(_CLASS_BIAS)
        size = int(bias.shape[0]) if isinstance(bias, h5py.Dataset) and bias.ndim == 1 else 0
    if size < 2:
        raise UserError(f"{file} is not a TinyDet weights file; give one that train.py wrote")
    names = tuple(f"class{i}" for i in range(size - 1))
    return Config(variant=variant, model=model_config(variant), class_names=names, category_ids=tuple(range(1, size)))


def with_classes(config: Config, class_names: tuple[str, ...], category_ids: tuple[int, ...]) -> Config:
    """The configuration with the data's classes filled in."""
    return dataclasses.replace(config, class_names=class_names, category_ids=category_ids)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
