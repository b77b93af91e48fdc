"""A table of quantization schemes of one model, with AP, size and latency of each; and which parts are sensitive.

Interrupted, it keeps what is finished; started again, it goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from tinydet_lite.commands.tables import table as text_table
from tinydet_tf.cli.options import add_model, check_least, check_model, check_outputs, seed
from tinydet_tf.data.labelled import SPLIT_CHOICES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--data", metavar="DIR", help="as in train (default: what the run was trained on)")
    parser.add_argument("--split", choices=SPLIT_CHOICES, default="val", help="what AP is measured on (default: val)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images of it only")
    parser.add_argument("--calibration-images", type=int, default=128, metavar="N", help="of the training split")
    parser.add_argument("--seed", type=seed, default=0, help="which of them")
    parser.add_argument("--only", action="append", default=[], metavar="SCHEME", help="one scheme; may be repeated")
    parser.add_argument("--skip-sensitivity", action="store_true", help="without the rows of one part alone")
    parser.add_argument("--list", action="store_true", help="print the schemes and stop")
    parser.add_argument("--json", type=Path, metavar="OUT", help="the rows; needed unless --list is given")
    args = parser.parse_args()
    if args.json is None and not args.list:
        parser.error("the following arguments are required: --json")
    return args


def main() -> None:
    args = parse()
    check_model(args)
    check_least(args, limit=1, calibration_images=1)
    check_outputs(args.json)

    from tinydet_tf.data.splits import load_split
    from tinydet_tf.evaluation import evaluate
    from tinydet_tf.export.calibration import calibration_data, load_calibration_images
    from tinydet_tf.export.comparison import (
        TABLE_HEADER,
        Bench,
        Results,
        comparison_rows,
        identity_of,
        select,
        table,
    )
    from tinydet_tf.keras_detector import open_detector
    from tinydet_tf.weights import load_detector

    detector, config = load_detector(args.model, variant=args.variant)
    data = calibration_data(config, args.data, args.model)
    limit = min((n for n in (args.limit, data.limit) if n is not None), default=None)
    dataset = load_split(dataclasses.replace(data, limit=limit), args.split)
    size = config.model.input_size
    samples = load_calibration_images(load_split(data, "train"), size, count=args.calibration_images, seed=args.seed)

    def measure(path: Path) -> dict[str, float]:
        model = open_detector(path, num_threads=1, score_threshold=0.0)
        found = evaluate(model, model.labels, dataset, category_ids=model.info.category_ids, progress=True)
        return found.metrics

    bench = Bench(detector, config, samples, measure, dataset.images[0].path)
    rows = comparison_rows(bench.tensors(), images=len(samples), sensitivity=not args.skip_sensitivity)
    if args.list:
        print("\n".join(rows))
        return
    rows = select(rows, args.only)
    assert args.json is not None
    results = Results(args.json, identity_of(detector, dataset, samples))
    for number, row in enumerate(rows.values(), 1):
        if results.has(row):
            continue
        print(f"[{number}/{len(rows)}] {row.name}", flush=True)
        results.add(row, bench.run(row))
    print(text_table(TABLE_HEADER, table(results, list(rows)), left=("scheme",)))
    print(f"{len(dataset)} images. Rows: {args.json}")
