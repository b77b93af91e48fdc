"""Which objects no anchor is trained on (GTMR, table 2), and better anchors for your data.

Needs no pictures: a COCO-format json is enough. Without any, the embedded digits set.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tinydet_lite.errors import UserError
from tinydet_tf.analysis.anchor_sets import MODELS, AnchorSet, anchor_set, tinydet
from tinydet_tf.analysis.ground_truth import SIZES
from tinydet_tf.analysis.paper import TABLE2
from tinydet_tf.cli.options import add_set, check_least, check_outputs, log_to_terminal, write_json
from tinydet_tf.commands import command_text
from tinydet_tf.config import VARIANTS, Config, load_config
from tinydet_tf.data.labelled import SPLIT_CHOICES

if TYPE_CHECKING:
    from tinydet_tf.analysis.anchor_coverage import Coverage
    from tinydet_tf.analysis.anchor_suggestion import Suggestion
    from tinydet_tf.analysis.ground_truth import ImageBoxes


#: A share of fewer objects is off by more than a few percent.
FEW_OBJECTS = 300


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("objects (none of these: the config's data, else the embedded digits set)")
    data.add_argument("--annotations", type=Path, metavar="F", help="a COCO-format json")
    data.add_argument("--data", metavar="DIR", help="as in train")
    data.add_argument("--split", choices=SPLIT_CHOICES, default="train", help="of --data (default: %(default)s)")
    data.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    detectors = parser.add_argument_group("detectors")
    detectors.add_argument("--models", nargs="+", metavar="NAME", help=f"any of {' '.join(MODELS)} (default: all)")
    detectors.add_argument("--variant", help=f"a TinyDet of yours: one of {', '.join(VARIANTS)}")
    detectors.add_argument("--config", type=Path, metavar="F", help="or that of a YAML file, see configs/")
    add_set(detectors, "model.anchor_scale=4")
    parser.add_argument(
        "--border", choices=("inside", "any"), default="inside",
        help="anchors that leave the image are not used, as in training (inside), or are (any) (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--suggest", action="store_true", help="search the anchor_scale that misses the fewest objects")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write what is printed")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log_to_terminal()
    check(args)
    config = load_config(args.config, variant=args.variant, assignments=args.assignments)
    yours = args.config is not None or args.variant is not None or bool(args.assignments)
    models = [anchor_set(name) for name in args.models or MODELS]

    # Only now, so that --help and a mistyped name do not wait for TensorFlow.
    from tinydet_tf.analysis.anchor_coverage import coverage
    from tinydet_tf.analysis.anchor_suggestion import suggest

    images = load(args, config)
    inside = args.border == "inside"
    content: dict[str, object] = {"images": len(images), "border": args.border}
    own = tinydet(f"yours ({args.config.stem if args.config else config.variant})", config.model, config.train)
    if args.suggest:
        suggestion = suggest(config.model, config.train, images, inside=inside, progress=True)
        show_suggestion(suggestion, config.variant)
        content["suggestion"] = as_json(suggestion)
    # A suggestion alone is wanted quickly; models that are named are measured all the same.
    if args.models is not None or not args.suggest:
        rows = models + ([own] if yours else [])
        results = [(anchors, coverage(anchors, images, inside=inside, progress=True)) for anchors in rows]
        show_table(results, len(images), inside)
        content["models"] = [
            {"name": a.name, "input": str(a.resize), "positive_iou": a.positive_iou, "best_iou": a.best_iou}
            | result.to_dict()
            for a, result in results
        ]
        content["paper_table2"] = {name: dict(zip(SIZES, row, strict=True)) for name, row in TABLE2.items()}
    write_json(args.json, content)


def check(args: argparse.Namespace) -> None:
    if args.annotations is not None and args.data is not None:
        raise UserError("--annotations and --data both name objects; give one of them")
    check_least(args, limit=1)
    check_outputs(args.json)


def load(args: argparse.Namespace, config: Config) -> list[ImageBoxes]:
    from tinydet_tf.analysis.ground_truth import from_dataset, read_annotations

    if args.annotations is not None:
        images = read_annotations(args.annotations)
    else:
        from tinydet_tf.data.splits import is_digits, load_split

        data = dataclasses.replace(config.data, limit=None)
        if args.data is not None:
            data = dataclasses.replace(
                data, root=args.data, train_json=None, train_images=None, val_json=None, val_images=None
            )
        if args.data is None and is_digits(data):
            print("No --annotations or --data given: the embedded digits set.")
        images = from_dataset(load_split(data, args.split))
    images = images[: args.limit]
    if not any(len(image.boxes) for image in images):
        raise UserError(f"the {len(images)} images have no box; give a file (or a --limit) with at least one")
    return images


def show_table(results: list[tuple[AnchorSet, Coverage]], num_images: int, inside: bool) -> None:
    total = results[0][1].total
    counts = ", ".join(f"{total[size]:,} {size}" for size in SIZES[1:])
    print(f"{total['all']:,} objects of {num_images:,} images ({counts}).")
    print(f"Anchors that leave the image are {'not used, as in training' if inside else 'used too'}.\n")
    header = f"{'GTMR in %':24}{'input':>10}{'anchors*':>10}" + "".join(f"{size:>8}" for size in SIZES)
    print("Measured\n" + header)
    for anchors, result in results:
        row = "".join(f"{'-' if (v := result.gtmr(size)) is None else format(v, '.1f'):>8}" for size in SIZES)
        print(f"{anchors.name:24}{anchors.resize!s:>10}{anchors.count(640, 480):>10,}{row}")
    print("* of an image of 640x480")
    paper = [anchors for anchors, _ in results if anchors.name in TABLE2]
    if paper:
        print("\nPrinted in the paper's table 2, of COCO\n" + header.replace("anchors*", " " * 8))
        for anchors in paper:
            row = "".join(f"{value:>8.1f}" for value in TABLE2[anchors.name])
            print(f"{anchors.name:24}{anchors.resize!s:>10}{'':>10}{row}")


def show_suggestion(suggestion: Suggestion, variant: str) -> None:
    current, suggested = suggestion.current, suggestion.suggested
    print(
        f"Searched on {suggestion.boxes:,} objects of {suggestion.images:,} images, TinyDet-{variant} at "
        f"{current.input_size}x{current.input_size}."
    )
    if suggestion.boxes < FEW_OBJECTS:
        print(f"That is few: with less than {FEW_OBJECTS} objects the shares below say little.")
    print(f"Median object: {suggestion.median_side:.1f} pixels of the network's input.\n")
    print("Objects that no anchor is trained on (GTMR), in %; less is better.")
    print(f"{'':12}{'scale':>8}  {'ratios':20}" + "".join(f"{size:>8}" for size in SIZES))
    rows = [("current", current, suggestion.current_coverage)]
    if suggested != current:
        rows.append(("suggested", suggested, suggestion.suggested_coverage))
    for name, model, result in rows:
        row = "".join(f"{'-' if (v := result.gtmr(size)) is None else format(v, '.1f'):>8}" for size in SIZES)
        ratios = ", ".join(f"{ratio:g}" for ratio in model.anchor_ratios)
        print(f"{name:12}{model.anchor_scale:>8g}  {ratios:20}{row}")
    if suggested == current:
        print("\nNo other anchors miss clearly fewer objects: keep these.")
    else:
        added = " ".join(f"--set {each}" for each in suggestion.assignments())
        print(f"\nTo try, for fewer misses have not always been a higher AP: {command_text('train')} {added}")
    larger = suggestion.larger_input()
    if larger is not None:
        print(
            f"Half of the objects are below {suggestion.median_side:.1f} pixels once the image is resized: too small "
            f"for any anchor. Use a larger model.input_size (about {larger}), or cut the images into tiles."
        )


def as_json(suggestion: Suggestion) -> dict[str, object]:
    return {
        "boxes": suggestion.boxes,
        "images": suggestion.images,
        "median_side": suggestion.median_side,
        "larger_input": suggestion.larger_input(),
        "set": suggestion.assignments(),
        "tried": {f"{scale:g}": gtmr for scale, gtmr in suggestion.tried.items()},
    } | {
        name: {"anchor_scale": model.anchor_scale, "anchor_ratios": list(model.anchor_ratios), **result.to_dict()}
        for name, model, result in (
            ("current", suggestion.current, suggestion.current_coverage),
            ("suggested", suggestion.suggested, suggestion.suggested_coverage),
        )
    }
