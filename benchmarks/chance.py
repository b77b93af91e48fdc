#!/usr/bin/env python3
"""How much of the difference between models' AP is chance: the pictures drawn anew, the same draws for each model.

    python benchmarks/chance.py float32.tflite int8.tflite --data DIR --split test

A paired bootstrap: as many pictures as there are, drawn with repetition, again and again; each model's AP over each
draw from pycocotools' own matches. The spread is the standard deviation of a model's AP less the first model's. A
difference smaller than the spread is none that these pictures show.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
from pathlib import Path

import numpy as np
from pycocotools.cocoeval import COCOeval

from tinydet_lite.cli import run
from tinydet_lite.commands.tables import table
from tinydet_tf.cli.options import check_least, seed
from tinydet_tf.config import DataConfig
from tinydet_tf.data.labelled import SPLIT_CHOICES
from tinydet_tf.data.splits import load_split
from tinydet_tf.evaluation import evaluate
from tinydet_tf.keras_detector import open_detector

METRICS = ("AP", "AP75", "APs")
_ALL, _SMALL = 0, 1  # of COCOeval's area ranges
_IOU_75 = 5  # of its IoU thresholds
_DETECTIONS = 100  # of a picture, its last limit


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help=".tflite, RUN or WEIGHTS")
    parser.add_argument("--data", required=True, metavar="DIR", help="as in train")
    parser.add_argument("--split", choices=SPLIT_CHOICES, default="val", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--draws", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=seed, default=0, help="of the draws")
    return parser.parse_args()


def main() -> None:
    args = parse()
    check_least(args, limit=1, draws=2)
    dataset = load_split(DataConfig(root=args.data, limit=args.limit), args.split)
    evaluators = []
    for path in args.models:
        model = open_detector(path, num_threads=1, score_threshold=0.0)
        found = evaluate(model, model.labels, dataset, category_ids=model.info.category_ids, progress=True)
        assert found.judged is not None
        evaluators.append(found.judged[1])
    generator = np.random.default_rng(args.seed)
    count = len(evaluators[0].params.imgIds)
    whole = np.array([drawn(one, np.arange(count)) for one in evaluators])
    draws = [generator.integers(0, count, count) for _ in range(args.draws)]
    aps = np.array([[drawn(one, draw) for one in evaluators] for draw in draws])
    spread = (aps - aps[:, :1]).std(0)
    rows = []
    for path, own, less, by in zip(args.models, 100 * whole, 100 * (whole - whole[0]), 100 * spread, strict=True):
        differences = [f"{value:+.2f} ± {deviation:.2f}" for value, deviation in zip(less, by, strict=True)]
        rows.append([path.name, *(f"{value:.2f}" for value in own), *differences])
    header = ["model", *METRICS, *(f"{name} less the first" for name in METRICS)]
    print(table(header, rows, left={"model"}))
    print(f"{count} images of the {args.split} split, drawn anew {args.draws} times.")


def drawn(evaluator: COCOeval, draw: np.ndarray) -> np.ndarray:
    """METRICS over a draw of the evaluated pictures; a picture that is drawn twice counts twice.

    Args:
      evaluator: as `evaluate` gives it, all pictures matched.
      draw: int [N], indices of its pictures.

    Returns:
      float64 [3], 0..1, nan where the drawn pictures have no object of that size.
    """
    areas = [_ALL, _SMALL]
    one = copy.copy(evaluator)
    parameters = evaluator.params
    # By class, area and picture.
    matches = np.array(evaluator.evalImgs, object).reshape(-1, len(parameters.areaRng), len(parameters.imgIds))
    one.evalImgs = matches[:, areas][:, :, draw].ravel().tolist()
    one.params = copy.copy(parameters)
    one.params.imgIds = list(range(len(draw)))
    one.params.areaRng = [parameters.areaRng[area] for area in areas]
    one.params.areaRngLbl = [parameters.areaRngLbl[area] for area in areas]
    one.params.maxDets = [_DETECTIONS]
    one._paramsEval = one.params
    with contextlib.redirect_stdout(io.StringIO()):
        one.accumulate()
    precision = one.eval["precision"][..., 0]  # IoU, recall, class, area
    values = precision[..., 0], precision[_IOU_75, ..., 0], precision[..., 1]
    return np.array([known.mean() if (known := value[value > -1]).size else np.nan for value in values])


if __name__ == "__main__":
    run(main)
