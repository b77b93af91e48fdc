"""A Keras detector that is called with pictures, by tinydet_lite's Detector: the same decoding, resizing and soft-NMS.

So a difference between a run and its .tflite comes from the network alone.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tinydet_tf
from tinydet_lite.detector import INPUT, Detector
from tinydet_lite.errors import UserError
from tinydet_lite.forms import BOXES, CLASS_PROBS
from tinydet_lite.guard.trial import try_unknown
from tinydet_lite.metadata import ModelInfo
from tinydet_tf.config import Config
from tinydet_tf.data.splits import set_name
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.run_files import is_run, model_path
from tinydet_tf.weights import load_detector as load_network
from tinydet_tf.weights import read_threshold


class KerasNetwork:
    """What a Detector asks (`tinydet_lite.detector.Network`), in Keras.

    The weights are read at every call: one made before training sees what training does.
    """

    runtime = "Keras"

    def __init__(self, detector: TinyDet) -> None:
        self.num_threads = tf.config.threading.get_intra_op_parallelism_threads()  # 0: all cores
        size = detector.config.input_size
        self._call = tf.function(
            lambda images: detector(images, training=False),
            input_signature=[tf.TensorSpec([1, size, size, 3], tf.uint8)],
            autograph=False,  # there is nothing to convert, and looking takes seconds
        )

    def run(self, inputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        """{"image": uint8 [1, S, S, 3]} -> boxes [1, P, 4] and class_probs [1, P, C + 1], and seconds."""
        start = time.perf_counter()
        outputs = self._call(inputs[INPUT])
        found = {name: outputs[name].numpy() for name in (BOXES, CLASS_PROBS)}
        return found, time.perf_counter() - start


def keras_detector(
    detector: TinyDet, config: Config, *, suggested_threshold: float | None = None, score_threshold: float | None = None
) -> Detector:
    """A network as a Detector.

    Args:
      detector: of `config`.
      config: with the classes.
      suggested_threshold: see `ModelInfo`.
      score_threshold: a detection scores at least this; None for what is suggested, or 0.3.
    """
    info = model_info(detector, config, suggested_threshold=suggested_threshold)
    return Detector.of_network(KerasNetwork(detector), info, config.class_names, score_threshold)


def model_info(detector: TinyDet, config: Config, **rest: Any) -> ModelInfo:
    """What a .tflite of a detector says about itself, and a run, too; rest: of `ModelInfo`'s fields."""
    return ModelInfo(
        variant=config.variant,
        input_size=detector.config.input_size,
        num_classes=detector.num_classes,
        category_ids=config.category_ids,
        producer=f"tinydet-tf {tinydet_tf.__version__}",
        data_set=set_name(config),
        **rest,
    )


def open_detector(
    model: str | Path,
    *,
    variant: str | None = None,
    num_threads: int | None = None,
    score_threshold: float | None = None,
) -> Detector:
    """A Detector of a RUN folder, a weights file, a .tflite, or a model that comes along, by its name.

    Args:
      variant: what is expected; needed only for weights that do not say it themselves.
      num_threads, score_threshold: as of `tinydet_lite.Detector`; the threads are a .tflite's.

    Raises:
      UserError: not one of these, damaged, or of another variant than asked for.
    """
    path = model_path(model)
    if path.is_file() and not is_run(path):
        try_unknown(path)
        detector = Detector(path, num_threads=num_threads, score_threshold=score_threshold)
        if variant is not None and detector.info.variant != variant:
            raise UserError(f"{model} holds TinyDet-{detector.info.variant}, --variant says {variant}")
        return detector
    network, config = load_network(path, variant=variant)
    return keras_detector(network, config, suggested_threshold=read_threshold(path), score_threshold=score_threshold)
