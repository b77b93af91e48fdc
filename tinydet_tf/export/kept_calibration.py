"""A quantization-aware run's int8 .tflite while it trains, and the calibration that it keeps to export its best.

The run's own ranges know the detector's layers; these are of the tensors of whatever form the exporter rewrites the
layers to, measured on training images, with the channels equalized and the biases corrected as in every int8 file. What
is validated is a file made so, so the best weights are those of the best file, and the export writes that file again,
without images. The calibration is calibration.json in the run folder.
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
from tinydet_tf.export.calibration import Calibration, load_calibration_images
from tinydet_tf.export.convert import export
from tinydet_tf.export.schemes import FORMATS
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.weights import CALIBRATION, weights_file


class Int8Form:
    """What `export --format int8` makes of a detector's weights, whatever they are at the moment.

    Args:
      detector: whose weights change.
      config: the run's, with its classes.
      train_data: which images it is calibrated with is chosen once, as export does.

    Raises:
      UserError: the images cannot be used.
    """

    def __init__(self, detector: TinyDet, config: Config, train_data: CocoDataset) -> None:
        self._detector, self._config = detector, config
        self._samples = load_calibration_images(train_data, config.model.input_size)
        self._calibration: Calibration | None = None

    def renew(self) -> Detector:
        """Exports the weights as they are now: a detector that runs the file, none of its detections left out."""
        exported = export(self._detector, self._config, FORMATS["int8"], samples=self._samples)
        self._calibration = exported.calibration
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.tflite"
            file.write_bytes(exported.model)
            return Detector(file, score_threshold=0.0)

    def keep(self, folder: Path) -> None:
        """Writes the calibration of the last file into the run folder, whose best weights are those it was made of.

        Raises:
          UserError: the folder cannot be written.
        """
        assert self._calibration is not None, "nothing was exported yet"
        content = {"weights_sha256": _digest(weights_file(folder)), **dataclasses.asdict(self._calibration)}
        for name in ("factors", "biases"):
            content[name] = {tensor: values.tolist() for tensor, values in content[name].items()}
        atomic_write(folder / CALIBRATION, (json.dumps(content, indent=1) + "\n").encode())


def kept_calibration(model: Path) -> Calibration | None:
    """What a run's best weights were calibrated with, for `convert.export`. None: it has kept nothing.

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
        digest = content["weights_sha256"]
        calibration = Calibration(
            method=str(content["method"]),
            source=f"{content['source']}, by quantization-aware training",
            seed=int(content["seed"]),
            image_ids=tuple(content["image_ids"]),
            files=tuple(content["files"]),
            ranges={name: (float(low), float(high)) for name, (low, high) in content["ranges"].items()},
            factors={name: np.array(values, np.float64) for name, values in content["factors"].items()},
            biases={name: np.array(values, np.int32) for name, values in content["biases"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is damaged or of another version; remove it to calibrate with images instead"
        ) from error
    if digest != _digest(weights):
        if weights != weights_file(weights.parent):
            return None  # for example last.weights.h5: best.weights.h5 was calibrated
        raise UserError(f"{path} is of other weights than {weights.name}; finish the run with --resume, or remove it")
    return calibration


def _digest(weights: Path) -> Any:
    with h5py.File(weights, "r") as file:
        return file.attrs.get("tinydet_sha256")
