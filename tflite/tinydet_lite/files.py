"""Writing files so that a reader sees the old one or the whole new one, never half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Union

from .errors import UserError, os_reason

PathLike = Union[str, "os.PathLike[str]"]


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it becomes `path` in one step.

    The temporary name ends as `path` does, because some writers look at the extension. If the block raises,
    the temporary file is removed and `path` is as it was.

    Args:
        path: the file to write. Its folder must exist.

    Raises:
        UserError: the folder cannot be written, the disk is full, or `path` is a folder.
    """
    target = Path(path)
    # Cut to 50 characters: a name may fill the file system's 255 bytes on its own.
    temporary = target.with_name(f".{secrets.token_hex(6)}-{target.name[-50:]}")
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give a file name")
    try:
        yield temporary
        # Opened for writing, not reading: some systems refuse to sync a read-only descriptor.
        with open(temporary, "r+b") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not target.parent.is_dir():
            reason = f"there is no folder {target.parent}"
        else:
            reason = os_reason(error)
        raise UserError(f"cannot write {target}: {reason}") from error
    finally:
        # After os.replace there is nothing left to remove; a failed unlink must not hide the first error.
        with suppress(OSError):
            temporary.unlink()


def atomic_write(path: PathLike, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        UserError: as `atomic_path`.
    """
    # "xb" rather than tempfile: a file made by tempfile is readable by its owner alone, and stays so.
    with atomic_path(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
