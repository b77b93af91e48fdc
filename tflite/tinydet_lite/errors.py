"""UserError: the one exception that means "what came from outside is wrong", told in one line."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input: a file, an argument, an image, an installation.

    The message is one clear line: what came, what was expected, what to do. Commands print it without a
    traceback and exit with 2 (see `cli.run`). A bug in this project is never a UserError.
    """


def os_reason(error: OSError) -> str:
    """The operating system's own words for `error` ("No space left on device"), without its file names."""
    return error.strerror or str(error) or type(error).__name__
