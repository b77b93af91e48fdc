"""What `detect` shows while it runs: a line a picture; for films a status line, or now and then a plain line."""

from __future__ import annotations

import sys
import time
from collections import Counter

from ..detections import Detections
from ..errors import printable
from ..media.stream import Meter, Result
from ..status import StatusLine

_STATUS_SECONDS = 0.2
_LINE_SECONDS = 5.0


class Progress:
    """Prints to stdout, and notes to stderr. On a terminal a film has one line that changes."""

    def __init__(self, meter: Meter, still: bool, count: int | None) -> None:
        """Take the meter to show, whether pictures are told one by one, and how many frames to expect."""
        self._meter = meter
        self._still = still
        self._count = count
        self._status = StatusLine(sys.stdout)
        self._shown = time.perf_counter()

    def show(self, result: Result) -> None:
        """Tell of a result, if it is time."""
        if self._still:
            print(f"{printable(result.frame.name)}: {summary(result.detections)}, {result.milliseconds:.1f} ms")
            return
        now = time.perf_counter()
        if now - self._shown < (_STATUS_SECONDS if self._status.visible else _LINE_SECONDS):
            return
        self._shown = now
        total = "" if self._count is None else f" of {self._count}"
        line = (
            f"frame {result.frame.index + 1}{total}: {self._meter.recent_rate:.1f} frames/s, "
            f"{result.milliseconds:.1f} ms, {summary(result.detections)}"
        )
        if self._status.visible:
            self._status.show(line)
        else:
            print(line, flush=True)

    def note(self, message: str) -> None:
        """Tell of a problem that the work survives."""
        self._status.clear()
        print(f"note: {printable(message)}", file=sys.stderr, flush=True)

    def finish(self, live: bool) -> None:
        """Sum up."""
        self._status.clear()
        meter = self._meter
        if meter.frames < 2:
            return
        line = (
            f"{meter.frames} {'pictures' if self._still else 'frames'} in {meter.seconds:.1f} s, "
            f"{meter.rate:.1f} a second; resize, network and soft-NMS: median {meter.latency(50):.1f} ms, "
            f"p95 {meter.latency(95):.1f} ms"
        )
        if live:
            line += (
                f"; from picture to result: median {meter.delay(50):.1f} ms, p95 {meter.delay(95):.1f} ms; "
                f"{meter.dropped} pictures came too soon and were left out"
            )
        print(line)


def summary(detections: Detections) -> str:
    """ "3 objects (2 person, 1 dog)" """
    if not len(detections):
        return "no objects"
    counts = ", ".join(f"{count} {printable(name)}" for name, count in Counter(detections.names).most_common())
    return f"{len(detections)} object{'s' if len(detections) > 1 else ''} ({counts})"
