"""torchvision's SSDLite320-MobileNetV3-Large from random weights, by ssdlite_program.py in its own environment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peer_data import coco_results, write_coco
from peer_process import Job, Usage, run
from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import CocoDataset

RECIPE = (
    "torchvision's reference recipe for one process: SGD, batches of 24, learning rate 0.15 / 8, cosine, IoU crops and "
    "flips; the last epoch's weights"
)
PACKAGES = ("torch", "torchvision", "litert-torch", "ai-edge-quantizer")
_PROGRAM = Path(__file__).with_name("ssdlite_program.py")
_PARAMETERS = re.compile(r"^parameters (\d+)$", re.MULTILINE)


def title(job: Job) -> str:
    return "SSDLite-MobileNetV3-Large"


def lay_out(job: Job, splits: Mapping[str, CocoDataset]) -> None:
    write_coco(splits, job.data)


def train(job: Job, epochs: int, seed: int) -> Usage:
    return _program(job, "train", job.data, weights(job), "--epochs", epochs, "--seed", seed)


def weights(job: Job) -> Path:
    return job.output / "last.pt"


def export(job: Job) -> dict[str, Path]:
    files = {kind: job.output / f"ssdlite_{kind}.tflite" for kind in ("float32", "int8")}
    _program(job, "export", job.data, weights(job), *files.values())
    return files


def detect(job: Job, model: Path, dataset: CocoDataset, split: str) -> list[dict[str, Any]]:
    found = job.output / f"{split}_{model.stem}.json"
    _program(job, "detect", job.data, model, weights(job), found, "--split", split)
    return coco_results(json.loads(found.read_text()), dataset.category_ids, first_class=0)


def parameters(job: Job) -> int:
    found = _PARAMETERS.findall(job.log.read_text(errors="replace"))
    if not found:
        raise UserError(f"ssdlite_program.py printed no number of parameters; see {job.log}")
    return int(found[-1])


def _program(job: Job, *arguments: object) -> Usage:
    return run([str(job.python), str(_PROGRAM), *map(str, arguments)], job.log)
