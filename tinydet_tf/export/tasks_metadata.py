"""The TFLite metadata by which MediaPipe Tasks and Android's Task Library understand a detector.

A flatbuffer of its own inside the model's ("TFLITE_METADATA", identifier M001): what each input and output means, where
the labels are. Its tables are written here by slot numbers, those of the order of fields in TensorFlow's public
metadata_schema.fbs 1.5; a package for the fifty numbers below would be one more to install.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tinydet_lite.forms import CATEGORY, COUNT, LOCATION, SCORE
from tinydet_lite.metadata import LABELS_MEMBER
from tinydet_tf.export.packing import read, write

ENTRY = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
#: The first version of the schema that has all that is written here (tensor groups).
MIN_PARSER_VERSION = "1.2.0"

#: The names that the tasks look for, in the order that clients without names expect.
OUTPUTS = {LOCATION: "location", CATEGORY: "category", SCORE: "score", COUNT: "number of detections"}
IMAGE = "image"
GROUP = "detection_result"

#: The least score to show: `tinydet_lite.Detector`'s default. MediaPipe's Python client ignores it (docs/tasks.md).
SCORE_THRESHOLD = 0.3

# Enumerations and unions of the schema.
_RGB = 1
_BOUNDARIES, _RATIO = 1, 0
_TENSOR_VALUE_LABELS = 3
_FEATURE, _IMAGE, _BOUNDING_BOX = 1, 2, 3
_NORMALIZATION, _SCORE_THRESHOLDING = 1, 3


@dataclasses.dataclass(frozen=True)
class Table:
    """A flatbuffer table: slot -> value.

    str: a string; np.int8 (an enumeration, or the type of a union), int (32 bits), float (32 bits): that number;
    Table: a table; a list of str or Table: a vector of offsets; a numpy array: a vector of numbers.
    """

    fields: dict[int, Any]

    def write(self, builder: flatbuffers.Builder) -> int:
        written = {slot: _write(builder, value) for slot, value in self.fields.items() if not _is_scalar(value)}
        builder.StartObject(max(self.fields, default=-1) + 1)
        for slot, value in self.fields.items():
            if isinstance(value, np.int8):
                builder.PrependInt8Slot(slot, int(value), 0)
            elif isinstance(value, float):
                builder.PrependFloat32Slot(slot, value, 0.0)
            elif isinstance(value, int):
                builder.PrependInt32Slot(slot, value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, written[slot], 0)
        return int(builder.EndObject())


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (np.int8, int, float))


def _write(builder: flatbuffers.Builder, value: Any) -> int:
    """A string, table or vector in front of the table that points to it."""
    if isinstance(value, Table):
        return value.write(builder)
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    offsets = [_write(builder, item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def tasks_metadata(*, name: str, description: str, version: str, image_size: int, num_classes: int) -> bytes:
    """The metadata's flatbuffer for a model of the tasks form, outputs in the order of `OUTPUTS`.

    Args:
      name, description, version: of the model, as people read them.
      image_size: S of the input uint8 [1, S, S, 3].
    """
    pixels = Table({0: np.int8(_RGB), 1: Table({0: image_size, 1: image_size})})
    corners = Table({0: np.array([1, 0, 3, 2], np.uint32), 1: np.int8(_BOUNDARIES), 2: np.int8(_RATIO)})
    labels = Table({0: LABELS_MEMBER, 1: "Class names, one a line, id 0 first.", 2: np.int8(_TENSOR_VALUE_LABELS)})
    # The pixels as they are: what the network subtracts and divides by is inside the graph.
    as_they_are = Table({0: _floats(0.0), 1: _floats(1.0)})
    # Of [1, N] and [1, N, 4] each row is a thing of its own; the count is one number.
    rows = Table({0: 2, 1: 2})
    inputs = [
        _tensor(
            IMAGE,
            "RGB, 0 to 255, stretched to the input's size.",
            _content(_IMAGE, pixels),
            units=[_unit(_NORMALIZATION, as_they_are)],
            limits=(0.0, 255.0),
        )
    ]
    outputs = [
        _tensor(
            OUTPUTS[LOCATION],
            "Boxes: ymin, xmin, ymax, xmax as shares of the image.",
            _content(_BOUNDING_BOX, corners, rows),
            limits=(0.0, 1.0),
        ),
        _tensor(
            OUTPUTS[CATEGORY],
            f"Class ids from 0: lines of {LABELS_MEMBER}.",
            _content(_FEATURE, Table({}), rows),
            limits=(0.0, num_classes - 1.0),
            files=[labels],
        ),
        _tensor(
            OUTPUTS[SCORE],
            "Scores, best first.",
            _content(_FEATURE, Table({}), rows),
            units=[_unit(_SCORE_THRESHOLDING, Table({0: SCORE_THRESHOLD}))],
            limits=(0.0, 1.0),
        ),
        _tensor(
            OUTPUTS[COUNT],
            "How many rows of the others are detections.",
            _content(_FEATURE, Table({})),
        ),
    ]
    group = Table({0: GROUP, 1: [OUTPUTS[LOCATION], OUTPUTS[CATEGORY], OUTPUTS[SCORE]]})
    subgraph = Table({2: inputs, 3: outputs, 8: [group]})
    builder = flatbuffers.Builder(4096)
    model = Table({0: name, 1: description, 2: version, 3: [subgraph], 7: MIN_PARSER_VERSION})
    builder.Finish(model.write(builder), IDENTIFIER)
    return bytes(builder.Output())


def _tensor(
    name: str,
    description: str,
    content: Table,
    *,
    units: Sequence[Table] = (),
    limits: tuple[float, float] | None = None,
    files: Sequence[Table] = (),
) -> Table:
    fields: dict[int, Any] = {0: name, 1: description, 3: content}
    if units:
        fields[4] = units
    if limits is not None:
        low, high = limits
        fields[5] = Table({0: _floats(high), 1: _floats(low)})
    if files:
        fields[6] = files
    return Table(fields)


def _content(kind: int, properties: Table, rows: Table | None = None) -> Table:
    return Table({0: np.int8(kind), 1: properties} | ({2: rows} if rows is not None else {}))


def _unit(kind: int, options: Table) -> Table:
    return Table({0: np.int8(kind), 1: options})


def _floats(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def put_in(model: bytes, metadata: bytes) -> bytes:
    """The same model with the metadata inside, its outputs in the order of `OUTPUTS`.

    Args:
      model: a .tflite of `graph.TasksGraph`, nothing behind the flatbuffer.
    """
    parsed = read(model)
    (graph,) = parsed.subgraphs
    (signature,) = parsed.signatureDefs
    index = {output.name.decode(): output.tensorIndex for output in signature.outputs}
    graph.outputs = np.array([index[name] for name in OUTPUTS], np.int32)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    parsed.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(parsed.buffers) - 1
    parsed.metadata = [*(parsed.metadata or []), entry]
    return write(parsed)
