"""How every command of the project ends: 0 done, 2 wrong input (one line, no traceback), 130 interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .errors import UserError, os_reason

EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130
# What a shell reports for a program that SIGPIPE ended (`detect.py ... | head`).
EXIT_BROKEN_PIPE = 141


def run(main: Callable[[], None]) -> None:
    """Call `main` and turn what the user can mend into one line on stderr.

    Args:
        main: the command; it parses sys.argv itself. argparse's own errors already exit with 2.

    Returns when `main` returns. Exits with 2 on UserError and OSError (disk full, permission denied), with
    130 on Ctrl-C. Any other exception is a bug and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be valid text in the terminal's encoding; printing it must not be what fails.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        main()
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
    print(f"{_program()}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(EXIT_WRONG_INPUT)
