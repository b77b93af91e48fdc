"""A table of quantization schemes of one model, with AP, size and latency of each; and which parts are sensitive.

Interrupted, it keeps what is finished; started again, it goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinydet_lite.commands.tables import table as text_table
from tinydet_lite.errors import UserError
from tinydet_lite.files import check_target
from tinydet_tf.config import VARIANTS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="RUN|WEIGHTS")
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)}; needed only for weights that do not say it")
    parser.add_argument("--data", metavar="DIR", help="as in train (default: what the run was trained on)")
    parser.add_argument(
        "--split", choices=("train", "val"), default="val", help="what AP is measured on (default: val)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images of it only")
    parser.add_argument("--calibration-images", type=int, default=32, metavar="N", help="of the training split")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    parser.add_argument("--only", action="append", default=[], metavar="SCHEME", help="one scheme; may be repeated")
    parser.add_argument("--skip", action="append", default=[], metavar="SCHEME", help="all but this; may be repeated")
    parser.add_argument("--skip-sensitivity", action="store_true", help="without the rows of one part alone")
    parser.add_argument("--list", action="store_true", help="print the schemes and stop")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="the rows; the plot goes beside it")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.variant is not None and args.variant not in VARIANTS:
        raise UserError(f"variant {args.variant!r} does not exist; choose one of {', '.join(VARIANTS)}")
    for option, value in (("--limit", args.limit), ("--calibration-images", args.calibration_images)):
        if value is not None and value < 1:
            raise UserError(f"{option} is {value}; give at least 1")
    if not args.model.exists():
        raise UserError(f"model {args.model} does not exist; give a run folder or a .weights.h5 file")
    check_target(args.json)

    from tinydet_tf.data.splits import load_split
    from tinydet_tf.evaluation import evaluate, open_model
    from tinydet_tf.export.calibration import calibration_data, load_calibration_images
    from tinydet_tf.export.comparison import (
        TABLE_HEADER,
        Bench,
        Results,
        comparison_rows,
        identity_of,
        plot,
        select,
        table,
    )
    from tinydet_tf.weights import load_detector

    detector, config = load_detector(args.model, variant=args.variant)
    data = calibration_data(config, args.data, args.model)
    dataset = load_split(data, args.split).subset(args.limit)
    size = config.model.input_size
    samples = load_calibration_images(load_split(data, "train"), size, count=args.calibration_images, seed=args.seed)

    def measure(path: Path) -> dict[str, float]:
        model = open_model(path, threads=1)
        found = evaluate(model.detect, model.class_names, dataset, category_ids=model.category_ids, progress=True)
        return found.metrics

    bench = Bench(detector, config, samples, measure, dataset.images[0].path)
    rows = comparison_rows(bench.tensors(), images=args.calibration_images, sensitivity=not args.skip_sensitivity)
    if args.list:
        print("\n".join(rows))
        return
    select(rows, args.skip)
    rows = {name: row for name, row in select(rows, args.only).items() if name not in args.skip}
    results = Results(args.json, identity_of(detector, dataset, args.calibration_images, args.seed))
    for number, row in enumerate(rows.values(), 1):
        if results.has(row):
            continue
        print(f"[{number}/{len(rows)}] {row.name}", flush=True)
        results.add(row, bench.run(row))
    print(text_table(TABLE_HEADER, table(results, list(rows)), left=("scheme",)))
    picture = args.json.with_suffix(".png")
    plot(results, picture)
    print(f"{len(dataset)} images. Rows: {args.json}, plot: {picture}")
