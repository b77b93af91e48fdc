"""Conversion to .tflite with builtin operators only, and the metadata that makes the file enough on its own."""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

import tinydet_tf
from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_lite.metadata import ModelInfo, append_metadata
from tinydet_tf.config import Config
from tinydet_tf.export.graph import HostGraph
from tinydet_tf.model.detector import TinyDet

#: What `--format` takes. The quantized ones come with the quantization issue.
FORMATS = ("float32",)
POSTPROCESSES = ("host",)


def convert(detector: TinyDet, config: Config, *, quantization: str = "float32", postprocess: str = "host") -> bytes:
    """The whole .tflite of a detector, with labels and everything else that tinydet_lite needs inside.

    Raises:
      UserError: a format or form that is not there (yet).
    """
    for given, known, option in ((quantization, FORMATS, "--format"), (postprocess, POSTPROCESSES, "--postprocess")):
        if given not in known:
            raise UserError(f"{option} {given} is not there yet; use {' or '.join(known)}")
    model = to_flatbuffer(HostGraph(detector))
    info = ModelInfo(
        variant=config.variant,
        input_size=detector.config.input_size,
        num_classes=detector.num_classes,
        category_ids=config.category_ids,
        producer=f"tinydet-tf {tinydet_tf.__version__}",
        postprocess=postprocess,
        quantization=quantization,
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
    operators = count_operators(model)
    foreign = [name for name in operators if name.startswith(("CUSTOM", "Flex"))]
    if foreign:
        raise RuntimeError(f"the converted graph needs operators that are not builtin: {', '.join(foreign)}")
    return bytes(model)


def count_operators(model: bytes) -> collections.Counter[str]:
    """How often each operator occurs in a .tflite, by its name in the schema; custom ones as 'CUSTOM name'."""
    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if not key.startswith("_")}
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)

    def name(code: schema.OperatorCodeT) -> str:
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        return f"CUSTOM {code.customCode.decode()}" if names[builtin] == "CUSTOM" else names[builtin]

    return collections.Counter(
        name(parsed.operatorCodes[op.opcodeIndex]) for graph in parsed.subgraphs for op in graph.operators
    )


def write_tflite(content: bytes, path: Path) -> None:
    """Writes the file whole or not at all.

    Raises:
      UserError: the name does not end in .tflite, or the folder does not exist or cannot be written.
    """
    if path.suffix != ".tflite":
        raise UserError(f"--output {path} does not end in .tflite; give it that ending")
    atomic_write(path, content)
