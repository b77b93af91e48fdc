"""What a trained model looks like on the disk; nothing here waits for TensorFlow."""

from __future__ import annotations

from pathlib import Path

from tinydet_lite.models import model_file

SUFFIX = ".weights.h5"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def model_path(model: str | Path) -> Path:
    """A RUN folder or a file as it was given; for the name of a model that comes along, which no run and no file here
    has, that model's file."""
    path = Path(model)
    return path if path.is_dir() and any(path.glob(f"*{SUFFIX}")) else model_file(model)


def is_run(path: Path) -> bool:
    """Whether it is a RUN folder or a weights file rather than a .tflite; what is not there is neither."""
    if path.is_dir():
        return True
    if not path.is_file():
        return False
    # By its first bytes; an empty or unknown file counts by its name.
    with open(path, "rb") as file:
        return file.read(len(_HDF5)) == _HDF5 or path.name.endswith(SUFFIX)
