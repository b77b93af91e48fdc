"""A comparison of quantization schemes: a table, each row exported, evaluated and timed; resumable row by row.

The sensitivity of a part is the AP of the model with this part alone in int8, all else in float.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_lite.lab.benchmark import benchmark
from tinydet_lite.lab.inspection import inspect_model
from tinydet_tf.config import Config
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.export.calibration import CalibrationImages, Observation, observe
from tinydet_tf.export.convert import to_flatbuffer, with_metadata
from tinydet_tf.export.graph import HostGraph
from tinydet_tf.export.quantize import observed_tensors, quantize, written_tensors
from tinydet_tf.export.schemes import FORMATS, METHODS, Arithmetic, Scheme
from tinydet_tf.model.detector import TinyDet

REFERENCE = "float32"
_SENSITIVITY = "only "
_SIZES = (1, 4, 8, 16, 32, 64, 128)
_RUNS = 30
#: Of a finished row in the json.
_COLUMNS = {
    "scheme", "images", "AP", "AP50", "APs", "bytes", "milliseconds", "reference_milliseconds", "partitions",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: its name, the scheme, and how many calibration images (0 for schemes without)."""

    name: str
    scheme: Scheme
    images: int

    def identity(self) -> dict[str, Any]:
        return {"scheme": self.scheme.to_dict(), "images": self.images}


def comparison_rows(tensors: Iterable[str], *, images: int, sensitivity: bool = True) -> dict[str, Row]:
    """All rows, by name.

    Args:
      tensors: names of the tensors of the model to be quantized: they tell its parts.
      images: calibration images, where the number is not what is varied.
      sensitivity: with the rows that quantize one part alone.
    """
    static = FORMATS["int8"]
    parts = scopes(tensors)
    schemes = dict(FORMATS)
    for method in METHODS:
        if method != static.method:
            schemes[f"int8 {method}"] = dataclasses.replace(static, method=method)
    schemes["int8, biases as they are"] = dataclasses.replace(static, bias_correction=False)
    schemes["int8, channels as they are"] = dataclasses.replace(static, equalization=False)
    blocks = [part for part in parts if re.fullmatch(r"trunk/(stem|block\d+)", part)]
    kept = {
        "rpn": (r"trunk/rpn\d*",),
        "head": ("head",),
        "fpn": (r"trunk/(fpn|lateral)\d*",),
        "first blocks": tuple(blocks[:3]),
        "last block": tuple(blocks[-1:]),
    }
    for name, patterns in kept.items():
        schemes[f"int8, {name} in float"] = dataclasses.replace(static, float_parts=patterns)
    rows = {name: Row(name, scheme, images if scheme.integer else 0) for name, scheme in schemes.items()}
    for count in (size for size in _SIZES if size < images):
        rows[f"int8 {count} images"] = Row(f"int8 {count} images", static, count)
    if sensitivity:
        for part in parts:
            name = f"{_SENSITIVITY}{part}"
            rows[name] = Row(name, dataclasses.replace(static, parts=(part,)), images)
    return rows


def scopes(tensors: Iterable[str]) -> list[str]:
    """The parts that can be quantized one at a time, in the graph's order: 'trunk/block1', 'trunk/rpn0', 'head'."""
    found = (re.match(r"(?:trunk/[a-z]+\d*|head)(?=/)", name) for name in tensors)
    return list(dict.fromkeys(match[0] for match in found if match))


def select(rows: dict[str, Row], only: Sequence[str]) -> dict[str, Row]:
    """The rows asked for, all where none is; the reference always.

    Raises:
      UserError: a row that does not exist; the message lists what there is.
    """
    unknown = [name for name in only if name not in rows]
    if unknown:
        raise UserError(f"scheme {unknown[0]!r} does not exist; choose from: {'; '.join(rows)}")
    return {name: row for name, row in rows.items() if not only or name in only or name == REFERENCE}


