"""Another's .tflite, to be timed beside ours: fed a picture, its outputs left unread.

Shape letters: H, W height and width of its input.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..detector import Timing
from ..errors import UserError
from ..files import PathLike
from ..guard.flatbuffer import read_flatbuffer
from ..runtime import Session


class ForeignModel:
    """A .tflite of any maker with one picture as its input.

    Attributes:
        input_size: W.
        runtime, num_threads: as a Detector's.
    """

    def __init__(self, path: PathLike, num_threads: int | None = None) -> None:
        """Load it.

        Raises:
            UserError: it is damaged, no runtime takes it, or its input is not one picture.
        """
        self._session = Session(read_flatbuffer(path), num_threads)
        self.runtime, self.num_threads = self._session.runtime, self._session.num_threads
        inputs = self._session.inputs
        shapes = {name: [int(side) for side in details["shape"]] for name, details in inputs.items()}
        self._name, shape = next(iter(shapes.items()), ("", []))
        self._channels_first = shape[1:2] == [3]
        if len(shapes) != 1 or len(shape) != 4 or shape[0] != 1 or shape[1 if self._channels_first else 3] != 3:
            raise UserError(f"{path} has inputs {shapes}; expected one picture, [1, H, W, 3] or [1, 3, H, W]")
        self._details: dict[str, Any] = inputs[self._name]
        self._dtype = np.dtype(self._details["dtype"])
        if self._dtype not in (np.float32, np.uint8, np.int8):
            raise UserError(f"{path} takes {self._dtype}; expected float32, uint8 or int8")
        height, self.input_size = shape[2:] if self._channels_first else shape[1:3]
        self._size = (self.input_size, height)

    def timed(self, pixels: NDArray[np.uint8]) -> Timing:
        """Run it on a picture, uint8 RGB [h, w, 3], stretched to its input. Its outputs are not looked at, so that
        there is no postprocessing in the times."""
        start = time.perf_counter()
        resized = np.asarray(Image.fromarray(pixels).resize(self._size, Image.Resampling.BILINEAR))  # [H, W, 3]
        if self._dtype == np.float32:
            resized = resized.astype(np.float32) / 255
        elif self._dtype == np.int8:
            resized = (resized.astype(np.int16) - 128).astype(np.int8)
        if self._channels_first:
            resized = np.ascontiguousarray(resized.transpose(2, 0, 1))
        prepared = time.perf_counter()
        invoke_seconds = self._session.run({self._name: resized[np.newaxis]})[1]
        end = time.perf_counter()
        return Timing(1e3 * (prepared - start), 1e3 * invoke_seconds, 0.0, 1e3 * (end - start))
