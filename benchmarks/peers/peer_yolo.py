"""YOLO11n by Ultralytics, from random weights, through the command `yolo` of an environment of its own.

Ultralytics is AGPL-3.0: nothing here imports it, and the project does not depend on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peer_data import coco_results, write_yolo
from peer_process import Job, Usage, run
from tinydet_lite.errors import UserError
from tinydet_tf.data.coco import CocoDataset

RECIPE = "Ultralytics' defaults at imgsz=320, pretrained=False; its best.pt, chosen on val"
PACKAGES = ("ultralytics", "torch", "torchvision", "litert-torch", "ai-edge-quantizer")
_SIZE = 320
_FIRST_CLASS = 1  # Ultralytics' jsons count categories from 1
_PARAMETERS = re.compile(r"summary.*?([\d,]+) parameters")


def title(job: Job) -> str:
    return "YOLO11n"


def lay_out(job: Job, splits: Mapping[str, CocoDataset]) -> None:
    write_yolo(splits, job.data)


def train(job: Job, epochs: int, seed: int) -> Usage:
    return _yolo(
        job, ("detect", "train"), model="yolo11n.yaml", data=job.data / "data.yaml", imgsz=_SIZE, epochs=epochs,
        seed=seed, pretrained=False, device="cpu", plots=False, project=job.output, name="train", exist_ok=True,
    )  # fmt: skip


def weights(job: Job) -> Path:
    return job.output / "train" / "weights" / "best.pt"


def export(job: Job) -> dict[str, Path]:
    """Ultralytics' own LiteRT files; int8 is calibrated on val, its default, and its inputs and outputs are float."""
    files = {"float32": weights(job).with_suffix(".tflite"), "int8": weights(job).with_name("best_int8.tflite")}
    for kind, settings in (("float32", {}), ("int8", {"quantize": 8, "data": job.data / "data.yaml"})):
        _yolo(job, ("export",), model=weights(job), format="litert", imgsz=_SIZE, device="cpu", **settings)
        if not files[kind].is_file():
            raise UserError(f"Ultralytics wrote no {files[kind]}; see {job.log}")
    return files


def detect(job: Job, model: Path, dataset: CocoDataset, split: str) -> list[dict[str, Any]]:
    """COCO results of a .pt or an exported file on a split, as Ultralytics' own validation finds them."""
    name = f"{split}_{model.name.replace('.', '_')}"
    _yolo(
        job, ("detect", "val"), model=model, data=job.data / "data.yaml", imgsz=_SIZE, split=split, save_json=True,
        device="cpu", plots=False, project=job.output, name=name, exist_ok=True,
    )  # fmt: skip
    path = job.output / name / "predictions.json"
    if not path.is_file():
        raise UserError(f"Ultralytics wrote no {path}; see {job.log}")
    return coco_results(json.loads(path.read_text()), dataset.category_ids, first_class=_FIRST_CLASS)


def parameters(job: Job) -> int:
    """Of the network as it detects, batch normalization folded in: the last that Ultralytics printed."""
    found = _PARAMETERS.findall(job.log.read_text(errors="replace"))
    if not found:
        raise UserError(f"Ultralytics printed no number of parameters; see {job.log}")
    return int(found[-1].replace(",", ""))


def _yolo(job: Job, words: tuple[str, ...], **settings: object) -> Usage:
    # Its settings and fonts stay in the environment; nothing is fetched, installed or reported while it runs.
    variables = {
        "YOLO_CONFIG_DIR": str(job.python.parents[1] / "settings"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
    }
    command = [str(job.python.with_name("yolo")), *words, *(f"{key}={value}" for key, value in settings.items())]
    return run(command, job.log, variables=variables)
