"""Detector weights on disk: a .weights.h5 that says which detector it belongs to.

The file is Keras' own format; the whole `Config` (variant, architecture, classes) travels in it as an attribute, so
that evaluate and export need nothing beside it. A run folder is read through its best weights. A file may hold a
backbone alone: training starts from it, nothing else takes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tinydet_lite.errors import UserError, shortened
from tinydet_lite.files import atomic_path
from tinydet_tf.commands import command_text
from tinydet_tf.config import (
    VARIANTS,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    config_from_dict,
    model_config,
    read_yaml,
    save_config,
)
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.run_files import SUFFIX

#: Files of a run folder that others than the run read. CALIBRATION: what a quantization-aware run keeps for its
#: int8 export (export/kept_calibration.py).
BEST, LAST, CONFIG, CALIBRATION = f"best{SUFFIX}", f"last{SUFFIX}", "config.yaml", "calibration.json"
_ATTRIBUTE, _DIGEST = "tinydet_config", "tinydet_sha256"
#: The score threshold with the best F1 on the validation images, measured with these very weights.
_THRESHOLD = "tinydet_threshold"
#: "backbone" in a file that holds no more than that.
_PART = "tinydet_part"
#: Where Keras puts the bias of the class scores: layers are counted by type, this is the R-CNN head's second Dense.
_CLASS_BIAS = "rcnn_head/layers/dense_1/vars/1"

#: What h5py and Keras raise on a file that is damaged or of another model.
_DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError)
#: What packing may make of the arrays of an honest file, at most: kernels in gzip are three quarters of their size.
_INFLATED = 64


def save_weights(detector: TinyDet, config: Config, path: Path, *, threshold: float | None = None) -> None:
    """Writes the weights and the configuration, whole or not at all.

    Args:
      threshold: the score threshold that was best for these weights, 0..1; None: not measured.

    Raises:
      UserError: the folder cannot be written.
    """
    _save(detector, config, path, threshold=threshold)


def save_backbone(detector: TinyDet, config: Config, path: Path) -> None:
    """As `save_weights`, the backbone alone: for `train --init`."""
    _save(detector.backbone_model(), config, path, part="backbone")


def _save(model: Any, config: Config, path: Path, part: str | None = None, threshold: float | None = None) -> None:
    with atomic_path(path) as temporary:
        model.save_weights(str(temporary))
        with h5py.File(temporary, "r+") as file:
            file.attrs[_ATTRIBUTE] = save_config(config)
            if part is not None:
                file.attrs[_PART] = part
            if threshold is not None:
                file.attrs[_THRESHOLD] = threshold
            # HDF5 checks nothing of what it stores: damage would otherwise load as wrong weights.
            file.attrs[_DIGEST] = _digest(file)


def save_compact(source: str | Path, path: Path) -> None:
    """Copies a detector's weights in half of the bytes, to start other trainings from: kernels in float16, the numbers
    of a channel, which may be too large for that and weigh nothing, as they are. Paths stay behind: where its data lay,
    and what it started from.

    Args:
      source: RUN or WEIGHTS.
      path: written whole or not at all.

    Raises:
      UserError: no such weights, damaged, without a configuration, or the folder cannot be written.
    """
    original = weights_file(source)
    config = read_config(original)
    if config is None:
        raise UserError(f"{original} does not say which detector it is; give a run that {command_text('train')} wrote")
    with atomic_path(path) as temporary, h5py.File(original, "r") as old, h5py.File(temporary, "w") as new:

        def copy(name: str, item: Any) -> None:
            if not isinstance(item, h5py.Dataset):
                new.require_group(name).attrs.update(item.attrs)
            elif item.ndim > 1:
                # Not np.asarray(item, np.float16): HDF5 would convert, and gives 0.125 for 0.24995.
                values = np.asarray(item).astype(np.float16)
                new.create_dataset(name, data=values, compression="gzip", shuffle=True)
            else:
                new.create_dataset(name, data=np.asarray(item))

        old.visititems(copy)
        recipe = dataclasses.replace(config.train, start=TrainConfig.start)
        new.attrs[_ATTRIBUTE] = save_config(dataclasses.replace(config, data=DataConfig(), train=recipe))
        new.attrs[_DIGEST] = _digest(new)


def _check_sizes(file: Any) -> None:
    """Looks at what the arrays of an open HDF5 file would take in memory, before any is read.

    Raises:
      ValueError: many times the file's size: it was made to fill the memory.
    """
    sizes = []
    file.visititems(lambda _, item: sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
    if sum(sizes) > _INFLATED * file.id.get_filesize():
        raise ValueError(f"its arrays would take {sum(sizes)} bytes, more than {_INFLATED} times the file's")


def _digest(file: Any) -> str:
    """SHA-256 over the name, shape and bytes of every array."""
    digest = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item)
            digest.update(f"{name} {values.shape} {values.dtype}".encode())
            digest.update(values.tobytes())

    file.visititems(add)  # in the order of the names
    return digest.hexdigest()


def weights_file(path: str | Path) -> Path:
    """The weights that a RUN folder or a file name stands for: a run's best, else its last."""
    path = Path(path)
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path} holds neither {BEST} nor {LAST}; give a run folder that {command_text('train')} wrote")
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
            _check_sizes(file)
            text, digest = file.attrs.get(_ATTRIBUTE), file.attrs.get(_DIGEST)
            damaged = digest is not None and digest != _digest(file)
    except _DAMAGE as error:
        raise UserError(
            f"{path} is not a weights file or is damaged ({shortened(error)}); give a {SUFFIX} file"
        ) from error
    if damaged:
        raise UserError(f"{path} is damaged: the weights are not those that its SHA-256 was taken of; copy it again")
    if text is None:
        return None
    try:
        values = read_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: its configuration is damaged; save the weights again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: its configuration is damaged; save the weights again")
    return config_from_dict(values)


