"""tinydet_lite: TinyDet on the edge. Needs numpy, Pillow and a TFLite runtime; never TensorFlow.

from tinydet_lite import Detector, draw

detector = Detector("tinydet_s.tflite")
detections = detector("street.jpg")
draw("street.jpg", detections).save("street_detected.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .detections import Detection, Detections
from .detector import Detector, Timing
from .errors import UserError
from .metadata import ModelInfo, NmsSettings
from .preprocess import load_image
from .tiles import TiledDetector

if TYPE_CHECKING:
    from .media.drawing import draw

__version__ = "0.1.0"

__all__ = [
    "Detection",
    "Detections",
    "Detector",
    "ModelInfo",
    "NmsSettings",
    "TiledDetector",
    "Timing",
    "UserError",
    "__version__",
    "draw",
    "load_image",
]


def __getattr__(name: str) -> Any:
    # Lazy: who only detects does not load fonts and colours.
    if name == "draw":
        from .media.drawing import draw

        return draw
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
