"""Where each tensor of the traced graph lies: name scopes that survive into the .tflite, where quantization finds them.

image (normalization), trunk/stem, trunk/block1 ..., trunk/lateral0 ..., trunk/fpn0 ..., trunk/rpn0 ..., table (what
PSRoIAlign gathers from), proposals, roi, head, final. Numbers of lateral, fpn and rpn count levels, finest first. An
operator that the converter fused bears the names of its parts, the last one first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tinydet_lite.lab.operators import PARTS

IMAGE = "image"
TRUNK, TABLE, PROPOSALS, ROI, HEAD, FINAL = PARTS

_MERGE = re.compile(r"(?:upsample|merge)(\d+)")


def scope(name: str) -> Any:
    """tf.name_scope that may be entered again: TensorFlow would call the second one name_1."""
    return tf.name_scope(f"{name}/")


def trunk_scope(layer: str) -> str:
    """The scope of a layer of backbone or FPN by its name: 'block3_expand_bn' -> 'trunk/block3'."""
    merge = _MERGE.fullmatch(layer)
    return f"{TRUNK}/lateral{merge[1]}" if merge else f"{TRUNK}/{layer.split('_')[0]}"


def call_in_scopes(model: Any, inputs: tf.Tensor, scope_of: Callable[[str], str]) -> list[tf.Tensor]:
    """A functional model of one input, called layer by layer for inference, each in the scope that its name asks for.

    Returns:
      The model's outputs, in order.
    """
    values = {id(model.inputs[0]): inputs}
    for layer in model.layers:
        node = layer.inbound_nodes[0]
        if node.is_input:
            continue
        given = [values[id(tensor)] for tensor in node.keras_inputs]
        with scope(scope_of(layer.name)):
            values[id(layer.output)] = layer(given if len(given) > 1 else given[0])
    return [values[id(tensor)] for tensor in model.outputs]
