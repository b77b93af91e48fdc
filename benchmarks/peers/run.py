#!/usr/bin/env python3
"""Trains another detector, or ours, on a data set of ours, evaluates it with our evaluation, and writes result.json.

    python benchmarks/peers/run.py yolo11n --data DIR --epochs 60 --output runs/peers/yolo11n
    python benchmarks/peers/run.py tinydet --data DIR --epochs 60 --output runs/peers/s -- --variant S

The peer trains by its own defaults, at 320 pixels, from random weights, in a Python environment of its own that the
first call builds. What is finished in the output folder is not done again, so that a call that was interrupted after
the training goes on there. Weights are chosen on val, if the peer chooses; the numbers are those of --split.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peer_ssdlite
import peer_tinydet
import peer_yolo
from peer_data import SPLITS, load_splits
from peer_process import Job, environment, versions
from tinydet_lite.cli import run
from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write
from tinydet_lite.guard.flatbuffer import read_flatbuffer
from tinydet_lite.lab.inspection import inspect_model
from tinydet_tf.data.coco import CocoDataset

ROOT = Path(__file__).resolve().parents[2]
PEERS: dict[str, Any] = {"yolo11n": peer_yolo, "ssdlite": peer_ssdlite, "tinydet": peer_tinydet}
FORMATS = ("float32", "int8")
_TRAINING, _RESULT = "training.json", "result.json"


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and those behind "--", which are our train command's."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="tinydet: what follows -- goes to `tinydet train`, for example -- --variant M --set train.ema=0.999",
    )  # fmt: skip
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="with train, val and test")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--epochs", type=int, metavar="N")
    length.add_argument(
        "--minutes", type=float, metavar="M", help="as many epochs as fit into M processor minutes by --measured"
    )
    parser.add_argument(
        "--measured", type=Path, metavar="RESULT.json", help="a finished run of the same peer and data: its minutes"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="(default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="made if it is missing")
    parser.add_argument("--split", choices=SPLITS, default="test", help="what is reported (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images of every split: to try it out")
    parser.add_argument(
        "--environment", type=Path, default=ROOT / ".venvs" / "peers", metavar="DIR",
        help="the peers' Python environment (default: .venvs/peers)",
    )  # fmt: skip
    return parser.parse_args(argv[:cut]), argv[cut + 1 :]


def epochs_within(minutes: float, measured: dict[str, Any]) -> int:
    """As many epochs as take `minutes` of processor time, rounded, at least one, by a finished run's result.

    Raises:
      UserError: the result has no minutes.
    """
    if not measured.get("processor_minutes"):
        raise UserError("the result of --measured has no processor minutes; give one of a run that was trained here")
    return max(1, math.floor(minutes * measured["epochs"] / measured["processor_minutes"] + 0.5))


def main() -> None:
    args, rest = parse(sys.argv[1:])
    peer = PEERS[args.peer]
    if rest and args.peer != "tinydet":
        raise UserError(f"{' '.join(rest)} came behind --, for tinydet alone; {args.peer} trains by its own defaults")
    args.epochs = _epochs(args)
    for name in ("epochs", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give at least 1")
    splits = load_splits(args.data, args.limit)
    args.output.mkdir(parents=True, exist_ok=True)
    asked = {
        "peer": args.peer, "data": args.data.resolve().name, "epochs": args.epochs, "seed": args.seed,
        "limit": args.limit, "arguments": rest,
    }  # fmt: skip
    training = _read(args.output / _TRAINING)
    if training is not None and training["asked"] != asked:
        raise UserError(f"{args.output} holds another training, {training['asked']}; give another folder")
    python = Path(sys.executable) if args.peer == "tinydet" else environment(args.environment)
    log = args.output / "log.txt"
    dataset = splits[args.split]
    with tempfile.TemporaryDirectory(prefix="tinydet-peers-") as folder:
        job = Job(python, args.data, args.limit, tuple(rest), Path(folder), args.output.resolve(), log.resolve())
        peer.lay_out(job, splits)
        if training is None:
            print(f"Training {args.peer}: {args.epochs} epochs of {len(splits['train'])} images; see {log}", flush=True)
            usage = peer.train(job, args.epochs, args.seed)
            training = {"asked": asked, **asdict(usage)}
            _write(args.output / _TRAINING, training)
        print("Exporting", flush=True)
        files = peer.export(job)
        evaluations = {}
        for kind, model in (("float32", peer.weights(job)), ("int8", files["int8"])):
            print(f"Detecting on {len(dataset)} images of {args.split}, {kind}", flush=True)
            found = peer.detect(job, model, dataset, args.split)
            evaluations[kind] = evaluated(dataset, found, args.output / f"{args.split}_{kind}.json")
        result = {
            **asked,
            "title": peer.title(job),
            "recipe": peer.RECIPE,
            "split": args.split,
            "images": {split: len(splits[split]) for split in SPLITS},
            "processor_minutes": training["processor_minutes"],
            "wall_minutes": training["wall_minutes"],
            "parameters": peer.parameters(job),
            # Ours are counted as the paper counts, a peer's in its float32 file by the same rule.
            "macs": peer.macs(job) if args.peer == "tinydet" else inspect_model(read_flatbuffer(files["float32"])).macs,
            **{
                kind: {**evaluations[kind], "tflite": files[kind].name, "bytes": files[kind].stat().st_size}
                for kind in FORMATS
            },
            "versions": versions(python, peer.PACKAGES, log),
            "command": "python benchmarks/peers/run.py " + " ".join(_without_paths(args, rest)),
        }
    _write(args.output / _RESULT, result)
    for kind in FORMATS:
        print(f"{kind}: AP {result[kind]['AP']:.3f}, AP50 {result[kind]['AP50']:.3f}, APs {result[kind]['APs']:.3f}")
    print(f"Written: {args.output / _RESULT}; the files to time: {', '.join(str(files[kind]) for kind in FORMATS)}")


def evaluated(dataset: CocoDataset, found: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """Our evaluation's twelve numbers and the AP of each class, written to `path` with the detections beside it."""
    from tinydet_tf.evaluation import Evaluation, coco_metrics, write_evaluation

    metrics, class_ap = coco_metrics(dataset, found)
    write_evaluation(Evaluation(metrics, class_ap, found, len(dataset), 0.0), path)
    return {**metrics, "class_ap": class_ap}


def _epochs(args: argparse.Namespace) -> int:
    if args.minutes is None:
        return int(args.epochs)
    if args.measured is None or args.minutes <= 0:
        raise UserError("--minutes needs more than 0, and --measured RESULT.json, a finished run of the same peer")
    measured = _read(args.measured)
    if measured is None or (measured.get("peer"), measured.get("data")) != (args.peer, args.data.resolve().name):
        raise UserError(f"{args.measured} is no result of {args.peer} on {args.data.resolve().name}")
    return epochs_within(args.minutes, measured)


def _without_paths(args: argparse.Namespace, rest: list[str]) -> list[str]:
    words = [args.peer, "--data", "DIR", "--epochs", str(args.epochs), "--seed", str(args.seed), "--output", "OUTPUT"]
    words += [] if args.limit is None else ["--limit", str(args.limit)]
    return words + (["--", *rest] if rest else [])


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no json ({error}); remove it") from error
    return dict(content)


def _write(path: Path, content: dict[str, Any]) -> None:
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


if __name__ == "__main__":
    run(main)
