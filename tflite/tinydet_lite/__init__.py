"""tinydet_lite: TinyDet on the edge. Needs numpy, Pillow and a TFLite runtime; never TensorFlow.

from tinydet_lite import Detector, draw

detector = Detector("tinydet_s.tflite")
detections = detector("street.jpg")
draw("street.jpg", detections).save("street_detected.png")
"""

from __future__ import annotations

from .detections import Detection, Detections
from .detector import Detector, Timing
from .drawing import draw
from .errors import UserError
from .metadata import ModelInfo, NmsSettings
from .preprocess import load_image

__version__ = "0.1.0"

__all__ = [
    "Detection",
    "Detections",
    "Detector",
    "ModelInfo",
    "NmsSettings",
    "Timing",
    "UserError",
    "__version__",
    "draw",
    "load_image",
]
