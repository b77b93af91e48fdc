"""How a quantization-aware run begins: its configuration, and what it refuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

from tinydet_lite.errors import UserError
from tinydet_tf.config import STARTS, Config, load_config
from tinydet_tf.data.locating import some
from tinydet_tf.data.splits import found
from tinydet_tf.training.qat.fake_quantization import load_tfmot
from tinydet_tf.weights import CONFIG, Initialized, other_settings, read_config, weights_file


def qat_config(init: Any, *, other_data: bool = False) -> Config:
    """The configuration of `--init RUN --qat` without a config of its own: the run's, with a tenth of its epochs at a
    tenth of its learning rate (docs/qat.md), validated after each.

    Args:
      init: RUN or WEIGHTS.
      other_data: leave out where its data lies: the caller says where else.

    Raises:
      UserError: no such file, or it does not say its configuration.
    """
    file, told = weights_file(init), Path(init) / CONFIG
    # A run's config.yaml first: it is where somebody says that the data lies elsewhere by now.
    config = load_config(told) if told.is_file() else read_config(file)
    if config is None:
        raise UserError(f"{file} does not say how it was trained; give --config F with its architecture beside --qat")
    recipe = config.train
    changed = dataclasses.replace(
        recipe,
        qat=True,
        epochs=math.ceil(recipe.epochs / 10),
        learning_rate=recipe.learning_rate / 10,
        final_learning_rate=min(recipe.final_learning_rate, recipe.learning_rate / 10),
        validate_every=1,
        early_stopping_patience=None,
        freeze_backbone=0,
    )
    data = found(config.data, file) or config.data
    if other_data:
        data = dataclasses.replace(
            data, root=None, train_json=None, train_images=None, val_json=None, val_images=None, limit=None
        )
    return dataclasses.replace(config, data=data, train=changed)


def check_qat(config: Config, *, finished: int, replicas: int) -> None:
    """Makes sure that a quantization-aware run can begin.

    Args:
      finished: whole epochs of the run that is resumed; 0: it begins.

    Raises:
      UserError: it cannot.
    """
    if not config.train.qat:
        return
    load_tfmot()
    if importlib.util.find_spec("litert_quantizer") is None:
        raise UserError(
            "--qat is judged by its int8 .tflite, which needs litert-quantizer, and that is not installed; "
            "pip install 'tinydet-tf[quantize]'"
        )
    if replicas > 1:
        raise UserError(f"--qat trains on one device, and there are {replicas}; leave --strategy out")
    if not finished and config.train.start in STARTS:
        raise UserError("--qat goes on from trained weights; give --init RUN (train without --qat first)")


def check_qat_weights(config: Config, result: Initialized, init: Any) -> None:
    """Makes sure that a quantization-aware run starts from weights that are this detector's, all of them.

    Raises:
      UserError: they are not.
    """
    remedy = "--qat needs a trained detector of the same architecture and classes; leave --config out to take its own"
    if result.left:
        count, left = len(result.left), some(result.left)
        raise UserError(f"{init} does not match: {count} layers are not in it or of another shape ({left}); {remedy}")
    trained = read_config(weights_file(init))
    if trained is None:
        return
    if trained.class_names and trained.class_names != config.class_names:
        ours, theirs = (", ".join(c.class_names[:3]) + ", ..." for c in (config, trained))
        raise UserError(f"{init} does not match: trained on the classes {theirs}; the data has {ours}; {remedy}")
    for name, (theirs, ours) in other_settings(trained.model, config.model).items():
        raise UserError(f"{init} does not match: trained with model.{name}={theirs}, here it is {ours}; {remedy}")
