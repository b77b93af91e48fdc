"""The forms of a TinyDet .tflite (export.py --postprocess): which outputs it has, and how they become Detections.

Shape letters: P proposals, C classes, N detections, W, H and S sides of the picture and of the network's input.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from .detections import Detections
from .errors import UserError
from .metadata import ModelInfo, NmsSettings
from .postprocess import postprocess

BOXES = "boxes"
CLASS_PROBS = "class_probs"

LOCATION = "location"
CATEGORY = "category"
SCORE = "score"
COUNT = "count"

Outputs = dict[str, NDArray[Any]]
# By name; None is the number of rows, the same in all of them.
Shapes = dict[str, tuple[Optional[int], ...]]


class Form(ABC):
    """How the outputs of one form become Detections.

    Attributes:
        iou_threshold: overlap above which soft-NMS lowers a score; None where the file itself holds it.
        max_detections: the most a picture may have.
    """

    def __init__(self, info: ModelInfo, labels: tuple[str, ...], nms: NmsSettings) -> None:
        """Take what the file says about itself, its C class names, and the settings of the host's soft-NMS."""
        self.iou_threshold: float | None = nms.iou_threshold
        self.max_detections = nms.max_detections
        self._nms, self._labels = nms, labels
        self._input_size, self._classes = info.input_size, info.num_classes

    @abstractmethod
    def expected(self) -> Shapes:
        """The shapes of its outputs, all of them float32."""

    @abstractmethod
    def detections(self, outputs: Outputs, image_size: tuple[int, int], score_threshold: float) -> Detections:
        """What was found.

        Args:
            outputs: of one picture, as `expected` says.
            image_size: (W, H) of the source picture.
            score_threshold: a detection scores at least this.
        """


class HostForm(Form):
    """boxes [1, P, 4] and class_probs [1, P, C + 1]: soft-NMS is ours."""

    def expected(self) -> Shapes:
        return {BOXES: (1, None, 4), CLASS_PROBS: (1, None, self._classes + 1)}

    def detections(self, outputs: Outputs, image_size: tuple[int, int], score_threshold: float) -> Detections:
        return postprocess(
            outputs[BOXES][0],
            outputs[CLASS_PROBS][0],
            image_size,
            self._input_size,
            self._nms,
            final_threshold=score_threshold,
            labels=self._labels,
        )


class TasksForm(Form):
    """location [1, N, 4], category [1, N], score [1, N], count [1]: soft-NMS is in the file."""

    def __init__(self, info: ModelInfo, labels: tuple[str, ...], nms: NmsSettings) -> None:
        super().__init__(info, labels, nms)
        self.iou_threshold = None

    def expected(self) -> Shapes:
        return {LOCATION: (1, None, 4), CATEGORY: (1, None), SCORE: (1, None), COUNT: (1,)}

    def detections(self, outputs: Outputs, image_size: tuple[int, int], score_threshold: float) -> Detections:
        location, category, scores = (outputs[name][0] for name in (LOCATION, CATEGORY, SCORE))
        # Of a file that is not ours everything may come: rows that mean nothing are left out.
        count = int(np.clip(np.nan_to_num(outputs[COUNT].reshape(-1)[0], nan=0.0), 0, len(scores)))
        location, category, scores = location[:count], category[:count], scores[:count]
        width, height = image_size
        sides = np.array([width, height, width, height], np.float32)
        kept = np.isfinite(location).all(axis=1) & (scores >= np.float32(score_threshold)) & (scores > 0)
        kept &= (category >= 0) & (category < self._classes)  # NaN is neither
        boxes = np.zeros((count, 4), np.float32)
        boxes[kept] = np.clip(location[kept][:, [1, 0, 3, 2]], 0.0, 1.0) * sides  # y first there
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        rows = np.flatnonzero(kept)
        rows = rows[np.argsort(-scores[rows], kind="stable")][: self.max_detections]
        class_ids = category[rows].astype(np.int32)
        names = tuple(self._labels[class_id] for class_id in class_ids)
        return Detections(boxes[rows], np.minimum(scores[rows], np.float32(1.0)), class_ids, names)


_FORMS: dict[str, type[Form]] = {"host": HostForm, "tasks": TasksForm}


def form_of(
    info: ModelInfo,
    labels: tuple[str, ...],
    *,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
) -> Form:
    """The form that a file says it has.

    Args:
        info: of the file; what it gives for soft-NMS holds where an argument is None.
        labels: C class names.
        iou_threshold: overlap above which soft-NMS lowers a score, 0 to 1; host form only.
        max_detections: the most a picture may have, at least 1.

    Raises:
        UserError: an argument is out of range, or the form cannot follow it.
    """
    if iou_threshold is not None and info.postprocess == "tasks":
        raise UserError(
            f"iou_threshold {iou_threshold} came for a file of --postprocess tasks, whose soft-NMS is in the file; "
            "leave it out, or export with --postprocess host"
        )
    # Written so that NaN fails too.
    if iou_threshold is not None and not 0.0 <= iou_threshold <= 1.0:
        raise UserError(f"iou_threshold {iou_threshold} came; expected a number from 0 to 1")
    if max_detections is not None and max_detections < 1:
        raise UserError(f"max_detections {max_detections} came; expected at least 1")
    given = {"iou_threshold": iou_threshold, "max_detections": max_detections}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return _FORMS[info.postprocess](info, labels, dataclasses.replace(info.nms, **changes))
