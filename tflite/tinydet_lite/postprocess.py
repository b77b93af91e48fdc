"""From the network's two outputs to Detections: the paper's per-class linear soft-NMS, on the host.

Shape letters: P proposals (200), C classes, N detections, K proposals and L classes that have a candidate at
all.

The numbers are the released ones (`metadata.RELEASED`, docs/reference.md, "Test"): candidates score above 0.01; a box
that overlaps a better one above IoU 0.5 has its score multiplied by 1 - IoU; what falls under 0.001 is dropped; the
best 100 of a picture remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .boxes import inclusive_iou, to_continuous
from .detections import Detections
from .errors import UserError
from .metadata import RELEASED, NmsSettings


def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    settings: NmsSettings = RELEASED,
    *,
    final_threshold: float = 0.0,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Linear soft-NMS, each class for itself, the best of all classes.

    In each class: take the best remaining box, multiply the scores of the remaining ones whose IoU with it is
    above `settings.iou_threshold` by (1 - IoU), drop those under its `min_score`, repeat. Equal scores: lower proposal
    first, then lower class.

    All classes run as one: the best box of all is taken each time, and only its own class decays. Scores only
    ever fall, so every class gives its boxes in descending order, and this merges those orders: the first
    `max_detections` taken are the answer and the loop may stop there, where class by class it would run
    through all P * C candidates. For the same reason nothing under `final_threshold` can matter to what is
    above it.

    Args:
        boxes: [P, 4] inclusive pixels, finite.
        scores: [P, C]; a score that is not finite is no candidate.
        settings: the thresholds. A score of 0 is dropped too.
        final_threshold: the float32 score must be at least this in the end.

    Returns:
        (proposals [N], class_ids [N], scores float32 [N]), scores descending.
    """
    all_scores = np.asarray(scores, np.float64)  # [P, C]
    floor = np.float32(final_threshold)
    # Compared in float32, as the caller sees the scores: 0.7 as float32 is not at least 0.7 as float64.
    candidate = np.isfinite(all_scores) & (all_scores > settings.score_threshold)  # [P, C]
    candidate &= np.float32(all_scores) >= floor
    proposals = np.flatnonzero(candidate.any(axis=1))  # [K]
    class_ids = np.flatnonzero(candidate.any(axis=0))  # [L]
    kept = np.ix_(proposals, class_ids)
    # Negative marks "not there". (Minus infinity would become NaN when it decays by a factor of 0.)
    live = np.where(candidate[kept], all_scores[kept], -1.0)  # [K, L]
    flat = live.reshape(-1)  # a view; its first maximum has the lowest proposal, then the lowest class
    iou = inclusive_iou(np.asarray(boxes)[proposals], np.asarray(boxes)[proposals])  # [K, K]
    decay = np.where(iou > settings.iou_threshold, 1.0 - iou, 1.0)  # [K, K]

    taken: list[int] = []
    taken_scores: list[np.float32] = []
    while flat.size and len(taken) < settings.max_detections:
        best = int(flat.argmax())
        score = flat[best]
        if score <= 0.0 or score < settings.min_score or np.float32(score) < floor:
            break
        taken.append(best)
        taken_scores.append(np.float32(score))
        row, column = divmod(best, len(class_ids))
        live[:, column] *= decay[row]
        flat[best] = -1.0
    rows, columns = np.divmod(np.array(taken, np.intp), max(len(class_ids), 1))
    return proposals[rows], class_ids[columns], np.array(taken_scores, np.float32)


def postprocess(
    boxes: ArrayLike,
    class_probs: ArrayLike,
    image_size: tuple[int, int],
    input_size: int,
    settings: NmsSettings = RELEASED,
    *,
    final_threshold: float = 0.0,
    labels: Sequence[str] | None = None,
) -> Detections:
    """Turn one picture's network outputs into Detections in the source picture's pixels.

    The boxes are scaled back first, x and y apart since the picture was stretched, and soft-NMS runs on
    source pixels, still inclusive, as the published implementation does it. Proposals with a coordinate that
    is not finite, and boxes of which nothing lies in the picture, are dropped.

    Args:
        boxes: [P, 4], inclusive pixels of the S x S input, one box a proposal.
        class_probs: [P, C + 1], background first.
        image_size: (W, H) of the source picture in pixels.
        input_size: S.
        settings: of soft-NMS.
        final_threshold: only detections that score at least this in the end. Evaluation keeps 0.
        labels: C class names; without, a name is the class id in digits.

    Raises:
        UserError: the shapes do not fit together.
    """
    raw_boxes = np.asarray(boxes, np.float64)  # [P, 4]
    probs = np.asarray(class_probs)  # [P, C + 1]
    if raw_boxes.ndim != 2 or raw_boxes.shape[1] != 4 or probs.ndim != 2 or len(probs) != len(raw_boxes):
        raise UserError(
            f"boxes {list(raw_boxes.shape)} and class_probs {list(probs.shape)} came; expected [P, 4] and [P, C + 1]"
        )
    width, height = image_size
    if width < 1 or height < 1 or input_size < 1:
        raise UserError(f"image size {width} x {height} and input size {input_size} came; expected at least 1 pixel")
    num_classes = probs.shape[1] - 1
    if labels is not None and len(labels) != num_classes:
        raise UserError(f"{len(labels)} labels came for {num_classes} classes")

    finite = np.flatnonzero(np.isfinite(raw_boxes).all(axis=1))
    scale = np.array([width, height, width, height], np.float64) / input_size
    inclusive = raw_boxes[finite] * scale  # [P', 4]
    limits = np.array([width, height, width, height], np.float64)
    continuous: NDArray[Any] = np.clip(to_continuous(inclusive), 0.0, limits).astype(np.float32)  # [P', 4]
    visible = np.flatnonzero((continuous[:, 2:] > continuous[:, :2]).all(axis=1))

    rows, class_ids, scores = soft_nms(
        inclusive[visible], probs[finite[visible], 1:], settings, final_threshold=final_threshold
    )
    names = tuple(str(class_id) if labels is None else labels[class_id] for class_id in class_ids)
    return Detections(continuous[visible[rows]], scores, class_ids.astype(np.int32), names)
