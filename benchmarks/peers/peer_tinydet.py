"""Our own detector through its commands, so that its minutes and its AP are measured as those of the peers are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer_process import Job, Usage, run
from tinydet_tf.config import Config
from tinydet_tf.data.coco import CocoDataset

if TYPE_CHECKING:  # it loads TensorFlow, for which --help and a mistake should not wait
    from tinydet_tf.analysis.madds import Cost

RECIPE = "tinydet train with the arguments of the command; its best weights, chosen on val"
PACKAGES = ("tensorflow", "tf-keras", "litert-quantizer")
_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def title(job: Job) -> str:
    return f"TinyDet-{_config(job).variant}"


def lay_out(job: Job, splits: Mapping[str, CocoDataset]) -> None:
    """Nothing: it reads the data where it lies, and its run folder keeps that place."""


def train(job: Job, epochs: int, seed: int) -> Usage:
    limit = [] if job.limit is None else ["--set", f"data.limit={job.limit}"]
    return _script(
        job, "train.py", "--output", weights(job), "--overwrite", "--data", os.path.abspath(job.source),
        *job.arguments, "--set", f"train.epochs={epochs}", "--set", f"train.seed={seed}", *limit,
    )  # fmt: skip


def weights(job: Job) -> Path:
    """The run folder: what is evaluated of it is its best weights."""
    return job.output / "run"


def export(job: Job) -> dict[str, Path]:
    files = {kind: job.output / f"tinydet_{kind}.tflite" for kind in ("float32", "int8")}
    for kind, path in files.items():
        _script(job, "export.py", "--model", weights(job), "--format", kind, "--output", path)
    return files


def detect(job: Job, model: Path, dataset: CocoDataset, split: str) -> list[dict[str, Any]]:
    numbers = job.output / f"{split}_{model.name.replace('.', '_')}.json"
    limit = [] if job.limit is None else ["--limit", job.limit]
    data = ["--data", os.path.abspath(job.source), "--split", split, *limit]
    _script(job, "evaluate.py", "--model", model, *data, "--json", numbers)
    found = json.loads(numbers.with_suffix(".detections.json").read_text())
    # The file has the ids of the data set's, which may be texts.
    ids = {text: number for number, text in dataset.text_ids.items()}
    return [{**result, "image_id": ids.get(result["image_id"], result["image_id"])} for result in found]


def parameters(job: Job) -> int:
    return _cost(job).parameters


def macs(job: Job) -> int:
    """As the paper counts, without the zeros that the exporter puts between groups."""
    return round(1e6 * _cost(job).totals["total"])


def _cost(job: Job) -> Cost:
    from tinydet_tf.analysis.madds import measure
    from tinydet_tf.model.detector import TinyDet

    config = _config(job)
    return measure(TinyDet(config.model, len(config.class_names)))


def _config(job: Job) -> Config:
    from tinydet_tf.weights import read_config, weights_file

    config = read_config(weights_file(weights(job)))
    assert config is not None  # train.py wrote it
    return config


def _script(job: Job, name: str, *arguments: object) -> Usage:
    return run([str(job.python), str(_SCRIPTS / name), *map(str, arguments)], job.log)
