"""UserError: the one exception that means "what came from outside is wrong", told in one line."""

from __future__ import annotations

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def printable(text: str) -> str:
    """Text from outside (a file's name, a model's labels) for the terminal, its control characters as escapes.

    They could move the cursor, change colours or begin a new line. What the terminal's encoding lacks is `cli.run`'s to
    escape.
    """
    return text.translate(_CONTROLS)


def shortened(what: object, most: int = 160) -> str:
    """An exception's words (its type's name where it has none) or any text, in a line of `most` letters at most."""
    text = " ".join(str(what).split()) or type(what).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


class UserError(ValueError):
    """Wrong input: a file, an argument, an image, an installation.

    The message is one clear line: what came, what was expected, what to do. Commands print it without a
    traceback and exit with 2 (see `cli.run`). A bug in this project is never a UserError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


def os_reason(error: OSError) -> str:
    """The operating system's own words for `error` ("No space left on device"), without its file names."""
    return error.strerror or str(error) or type(error).__name__
