"""The anchors that table 2 compares: where each detector puts anchors, how it resizes an image, how it assigns anchors.

A anchors of one image, R base anchors of a level, G ground truths. Pixels are those of the network's input, boxes
inclusive, as mmdetection 1.x has them (tinydet_tf.anchors).

Thresholds. All detectors share the max-IoU rule of tinydet_tf.assign: a ground truth keeps its best
anchor if their IoU is at least 0.3. This rule, not the positive threshold, decides whether a ground truth gets an
anchor at all.
The positive thresholds are:
- TinyDet: positive from 0.5 (the published configuration; here train.rpn_positive_iou).
- Faster R-CNN: positive from 0.7, mmdetection's own.
- ThunderNet: as TinyDet. The paper says no more than "under a certain assignment strategy" (section 3.3);
  docs/anchor_coverage.md has the figures of 0.7, which differ little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinydet_lite.boxes import to_inclusive
from tinydet_lite.errors import UserError
from tinydet_tf.anchors import base_anchors
from tinydet_tf.config import VARIANTS, ModelConfig, TrainConfig

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """How one image enters the network: its scale along x and y, and the pixels of the input that it covers."""

    scale_x: float
    scale_y: float
    width: int
    height: int


@dataclass(frozen=True)
class SquareInput:
    """Stretches an image to side x side; its aspect is not kept."""

    side: int

    def __call__(self, width: int, height: int) -> Frame:
        return Frame(self.side / width, self.side / height, self.side, self.side)

    def __str__(self) -> str:
        return f"{self.side}x{self.side}"


@dataclass(frozen=True)
class AspectInput:
    """Scales an image, with its aspect, as far as the limits of its short and its long side allow."""

    short: int
    long: int

    def __call__(self, width: int, height: int) -> Frame:
        scale = min(self.long / max(width, height), self.short / min(width, height))
        return Frame(scale, scale, int(width * scale + 0.5), int(height * scale + 0.5))

    def __str__(self) -> str:
        return f"{self.short}x{self.long}"


@dataclass(frozen=True, eq=False)
class AnchorSet:
    """A detector's anchors.

    Attributes:
      name: as in the paper.
      strides: of the levels, finest first.
      bases: float32 [R, 4] a level: the anchors of the cell at the origin.
      resize: how an image enters the network.
      positive_iou, best_iou: see tinydet_tf.assign; best_iou is the negative threshold too.
    """

    name: str
    strides: tuple[int, ...]
    bases: tuple[FloatArray, ...]
    resize: SquareInput | AspectInput
    positive_iou: float
    best_iou: float

    def count(self, width: int, height: int) -> int:
        """Number of anchors for an image of this size, in the source's pixels."""
        frame = self.resize(width, height)
        return sum(
            rows * columns * len(base) for (rows, columns), base in zip(self.cells(frame), self.bases, strict=True)
        )

    def cells(self, frame: Frame) -> list[tuple[int, int]]:
        """Rows and columns of each level's map."""
        return [(math.ceil(frame.height / s), math.ceil(frame.width / s)) for s in self.strides]

    def anchors(self, frame: Frame) -> FloatArray:
        """All anchors, float32 [A, 4], in the order of tinydet_tf.anchors: level, row, column, base."""
        levels = []
        for (rows, columns), stride, base in zip(self.cells(frame), self.strides, self.bases, strict=True):
            levels.append(anchors_at(np.indices((rows, columns, len(base))).reshape(3, -1), stride, base))
        return np.concatenate(levels)

    def gt_boxes(self, frame: Frame, boxes: FloatArray) -> FloatArray:
        """Continuous corners [G, 4] of the source -> inclusive, scaled, clipped, as the input pipeline gives them."""
        scale = np.array([frame.scale_x, frame.scale_y] * 2, np.float32)
        last = np.array([frame.width - 1, frame.height - 1] * 2, np.float32)
        return np.clip(to_inclusive(boxes) * scale, np.float32(0), last)


