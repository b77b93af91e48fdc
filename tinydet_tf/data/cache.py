"""The folder for data that this project makes: the digits set and converted annotations."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$TINYDET_CACHE, else $XDG_CACHE_HOME/tinydet_tf, else ~/.cache/tinydet_tf. The folder may not exist yet."""
    named = os.environ.get("TINYDET_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "tinydet_tf"