def read_threshold(path: str | Path) -> float | None:
    """The score threshold that was best on the validation images, 0..1; None where it was not measured.

    Args:
      path: RUN or WEIGHTS.

    Raises:
      UserError: no such file, or damaged.
    """
    file = weights_file(path)
    try:
        with h5py.File(file, "r") as content:
            value = content.attrs.get(_THRESHOLD)
    except _DAMAGE as error:
        raise UserError(
            f"{file} is not a weights file or is damaged ({shortened(error)}); give a {SUFFIX} file"
        ) from error
    if value is None:
        return None
    if not isinstance(value, (float, np.floating)) or not 0.0 <= value <= 1.0:
        raise UserError(f"{file}: its score threshold is {value!r}, not a number from 0 to 1; save the weights again")
    return float(value)


def keep_threshold(path: str | Path, threshold: float) -> Path:
    """Notes a score threshold in a weights file that is there, whole or not at all; gives the file.

    Raises:
      UserError: it cannot be written.
    """
    file = weights_file(path)
    with atomic_path(file) as temporary:
        shutil.copyfile(file, temporary)
        with h5py.File(temporary, "r+") as content:
            content.attrs[_THRESHOLD] = threshold
    return file


def load_detector(
    path: str | Path, *, variant: str | None = None, proposals: int | None = None
) -> tuple[TinyDet, Config]:
    """The detector of a run folder or weights file, ready for inference, and its configuration.

    Args:
      path: RUN or WEIGHTS.
      variant: what the caller expects; needed only for weights that do not say it themselves.
      proposals: how many RoIs the second stage looks at, instead of what the weights say (`model.proposals_test`).

    Raises:
      UserError: no such file, damaged, another variant than expected, a backbone alone, or more proposals than there
        can be.
    """
    file = weights_file(path)
    config = read_config(file)
    if _holds_backbone_only(file):
        train = f"{command_text('train')} --init {file}"
        raise UserError(f"{file} holds a backbone alone; train a detector from it with {train}")
    if config is None:
        config = _guess_config(file, variant)
    elif variant is not None and variant != config.variant:
        raise UserError(f"{file} holds TinyDet-{config.variant}, --variant says {variant}; leave --variant out")
    if proposals is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, proposals_test=proposals))
    detector = TinyDet(config.model, len(config.class_names))
    _fill(detector, file)
    return detector, config


def _fill(model: Any, file: Path) -> None:
    with _named_as_keras_expects(file) as path:
        try:
            model.load_weights(str(path))
        except _DAMAGE as error:
            raise UserError(f"{file} does not fit the detector or is damaged ({shortened(error)})") from error
    for variable in model.variables:
        # Rounding what is no number to an integer crashes, and nothing would be found with it.
        if not np.isfinite(variable.numpy()).all():
            raise UserError(f"{file}: {variable.name} holds what is no finite number; give weights of an earlier epoch")


