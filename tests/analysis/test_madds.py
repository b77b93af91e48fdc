"""Tables 4-6 and 9-18 of the paper, row by row, against the built model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import tf_keras as keras

from commands import Command
from tinydet_tf.analysis import paper
from tinydet_tf.analysis.madds import Cost, measure
from tinydet_tf.config import ModelConfig, load_config, model_config
from tinydet_tf.model.backbones import BACKBONES
from tinydet_tf.model.detector import TinyDet

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))
ABLATIONS = {row.name: row for row in paper.ABLATIONS}


@cache
def cost_of(model: ModelConfig) -> Cost:
    return measure(TinyDet(model, 80))


def cost(variant: str) -> Cost:
    return cost_of(model_config(variant))


@pytest.mark.parametrize("variant", "SML")
def test_tables_10_to_18_row_by_row(variant: str) -> None:
    ours = {row.name: row.mmadds for row in cost(variant).rows if row.part != "rcnn"}
    printed = paper.printed_rows(variant)
    assert list(ours) == list(printed)  # the order too
    for name, number in printed.items():
        if (variant, name) in paper.MISPRINTS:
            assert abs(ours[name] - number) > 0.02, "not a misprint then"
            continue
        # 0.0055 at most: the paper cuts some of its rows instead of rounding them.
        assert ours[name] == pytest.approx(number, abs=0.01), name
    # The same conv at the same size, as table 15 prints it.
    assert cost("S").rows[18].name == "lateral1"
    assert cost("S").rows[18].mmadds == pytest.approx(paper.printed_rows("M")["lateral2"], abs=0.01)


@pytest.mark.parametrize("variant", "SML")
def test_table_9_and_the_sums(variant: str) -> None:
    totals = cost(variant).totals
    for part, number in paper.TABLE9[variant].items():
        assert round(totals[part]) == number, part
    # Sums of numbers that were each rounded; S's FPN has the misprint in it.
    assert totals["backbone"] == pytest.approx(paper.BACKBONE_TOTAL[variant], abs=0.025)
    assert totals["fpn"] == pytest.approx(paper.FPN_TOTAL[variant], abs=0.07 if variant == "S" else 0.01)
    assert totals["rpn"] == pytest.approx(paper.RPN_TOTAL[variant], abs=0.01)
    assert totals["rcnn"] == pytest.approx(67.584)


@pytest.mark.parametrize("variant", ["S", "M"])
def test_the_edge_forms_cost_no_more(variant: str) -> None:
    config = load_config(ROOT / "configs" / f"tinydet_{variant.lower()}_edge.yaml").model
    assert cost_of(config).totals["total"] < 0.9 * cost(variant).totals["total"]
    assert config.strides == model_config(variant).strides
    inside = [row.expand for row in BACKBONES[config.backbone].blocks]
    assert all(width % 16 == 0 for width in inside), "the runtime computes 16 channels at a time"


def test_the_page_says_what_efficientnet_lite0_costs() -> None:
    page = (ROOT / "docs" / "fine_tuning.md").read_text()
    for backbone in ("mobilenetv3_d", "efficientnet_lite0"):
        found = cost_of(model_config("S", backbone=backbone))
        totals = found.totals
        numbers = f"{totals['total']:.2f} M | {totals['backbone']:.2f} M | {found.parameters:,} |"
        assert numbers in page, f"{backbone}: {numbers}"


def test_parameters_are_the_published_ones() -> None:
    assert [cost(v).parameters for v in "SML"] == [2_573_037, 5_120_706, 5_120_706]


def test_each_ablation_has_a_config_and_each_config_is_one() -> None:
    assert {path.stem for path in CONFIGS} == set(ABLATIONS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_tables_4_to_6_from_the_configs_alone(path: Path) -> None:
    row, config = ABLATIONS[path.stem], load_config(path)
    assert config.model == row.model
    total = cost_of(config.model).totals["total"]
    assert f"{total:.2f} M" in path.read_text(), "the header's figure"
    if row.mmadds is None or not row.met:
        assert "Counted by" in path.read_text()
        return
    assert round(total / row.rounding) * row.rounding == row.mmadds
    assert f"{row.mmadds:.0f} M multiply-accumulates" in path.read_text()


def test_alignment_costs_no_multiply_accumulates() -> None:
    for name in ("table7_without_alignment", "alignment_with_stem"):
        assert cost_of(ABLATIONS[name].model).rows == cost("M").rows


def test_the_layers_are_what_is_counted() -> None:
    """The rows move with the model: no second formula."""
    detector = TinyDet(model_config("S"), 80)
    wide = keras.layers.Conv2D(24, 3, 2, padding="valid", use_bias=False)
    wide.build([None, 322, 322, 3])
    detector.pyramid.get_layer("stem").kernel = wide.kernel
    assert measure(detector).rows[0].mmadds == pytest.approx(1.5 * cost("S").rows[0].mmadds)


def test_command(command: Command) -> None:
    def count_madds(*arguments: object) -> str:
        done = command("count_madds.py", *arguments)
        assert done.code == 0, done.err
        return done.out

    out = count_madds("--variant", "S")
    assert "495.04       495" in out and "11.07     11.01 [1]" in out and "[1] table 13 prints 11.01" in out
    assert "2,573,037" in out

    document = json.loads(count_madds("--variant", "S", "--json"))
    assert [row["part"] for row in document["rows"]].count("backbone") == 17
    assert set(document["totals"]) == {"backbone", "fpn", "rpn", "rcnn", "total"}
    assert document["parameters"] == 2_573_037
    assert document["paper"]["lateral1"] == 11.01 and "table 15" in document["misprints"]["lateral1"]
    assert sum(row["mmadds"] for row in document["rows"]) == pytest.approx(document["totals"]["total"])

    # Nothing is printed for what the paper has not.
    assert "495" not in count_madds("--variant", "S", "--set", "model.input_size=256", "--num-classes", "3")

    lines = count_madds("--config", *CONFIGS[-2:]).splitlines()
    assert len(lines) == 3 and lines[1].split()[-2:] == ["990.63", "991"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "XL"], "variant 'XL' does not exist"),
        (["--num-classes", "0"], "--num-classes is 0; give at least 1 and at most"),
        (["--config", "absent.yaml"], "absent.yaml is neither a file nor the name of one"),
        (["--set", "model.backbone=resnet"], "backbone 'resnet' is unknown"),
        (["--set", "model.pyramid_conv=dense"], "pyramid_conv is 'dense'; choose 'scconv' or 'conventional'"),
    ],
)
def test_bad_input(command: Command, arguments: list[str], message: str) -> None:
    command("count_madds.py", *arguments).assert_refused(message)
