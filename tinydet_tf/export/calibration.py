"""The images that ranges come from, and the ranges of a float model's tensors over them.

Shape letters: N images, S input size, T tensors, K values kept of a tensor and image.

litert-quantizer calibrates by min and max alone, and goes over each image once a method. Here one pass over the images
keeps enough of each tensor for every method.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import logging
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinydet_lite.detector import INPUT
from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_tf.config import Config, DataConfig
from tinydet_tf.data.coco import CocoDataset, CocoImage
from tinydet_tf.data.opening import load_prepared, usable
from tinydet_tf.data.splits import data_of

_LOG = logging.getLogger(__name__)

#: What to do where a package is missing.
INSTALL = "install it with pip install 'tinydet-tf[quantize]'"
#: docs/quantization.md says what fewer cost.
DEFAULT_IMAGES = 128
#: K: of a tensor that is larger, every n-th value. Ends of a range are taken from all of it.
_KEPT = 16384
_PERCENTILES = (0.001, 99.999)
#: What is narrower counts as zeros: float32 would hardly have a number for its scale.
_NARROWEST = 1e-20

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class CalibrationImages:
    """Images that ranges are measured on, as the wrapper would hand them to the network.

    Attributes:
      images: uint8 [N, S, S, 3] RGB.
      image_ids: of the data set, N.
      files: the images' file names, N.
      source: where they were chosen from, in words.
      seed: of the choice.
    """

    images: np.ndarray
    image_ids: tuple[int, ...]
    files: tuple[str, ...]
    source: str
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> CalibrationImages:
        """The first `count` of them; `choose` puts them in such an order that these are spread evenly too."""
        return dataclasses.replace(
            self, images=self.images[:count], image_ids=self.image_ids[:count], files=self.files[:count]
        )


def choose(num_images: int, count: int, seed: int) -> np.ndarray:
    """`count` different indices below num_images, one out of each of `count` equal stretches, in random order.

    Data sets are often sorted (by scene, by class): stretches are spread where a draw from all might not be.
    """
    rng = np.random.default_rng(seed)
    count = min(count, num_images)
    edges = np.linspace(0, num_images, count + 1)
    # Rounded up: stretches that do not end on an integer still share no index.
    starts, ends = np.ceil(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    return rng.permutation(rng.integers(starts, ends))


def load_calibration_images(
    dataset: CocoDataset, input_size: int, *, count: int = DEFAULT_IMAGES, seed: int = 0
) -> CalibrationImages:
    """Chooses images of a data set and prepares them exactly as tinydet_lite does.

    Another image is taken in place of one that cannot be used (data/opening.py).

    Args:
      dataset: usually the training split.
      input_size: S of the model.
      count: N; all images where there are fewer, with a warning.
      seed: of the choice.

    Raises:
      UserError: no images are there or asked for, or too many cannot be used.
    """
    if count < 1:
        raise UserError(f"{count} calibration images came; expected at least 1")
    if not dataset.images:
        raise UserError(f"{dataset.annotation_file} has no images to calibrate with; give --data with images")
    dataset = usable(dataset)
    if len(dataset) < count:
        _LOG.warning("calibrated with %d images, all that the data has; %d are better", len(dataset), count)
    chosen, images = _chosen(dataset, input_size, choose(len(dataset), count, seed).tolist())
    return CalibrationImages(
        images=np.stack(images),
        image_ids=tuple(image.id for image in chosen),
        files=tuple(image.path.name for image in chosen),
        source=f"{len(chosen)} of {len(dataset)} images of {dataset.annotation_file.name}",
        seed=seed,
    )


def _chosen(dataset: CocoDataset, input_size: int, indices: list[int]) -> tuple[list[CocoImage], list[np.ndarray]]:
    """The images at `indices`, uint8 [S, S, 3]; for one that turns out damaged the next that was not chosen."""
    assert dataset.skipped is not None
    spare = sorted(set(range(len(dataset))) - set(indices))
    chosen, images = [], []
    while indices:
        index = indices.pop(0)
        image = dataset.images[index]
        try:
            ready = load_prepared(image.path, image.width, image.height, input_size, as_stored=image.as_stored)
            images.append(ready.resized)
            chosen.append(image)
        except UserError as error:
            dataset.skipped.skip(image.path, error)
            if spare:
                place = bisect.bisect(spare, index) % len(spare)
                indices.insert(0, spare.pop(place))
    return chosen, images


def calibration_data(config: Config, root: str | None = None, model: Path | None = None) -> DataConfig:
    """Where calibration images come from: the folder given, else the data that the model was trained on.

    Args:
      model: its file or run folder, near which its data may lie.

    Raises:
      UserError: neither is known.
    """
    if root is not None:
        return DataConfig(root=root, voc_first_pixel=config.data.voc_first_pixel)
    return data_of(config, model)


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """What one tensor held.

    Attributes:
      low, high: float64 [N], the ends image by image.
      values: float32 [N, <= K], every `step`-th number.
      channel_low, channel_high: float32 [N, C], the ends of each channel, the last axis, image by image.
      step: which of the numbers are kept.
    """

    low: np.ndarray
    high: np.ndarray
    values: np.ndarray
    channel_low: np.ndarray
    channel_high: np.ndarray
    step: int = 1

    def channel_ranges(self) -> np.ndarray:
        """How wide each channel is on average of the images, 0 included: float64 [C]."""
        wide = np.maximum(self.channel_high, 0.0) - np.minimum(self.channel_low, 0.0)
        return np.asarray(wide.mean(0, dtype=np.float64))

    def divided(self, factors: np.ndarray) -> Observation:
        """What the tensor would have held with its channels divided by these factors, positive [C]."""
        low, high = (ends / factors for ends in (self.channel_low, self.channel_high))
        kept = factors[np.arange(self.values.shape[1]) * self.step % len(factors)]
        return Observation(
            low.min(1).astype(np.float64),
            high.max(1).astype(np.float64),
            (self.values / kept).astype(np.float32),
            low.astype(np.float32),
            high.astype(np.float32),
            self.step,
        )


def observe(
    model: bytes, samples: CalibrationImages, tensors: Collection[str], *, threads: int = 1, progress: bool = False
) -> dict[str, Observation]:
    """Runs a float model over the samples and keeps of each tensor what every method needs.

    Args:
      model: a float .tflite with one uint8 input.
      tensors: names of float32 tensors of its main graph.
      threads: of the interpreter.
      progress: show a bar on a terminal.

    Raises:
      UserError: there are no samples, or the model takes images of another size.
    """
    if not len(samples):
        raise UserError("there are no calibration images; give at least one")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(f"calibration needs ai-edge-litert ({error}); {INSTALL}") from error
    with warnings.catch_warnings():
        # LiteRT warns that keeping all tensors takes memory. It is what calibration is for.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = Interpreter(model_content=model, num_threads=threads, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    wanted, came = [int(side) for side in image["shape"]], [1, *samples.images.shape[1:]]
    if wanted != came or image["dtype"] != np.uint8:
        raise UserError(
            f"the calibration images are uint8 {came}, the model takes {INPUT} as {np.dtype(image['dtype'])} {wanted}; "
            "prepare them for this model's input size"
        )
    index_of = {d["name"]: d["index"] for d in interpreter.get_tensor_details() if d["name"] in tensors}
    missing = sorted(set(tensors) - set(index_of))
    if missing:
        raise ValueError(f"the model has no tensors {missing[:5]}")
    low: dict[str, list[np.ndarray]] = {name: [] for name in index_of}
    high: dict[str, list[np.ndarray]] = {name: [] for name in index_of}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in index_of}
    steps: dict[str, int] = {}
    for pixels in tqdm(samples.images, unit="image", disable=None if progress else True):
        interpreter.set_tensor(image["index"], pixels[None])
        interpreter.invoke()
        for name, index in index_of.items():
            values = interpreter.get_tensor(index)
            rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
            low[name].append(rows.min(0))
            high[name].append(rows.max(0))
            # An odd step: an even one could meet the same channels only.
            steps[name] = -(-values.size // _KEPT) | 1
            kept[name].append(values.reshape(-1)[:: steps[name]].copy())
    return {name: _observation(low[name], high[name], kept[name], steps[name]) for name in index_of}


def _observation(low: list[np.ndarray], high: list[np.ndarray], kept: list[np.ndarray], step: int) -> Observation:
    lows, highs = np.stack(low), np.stack(high)
    ends = lows.min(1).astype(np.float64), highs.max(1).astype(np.float64)
    return Observation(*ends, np.stack(kept), lows, highs, step)


def ranges(observations: dict[str, Observation], method: str = "min_max") -> dict[str, Range]:
    """The range of each tensor; 0 always lies in it, so that padding is exact, and it is wide enough for a scale.

    Args:
      method: one of `schemes.METHODS`.
    """
    found = {}
    for name, seen in observations.items():
        low, high = seen.low.min(), seen.high.max()
        if method == "percentile":
            low, high = np.percentile(seen.values, _PERCENTILES)
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        # Of nothing but zeros every scale is exact.
        found[name] = (low, high) if high - low > _NARROWEST else (0.0, 1.0)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What a static model was calibrated with, and what came of it: enough to quantize the same weights again.

    Attributes:
      method: a key of `schemes.METHODS`.
      source, seed, image_ids, files: as in `CalibrationImages`.
      ranges: of the tensors as they are rounded, their channels divided.
      factors: of each tensor whose channels were divided (equalization.py), by what: float64 [C].
      biases: of each layer whose biases were corrected (bias_correction.py), by what it writes: int32 [C].
    """

    method: str
    source: str
    seed: int
    image_ids: tuple[int, ...]
    files: tuple[str, ...]
    ranges: dict[str, Range]
    factors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    biases: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def note(self) -> str:
        """For people, one line."""
        return f"{self.source}, seed {self.seed}, {self.method}"


def calibration_file(model: Path) -> Path:
    """X.tflite -> X.calibration.json."""
    return model.with_suffix(".calibration.json")


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Writes the images and the ranges as json, whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    content = dataclasses.asdict(calibration)
    del content["factors"], content["biases"]
    atomic_write(path, (json.dumps(content, indent=1) + "\n").encode())
