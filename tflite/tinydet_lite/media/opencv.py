"""The one place that touches OpenCV, which only videos and cameras need: reading frames, writing an mp4.

Everything outside sees RGB; OpenCV's BGR stays in here. Frames: uint8 [H, W, 3].
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

# How long a network camera may be silent, in milliseconds; OpenCV's own limit is 30 s.
_TIMEOUT_MS = 10_000
# What FFmpeg writes without licences to mind: OpenCV's wheels have no H.264 encoder.
_CODEC = "mp4v"


def import_cv2() -> Any:
    """OpenCV, quiet: its libraries write whole paragraphs to stderr about one damaged frame.

    Raises:
        UserError: it is not installed, or does not load.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"videos and cameras need OpenCV ({error}); install it with: pip install opencv-python-headless"
        ) from error
    return cv2


def check_path(path: str) -> str:
    """A path that OpenCV can take: it crashes over one that is no UTF-8.

    Raises:
        UserError: it is none.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: OpenCV takes no video whose path is no UTF-8; rename it") from error
    return path


class Capture:
    """An open video or camera; `is_open` says whether opening it worked.

    Attributes:
        rate: frames a second as the header or driver says; 0 where unknown.
        count: frames as the header says, an estimate in some containers; 0 where unknown.
    """

    def __init__(self, source: str | int) -> None:
        """Open a file, a URL, or the camera of a number.

        Raises:
            UserError: OpenCV is missing, or cannot take the path.
        """
        cv2 = self._cv2 = import_cv2()
        if isinstance(source, str):
            check_path(source)
        try:
            if isinstance(source, int):
                self._capture = cv2.VideoCapture(source)
                # A driver's queue of old pictures is the last thing a slow detector needs.
                self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            else:
                limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
                self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
                # Phones film upright with the sensor on its side and say so in the header.
                self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        except cv2.error:
            self._capture = cv2.VideoCapture()
        self.rate = self._number(cv2.CAP_PROP_FPS)
        self.count = int(self._number(cv2.CAP_PROP_FRAME_COUNT))

    @property
    def is_open(self) -> bool:
        return bool(self._capture.isOpened())

    @property
    def position(self) -> float:
        """The time of the frame that was read last, in seconds, as the file says; 0 where unknown."""
        return self._number(self._cv2.CAP_PROP_POS_MSEC) / 1e3

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame, RGB; None at the end, and where none can be had. OpenCV goes past damaged ones itself."""
        later = self.read_later()
        return None if later is None else later()

    def read_later(self) -> Callable[[], NDArray[np.uint8]] | None:
        """As `read`, but the frame becomes RGB when what is given is called: a frame that is dropped never does."""
        try:
            came, frame = self._capture.read()
        except self._cv2.error:
            return None
        if not came or frame is None or frame.size == 0 or (frame.ndim == 3 and frame.shape[2] != 3):
            return None
        code = self._cv2.COLOR_GRAY2RGB if frame.ndim == 2 else self._cv2.COLOR_BGR2RGB
        return lambda: self._cv2.cvtColor(frame, code)

    def close(self) -> None:
        """Give the device or file back."""
        self._capture.release()

    def _number(self, name: int) -> float:
        value = float(self._capture.get(name)) if self._capture.isOpened() else 0.0
        return value if np.isfinite(value) and value > 0 else 0.0


class Mp4:
    """An mp4 (MPEG-4 part 2) that is being written.

    OpenCV says nothing when a write fails: `count_frames` on the finished file tells.
    """

    def __init__(self, path: Path, rate: float, width: int, height: int) -> None:
        """Start a file.

        Args:
            path: ends in .mp4.
            rate: frames a second.
            width, height: even, in pixels: the codec halves the colours' resolution.

        Raises:
            UserError: OpenCV is missing or cannot write this.
        """
        self._cv2 = import_cv2()
        code = self._cv2.VideoWriter_fourcc(*_CODEC)
        self._writer = self._cv2.VideoWriter(str(path), self._cv2.CAP_FFMPEG, code, rate, (width, height))
        if not self._writer.isOpened():
            raise UserError(
                f"OpenCV cannot start a video of {width} x {height} at {rate:g} frames/s in {path.parent} (is it "
                "writable, and not full?)"
            )

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Append a frame, RGB, of the video's size."""
        self._writer.write(self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Write the file's end; before that nobody can play it."""
        self._writer.release()


def count_frames(path: Path) -> int:
    """How many frames a video's header announces; 0 if it is none."""
    capture = Capture(str(path))
    count = capture.count
    capture.close()
    return count
