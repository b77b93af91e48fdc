"""Ctrl-C, SIGTERM and SIGHUP as a question that is asked between two pictures, so that files are closed whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ..cli import TERMINATIONS


class StopSignals:
    """Within its block a first Ctrl-C or one of TERMINATIONS is only noted: call the object to ask.

    A second one raises KeyboardInterrupt, for whoever does not want to wait; not after `finishing` was called.
    Outside the main thread, where Python allows no handlers, and for signals that are ignored (nohup), it does
    nothing.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._finishing = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *TERMINATIONS):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._signal is not None

    def finishing(self) -> None:
        """From here on no signal interrupts: files are being closed."""
        self._finishing = True

    def pass_on(self) -> None:
        """Raise what the signal would have raised by itself (see `cli.run`); nothing if none came."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = self._signal is not None
        self._signal = self._signal or number
        if again and not self._finishing:
            raise KeyboardInterrupt
