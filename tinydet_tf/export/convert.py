"""Conversion to .tflite with builtin operators only, and the metadata that makes the file enough on its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write, check_target
from tinydet_lite.metadata import append_metadata, default_threshold
from tinydet_lite.status import doing
from tinydet_tf.config import Config
from tinydet_tf.export.calibration import Calibration, CalibrationImages
from tinydet_tf.export.graph import HostGraph, build_graph
from tinydet_tf.export.quantize import Quantized, check_given, quantize
from tinydet_tf.export.schemes import Scheme
from tinydet_tf.export.tasks_metadata import put_in, tasks_metadata
from tinydet_tf.keras_detector import model_info
from tinydet_tf.model.detector import TinyDet


def export(
    detector: TinyDet,
    config: Config,
    scheme: Scheme,
    *,
    postprocess: str = "host",
    picture_size: tuple[int, int] | None = None,
    samples: CalibrationImages | None = None,
    kept: Calibration | None = None,
    suggested_threshold: float | None = None,
    progress: bool = False,
) -> Quantized:
    """The whole .tflite of a detector, with labels and everything else that tinydet_lite needs inside.

    Args:
      postprocess: a key of `graph.GRAPHS`.
      picture_size: (W, H), see `graph.TasksGraph`.
      samples: calibration images, for int8 and int16.
      kept: as `quantize`.
      suggested_threshold: see `ModelInfo`.
      progress: say on a terminal what is being done, with a bar while calibrating.

    Raises:
      UserError: a form that does not exist, a picture size that is none or has no use, or calibration images that are
        missing or do not fit.
    """
    check_given(scheme, samples, kept)
    graph = build_graph(detector, postprocess, arithmetic=scheme.arithmetic, picture_size=picture_size)
    with doing("converting", tell=progress):
        model = to_flatbuffer(graph)
    quantized = quantize(model, scheme, samples, kept=kept, progress=progress)
    content = with_metadata(
        quantized.model, detector, config, scheme.name, quantized.calibration, postprocess, suggested_threshold
    )
    return Quantized(content, quantized.calibration)


def with_metadata(
    model: bytes,
    detector: TinyDet,
    config: Config,
    quantization: str,
    calibration: Calibration | None = None,
    postprocess: str = "host",
    suggested_threshold: float | None = None,
) -> bytes:
    """A flatbuffer with labels and everything else that tinydet_lite needs behind it, and what tasks need inside."""
    info = model_info(
        detector,
        config,
        postprocess=postprocess,
        quantization=quantization,
        calibration=calibration.note() if calibration is not None else "",
        suggested_threshold=suggested_threshold,
    )
    if postprocess == "tasks":
        model = put_in(
            model,
            tasks_metadata(
                name=f"TinyDet-{config.variant}",
                description=f"Finds objects of {detector.num_classes} classes in a picture. {quantization}.",
                version=info.producer,
                image_size=detector.config.input_size,
                num_classes=detector.num_classes,
                score_threshold=default_threshold(info),
            ),
        )
    return append_metadata(model, info, config.class_names)


def to_flatbuffer(graph: HostGraph) -> bytes:
    """Converts a traced graph and makes sure that no runtime will need Flex or custom ops."""
    with tempfile.TemporaryDirectory() as folder:
        # A SavedModel rather than the concrete function: only it keeps the names of inputs and outputs.
        tf.saved_model.save(graph, folder, signatures={"serving_default": graph.serve})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        model = converter.convert()
    codes = schema.ModelT.InitFromPackedBuf(model, 0).operatorCodes
    foreign = [code.customCode.decode() for code in codes if code.customCode is not None]
    if foreign:
        raise RuntimeError(f"the converted graph needs operators that are not builtin: {', '.join(foreign)}")
    return bytes(model)


def check_output(path: Path) -> None:
    """Refuses what `write_tflite` could not write, before the work.

    Raises:
      UserError: the name does not end in .tflite, is a folder's, or its folder does not exist.
    """
    if path.suffix != ".tflite":
        raise UserError(f"--output {path} does not end in .tflite; give it that ending")
    check_target(path)


def write_tflite(content: bytes, path: Path) -> None:
    """Writes the file whole or not at all.

    Raises:
      UserError: as `check_output`, or the folder cannot be written.
    """
    check_output(path)
    atomic_write(path, content)
