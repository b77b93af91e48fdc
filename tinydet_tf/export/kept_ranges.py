"""What a quantization-aware run keeps for its int8 export: the ranges of the exported graph's tensors.

They are measured at the end of the run, on training images, with the float graph that the int8 .tflite is made of and
the best weights: the run's own ranges know the detector's layers, these know the tensors of whatever form the exporter
rewrites the layers to. The file is calibration.json in the run folder.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_tf.commands import command_text
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.export.calibration import CalibrationImages, Observation, load_calibration_images, observe, ranges
from tinydet_tf.export.convert import to_flatbuffer
from tinydet_tf.export.graph import HostGraph
from tinydet_tf.export.quantize import observed_tensors
from tinydet_tf.export.schemes import FORMATS
from tinydet_tf.weights import CALIBRATION, load_detector, weights_file

_LOG = logging.getLogger(__name__)


def keep_ranges(folder: Path, train_data: CocoDataset) -> None:
    """Measures the ranges of a run's best weights and writes them into its folder.

    Where the images cannot be used any more it warns instead: the run is done, and its export can still be calibrated.

    Raises:
      UserError: the folder cannot be written.
    """
    detector, config = load_detector(folder)
    try:
        samples = load_calibration_images(train_data, config.model.input_size)
    except UserError as error:
        _LOG.warning("no ranges are kept for the int8 export (%s); give it images to calibrate with", error)
        return
    model = to_flatbuffer(HostGraph(detector, integer=True))
    method = FORMATS["int8"].method
    found = ranges(observe(model, samples, observed_tensors(model)), method)
    content = {
        "weights_sha256": _digest(weights_file(folder)),
        "method": method,
        "source": samples.source,
        "seed": samples.seed,
        "image_ids": samples.image_ids,
        "files": samples.files,
        "ranges": found,
    }
    atomic_write(folder / CALIBRATION, (json.dumps(content, indent=1) + "\n").encode())
    export = f"{command_text('export')} --format int8"
    _LOG.info("ranges of %d tensors, from %s: %s needs no images", len(found), samples.source, export)


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
    return Observation(np.array([low]), np.array([high]), np.array([[low, high]], np.float32))


def _digest(weights: Path) -> Any:
    with h5py.File(weights, "r") as file:
        return file.attrs.get("tinydet_sha256")
