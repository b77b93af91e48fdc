"""COCO's twelve numbers of a run, a weights file or a .tflite."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from tinydet_lite.commands.tile_options import add_tile_options, tile_arguments
from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.metadata import read_model
from tinydet_lite.tiles import TiledDetector
from tinydet_tf.cli.options import add_model, check_least, check_model, check_outputs
from tinydet_tf.config import Config, DataConfig
from tinydet_tf.data.labelled import SPLIT_CHOICES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser, "RUN|WEIGHTS|X.tflite")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="as in train (default: what the run was trained on; a .tflite says so only of the digits)",
    )
    parser.add_argument("--split", choices=SPLIT_CHOICES, default="val")
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
    return parser.parse_args()


def main() -> None:
    args = parse()
    check_model(args, "a run folder, a .weights.h5 or a .tflite file")
    check_least(args, limit=1)
    check_outputs(args.json)
    tiles = tile_arguments(args)

    from tinydet_tf.data.splits import data_of, described, load_split
    from tinydet_tf.evaluation import evaluate, open_model, write_evaluation
    from tinydet_tf.weights import is_hdf5, read_config, weights_file

    if tiles is not None and (args.model.is_dir() or is_hdf5(args.model)):
        raise UserError(f"--tiles and --tile-size need a .tflite, {args.model} is none; export it first")
    data = DataConfig()
    if args.data is not None or args.annotations is not None or args.images is not None:
        if (args.annotations is None) != (args.images is None):
            raise UserError("--annotations and --images belong together; give both")
        if args.annotations is not None:
            args.split = "val"  # the file is all that there is
        first_pixel = args.voc_first_pixel
        if first_pixel is None:
            run = args.model.is_dir() or is_hdf5(args.model)
            config = read_config(weights_file(args.model)) if run else None
            first_pixel = 1 if config is None else config.data.voc_first_pixel
        data = DataConfig(
            root=args.data, val_json=args.annotations, val_images=args.images, voc_first_pixel=first_pixel
        )
    else:
        if args.model.is_dir() or is_hdf5(args.model):  # a run knows its data
            data = data_of(read_config(weights_file(args.model)) or Config(), args.model)
        else:
            info = read_model(args.model).info
            if not info.data_set:
                raise UserError(
                    f"{args.model} does not say what data it was trained on; give --data DIR (--data digits if it was "
                    "the embedded set)"
                )
            data = DataConfig(root=info.data_set)
        print(f"No --data given: evaluating on {described(data)}.")
    data = dataclasses.replace(data, limit=args.limit)
    dataset = load_split(data, args.split)
    model = open_model(args.model, variant=args.variant, threads=args.threads)
    detect = model.detect
    if tiles is not None:
        assert isinstance(detect, Detector)  # a .tflite's is
        detect = TiledDetector(detect, **tiles)
    evaluation = evaluate(detect, model.class_names, dataset, category_ids=model.category_ids, progress=True)
    print(evaluation.table())
    print(f"\n{evaluation.scope()}")
    if args.json is not None:
        results = write_evaluation(evaluation, args.json)
        print(f"Written: {args.json}, {results}")
