"""The aligned MobileNetV3 backbones: D (S) and BC (M, L), tables 10-12, and the others of table 4."""

from __future__ import annotations

import dataclasses
from typing import Any

from tinydet_tf.config import BACKBONES
from tinydet_tf.layers.align_pool import AlignPool
from tinydet_tf.layers.blocks import BatchNorm, activate, conv2d, inverted_residual, kaiming


def backbone(
    images: Any, name: str, batch_norm: BatchNorm, *, align: bool, align_stem: bool, squeeze_excite: bool
) -> list[Any]:
    """Adds the backbone to a functional graph.

    Args:
      images: [B, S, S, 3], normalized.
      name: a key of BACKBONES.
      align, align_stem: the average pool before each strided depthwise conv, before the stem.
      squeeze_excite: False leaves it out of every block.

    Returns:
      The tapped outputs, finest first.
    """
    stem_channels, specs = BACKBONES[name]
    x = AlignPool(name="stem_align")(images) if align_stem else images
    x = conv2d(x, stem_channels, "stem", kernel=3, stride=2, bias=False, kernel_initializer=kaiming())
    x = activate(batch_norm(x, "stem_bn"), True, "stem_act")
    taps = []
    for index, spec in enumerate(specs, 1):
        if not squeeze_excite:
            spec = dataclasses.replace(spec, squeeze_excite=False)
        x = inverted_residual(x, spec, f"block{index}", batch_norm, expand=index > 1, align=align)
        if spec.tap:
            taps.append(x)
    return taps
