"""Slow, plain numpy forms of what the project computes fast. Written from docs/reference.md, one loop a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def bilinear(feature: np.ndarray, y: float, x: float) -> np.ndarray:
    """The map [H, W, C] sampled at (y, x): zero outside [-1, size], clamped between."""
    height, width = feature.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(feature.shape[2])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = feature[y0, x0] * (1 - dx) + feature[y0, x1] * dx
    bottom = feature[y1, x0] * (1 - dx) + feature[y1, x1] * dx
    return top * (1 - dy) + bottom * dy


def roi_level(roi: Sequence[float], finest: float, num_levels: int) -> int:
    width, height = max(roi[2] - roi[0] + 1, 0.0), max(roi[3] - roi[1] + 1, 0.0)
    level = math.floor(math.log2(math.sqrt(width * height) / finest + 1e-6))
    return min(max(level, 0), num_levels - 1)


def psroi_align(
    features: Sequence[np.ndarray],
    rois: np.ndarray,
    batch_indices: np.ndarray,
    *,
    strides: Sequence[int],
    finest: float,
    reduce: str,
) -> np.ndarray:
    """[R, 245] in (d, i, j) order; see tinydet_tf.layers.psroi_align."""
    depth = features[0].shape[-1] // 49
    out = np.zeros([len(rois), depth, 7, 7])
    for r, roi in enumerate(np.asarray(rois, np.float64)):
        level = roi_level(roi, finest, len(features))
        feature = features[level][batch_indices[r]].astype(np.float64)
        x1, y1, x2, y2 = roi / strides[level]
        bin_w, bin_h = max(x2 - x1, 0.1) / 7, max(y2 - y1, 0.1) / 7
        for i in range(7):
            for j in range(7):
                samples = [
                    bilinear(feature, y1 + (i + (sy + 0.5) / 2) * bin_h, x1 + (j + (sx + 0.5) / 2) * bin_w)
                    for sy in range(2)
                    for sx in range(2)
                ]
                value = np.max(samples, 0) if reduce == "max" else np.mean(samples, 0)
                for d in range(depth):
                    out[r, d, i, j] = value[(d * 7 + i) * 7 + j]
    return out.reshape(len(rois), -1)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Inclusive pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    overlap = max(width, 0) * max(height, 0)
    area = sum((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return overlap / (area - overlap)


def decode(anchor: Sequence[float], delta: Sequence[float], stds: Sequence[float] = (1, 1, 1, 1)) -> list[float]:
    dx, dy, dw, dh = (d * s for d, s in zip(delta, stds, strict=True))
    limit = math.log(1000 / 16)
    dw, dh = min(max(dw, -limit), limit), min(max(dh, -limit), limit)
    width, height = anchor[2] - anchor[0] + 1, anchor[3] - anchor[1] + 1
    cx, cy = (anchor[0] + anchor[2]) / 2 + dx * width, (anchor[1] + anchor[3]) / 2 + dy * height
    width, height = width * math.exp(dw), height * math.exp(dh)
    return [cx - width / 2 + 0.5, cy - height / 2 + 0.5, cx + width / 2 - 0.5, cy + height / 2 - 0.5]


def select_proposals(
    logits: Sequence[np.ndarray],
    deltas: Sequence[np.ndarray],
    anchors: Sequence[np.ndarray],
    *,
    image_size: int,
    nms_pre: int,
    max_proposals: int,
    iou_threshold: float,
) -> np.ndarray:
    """[n <= max_proposals, 4]: NMS level by level, then the best of all. Ties by index, finer levels first."""
    kept: list[tuple[float, int, int, list[float]]] = []
    for level, (scores, level_deltas, level_anchors) in enumerate(zip(logits, deltas, anchors, strict=True)):
        order = sorted(range(len(scores)), key=lambda a: (-scores[a], a))[:nms_pre]
        chosen: list[list[float]] = []
        for rank, a in enumerate(order):
            box = [min(max(c, 0.0), image_size - 1.0) for c in decode(level_anchors[a], level_deltas[a])]
            if all(iou(box, other) <= iou_threshold for other in chosen):
                chosen.append(box)
                # Levels that are not cut keep the anchors' own order among ties.
                kept.append((-scores[a], level, rank if len(scores) > nms_pre else a, box))
    kept.sort(key=lambda k: k[:3])
    return np.array([k[3] for k in kept[:max_proposals]]).reshape(-1, 4)


def assign(
    boxes: np.ndarray,
    usable: Sequence[bool],
    gt_boxes: np.ndarray,
    *,
    positive_iou: float,
    negative_iou: float,
    best_iou: float | None,
) -> list[int]:
    """For each box the ground truth it answers for, -1 for the background, -2 where it is ignored."""
    result = []
    overlaps = [[iou(box, gt) if ok else -1.0 for gt in gt_boxes] for box, ok in zip(boxes, usable, strict=True)]
    for row, ok in zip(overlaps, usable, strict=True):
        best = max(row, default=0.0)
        if not ok:
            result.append(-2)
        elif best >= positive_iou:
            result.append(row.index(best))
        else:
            result.append(-1 if best < negative_iou else -2)
    if best_iou is not None:
        for g in range(len(gt_boxes)):
            best = max(row[g] for row in overlaps)
            if best >= best_iou:
                for b, row in enumerate(overlaps):
                    if row[g] == best:
                        result[b] = g
    return result
