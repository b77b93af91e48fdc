"""The Detector: a TinyDet .tflite, called with a picture.

Shape letters: S input size, P proposals, C classes.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .detections import Detections
from .errors import UserError
from .files import PathLike
from .metadata import read_model
from .postprocess import postprocess
from .preprocess import ImageSource, as_rgb_array, resize_to
from .runtime import Session

INPUT = "image"
BOXES = "boxes"
CLASS_PROBS = "class_probs"


@dataclass(frozen=True)
class Timing:
    """Where one detection's time went, in milliseconds. Decoding a given path is preprocessing."""

    preprocess_ms: float
    invoke_ms: float
    postprocess_ms: float
    total_ms: float


class Detector:
    """Finds objects in pictures with a TinyDet .tflite.

    A Detector may be called from several threads: they take turns in the network. For work in parallel make
    one Detector a thread, each with num_threads=1.

    Attributes:
        info: what the file says about itself (`ModelInfo`).
        labels: C class names; a detection's class_id is an index into them.
        input_size: S.
        runtime: which TFLite runtime runs it.
        num_threads: how many threads it uses.
        score_threshold, iou_threshold, max_detections: as given, or the file's.
    """

    def __init__(
        self,
        path: PathLike,
        num_threads: int | None = None,
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        iou_threshold: float | None = None,
    ) -> None:
        """Load a model.

        Args:
            path: a .tflite that scripts/export.py wrote with --postprocess host.
            num_threads: None for all cores this process may use, at most four.
            score_threshold: a detection scores at least this. Evaluation uses 0.
            max_detections: the most a picture may have; None for the file's value (100).
            iou_threshold: overlap above which soft-NMS lowers a score; None for the file's value (0.5).

        Raises:
            UserError: the file is missing, damaged or no TinyDet model, no runtime works, or an argument is
            wrong.
        """
        file = read_model(path)
        self.info = file.info
        self.labels = file.labels
        self.input_size = file.info.input_size
        self.score_threshold = _fraction("score_threshold", score_threshold)
        nms = file.info.nms
        self.iou_threshold = _fraction("iou_threshold", nms.iou_threshold if iou_threshold is None else iou_threshold)
        self.max_detections = nms.max_detections if max_detections is None else max_detections
        if self.max_detections < 1:
            raise UserError(f"max_detections {self.max_detections} came; expected at least 1")
        if file.info.postprocess != "host":
            raise UserError(
                f"{path} was exported with --postprocess {file.info.postprocess}, which other programs read; "
                "for tinydet_lite export it with --postprocess host"
            )
        self._session = Session(file.model, num_threads)
        self.runtime = self._session.runtime
        self.num_threads = self._session.num_threads
        self._lock = threading.Lock()
        self._check_tensors(Path(path))

    def __call__(self, image: ImageSource) -> Detections:
        """Find the objects of one picture.

        Args:
            image: a path, a PIL image, or a uint8 RGB array [H, W, 3].

        Returns:
            Detections whose boxes are in pixels of the upright picture: a file or PIL image with an EXIF
            orientation is turned first, as viewers show it (`load_image` gives the same upright picture).

        Raises:
            UserError: the picture does not decode, or is none of the three forms.
        """
        return self.timed(image)[0]

    def timed(self, image: ImageSource) -> tuple[Detections, Timing]:
        """As calling the Detector, and where the time went."""
        start = time.perf_counter()
        pixels = as_rgb_array(image)
        resized = resize_to(pixels, self.input_size)
        prepared = time.perf_counter()
        boxes, class_probs, invoke_seconds = self._infer(resized)
        inferred = time.perf_counter()
        nms = self.info.nms
        detections = postprocess(
            boxes,
            class_probs,
            (pixels.shape[1], pixels.shape[0]),
            self.input_size,
            score_threshold=nms.score_threshold,
            iou_threshold=self.iou_threshold,
            min_score=nms.min_score,
            max_detections=self.max_detections,
            final_threshold=self.score_threshold,
            labels=self.labels,
        )
        end = time.perf_counter()
        timing = Timing(
            preprocess_ms=1e3 * (prepared - start),
            invoke_ms=1e3 * invoke_seconds,
            postprocess_ms=1e3 * (end - inferred),
            total_ms=1e3 * (end - start),
        )
        return detections, timing

    def raw(self, image: ImageSource) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The network's own outputs for one picture, before any threshold.

        Returns:
            (boxes float32 [P, 4], inclusive pixels of the S x S input; class_probs float32 [P, C + 1],
            background first)
        """
        boxes, class_probs, _ = self._infer(resize_to(as_rgb_array(image), self.input_size))
        return boxes, class_probs

    def _infer(self, resized: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        with self._lock:
            outputs, seconds = self._session.run({INPUT: resized[np.newaxis]})
        return outputs[BOXES][0], outputs[CLASS_PROBS][0], seconds

    def _check_tensors(self, path: Path) -> None:
        """The file's words about itself are one thing, its tensors another: they must agree."""
        size, classes = self.input_size, self.info.num_classes
        inputs, outputs = self._session.inputs, self._session.outputs
        if set(inputs) != {INPUT} or not {BOXES, CLASS_PROBS} <= set(outputs):
            raise UserError(
                f"{path} has inputs {sorted(inputs)} and outputs {sorted(outputs)}; "
                f"expected {INPUT!r}, and {BOXES!r} and {CLASS_PROBS!r}"
            )
        proposals = int(outputs[BOXES]["shape"][1]) if len(outputs[BOXES]["shape"]) == 3 else 0
        _check_tensor(path, INPUT, inputs[INPUT], [1, size, size, 3], np.uint8)
        _check_tensor(path, BOXES, outputs[BOXES], [1, proposals, 4], np.float32)
        _check_tensor(path, CLASS_PROBS, outputs[CLASS_PROBS], [1, proposals, classes + 1], np.float32)


def _check_tensor(path: Path, name: str, details: dict[str, Any], shape: list[int], dtype: type[Any]) -> None:
    came = [int(side) for side in details["shape"]]
    if came != shape or details["dtype"] != dtype:
        raise UserError(
            f"{path}: {name!r} is {np.dtype(details['dtype'])} {came}; its metadata says {np.dtype(dtype)} {shape}"
        )


def _fraction(name: str, value: float) -> float:
    # Written so that NaN fails too.
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} {value} came; expected a number from 0 to 1")
    return float(value)
