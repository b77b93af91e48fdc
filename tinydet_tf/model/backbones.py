"""The backbones' tables: a row a block, as plain data that needs no TensorFlow.

From the paper: tables 10 (TinyDet-S: mobilenetv3_d), 11 and 12 (M and L: mobilenetv3_bc), and those that table 4
compares. Of others, with their own padding and normalization: mobilenetv2 and mobilenetv3large of keras.applications,
efficientnet_lite0 (docs/fine_tuning.md). The project's own: edge_s and edge_m for int8 on ARM (docs/edge.md), and a
shallow one for trials.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockSpec:
    """One inverted residual block ("bneck"), a row of tables 10-12."""

    kernel: int
    expand: int
    out: int
    squeeze_excite: bool
    hard_swish: bool
    stride: int
    tap: bool  # the row is marked FPN: its output feeds the pyramid
    fused: bool = False  # one dense conv of that kernel and stride in place of the expansion and the depthwise conv


@dataclass(frozen=True)
class Dialect:
    """What the tables of blocks leave open, and the families of backbones do differently.

    The defaults are the paper's, as published.
    """

    stem_hard_swish: bool = True
    relu_max: float | None = None  # where a ReLU is cut off
    batch_norm_epsilon: float = 1e-5
    #: As Keras counts it, the share of the moving statistics that a step keeps; PyTorch names the rest, here 0.1.
    batch_norm_momentum: float = 0.9
    squeeze_bias: bool = False  # in the two convs of squeeze-and-excite
    squeeze_multiple: int = 1  # of its narrow channels, a quarter of the wide ones
    #: Where a strided conv's odd row of padding goes on an even side: True: top and left, which makes kernel // 2 on
    #: every side as in PyTorch; False: bottom and right, as in TensorFlow. On an odd side there is no odd row.
    pads_before: bool = True
    #: What is subtracted from pixels of 0-255 and what they are then divided by, in every channel; None: PIXEL_MEAN and
    #: PIXEL_STD.
    pixel_mean_and_std: tuple[float, float] | None = None


@dataclass(frozen=True)
class BackboneSpec:
    """A stem, 3x3 with stride 2 (row 0 of the tables), and the blocks behind it."""

    stem: int
    blocks: tuple[BlockSpec, ...]
    dialect: Dialect = Dialect()


Row = tuple[int, int, int, str, str, int, str]

# Columns: kernel, expansion, out, "SE" for squeeze-and-excite or "FUSED", nonlinearity, stride, FPN.
# Table 10: TinyDet-S.
_D: list[Row] = [
    (3, 16, 16, "", "RE", 1, ""),
    (3, 64, 24, "", "RE", 2, ""),
    (3, 72, 24, "", "RE", 1, ""),
    (5, 72, 40, "SE", "RE", 2, ""),
    (5, 120, 40, "SE", "RE", 1, ""),
    (5, 120, 40, "SE", "RE", 1, "FPN"),
    (3, 240, 80, "", "HS", 2, ""),
    (3, 240, 80, "", "HS", 1, ""),
    (5, 240, 80, "", "HS", 1, ""),
    (5, 240, 80, "", "HS", 1, ""),
    (3, 240, 112, "SE", "HS", 1, ""),
    (3, 336, 112, "SE", "HS", 1, "FPN"),
    (5, 336, 160, "SE", "HS", 2, ""),
    (5, 480, 160, "SE", "HS", 1, ""),
    (5, 480, 160, "SE", "HS", 1, "FPN"),
    (5, 960, 160, "SE", "HS", 2, "FPN"),
]
# Tables 11 and 12: TinyDet-M and -L.
_BC: list[Row] = [
    (3, 24, 24, "", "RE", 1, ""),
    (3, 72, 36, "", "RE", 2, ""),
    (3, 108, 36, "", "RE", 1, ""),
    (3, 108, 36, "", "RE", 1, ""),
    (3, 108, 36, "", "RE", 1, "FPN"),
    (5, 108, 60, "SE", "RE", 2, ""),
    (5, 180, 60, "SE", "RE", 1, ""),
    (5, 180, 60, "SE", "RE", 1, "FPN"),
    (3, 240, 80, "", "HS", 2, ""),
    (3, 200, 80, "", "HS", 1, ""),
    (3, 184, 80, "", "HS", 1, ""),
    (3, 184, 80, "", "HS", 1, ""),
    (3, 480, 112, "SE", "HS", 1, ""),
    (3, 672, 112, "SE", "HS", 1, "FPN"),
    (5, 672, 160, "SE", "HS", 2, ""),
    (5, 960, 160, "SE", "HS", 1, ""),
    (5, 960, 160, "SE", "HS", 1, "FPN"),
    (5, 960, 160, "SE", "HS", 2, ""),
    (5, 960, 160, "SE", "HS", 1, "FPN"),
]
# Table 4's others are not printed row by row. MobileNetV3-Large's own early stages, up to stride 8:
_EARLY: list[Row] = [
    (3, 16, 16, "", "RE", 1, ""),
    (3, 64, 24, "", "RE", 2, ""),
    (3, 72, 24, "", "RE", 1, "FPN"),
    (5, 72, 40, "SE", "RE", 2, ""),
    (5, 120, 40, "SE", "RE", 1, ""),
    (5, 120, 40, "SE", "RE", 1, "FPN"),
]
_EXTRA: Row = (3, 72, 24, "", "RE", 1, "")  # "2 extra blocks in the stage with stride 4" (section 4.3.1)
#: Strides 16 and 32, which BC leaves as they were, and one block for stride 64 as D has: so table 4's sums come out.
_LATE: list[Row] = [*_BC[8:17], (5, 960, 160, "SE", "HS", 2, "FPN")]
#: MobileNetV2 up to its last block, and one for stride 64 as above, in its own manner.
_V2: list[Row] = [
    (3, 32, 16, "", "RE", 1, ""),
    (3, 96, 24, "", "RE", 2, ""),
    (3, 144, 24, "", "RE", 1, "FPN"),
    (3, 144, 32, "", "RE", 2, ""),
    (3, 192, 32, "", "RE", 1, ""),
    (3, 192, 32, "", "RE", 1, "FPN"),
    (3, 192, 64, "", "RE", 2, ""),
    (3, 384, 64, "", "RE", 1, ""),
    (3, 384, 64, "", "RE", 1, ""),
    (3, 384, 64, "", "RE", 1, ""),
    (3, 384, 96, "", "RE", 1, ""),
    (3, 576, 96, "", "RE", 1, ""),
    (3, 576, 96, "", "RE", 1, "FPN"),
    (3, 576, 160, "", "RE", 2, ""),
    (3, 960, 160, "", "RE", 1, ""),
    (3, 960, 160, "", "RE", 1, ""),
    (3, 960, 320, "", "RE", 1, "FPN"),
    (5, 960, 160, "", "RE", 2, "FPN"),
]
#: EfficientNet-Lite0 up to its last block, and one for stride 64 as above, in its own manner.
_LITE0: list[Row] = [
    (3, 32, 16, "", "RE", 1, ""),
    (3, 96, 24, "", "RE", 2, ""),
    (3, 144, 24, "", "RE", 1, ""),
    (5, 144, 40, "", "RE", 2, ""),
    (5, 240, 40, "", "RE", 1, "FPN"),
    (3, 240, 80, "", "RE", 2, ""),
    (3, 480, 80, "", "RE", 1, ""),
    (3, 480, 80, "", "RE", 1, ""),
    (5, 480, 112, "", "RE", 1, ""),
    (5, 672, 112, "", "RE", 1, ""),
    (5, 672, 112, "", "RE", 1, "FPN"),
    (5, 672, 192, "", "RE", 2, ""),
    (5, 1152, 192, "", "RE", 1, ""),
    (5, 1152, 192, "", "RE", 1, ""),
    (5, 1152, 192, "", "RE", 1, ""),
    (3, 1152, 320, "", "RE", 1, "FPN"),
    (5, 960, 160, "", "RE", 2, "FPN"),
]
# For int8 on ARM's cores, not the paper's (docs/edge.md). Depthwise convs are what those cores run worst: early blocks
# are one dense conv instead of expansion and depthwise conv ("FUSED"), the later ones have kernels of 3x3. No
# squeeze-and-excite, fewer blocks, widths in multiples of 16, as the runtime's tiles. H-swish stays in the late blocks:
# as ADD and MUL it costs int8 little.
_EDGE_S: list[Row] = [
    (3, 48, 24, "FUSED", "RE", 2, ""),
    (3, 64, 40, "FUSED", "RE", 2, ""),
    (3, 64, 40, "FUSED", "RE", 1, ""),
    (3, 128, 40, "", "RE", 1, "FPN"),
    (3, 160, 80, "FUSED", "HS", 2, ""),
    (3, 240, 80, "", "HS", 1, ""),
    (3, 240, 80, "", "HS", 1, ""),
    (3, 320, 112, "", "HS", 1, ""),
    (3, 368, 112, "", "HS", 1, "FPN"),
    (3, 368, 160, "", "HS", 2, ""),
    (3, 496, 160, "", "HS", 1, "FPN"),
    (3, 496, 160, "", "HS", 2, "FPN"),
]
_EDGE_M: list[Row] = [
    (3, 64, 32, "FUSED", "RE", 2, ""),
    (3, 96, 32, "", "RE", 1, ""),
    (3, 96, 32, "", "RE", 1, "FPN"),
    (3, 128, 48, "FUSED", "RE", 2, ""),
    (3, 96, 48, "FUSED", "RE", 1, ""),
    (3, 192, 48, "", "RE", 1, "FPN"),
    (3, 192, 80, "FUSED", "HS", 2, ""),
    (3, 240, 80, "", "HS", 1, ""),
    (3, 240, 80, "", "HS", 1, ""),
    (3, 240, 80, "", "HS", 1, ""),
    (3, 480, 112, "", "HS", 1, ""),
    (3, 512, 112, "", "HS", 1, "FPN"),
    (3, 512, 160, "", "HS", 2, ""),
    (3, 640, 160, "", "HS", 1, "FPN"),
    (3, 640, 160, "", "HS", 2, ""),
    (3, 640, 160, "", "HS", 1, "FPN"),
]
#: Few blocks, with every kernel and stride, nonlinearity and squeeze-and-excite that D has: for trials of a machine and
#: of a program. Nobody's choice for finding objects.
_SHALLOW: list[Row] = [
    (3, 16, 16, "", "RE", 1, ""),
    (3, 64, 24, "", "RE", 2, ""),
    (5, 72, 40, "SE", "RE", 2, "FPN"),
    (3, 240, 80, "", "HS", 2, ""),
    (5, 240, 80, "SE", "HS", 1, "FPN"),
    (5, 336, 160, "SE", "HS", 2, "FPN"),
    (5, 480, 160, "SE", "HS", 2, "FPN"),
]
#: Those of keras.applications. MobileNetV3Large there has the rows of "mobilenetv3".
_KERAS_V3 = Dialect(
    batch_norm_epsilon=1e-3,
    squeeze_bias=True,
    squeeze_multiple=8,
    pads_before=False,
    pixel_mean_and_std=(127.5, 127.5),
)
_KERAS_V2 = dataclasses.replace(_KERAS_V3, stem_hard_swish=False, relu_max=6.0)
_EFFICIENTNET_LITE = Dialect(
    stem_hard_swish=False,
    relu_max=6.0,
    batch_norm_epsilon=1e-3,
    batch_norm_momentum=0.99,
    pads_before=False,
    pixel_mean_and_std=(127.0, 128.0),
)


def _backbone(stem: int, rows: list[Row], dialect: Dialect | None = None) -> BackboneSpec:
    blocks = tuple(
        BlockSpec(k, e, o, kind == "SE", nl == "HS", s, tap == "FPN", fused=kind == "FUSED")
        for k, e, o, kind, nl, s, tap in rows
    )
    return BackboneSpec(stem, blocks, dialect or Dialect())


BACKBONES: dict[str, BackboneSpec] = {
    "mobilenetv3_d": _backbone(16, _D),
    "mobilenetv3_bc": _backbone(24, _BC),
    "edge_s": _backbone(16, _EDGE_S),
    "edge_m": _backbone(16, _EDGE_M),
    "shallow": _backbone(16, _SHALLOW),
    "mobilenetv3": _backbone(16, [*_EARLY, *_LATE]),
    "mobilenetv3_b": _backbone(16, [*_EARLY[:2], _EXTRA, _EXTRA, *_EARLY[2:], *_LATE]),
    "mobilenetv3_c": _backbone(24, [*_BC[:2], *_BC[4:8], *_LATE]),  # BC without its extra blocks
    "mobilenetv2": _backbone(32, _V2, _KERAS_V2),
    "mobilenetv3large": _backbone(16, [*_EARLY, *_LATE], _KERAS_V3),
    "efficientnet_lite0": _backbone(32, _LITE0, _EFFICIENTNET_LITE),
}
#: Those of others, for which ImageNet weights can be had (checkpoints/backbones.py).
IMPORTABLE = tuple(name for name, spec in BACKBONES.items() if spec.dialect != Dialect())


def tap_strides(backbone: str) -> tuple[int, ...]:
    """The strides in pixels at which a backbone feeds the pyramid, finest first."""
    stride, taps = 2, []  # the stem's
    for block in BACKBONES[backbone].blocks:
        stride *= block.stride
        if block.tap:
            taps.append(stride)
    return tuple(taps)
