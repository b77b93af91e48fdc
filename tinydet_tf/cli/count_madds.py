"""Multiply-accumulates ("FLOPs" in the paper) and parameters, counted on the built Keras model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydet_lite.errors import UserError
from tinydet_tf.cli.options import add_set
from tinydet_tf.config import VARIANTS, ModelConfig, load_config
from tinydet_tf.model.backbones import BACKBONES
from tinydet_tf.recipes import recipe_files

if TYPE_CHECKING:
    from tinydet_tf.analysis.madds import Cost

#: A row differs from the printed one by more than rounding.
TOLERANCE = 0.0101
#: More than any data set has; the layer is built to be counted.
MAX_CLASSES = 100_000
TITLES = {"backbone": "Backbone", "fpn": "TinyFPN", "rpn": "TinyRPN", "rcnn": "R-CNN"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)} (default: the config's, else S)")
    parser.add_argument(
        "--config", type=Path, nargs="+", default=[], metavar="F", help="YAML files; of several, a line each"
    )
    parser.add_argument(
        "--num-classes", type=int, default=80, metavar="N", help="of the detector (default: 80, as in the paper)"
    )
    parser.add_argument("--json", action="store_true", help="print json instead of tables")
    add_set(parser, "model.input_size=256")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if not 1 <= args.num_classes <= MAX_CLASSES:
        raise UserError(f"--num-classes is {args.num_classes}; give at least 1 and at most {MAX_CLASSES}")
    files: list[Path | None] = [file for given in args.config for file in recipe_files(given)]
    files = files or [None]
    configs = [load_config(file, variant=args.variant, assignments=args.assignments) for file in files]

    from tinydet_tf.analysis.madds import measure
    from tinydet_tf.model.detector import TinyDet

    documents = []
    for file, config in zip(files, configs, strict=True):
        cost = measure(TinyDet(config.model, args.num_classes))
        printed = printed_numbers(config.variant, config.model, args.num_classes)
        name = file.stem if file is not None else f"TinyDet-{config.variant}"
        if args.json:
            documents.append(document(name, config.variant, cost, printed))
        elif len(files) > 1:
            if not documents:
                print(f"{'M multiply-accumulates':36}{'backbone':>10}{'FPN':>10}{'RPN':>10}{'R-CNN':>8}{'total':>11}"
                      f"{'paper prints':>14}")  # fmt: skip
            documents.append({})
            t, total = cost.totals, printed.get("total")
            print(f"{name:36}{t['backbone']:10.2f}{t['fpn']:10.2f}{t['rpn']:10.2f}{t['rcnn']:8.2f}{t['total']:11.2f}"
                  f"{'' if total is None else f'{total:.0f}':>14}")  # fmt: skip
        else:
            print_tables(name, config.model, config.variant, cost, printed)
    if args.json:
        print(json.dumps(documents if len(files) > 1 else documents[0], indent=2))


def printed_numbers(variant: str, model: ModelConfig, num_classes: int) -> dict[str, float]:
    """What the paper prints for this detector: its rows, `sum backbone` ..., `total`; empty where it prints nothing."""
    from tinydet_tf.analysis import paper

    if num_classes != 80:
        return {}
    total = paper.printed_total(model)
    numbers = {} if total is None else {"total": total}
    if model == VARIANTS[variant]:
        numbers |= paper.printed_rows(variant)
        numbers |= {
            "sum backbone": paper.BACKBONE_TOTAL[variant],
            "sum fpn": paper.FPN_TOTAL[variant],
            "sum rpn": paper.RPN_TOTAL[variant],
        }
        numbers |= {f"table 9 {part}": value for part, value in paper.TABLE9[variant].items()}
    return numbers


def print_tables(name: str, model: ModelConfig, variant: str, cost: Cost, printed: dict[str, float]) -> None:
    from tinydet_tf.analysis import paper

    notes: list[str] = []

    def paper_column(row: str, ours: float) -> str:
        number = printed.get(row)
        if number is None:
            return ""
        if abs(number - ours) <= TOLERANCE or row.startswith("sum "):
            return f"{number:10.2f}"
        notes.append(paper.MISPRINTS.get((variant, row), f"{row}: {ours:.2f} here, {number:.2f} in the paper"))
        return f"{number:10.2f} [{len(notes)}]"

    blocks = block_descriptions(model)
    side = model.input_size
    print(f"{name}: millions of multiply-accumulates (the paper's MFLOPs) of one {side}x{side} image")
    for part in ("backbone", "fpn", "rpn"):
        print(f"\n{TITLES[part]:54}{'here':>10}{'paper':>10}")
        for row in cost.rows:
            if row.part == part:
                text = f"{row.name:11}{blocks.get(row.name, '')}"
                print(f"  {text:52}{row.mmadds:10.2f}{paper_column(row.name, row.mmadds)}")
        total = cost.totals[part]
        print(f"  {'in total':52}{total:10.2f}{paper_column(f'sum {part}', total)}")
    print(f"\n{'Whole detector':54}{'here':>10}{'paper':>10}")
    for part, title in {**TITLES, "total": "in total"}.items():
        number = printed.get(f"table 9 {part}", printed.get("total") if part == "total" else None)
        text = f"{title}{f', {model.proposals_test} RoIs, without bias' if part == 'rcnn' else ''}"
        share = f"{cost.totals[part] / cost.totals['total']:.0%}" if part != "total" else ""
        print(f"  {text:46}{share:>6}{cost.totals[part]:10.2f}{'' if number is None else f'{number:10.0f}'}")
    print(f"\nParameters (trainable): {cost.parameters:,d}")
    for number, note in enumerate(notes, 1):
        print(f"[{number}] {note}")


def block_descriptions(model: ModelConfig) -> dict[str, str]:
    """What tables 10-18 say of a row beside its cost."""
    backbone = BACKBONES[model.backbone]
    side, channels = model.input_size // 2, backbone.stem
    kind = "HS" if backbone.dialect.stem_hard_swish else "RE"
    texts = {"stem": f"{model.input_size}^2 x 3, conv 3x3, {channels}, {kind}, s2"}
    taps = []
    for index, spec in enumerate(backbone.blocks, 1):
        kernel = f"{spec.kernel}x{spec.kernel}{' dense' if spec.fused else ''}"
        se = "SE " if spec.squeeze_excite and model.squeeze_excite else ""
        texts[f"block{index}"] = (
            f"{side}^2 x {channels}, {kernel}, {spec.expand}, {spec.out}, {se}{'HS' if spec.hard_swish else 'RE'}, "
            f"s{spec.stride}{', FPN' if spec.tap else ''}"
        )
        side, channels = side // spec.stride, spec.out
        if spec.tap:
            taps.append((side, channels))
    for level, ((side, channels), groups) in enumerate(zip(taps, model.fpn_groups, strict=True)):
        texts[f"lateral{level}"] = f"{side}^2 x {channels}, conv 1x1"
        texts[f"fpn{level}"] = f"{side}^2, {kind_of(model, groups)}"
    texts["rpn_conv"] = f"all levels, {kind_of(model, model.rpn_groups)}"
    texts["rpn_score"], texts["rpn_box"] = "all levels, conv 1x1", "all levels, conv 1x1"
    return texts


def kind_of(model: ModelConfig, groups: int) -> str:
    return "conv 3x3" if model.pyramid_conv == "conventional" else f"SCConv, g={groups}"


def document(name: str, variant: str, cost: Cost, printed: dict[str, float]) -> dict[str, Any]:
    from tinydet_tf.analysis.paper import MISPRINTS

    return {
        "name": name,
        "variant": variant,
        "rows": [{"part": r.part, "name": r.name, "mmadds": r.mmadds} for r in cost.rows],
        "totals": cost.totals,
        "parameters": cost.parameters,
        "paper": printed,
        "misprints": {row: text for (of, row), text in MISPRINTS.items() if of == variant and row in printed},
    }
