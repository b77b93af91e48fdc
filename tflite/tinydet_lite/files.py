"""Writing files so that a reader sees the old one or the whole new one, never half of it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Union

from .errors import UserError, os_reason

PathLike = Union[str, "os.PathLike[str]"]

# Names of temporary files; nobody else's look like this, so that remove_leftovers takes no one's file. They end as the
# target does, cut to 50 characters: a name may fill the file system's 255 bytes on its own.
_TEMPORARY = ".tinydet-partial-{token}-{end}"
_LEFTOVER = re.compile(r"\.tinydet-partial-[0-9a-f]{12}-.{1,50}", re.DOTALL)
_TOKEN_BYTES = 6
_END_LENGTH = 50


def check_target(path: PathLike) -> Path:
    """Refuse what `atomic_path` could never write, for instance before the work whose result it would be.

    Args:
        path: the file to write later.

    Returns:
        `path` as a Path.

    Raises:
        UserError: `path` is a folder or a device, or its folder does not exist.
    """
    target = Path(path)
    # os.path rather than Path's methods, which raise where a part of the path may not be looked at.
    if os.path.isdir(target):
        raise UserError(f"cannot write {target}: it is a folder; give a file name")
    if os.path.exists(target) and not os.path.isfile(target):
        # For root, os.replace would put a file in the place of /dev/null.
        raise UserError(f"cannot write {target}: it is a device or the like; give a file name")
    if not os.path.isdir(target.parent):
        raise UserError(f"cannot write {target}: there is no folder {target.parent}")
    return target


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it becomes `path` in one step.

    The temporary name ends as `path` does, because some writers look at the extension. If the block raises,
    the temporary file is removed and `path` is as it was.

    Args:
        path: the file to write. Its folder must exist.

    Raises:
        UserError: as `check_target`, or the folder cannot be written, or the disk is full.
    """
    target = check_target(path)
    token = secrets.token_hex(_TOKEN_BYTES)
    temporary = target.with_name(_TEMPORARY.format(token=token, end=target.name[-_END_LENGTH:]))
    try:
        yield temporary
        # Opened for writing, not reading: some systems refuse to sync a read-only descriptor.
        with open(temporary, "r+b") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {os_reason(error)}") from error
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


def remove_leftovers(folder: PathLike) -> list[Path]:
    """Remove the temporary files that `atomic_path` left in a folder because its process was killed.

    Only regular files named by its scheme, and not those of subfolders. A file that another process is writing at
    this moment looks the same: call it where one process at a time writes, before the writing starts.

    Args:
        folder: may be missing, and then holds nothing.

    Returns:
        What was removed, sorted. A file that cannot be removed stays: it only takes up room.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = [
                Path(entry.path)
                for entry in entries
                if _LEFTOVER.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {os_reason(error)}") from error
    removed = []
    for leftover in sorted(found):
        with suppress(OSError):
            leftover.unlink()
            removed.append(leftover)
    return removed