class Results:
    """The finished rows of one model on one data set, in a json that is written after each.

    Args:
      path: of the json; what is in it already is kept.
      identity: what the rows are valid for: weights, data, number of images.

    Raises:
      UserError: the file is of another model or data, or is none of ours.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.rows: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                stored = json.loads(path.read_text())
                rows = {str(name): dict(row) for name, row in stored["rows"].items()}
                known = dict(stored["identity"])
                if any(not row.keys() >= _COLUMNS for row in rows.values()):
                    raise ValueError("a row lacks a column")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path} is not a file of quantization experiments; give another --json") from error
            if known != identity:
                changed = [key for key in identity if known.get(key) != identity[key]]
                raise UserError(f"{path} holds experiments with other {', '.join(changed)}; give another --json")
            self.rows = rows

    def has(self, row: Row) -> bool:
        """Whether the row is there, with this very scheme."""
        stored = self.rows.get(row.name)
        return stored is not None and row.identity().items() <= stored.items()

    def add(self, row: Row, values: dict[str, Any]) -> None:
        self.rows[row.name] = {**row.identity(), **values}
        content = {"identity": self.identity, "rows": self.rows}
        atomic_write(self.path, (json.dumps(content, indent=1) + "\n").encode())


class Bench:
    """Runs rows on one detector and data set; keeps traced graphs and observations between them."""

    def __init__(
        self,
        detector: TinyDet,
        config: Config,
        samples: CalibrationImages,
        measure: Callable[[Path], dict[str, float]],
        image: Path,
    ) -> None:
        """
        Args:
          samples: calibration images, as many as any row asks for.
          measure: a .tflite -> COCO's numbers.
          image: what is timed on.
        """
        self.detector, self.config, self.samples = detector, config, samples
        self.measure, self.image = measure, image
        self._graphs: dict[Arithmetic, bytes] = {}
        self._observations: dict[int, dict[str, Observation]] = {}  # by the number of images

    def float_model(self, arithmetic: Arithmetic) -> bytes:
        """The float flatbuffer, traced for some arithmetic."""
        if arithmetic not in self._graphs:
            self._graphs[arithmetic] = to_flatbuffer(HostGraph(self.detector, arithmetic=arithmetic))
        return self._graphs[arithmetic]

    def tensors(self) -> list[str]:
        return list(written_tensors(self.float_model("integer")))

    def run(self, row: Row) -> dict[str, Any]:
        """AP and APs (0..1), size in bytes, median milliseconds of one thread beside the float form's in the same run,
        partitions."""
        model = self.float_model(row.scheme.arithmetic)
        samples = self.samples.first(row.images) if row.scheme.integer else None
        observations = None
        if samples is not None:
            if len(samples) not in self._observations:
                self._observations[len(samples)] = observe(model, samples, observed_tensors(model))
            observations = self._observations[len(samples)]
        quantized = quantize(model, row.scheme, samples, observations=observations).model
        with tempfile.TemporaryDirectory() as folder:
            path, reference = Path(folder) / "row.tflite", Path(folder) / "reference.tflite"
            for file, content in ((path, quantized), (reference, self.float_model("float32"))):
                atomic_write(file, with_metadata(content, self.detector, self.config, row.scheme.name))
            metrics = self.measure(path)
            models = [path, reference]
            times = benchmark(models, (1,), runs=_RUNS, warmup=3, image=self.image, times_only=True).results
            size = path.stat().st_size
        partitions = inspect_model(quantized).partitions
        return {
            "AP": metrics["AP"],
            "AP50": metrics["AP50"],
            "APs": metrics["APs"],
            "bytes": size,
            "milliseconds": times[0].invoke.median,
            "reference_milliseconds": times[1].invoke.median,
            "partitions": None if partitions is None else len(partitions),
        }


def identity_of(detector: TinyDet, dataset: CocoDataset, samples: CalibrationImages) -> dict[str, Any]:
    """What makes two tables comparable: weights, the pictures that are evaluated with their objects, calibration."""
    evaluated = [(image.path.name, image.boxes.tolist(), image.classes.tolist()) for image in dataset.images]
    return {
        "weights": _digest(np.ascontiguousarray(weight).tobytes() for weight in detector.get_weights()),
        "data": [len(dataset), _digest([repr(evaluated).encode()])],
        "calibration": [len(samples), _digest([samples.images.tobytes()])],
    }


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def table(results: Results, names: Sequence[str]) -> list[list[str]]:
    """The finished rows among `names` as text: name, AP, APs (in points), MB, milliseconds, ratio, partitions."""
    lines = []
    for name in names:
        row = results.rows.get(name)
        if row is not None:
            lines.append([
                name, f"{100 * row['AP']:.2f}", f"{100 * row['APs']:.2f}" if row["APs"] >= 0 else "-",
                f"{row['bytes'] / 1e6:.2f}", f"{row['milliseconds']:.1f}",
                f"{row['milliseconds'] / row['reference_milliseconds']:.2f}",
                "-" if row["partitions"] is None else str(row["partitions"]),
            ])  # fmt: skip
    return lines


TABLE_HEADER = ("scheme", "AP", "APs", "MB", "ms", "/ float32", "partitions")
