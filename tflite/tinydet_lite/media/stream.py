"""Frames through a detector: the next one is read in another thread while the network works.

Frames: uint8 RGB [H, W, 3].
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..detections import Detections
from ..detector import Detector, Timing
from .sources import Frame, ImageFiles, Problem, Source

# Frames that wait for the network; another is being made ready, a third is in the network. Few, because a decoded
# photo takes 3 bytes a pixel.
_WAITING = 1
# How often waiting threads look up, in seconds: a signal's handler runs meanwhile, but does not end the waiting.
_LOOK_UP = 0.1
_LATENCIES = 10_000
_RECENT = 30


class AnyDetector(Protocol):
    """A Detector, or what is called like one (TiledDetector)."""

    def timed(self, image: Any, /) -> tuple[Detections, Timing]: ...


@dataclass(frozen=True, eq=False)
class Result:
    """What was found in a frame.

    Attributes:
        milliseconds: network and soft-NMS, and of what is no image file resizing; reading and decoding are not in it.
        delay_ms: from the frame's arrival to the result: what a live picture is old by.
    """

    frame: Frame
    detections: Detections
    milliseconds: float
    delay_ms: float


@dataclass(frozen=True, eq=False)
class _Ready:
    frame: Frame
    image: Any  # what the detector takes: Prepared, or the frame's pixels
    milliseconds: float


class ReadAhead:
    """Iterates a source in another thread and makes its frames ready for the network.

    A source that can wait is kept at most _WAITING frames ahead. Of a live one only the newest frame waits, as it
    came: one that comes too late for the network is dropped, so that results do not lag, and only one that is taken
    is made ready, by `next`. To make every frame ready would keep a core busy with what nobody sees.

    Attributes:
        dropped: how many were.
    """

    def __init__(self, source: Source, prepare: Callable[[Frame], _Ready]) -> None:
        self.dropped = 0
        self._source = source
        self._prepare = prepare
        self._ready: deque[_Ready | Frame | Problem] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        # A daemon: a camera's driver may hang, and must not keep the process.
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._source.close()
        self._thread.join(timeout=2.0)

    def next(self, stop: Callable[[], bool]) -> _Ready | Problem | None:
        """The next frame or problem; None at the end, or once `stop()` is true.

        Raises:
            UserError: what the source raised, after everything that came before it.
        """
        item = self._take(stop)
        return self._prepare(item) if isinstance(item, Frame) else item

    def _take(self, stop: Callable[[], bool]) -> _Ready | Frame | Problem | None:
        with self._changed:
            while not stop():
                if self._ready:
                    item = self._ready.popleft()
                    self._changed.notify_all()
                    return item
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return None
                self._changed.wait(_LOOK_UP)
        return None

    def _run(self) -> None:
        items = iter(self._source)
        try:
            for item in items:
                ready = item if isinstance(item, Problem) or self._source.live else self._prepare(item)
                with self._changed:
                    if self._source.live:
                        self._drop_frames()
                    while len(self._ready) >= _WAITING and not self._source.live and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        break
                    self._ready.append(ready)
                    self._changed.notify_all()
        except BaseException as error:  # for the thread that waits here to raise
            self._error = error
        finally:
            close = getattr(items, "close", None)  # generators have it: their `finally` gives devices back
            if close is not None:
                close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _drop_frames(self) -> None:
        """Of what waits, keep the problems alone."""
        problems = [item for item in self._ready if isinstance(item, Problem)]
        self.dropped += len(self._ready) - len(problems)
        self._ready = deque(problems)


class Meter:
    """Frames a second and latencies, in memory that does not grow.

    Attributes:
        frames: how many results came.
        seconds: from the Meter's making to the last result.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.seconds = 0.0
        self.dropped = 0
        self._start = time.perf_counter()
        self._times: deque[float] = deque(maxlen=_RECENT)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._delays: deque[float] = deque(maxlen=_LATENCIES)

    def add(self, result: Result) -> None:
        """Count a result, now."""
        now = time.perf_counter()
        self.frames += 1
        self.seconds = now - self._start
        self._times.append(now)
        self._latencies.append(result.milliseconds)
        self._delays.append(result.delay_ms)

    @property
    def rate(self) -> float:
        """Frames a second, over all."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def recent_rate(self) -> float:
        """Frames a second, over the last 30."""
        past = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        return (len(self._times) - 1) / past if past > 0 else self.rate

    def latency(self, percentile: float) -> float:
        """Milliseconds, of the last 10,000 results; 0 without any."""
        return float(np.percentile(self._latencies, percentile)) if self._latencies else 0.0

    def delay(self, percentile: float) -> float:
        """As `latency`, of `Result.delay_ms`."""
        return float(np.percentile(self._delays, percentile)) if self._delays else 0.0


def detect_frames(
    source: Source,
    detector: AnyDetector,
    *,
    class_ids: Collection[int] | None = None,
    max_frames: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    meter: Meter | None = None,
) -> Generator[Result | Problem, None, None]:
    """Detect in every frame of a source, in order, one at a time.

    Args:
        source: see `sources.open_source`. It is closed at the end.
        detector: a Detector or a TiledDetector.
        class_ids: the classes to keep; None for all.
        max_frames: how many results to give at most.
        stop: asked between frames; once it is true, the iteration ends in order.
        meter: counts the results; it should be new.

    Yields:
        A Result a frame, and Problems where they arose. Close the generator (or use it up) to free the source.

    Raises:
        UserError: the source ends with an error. What came before it was given.
    """
    meter = Meter() if meter is None else meter
    if isinstance(source, ImageFiles) and isinstance(detector, Detector):
        source.reader = detector.prepare
    with ReadAhead(source, _preparer(detector)) as ahead:
        while max_frames is None or meter.frames < max_frames:
            item = ahead.next(stop)
            meter.dropped = ahead.dropped
            if item is None:
                return
            if isinstance(item, Problem):
                yield item
                continue
            detections, timing = detector.timed(item.image)
            if class_ids is not None:
                detections = detections.only(class_ids)
            delay = 1e3 * (time.perf_counter() - item.frame.arrived)
            result = Result(item.frame, detections, item.milliseconds + timing.total_ms, delay)
            meter.add(result)
            yield result


def _preparer(detector: AnyDetector) -> Callable[[Frame], _Ready]:
    def prepare(frame: Frame) -> _Ready:
        start = time.perf_counter()
        # Tiles are cut from the whole picture: there is nothing to resize yet.
        if isinstance(detector, Detector):
            image: Any = detector.prepare(frame.pixels) if frame.ready is None else frame.ready
        else:
            image = frame.pixels
        return _Ready(frame, image, 1e3 * (time.perf_counter() - start))

    return prepare
