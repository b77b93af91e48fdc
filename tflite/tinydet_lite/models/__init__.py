"""The trained models that come with the package, by name; docs/ has a page on each that says how it was made."""

from __future__ import annotations

import os
from pathlib import Path

from ..files import PathLike

#: Finds handwritten digits (docs/digits_s.md). `make shipped-model` makes it.
DIGITS = Path(__file__).with_name("digits_s_int8.tflite")
#: Finds persons, cars, bicycles and other vehicles in thermal pictures from the air (docs/hituav_s.md). Trained on
#: HIT-UAV (Suo et al., Scientific Data, 2023; CC BY 4.0). `make shipped-hituav` makes it.
HITUAV = Path(__file__).with_name("hituav_s_int8.tflite")
#: What `--model` and `Detector` take instead of a path.
SHIPPED = {"digits": DIGITS, "hituav": HITUAV}


def model_file(model: PathLike) -> Path:
    """A model's file: that of a name in SHIPPED, or the path that was given.

    A file that lies here under the name of a shipped model comes before it; a folder, as of its data set, does not.
    """
    path = Path(model)
    return path if os.path.lexists(path) and not path.is_dir() else SHIPPED.get(os.fspath(model), path)
