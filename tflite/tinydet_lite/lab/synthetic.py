"""A picture for measuring speed where none is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def synthetic_image(seed: int = 0) -> NDArray[np.uint8]:
    """Smooth coloured noise, uint8 [480, 640, 3], fixed by its seed. A detector finds little in it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC))
