"""COCO's twelve numbers of a run, a weights file or a .tflite."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tinydet_lite.commands.tile_options import add_tile_options, tile_arguments
from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError, printable
from tinydet_lite.metadata import DEFAULT_THRESHOLD
from tinydet_lite.tiles import TiledDetector
from tinydet_tf.cli.options import add_model, check_least, check_model, check_outputs
from tinydet_tf.commands import command_text, command_words
from tinydet_tf.config import DataConfig
from tinydet_tf.data.labelled import SPLIT_CHOICES
from tinydet_tf.run_files import is_run, model_path

if TYPE_CHECKING:
    from tinydet_tf.evaluation import Evaluation
    from tinydet_tf.matching import OperatingPoint


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser, "RUN|WEIGHTS|X.tflite")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="as in train (default: what the run was trained on; a .tflite says so only of the digits)",
    )
    parser.add_argument("--split", choices=SPLIT_CHOICES, default="val", help="of --data (default: %(default)s)")
    parser.add_argument(
        "--voc-first-pixel", type=int, choices=(0, 1),
        help="what the boxes of --data count from if it is Pascal VOC's (default: as the run's data, else 1)",
    )  # fmt: skip
    parser.add_argument("--annotations", metavar="F", help="a COCO-format json, instead of --data")
    parser.add_argument("--images", metavar="DIR", help="the images of --annotations")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--threads", type=int, metavar="N", help="of a .tflite (default: the cores, at most 4)")
    add_tile_options(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers, and the detections beside them")
    parser.add_argument(
        "--report", type=Path, metavar="DIR",
        help="write a page for people: precision and recall, the best score threshold, what is confused, missed and "
        "invented, the worst pictures (docs/report.md; needs matplotlib)",
    )  # fmt: skip
    parser.add_argument(
        "--worst", type=int, default=12, metavar="N", help="how many pictures --report draws (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.model = model_path(args.model)
    check_model(args, "a run folder, a .weights.h5 or a .tflite file")
    check_least(args, limit=1, worst=0)
    check_outputs(args.json)
    if args.report is not None:
        from tinydet_tf.report.charts import check_matplotlib
        from tinydet_tf.report.folder import check_report_folder

        check_report_folder(args.report)
        check_matplotlib()
    tiles = tile_arguments(args)

    from tinydet_tf.api import data_of_model
    from tinydet_tf.data.splits import described, load_split
    from tinydet_tf.evaluation import evaluate, write_evaluation
    from tinydet_tf.keras_detector import open_detector
    from tinydet_tf.weights import read_config, weights_file

    data = DataConfig()
    if args.data is not None or args.annotations is not None or args.images is not None:
        if (args.annotations is None) != (args.images is None):
            raise UserError("--annotations and --images belong together; give both")
        if args.annotations is not None:
            args.split = "val"  # the file is all that there is
        first_pixel = args.voc_first_pixel
        if first_pixel is None:
            config = read_config(weights_file(args.model)) if is_run(args.model) else None
            first_pixel = 1 if config is None else config.data.voc_first_pixel
        data = DataConfig(
            root=args.data, val_json=args.annotations, val_images=args.images, voc_first_pixel=first_pixel
        )
    else:
        data = data_of_model(args.model)
        print(f"No --data given: evaluating on {described(data)}.")
    data = dataclasses.replace(data, limit=args.limit)
    dataset = load_split(data, args.split)
    model = open_detector(args.model, variant=args.variant, num_threads=args.threads, score_threshold=0.0)
    detect = model if tiles is None else TiledDetector(model, **tiles)
    evaluation = evaluate(detect, model.labels, dataset, category_ids=model.info.category_ids, progress=True)
    print(evaluation.table())
    print(f"\n{evaluation.scope()}")
    if args.json is not None:
        results = write_evaluation(evaluation, args.json)
        print(f"Written: {args.json}, {results}")
    if args.report is not None:
        report(args, evaluation, model, described(data))
    print("Next:\n" + "\n".join(f"  {command}" for command in next_commands(args)))


def next_commands(args: argparse.Namespace) -> list[str]:
    """What to do with the numbers, for a shell in the same folder."""
    model = str(args.model)
    if is_run(args.model):
        output = args.model if args.model.is_dir() else args.model.parent
        then = [*command_words("export"), "--model", model, "--output", str(output / "model.tflite")]
    else:
        then = [*command_words("detect"), "--model", model, "--source", "IMAGE"]
    if args.report is not None:
        return [shlex.join(then)]
    # The same call as this one, with a report.
    return [shlex.join([*command_words("evaluate"), *sys.argv[1:], "--report", "report"]), shlex.join(then)]


def report(args: argparse.Namespace, evaluation: Evaluation, model: Detector, data: str) -> None:
    """Writes the report, and says what becomes of the threshold that it found."""
    from tinydet_tf.report.folder import write_report
    from tinydet_tf.report.numbers import make_report

    assert evaluation.judged is not None
    made = make_report(
        evaluation,
        model=str(args.model),
        data=data,
        split=args.split,
        suggested=model.info.suggested_threshold,
        default=DEFAULT_THRESHOLD,
        most_pictures=args.worst,
    )
    page = write_report(made, evaluation.judged[0], args.report)
    print(f"Written: {printable(str(page))}")
    print(suggestion(args, made.best, model.info.suggested_threshold))


def suggestion(args: argparse.Namespace, best: OperatingPoint | None, suggested: float | None) -> str:
    """Keeps the best threshold with weights that have none, and says so or why not.

    What training measured on its validation images stays: a report of the test split would otherwise tune the model on
    the very images that are to judge it, and one of other data would change what an export does behind the user's back.
    """
    from tinydet_tf.weights import keep_threshold

    if best is None:
        return "No detection matched an object at any score from 0.01 on, so no threshold is suggested."
    text = f"Best F1 here: {best.f1:.3f} from a score of {best.threshold:g} on"
    export = f"{command_text('export')} --threshold {best.threshold:g}"
    if suggested is not None:
        if suggested == best.threshold:
            return f"{text}, which the model suggests."
        return f"{text}; the model suggests {suggested:g} and keeps it ({export} puts another into the file)."
    if not is_run(args.model):
        return f"{text}; the file suggests none and is not changed ({export} puts it into the file)."
    if args.split != "val" or args.limit is not None:
        why = "a part of the images" if args.limit is not None else f"the {args.split} split"
        return f"{text}; it is of {why}, so the run does not keep it ({export} puts it into the file)."
    try:
        return f"{text}, kept in {keep_threshold(args.model, best.threshold)}; {command_text('export')} takes it."
    except UserError as error:
        return f"{text}; it is not kept: {error} ({export} puts it into the file)."