def anchors_at(index: npt.NDArray[np.intp], stride: int, base: FloatArray) -> FloatArray:
    """Anchors of one level, float32 [A, 4], by their row, column and base: index [3, A]."""
    row, column, which = index
    shift = np.stack([column, row, column, row], 1).astype(np.float32) * np.float32(stride)
    return np.asarray(base[which] + shift)


def tinydet(name: str, model: ModelConfig, train: TrainConfig | None = None) -> AnchorSet:
    """The anchors of any TinyDet, with the thresholds of its training."""
    train = train or TrainConfig()
    return AnchorSet(
        name,
        model.strides,
        tuple(base_anchors(model.anchor_scale * stride, stride, model.anchor_ratios) for stride in model.strides),
        SquareInput(model.input_size),
        train.rpn_positive_iou,
        train.rpn_negative_iou,
    )


#: ThunderNet's section 3.3: sides in pixels, height : width.
_THUNDERNET_SIDES = (32.0, 64.0, 128.0, 256.0, 512.0)
_THUNDERNET_RATIOS = (0.5, 0.75, 1.0, 4 / 3, 2.0)


def thundernet_32_512() -> AnchorSet:
    """ThunderNet as in its own paper: one map of stride 16 (20x20 cells of 320x320 pixels), five sizes, five ratios."""
    return _thundernet("ThunderNet, 32..512", _THUNDERNET_SIDES)


def thundernet() -> AnchorSet:
    """ThunderNet as table 2 seems to have it: its own map and ratios, the five sizes of TinyDet-M (12.8 .. 204.8).

    It then differs from TinyDet-M in how dense the anchors are, which is the section's subject. With the sizes of
    ThunderNet's own paper far more small objects are missed than table 2 prints (docs/anchor_coverage.md).
    """
    model = VARIANTS["M"]
    return _thundernet("ThunderNet", tuple(model.anchor_scale * stride for stride in model.strides))


def _thundernet(name: str, sides: tuple[float, ...]) -> AnchorSet:
    train = TrainConfig()
    base = _bases(sides, 16, _THUNDERNET_RATIOS)
    return AnchorSet(name, (16,), (base,), SquareInput(320), train.rpn_positive_iou, train.rpn_negative_iou)


def faster_rcnn() -> AnchorSet:
    """Faster R-CNN on one map of stride 16 ("C4"), mmdetection's five sizes and three ratios."""
    base = _bases((32, 64, 128, 256, 512), 16, (0.5, 1.0, 2.0))
    return AnchorSet("Faster R-CNN", (16,), (base,), AspectInput(800, 1333), 0.7, 0.3)


def faster_rcnn_fpn() -> AnchorSet:
    """Faster R-CNN with FPN: strides 4 to 64, an anchor of 8 strides a level, three ratios."""
    strides = (4, 8, 16, 32, 64)
    bases = tuple(base_anchors(8 * stride, stride, (0.5, 1.0, 2.0)) for stride in strides)
    return AnchorSet("Faster R-CNN w/ FPN", strides, bases, AspectInput(800, 1333), 0.7, 0.3)


_OTHERS = {each.__name__: each for each in (faster_rcnn, faster_rcnn_fpn, thundernet_32_512, thundernet)}
#: The names that --models takes.
MODELS = (*_OTHERS, *map(str.lower, VARIANTS))


def anchor_set(model: str) -> AnchorSet:
    """One of MODELS.

    Raises:
      UserError: another name.
    """
    if model not in MODELS:
        raise UserError(f"model {model!r} is unknown; choose from {', '.join(MODELS)}")
    if model in _OTHERS:
        return _OTHERS[model]()
    return tinydet(f"TinyDet-{model.upper()}", VARIANTS[model.upper()])


def _bases(sides: tuple[float, ...], stride: int, ratios: tuple[float, ...]) -> FloatArray:
    return np.concatenate([base_anchors(side, stride, ratios) for side in sides])
