"""Train TinyDet on COCO-format data, or, without any, on the embedded digits set."""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.cli.options import add_set, log_to_terminal
from tinydet_tf.config import DIGITS, VARIANTS, Config, assignment, load_config
from tinydet_tf.recipes import CONFIGS
from tinydet_tf.training.run.cluster import check_cluster

#: The recipe of a run without data and without a config.
DIGITS_RECIPE = CONFIGS / "digits_s.yaml"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)} (default: the config's, else S)")
    parser.add_argument("--config", type=Path, metavar="F", help="a YAML file, or the name of one in configs/")
    data = parser.add_argument_group("data (none of these: the embedded digits set)")
    data.add_argument(
        "--data",
        metavar="DIR",
        help="COCO's layout (annotations/instances_train2017.json, train2017/), {train,val}/instances.json + images/, "
        "a Pascal VOC or YOLO folder, or digits",
    )
    for split in ("train", "val"):
        data.add_argument(f"--{split}-json", metavar="F", help=f"COCO-format annotations of the {split} split")
        data.add_argument(f"--{split}-images", metavar="DIR", help=f"the folder of the {split} images")
    parser.add_argument(
        "--init", type=Path, metavar="WEIGHTS",
        help="start from a run's, a file's or a backbone's weights: what matches by name and shape",
    )  # fmt: skip
    parser.add_argument(
        "--qat", action="store_true",
        help="go on with the rounding of the int8 .tflite, from --init RUN and, without --config, with RUN's own "
        "configuration and data: a tenth of its epochs at a tenth of its learning rate (docs/qat.md)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="RUN", help="the run folder (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole epoch of --output")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    parser.add_argument(
        "--strategy", choices=("one", "mirrored", "multiworker"), default="one",
        help="devices: one; mirrored, all GPUs of this machine; multiworker, all machines that TF_CONFIG names, which "
        "all run this same command (default: one)",
    )  # fmt: skip
    add_set(parser, "train.epochs=3")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log_to_terminal()
    logging.getLogger("absl").setLevel(logging.WARNING)  # TensorFlow tells of its file writing there
    if args.resume and args.overwrite:
        raise UserError("--resume goes on with a run and --overwrite removes it; give one of them")
    sources = {
        "data.root": args.data,
        "data.train_json": args.train_json,
        "data.train_images": args.train_images,
        "data.val_json": args.val_json,
        "data.val_images": args.val_images,
    }
    given = [assignment(key, value) for key, value in sources.items() if value is not None]
    if args.resume and (args.config or args.variant or args.init or args.qat or given):
        raise UserError("--resume goes on with the run's own configuration and data; give it --output and --set alone")
    if args.qat and args.init is None:
        raise UserError("--qat goes on from trained weights; give --init RUN (train without --qat first)")
    if args.qat and args.variant and args.config is None:
        raise UserError("--qat takes the variant from --init; leave --variant out")
    recipe, base = args.config, None
    if args.qat and recipe is None:
        from tinydet_tf.training.qat.start import qat_config  # it reads the weights file: TensorFlow cannot wait

        base = qat_config(args.init, other_data=bool(given))
    elif recipe is None and not args.resume and (not given or args.data == DIGITS):
        recipe = DIGITS_RECIPE
    if args.resume and args.output is None:
        raise UserError("--resume needs --output, the run folder to go on with")
    config = Config()
    if not args.resume:
        assignments = given + ["train.qat=true"] * args.qat + args.assignments
        config = load_config(recipe, variant=args.variant, assignments=assignments, base=base)
    name = args.config.stem if args.config else f"tinydet_{config.variant.lower()}" + "_qat" * args.qat
    output = args.output or Path("runs") / name

    if args.strategy == "multiworker":
        check_cluster(os.environ)

    # Only now, so that --help and a mistyped key do not wait for TensorFlow.
    from tinydet_tf.data.splits import is_digits
    from tinydet_tf.training.run.distribution import is_chief, open_strategy
    from tinydet_tf.training.run.folder import resumed_config
    from tinydet_tf.training.run.summary import closing
    from tinydet_tf.training.run.train import train
    from tinydet_tf.weights import weights_file

    strategy = open_strategy(args.strategy)

    if args.resume:
        config = resumed_config(output, args.assignments)
    elif not given and is_digits(config.data):
        source = "the configuration of --init" if base else recipe.name if recipe else "the defaults"
        print(f"No --data given: training on the embedded digits set with {source}.")
    init = weights_file(args.init) if args.init else None
    start = time.monotonic()
    result = train(config, output, init=init, resume=args.resume, overwrite=args.overwrite, strategy=strategy)
    if is_chief(strategy):
        print(closing(output, config, result, time.monotonic() - start))
