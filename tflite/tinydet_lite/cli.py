"""How every command of the project ends: 0 done, 2 wrong input (one line, no traceback), 130 interrupted,
129 hung up, 143 terminated."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import UserError, os_reason, printable

EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130
# What a shell reports for a program that SIGPIPE ended (`detect.py ... | head`).
EXIT_BROKEN_PIPE = 141
#: What asks a program to end: `timeout`, `docker stop`, systemd; an ssh session that is gone (not on Windows).
TERMINATIONS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def run(main: Callable[[], None]) -> None:
    """Call `main` and turn what the user can mend into one line on stderr.

    Args:
        main: the command; it parses sys.argv itself. argparse's own errors already exit with 2.

    Returns when `main` returns. Exits with 2 on UserError and OSError (disk full, permission denied), with
    130 on Ctrl-C, with 143 on SIGTERM and 129 on SIGHUP; in each case after every `finally`, so that temporary
    files are gone. Any other exception is a bug and keeps its traceback.
    """
    with _orderly_termination():
        _run(main)


@contextmanager
def _orderly_termination() -> Iterator[None]:
    """Let TERMINATIONS raise SystemExit in the main thread. By themselves they end the process where it stands."""
    # Python allows signal handlers in the main thread alone. A handler that somebody set, or nohup's "ignore", stays.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in TERMINATIONS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, _frame: Any) -> None:
    """End as a shell reports a program that this signal ended."""
    # Once is enough: a second one must not interrupt the cleaning up.
    for each in TERMINATIONS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _run(main: Callable[[], None]) -> None:
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be valid text in the terminal's encoding; printing it must not be what fails.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        main()
        if sys.stdout is not None:  # `>&-`
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        # Python flushes stdout once more while exiting and would complain; give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        _fail(": ".join([*names, os_reason(error)]))
    except KeyboardInterrupt:
        print(f"{_program()}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _program() -> str:
    return os.path.basename(sys.argv[0]) or "tinydet"


def _fail(message: str) -> None:
    # One line, whatever a library put into its message.
    print(f"{_program()}: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(EXIT_WRONG_INPUT)