@contextmanager
def _named_as_keras_expects(file: Path) -> Iterator[Path]:
    """The file, or a copy with the right ending: Keras tells its formats apart by the name, and would take a file that
    somebody renamed for one of an older format."""
    ending = ".weights.h5"
    if file.name.endswith(ending):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copyfile(file, Path(folder, f"model{ending}")))


#: Values of the architecture that no weight depends on.
_FREE = ("nms_pre_test", "proposals_test", "proposal_nms_iou")
#: Those that a backbone alone was trained with.
_OF_BACKBONE = ("backbone", "squeeze_excite", "align", "align_stem")


def other_settings(trained: ModelConfig, ours: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Values with which the same weights are another function: name -> (that of `trained`, that of `ours`)."""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    pairs = {name: (getattr(trained, name), getattr(ours, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in _FREE}


@dataclasses.dataclass(frozen=True)
class Initialized:
    """What `initialize` took from a file, as names of layers.

    Attributes:
      taken: layers.
      left: layers with variables that are not in the file or of another shape: fresh.
      different: values with which the file was trained and the detector is not made, see `other_settings`; the input
        size is none, which may change.
      class_names: of the file; empty where it does not say.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]
    different: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()


def initialize(detector: TinyDet, path: str | Path, *, variant: str, fresh: Collection[str] = ()) -> Initialized:
    """Starts a detector from a file: layers that match by name and shapes are taken, the others stay fresh.

    Args:
      detector: its variables are set.
      path: RUN or WEIGHTS, of a detector or of a backbone alone. Other class counts, input sizes, groups are fine.
      variant: which one the detector is, for messages and for weights that do not say theirs.
      fresh: names of layers that stay as they are.

    Raises:
      UserError: no such file, damaged, or of another backbone.
    """
    file = weights_file(path)
    config = read_config(file)
    if config is not None and config.model.backbone != detector.config.backbone:
        backbone = config.model.backbone
        whole = backbone == VARIANTS[config.variant].backbone and config.variant != variant
        wanted = f"--variant {config.variant}" if whole else f"--set model.backbone={backbone}"
        raise UserError(
            f"{file} has the backbone {backbone} (TinyDet-{config.variant}), this detector "
            f"{detector.config.backbone} (TinyDet-{variant}); add {wanted}, or give weights of this backbone"
        )
    alone = _holds_backbone_only(file)
    if config is not None and alone:
        source = TinyDet(config.model, 1)
        _fill(source.backbone_model(), file)
        there = {layer.name: layer for layer in source.backbone_model().layers}
    else:
        source, _ = load_detector(file, variant=variant if config is None else None)
        there = source.named_layers()
    taken, left = [], []
    for name, layer in detector.named_layers().items():
        if not layer.variables:
            continue
        given = there.get(name)
        shapes = [variable.shape for variable in layer.variables]
        if name not in fresh and given is not None and [v.shape for v in given.variables] == shapes:
            layer.set_weights(given.get_weights())
            taken.append(name)
        else:
            left.append(name)
    if config is None:
        return Initialized(tuple(taken), tuple(left))
    different = other_settings(config.model, detector.config)
    different = {n: pair for n, pair in different.items() if n != "input_size" and (not alone or n in _OF_BACKBONE)}
    return Initialized(tuple(taken), tuple(left), different, () if alone else config.class_names)


def _holds_backbone_only(file: Path) -> bool:
    with h5py.File(file, "r") as content:  # read_config has read it whole
        return bool(content.attrs.get(_PART) == "backbone")


def _guess_config(file: Path, variant: str | None) -> Config:
    """For weights without a configuration: the variant as told, the class count from the head's bias."""
    if variant is None:
        raise UserError(f"{file} does not say which detector it is; give --variant S, M or L")
    size = 0
    try:
        with h5py.File(file, "r") as content:
            bias = content.get(_CLASS_BIAS)
            if isinstance(bias, h5py.Dataset) and bias.ndim == 1:
                size = int(bias.shape[0])
    except _DAMAGE as error:
        raise UserError(f"{file} is damaged ({shortened(error)})") from error
    if size < 2:
        raise UserError(f"{file} is not a TinyDet weights file; give one that {command_text('train')} wrote")
    names = placeholder_names(size - 1)
    return Config(variant=variant, model=model_config(variant), class_names=names, category_ids=tuple(range(1, size)))


def placeholder_names(count: int) -> tuple[str, ...]:
    """What the classes are called of weights that do not name them."""
    return tuple(f"class{i}" for i in range(count))
