"""What a trained model looks like on the disk; nothing here waits for TensorFlow."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".weights.h5"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def is_run(path: Path) -> bool:
    """Whether it is a RUN folder or a weights file rather than a .tflite; what is not there is neither."""
    if path.is_dir():
        return True
    if not path.is_file():
        return False
    # By its first bytes; an empty or unknown file counts by its name.
    with open(path, "rb") as file:
        return file.read(len(_HDF5)) == _HDF5 or path.name.endswith(SUFFIX)
