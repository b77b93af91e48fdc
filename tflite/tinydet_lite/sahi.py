"""SAHI's slicing with a TinyDet .tflite: a DetectionModel for `sahi.predict`. Needs sahi (pip install sahi), not torch.

Import it by its full name, `from tinydet_lite.sahi import TinyDetDetectionModel`; nothing else here imports it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .detections import Detections
from .detector import Detector
from .errors import UserError

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
except ImportError as missing:
    # Importing is no error, so that tools may import every module of the package; making a model is.
    DetectionModel, MISSING = object, str(missing)
else:
    MISSING = ""


class TinyDetDetectionModel(DetectionModel):
    """A TinyDet .tflite for `sahi.predict.get_prediction`, `get_sliced_prediction` and `predict`.

    It takes SAHI's own arguments. Those that matter:

        model_path: a .tflite of scripts/export.py.
        model: a Detector, instead of model_path. Its score_threshold is set to SAHI's at each picture.
        confidence_threshold: detections score at least this (default: 0.3); SAHI's functions may override it.
        category_mapping: {"0": "name", ...}, instead of the file's labels.

    image_size is not used: the file has its input size. Nor is device: a .tflite runs on the CPU.

    Raises:
        UserError: as `Detector`, neither model_path nor model came, or sahi is not installed.
    """

    category_mapping: Any  # the base class sets it before it loads a model

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what SAHI's DetectionModel takes."""
        if MISSING:
            raise UserError(f"TinyDetDetectionModel needs sahi ({MISSING}); pip install sahi")
        super().__init__(*args, **kwargs)

    def load_model(self) -> None:
        """Load model_path."""
        if self.model_path is None:
            raise UserError("neither model_path nor model came; give model_path=, a .tflite, or model=, a Detector")
        self.set_model(Detector(self.model_path, score_threshold=self.confidence_threshold))

    def set_model(self, model: Any, **kwargs: Any) -> None:
        """Take a Detector that is loaded already."""
        if not isinstance(model, Detector):
            raise UserError(f"a model of type {type(model).__name__} came; expected a tinydet_lite.Detector")
        self.model = model
        if self.category_mapping is None:
            self.category_mapping = {str(class_id): label for class_id, label in enumerate(model.labels)}

    def perform_inference(self, image: NDArray[np.uint8]) -> None:
        """Run one picture or slice.

        Args:
            image: uint8 [H, W, 3], RGB, as SAHI reads it; of a grey or transparent picture [H, W] or [H, W, 4].
        """
        rgb = image.ndim == 3 and image.shape[2] == 3
        # A call of SAHI's may have a threshold of its own.
        self.model.score_threshold = float(self.confidence_threshold)
        self._original_predictions = self.model(image if rgb else Image.fromarray(image))

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        # One picture at a time: the base class calls this once a slice, whatever SAHI's batch size.
        found: Detections = self._original_predictions
        shift, shape = _single(shift_amount_list) or [0, 0], _single(full_shape_list)
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=list(one.box),
                    category_id=one.class_id,
                    category_name=self.category_mapping[str(one.class_id)],
                    score=one.score,
                    shift_amount=shift,
                    full_shape=shape,
                )
                for one in found
            ]
        ]


def _single(values: Any) -> Any:
    """Of [[x, y]] or [x, y] the latter: SAHI gives either."""
    return values[0] if values and isinstance(values[0], (list, tuple)) else values
