"""The Detector: a TinyDet .tflite, called with a picture.

Shape letters: S input size, C classes.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .accelerated import AcceleratedSession, open_session
from .detections import Detections
from .errors import UserError
from .files import PathLike
from .forms import Outputs, Shapes, form_of
from .guard.flatbuffer import check_flatbuffer
from .metadata import ModelInfo, default_threshold, read_model
from .models import model_file
from .preprocess import ImageSource, as_rgb_array, load_resized, resize_to
from .runtime import Session

INPUT = "image"


@dataclass(frozen=True)
class Timing:
    """Where one detection's time went, in milliseconds. Decoding a given path is preprocessing."""

    preprocess_ms: float
    invoke_ms: float
    postprocess_ms: float
    total_ms: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture that is ready for the network: what `Detector.prepare` gives, in another thread perhaps.

    Attributes:
        size: (W, H) of the upright picture, in whose pixels boxes are.
        resized: uint8 [S, S, 3], RGB, as the network sees it.
    """

    size: tuple[int, int]
    resized: NDArray[np.uint8]


class Network(Protocol):
    """What a Detector asks: a `Session`, or a network of another framework.

    Attributes:
        runtime, num_threads: what it runs in, and on how many threads.
    """

    runtime: str
    num_threads: int

    def run(self, inputs: dict[str, NDArray[Any]]) -> tuple[Outputs, float]:
        """`Session.run`: {"image": uint8 [1, S, S, 3]} -> the outputs of the form, and the seconds that it took."""


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
        score_threshold, iou_threshold, max_detections: as given, or the file's; iou_threshold is None for a file
            whose soft-NMS is inside (--postprocess tasks).
    """

    def __init__(
        self,
        path: PathLike,
        num_threads: int | None = None,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        iou_threshold: float | None = None,
        accelerator: str = "cpu",
    ) -> None:
        """Load a model.

        Args:
            path: a .tflite that scripts/export.py wrote, with either --postprocess; or the name of a model that
                comes with tinydet_lite ("digits").
            num_threads: None for all cores this process may use, at most four.
            score_threshold: a detection scores at least this; None for what the file suggests, or 0.3 where it
                suggests nothing. Evaluation uses 0.
            max_detections: the most a picture may have; None for the file's value (100).
            iou_threshold: overlap above which soft-NMS lowers a score; None for the file's value (0.5). Not for a
                file of --postprocess tasks.
            accelerator: "cpu", or "gpu" or "npu" where ai-edge-litert finds one. What it does not take the CPU does,
                with a warning that says so.

        Raises:
            UserError: the file is missing, damaged or no TinyDet model, no runtime works, or an argument is
            wrong.
        """
        path = model_file(path)
        file = read_model(path)
        self._settle(file.info, file.labels, score_threshold, max_detections, iou_threshold)
        check_flatbuffer(file.model, str(path))
        session = open_session(file.model, num_threads, accelerator)
        self._run_in(session)
        _check_tensors(session, self._form.expected(), self.input_size, path)

    @classmethod
    def of_network(
        cls, network: Network, info: ModelInfo, labels: tuple[str, ...], score_threshold: float | None = None
    ) -> Detector:
        """A Detector of a network that is no .tflite.

        Args:
            network: with the inputs and outputs of a file of --postprocess host.
            info, labels: what a file would say about itself, and its C class names.
            score_threshold: as of `Detector`.

        Raises:
            UserError: as `Detector`.
        """
        detector = cls.__new__(cls)
        detector._settle(info, labels, score_threshold, None, None)
        detector._run_in(network)
        return detector

    def _settle(
        self,
        info: ModelInfo,
        labels: tuple[str, ...],
        score_threshold: float | None,
        max_detections: int | None,
        iou_threshold: float | None,
    ) -> None:
        self.info, self.labels, self.input_size = info, labels, info.input_size
        if score_threshold is None:
            score_threshold = default_threshold(info)
        self.score_threshold = _fraction("score_threshold", score_threshold)
        self._form = form_of(info, labels, iou_threshold=iou_threshold, max_detections=max_detections)
        self.iou_threshold = self._form.iou_threshold
        self.max_detections = self._form.max_detections

    def _run_in(self, network: Network) -> None:
        self._network = network
        self.runtime, self.num_threads = network.runtime, network.num_threads
        self._lock = threading.Lock()

    def __call__(self, image: ImageSource | Prepared) -> Detections:
        """Find the objects of one picture.

        Args:
            image: a path (the fastest for a large JPEG, see `load_resized`), a PIL image, or a uint8 RGB array
                [H, W, 3]; or what `prepare` made of one.

        Returns:
            Detections whose boxes are in pixels of the upright picture: a file or PIL image with an EXIF
            orientation is turned first, as viewers show it (`load_image` gives the same upright picture).

        Raises:
            UserError: the picture does not decode, or is none of the three forms.
        """
        return self.timed(image)[0]

    def predict(self, image: ImageSource) -> Detections:
        """The same as calling the Detector."""
        return self(image)

    def prepare(self, image: ImageSource) -> Prepared:
        """Decode and resize a picture, without the network, so that the next one can be made ready meanwhile.

        Raises:
            UserError: as calling the Detector.
        """
        if isinstance(image, (str, os.PathLike)):
            resized, size = load_resized(image, self.input_size)
            return Prepared(size, resized)
        pixels = as_rgb_array(image)
        return Prepared((pixels.shape[1], pixels.shape[0]), resize_to(pixels, self.input_size))

    def timed(self, image: ImageSource | Prepared) -> tuple[Detections, Timing]:
        """As calling the Detector, and where the time went; it takes what `prepare` made, too."""
        start = time.perf_counter()
        ready = image if isinstance(image, Prepared) else self.prepare(image)
        prepared = time.perf_counter()
        outputs, invoke_seconds = self._infer(ready.resized)
        inferred = time.perf_counter()
        detections = self._form.detections(outputs, ready.size, self.score_threshold)
        end = time.perf_counter()
        timing = Timing(
            preprocess_ms=1e3 * (prepared - start),
            invoke_ms=1e3 * invoke_seconds,
            postprocess_ms=1e3 * (end - inferred),
            total_ms=1e3 * (end - start),
        )
        return detections, timing

    def raw(self, image: ImageSource) -> Outputs:
        """The network's own outputs for one picture by name, batch of one, before any threshold.

        Returns:
            --postprocess host: boxes float32 [1, P, 4], inclusive pixels of the S x S input, and class_probs float32
            [1, P, C + 1], background first; tasks: location, category, score and count (`forms.TasksForm`).
        """
        return self._infer(self.prepare(image).resized)[0]

    def _infer(self, resized: NDArray[np.uint8]) -> tuple[Outputs, float]:
        with self._lock:
            return self._network.run({INPUT: resized[np.newaxis]})


def _check_tensors(session: Session | AcceleratedSession, expected: Shapes, input_size: int, path: Path) -> None:
    """The file's words about itself are one thing, its tensors another: they must agree."""
    inputs, outputs = session.inputs, session.outputs
    if set(inputs) != {INPUT} or not set(expected) <= set(outputs):
        raise UserError(
            f"{path} has inputs {sorted(inputs)} and outputs {sorted(outputs)}; "
            f"expected {INPUT!r}, and {', '.join(map(repr, expected))}"
        )
    _check_tensor(path, INPUT, inputs[INPUT], [1, input_size, input_size, 3], np.uint8)
    # The first output tells the number of rows; the others must have as many.
    first = [int(side) for side in outputs[next(iter(expected))]["shape"]]
    rows = first[1] if len(first) > 1 else 0
    for name, shape in expected.items():
        _check_tensor(path, name, outputs[name], [rows if side is None else side for side in shape], np.float32)


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
