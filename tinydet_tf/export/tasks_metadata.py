"""The TFLite metadata by which MediaPipe Tasks and Android's Task Library understand a detector.

A flatbuffer of its own inside the model's ("TFLITE_METADATA", identifier M001): what each input and output means, where
the labels are. Its tables are written here by slot numbers, those of the order of fields in TensorFlow's public
metadata_schema.fbs 1.5; a package for the fifty numbers below would be one more to install.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np

from tinydet_lite.forms import CATEGORY, COUNT, LOCATION, SCORE
from tinydet_lite.metadata import LABELS_MEMBER
from tinydet_tf.export.packing import add_entry, read, write

ENTRY = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
#: The first version of the schema that has all that is written here (tensor groups).
MIN_PARSER_VERSION = "1.2.0"

#: The names that the tasks look for, in the order that clients without names expect.
OUTPUTS = {LOCATION: "location", CATEGORY: "category", SCORE: "score", COUNT: "number of detections"}
IMAGE = "image"
GROUP = "detection_result"

# Enumerations and unions of the schema.
_RGB = 1
_BOUNDARIES, _RATIO = 1, 0
_TENSOR_VALUE_LABELS = 3
_FEATURE, _IMAGE, _BOUNDING_BOX = 1, 2, 3
_NORMALIZATION, _SCORE_THRESHOLDING = 1, 3


#: A flatbuffer table: slot -> what `_write` takes.
Table = dict[int, Any]


def _write(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes a string, a table, a numpy array as a vector of numbers, or a list of strings or tables as a vector.

    In a table np.int8 (an enumeration, or the type of a union), int (32 bits) and float (32 bits) are that number.
    """
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    if isinstance(value, list):
        offsets = [_write(builder, item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    # What a table points to stands in front of it.
    inner = {slot: _write(builder, item) for slot, item in value.items() if not isinstance(item, np.int8 | int | float)}
    builder.StartObject(max(value, default=-1) + 1)
    for slot, item in value.items():
        if isinstance(item, np.int8):
            builder.PrependInt8Slot(slot, int(item), 0)
        elif isinstance(item, float):
            builder.PrependFloat32Slot(slot, item, 0.0)
        elif isinstance(item, int):
            builder.PrependInt32Slot(slot, item, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, inner[slot], 0)
    return int(builder.EndObject())


def tasks_metadata(
    *, name: str, description: str, version: str, image_size: int, num_classes: int, score_threshold: float
) -> bytes:
    """The metadata's flatbuffer for a model of the tasks form, outputs in the order of `OUTPUTS`.

    Args:
      name, description, version: of the model, as people read them.
      image_size: S of the input uint8 [1, S, S, 3].
      score_threshold: the least score to show. MediaPipe's Python client ignores it (docs/tasks.md).
    """
    pixels = {0: np.int8(_RGB), 1: {0: image_size, 1: image_size}}
    corners = {0: np.array([1, 0, 3, 2], np.uint32), 1: np.int8(_BOUNDARIES), 2: np.int8(_RATIO)}
    labels = {0: LABELS_MEMBER, 1: "Class names, one a line, id 0 first.", 2: np.int8(_TENSOR_VALUE_LABELS)}
    # The pixels as they are: what the network subtracts and divides by is inside the graph.
    as_they_are = {0: np.int8(_NORMALIZATION), 1: {0: _floats(0.0), 1: _floats(1.0)}}
    above = {0: np.int8(_SCORE_THRESHOLDING), 1: {0: score_threshold}}
    # Of [1, N] and [1, N, 4] each row is a thing of its own; the count is one number.
    boxes, rows, number = (
        {0: np.int8(kind), 1: properties} | ({2: {0: 2, 1: 2}} if of_rows else {})
        for kind, properties, of_rows in ((_BOUNDING_BOX, corners, True), (_FEATURE, {}, True), (_FEATURE, {}, False))
    )
    # Slots of a tensor: 0 name, 1 description, 3 content, 4 processing, 5 limits, 6 files.
    inputs = [
        {
            0: IMAGE,
            1: "RGB, 0 to 255, stretched to the input's size.",
            3: {0: np.int8(_IMAGE), 1: pixels},
            4: [as_they_are],
            5: _limits(0.0, 255.0),
        }
    ]
    outputs = [
        {
            0: OUTPUTS[LOCATION],
            1: "Boxes: ymin, xmin, ymax, xmax as shares of the image.",
            3: boxes,
            5: _limits(0.0, 1.0),
        },
        {
            0: OUTPUTS[CATEGORY],
            1: f"Class ids from 0: lines of {LABELS_MEMBER}.",
            3: rows,
            5: _limits(0.0, num_classes - 1.0),
            6: [labels],
        },
        {0: OUTPUTS[SCORE], 1: "Scores, best first.", 3: rows, 4: [above], 5: _limits(0.0, 1.0)},
        {0: OUTPUTS[COUNT], 1: "How many rows of the others are detections.", 3: number},
    ]
    group = {0: GROUP, 1: [OUTPUTS[LOCATION], OUTPUTS[CATEGORY], OUTPUTS[SCORE]]}
    subgraph = {2: inputs, 3: outputs, 8: [group]}
    builder = flatbuffers.Builder(4096)
    model = {0: name, 1: description, 2: version, 3: [subgraph], 7: MIN_PARSER_VERSION}
    builder.Finish(_write(builder, model), IDENTIFIER)
    return bytes(builder.Output())


def _limits(low: float, high: float) -> Table:
    return {0: _floats(high), 1: _floats(low)}


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
    add_entry(parsed, ENTRY, metadata)
    return write(parsed)
