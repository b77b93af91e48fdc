"""Where each tensor of the traced graph lies: name scopes that survive into the .tflite, where quantization finds them.

image (normalization), trunk/stem, trunk/block1 ..., trunk/lateral0 ..., trunk/fpn0 ..., trunk/rpn0 ..., table (what
PSRoIAlign gathers from), proposals, roi, head, final. Numbers of lateral, fpn and rpn count levels, finest first. An
operator that the converter fused bears the names of its parts, the last one first.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tinydet_lite.lab.operators import PARTS

IMAGE = "image"
TRUNK, TABLE, PROPOSALS, ROI, HEAD, FINAL = PARTS


def scope(name: str) -> Any:
    """tf.name_scope that may be entered again: TensorFlow would call the second one name_1."""
    return tf.name_scope(f"{name}/")
