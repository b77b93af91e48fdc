"""A quantization-aware run's int8 .tflite while it trains, and the ranges that it keeps for the export of its best.

The run's own ranges know the detector's layers; these are of the tensors of whatever form the exporter rewrites the
layers to, measured on training images. What is validated is a file made with them, so the best weights are those of the
best file, and the export writes that file again. The ranges are calibration.json in the run folder.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_tf.config import Config
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.export.calibration import Calibration, CalibrationImages, Observation, load_calibration_images
from tinydet_tf.export.convert import export
from tinydet_tf.export.schemes import FORMATS
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.weights import CALIBRATION, weights_file

#: Trained with its rounding: nothing is left to be corrected, weights stay in the steps that they have learnt with, and
#: what was validated is what is exported.
TRAINED = dataclasses.replace(FORMATS["int8"], bias_correction=False, equalization=False)


class Int8Form:
    """What `export --format int8` makes of a detector's weights, whatever they are at the moment.

    Args:
      detector: whose weights change.
      config: the run's, with its classes.
      train_data: which images the ranges are measured on is chosen once, as export does.

    Raises:
      UserError: the images cannot be used.
    """

    def __init__(self, detector: TinyDet, config: Config, train_data: CocoDataset) -> None:
        self._detector, self._config = detector, config
        self._samples = load_calibration_images(train_data, config.model.input_size)
        self._calibration: Calibration | None = None

    def renew(self) -> Detector:
        """Exports the weights as they are now: a detector that runs the file, none of its detections left out."""
        exported = export(self._detector, self._config, TRAINED, samples=self._samples)
        self._calibration = exported.calibration
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.tflite"
            file.write_bytes(exported.model)
            return Detector(file, score_threshold=0.0)

    def keep(self, folder: Path) -> None:
        """Writes the ranges of the last file into the run folder, whose best weights are those that it was made of.

        Raises:
          UserError: the folder cannot be written.
        """
        assert self._calibration is not None, "nothing was exported yet"
        content = {"weights_sha256": _digest(weights_file(folder)), **dataclasses.asdict(self._calibration)}
        atomic_write(folder / CALIBRATION, (json.dumps(content, indent=1) + "\n").encode())


def kept_ranges(model: Path) -> tuple[CalibrationImages, dict[str, Observation]] | None:
    """Samples and observations for `convert.export`: where ranges are from, and each tensor's. None: none were kept.

    Args:
      model: RUN or WEIGHTS in its folder, as `export --model` takes it.

    Raises:
      UserError: the file is damaged or of other weights.
    """
    weights = weights_file(model)
    path = weights.parent / CALIBRATION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        digest, found = content["weights_sha256"], content["ranges"]
        samples = CalibrationImages(
            images=np.zeros([0, 0, 0, 3], np.uint8),
            image_ids=tuple(content["image_ids"]),
            files=tuple(content["files"]),
            source=f"{content['source']}, by quantization-aware training",
            seed=int(content["seed"]),
        )
        observations = {name: _observed(float(low), float(high)) for name, (low, high) in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; remove it to calibrate with images instead") from error
    if digest != _digest(weights):
        if weights != weights_file(weights.parent):
            return None  # for example last.weights.h5: the ranges were measured with best.weights.h5
        raise UserError(f"{path} is of other weights than {weights.name}; finish the run with --resume, or remove it")
    return samples, observations


def _observed(low: float, high: float) -> Observation:
    return Observation(np.array([low]), np.array([high]), np.zeros([1, 0], np.float32))


def _digest(weights: Path) -> Any:
    with h5py.File(weights, "r") as file:
        return file.attrs.get("tinydet_sha256")
