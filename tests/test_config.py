"""The strict YAML, and that every configuration in configs/ builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinydet_lite.errors import UserError
from tinydet_tf.config import VARIANTS, Config, TrainConfig, config_from_dict, load_config, save_config
from tinydet_tf.model.backbones import BACKBONES

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = sorted(p for p in FOLDER.rglob("*.yaml") if p.parent.name != "experiments")  # those are plans, not recipes


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    saved = tmp_path / "config.yaml"
    saved.write_text(save_config(config))
    assert load_config(saved) == config
    assert path.read_text().startswith("#"), "a config opens by saying what it is for"


def test_there_are_configs() -> None:
    assert {"digits_s", "overfit_s", "tinydet_s", "tinydet_m", "tinydet_l", "tinydet_s_edge", "tinydet_m_edge"} <= {
        p.stem for p in CONFIGS
    }


def test_variant_is_the_base_of_the_model_section() -> None:
    config = load_config(variant="M", assignments=["model.input_size=256", "train.learning_rate=1e-3"])
    assert config.model.fpn_groups == VARIANTS["M"].fpn_groups
    assert config.model.input_size == 256
    assert config.train.learning_rate == 0.001  # a string to YAML 1.1


def test_the_variants_are_the_papers() -> None:
    assert VARIANTS["S"].strides == (8, 16, 32, 64) and VARIANTS["M"].strides == (4, 8, 16, 32, 64)
    assert len(BACKBONES["mobilenetv3_d"].blocks) == 16 and len(BACKBONES["mobilenetv3_bc"].blocks) == 19
    assert [VARIANTS[v].input_size for v in "SML"] == [320, 320, 512]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["train.epoch=3"], "unknown config key 'train.epoch'; did you mean 'epochs'?"),
        (["zzz=3"], "unknown config key 'zzz'; known keys: variant"),
        (["train.epochs=many"], "config key train.epochs is 'many'; expected int"),
        (["train.epochs=true"], "config key train.epochs is True; expected int"),
        (["train.learning_rate=.inf"], "config key train.learning_rate is inf; expected float"),
        (["train.epochs=0"], "train.epochs is 0; it must be positive"),
        (["train.optimizer=adam"], "train.optimizer is 'adam'; choose 'sgd' or 'adamw'"),
        (
            ["model.input_size=[320, 256]"],
            "model.input_size is [320, 256]; expected int, the one side in pixels: TinyDet's",
        ),
        (["model.input_size=320x256"], "input is square, because every image is stretched to it"),
        (["train=3"], "config key train is 3; expected a section of keys"),
        (["train.epochs"], "expected key=value"),
        (["train.epochs=["], "the value is not YAML"),
        (["variant=XL"], "variant 'XL' does not exist; choose one of S, M, L"),
        (["model.strides=8"], "config key model.strides is 8; expected a list"),
        (["model.rpn_groups=0"], "model.rpn_groups is 0; it must be positive"),
        (["model.fpn_groups=[0, 5, 1, 1]"], "model.fpn_groups is [0, 5, 1, 1]; it must be positive"),
        (["model.strides=[8, 16, 32, 0]"], "strides is [8, 16, 32, 0]; backbone mobilenetv3_d feeds levels of [8,"),
        (["model.strides=[4, 8, 16, 32]"], "feeds levels of [8, 16, 32, 64]"),
        (["model.anchor_ratios=[]"], "model.anchor_ratios is []; it must be positive"),
        (["model.proposal_nms_iou=2"], "model.proposal_nms_iou is 2.0; it must be between 0 and 1"),
        (["train.rcnn_sampling=ohm"], "train.rcnn_sampling is 'ohm'; choose 'ohem' (the paper's) or 'random'"),
        (["train.seed=-1"], "train.seed is -1; it must be zero or more"),
        (["train.rcnn_positive_fraction=-1"], "it must be between 0 and 1"),
        (["data.limit=0"], "data.limit is 0; it must be positive"),
        (["data.root=2020-13-45"], "the value is not YAML"),
        (["train.learning_rate=" + "9" * 400], "expected float"),
        (["train.rcnn_samples=5000"], "train.rcnn_samples is 5000; it cannot be more than train.proposals, 500"),
        (["train.rcnn_positive_fraction=0"], "train.rcnn_positive_fraction is 0.0; it must be positive"),
        (
            ["train.rpn_positive_iou=0", "train.rpn_negative_iou=0"],
            "train.rpn_positive_iou is 0.0; it must be positive",
        ),
        (["train.momentum=1"], "train.momentum is 1, with which no step is ever forgotten"),
        (["train.rpn_samples=1"], "train.rpn_samples is 1, of which half are positives: none"),
    ],
)
def test_wrong_values(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(assignments=assignments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        ("train.rpn_positive_iou=0.2", "train.rpn_negative_iou=0.5", "train.rpn_negative_iou=0.2"),
        ("train.rcnn_samples=2", "train.rcnn_positive_fraction=0.25", "train.rcnn_positive_fraction=0.5"),
        ("train.rcnn_samples=256", "train.rcnn_positive_fraction=0.003", "train.rcnn_positive_fraction=0.004"),
        ("train.rcnn_samples=501", "train.proposals=500", "train.proposals=501"),
        ("train.proposals=500", "train.nms_pre=124", "train.nms_pre=125"),  # four levels
        ("model.proposals_test=200", "model.nms_pre_test=49", "model.nms_pre_test=50"),
        ("train.final_learning_rate=0.01", "train.learning_rate=0.001", "train.learning_rate=0.01"),
        ("model.anchor_scale=17", "model.input_size=128", "model.input_size=192"),  # 8 x 17 = 136
    ],
)
def test_values_that_contradict_each_other(first: str, second: str, fits: str) -> None:
    """One line that names both; the nearest value that does not contradict is taken."""
    with pytest.raises(UserError) as error:
        load_config(assignments=[first, second])
    message = str(error.value)
    assert "\n" not in message and all(text.partition("=")[0] in message for text in (first, second))
    load_config(assignments=[first, fits])


def test_a_rate_scaled_below_its_end_and_ids_without_names(tmp_path: Path) -> None:
    scaled = ["train.learning_rate=0.001", "train.reference_batch=1024", "train.batch_size=8"]
    with pytest.raises(UserError, match=r"final_learning_rate is 1e-05, above .* 7.8125e-06 of 8 images for train.ref"):
        load_config(assignments=scaled)
    with pytest.raises(UserError, match="category_ids has 2 numbers and class_names 1 names"):
        Config(class_names=("a",), category_ids=(1, 2))


def test_a_section_changes_the_keys_that_it_has(tmp_path: Path) -> None:
    recipe = load_config("finetune_small", assignments=['train={"epochs": 50}']).train
    assert (recipe.epochs, recipe.ema, recipe.freeze_backbone) == (50, 0.99, 3)
    (tmp_path / "c.yaml").write_text("train:\n")
    assert load_config(tmp_path / "c.yaml", assignments=["train.epochs=3"]).train.epochs == 3
    assert load_config(tmp_path / "c.yaml").train == TrainConfig()


@pytest.mark.parametrize("text", ["train: {epochs: 3}\ntrain: {seed: 1}", "train: {epochs: 3, epochs: 4}"])
def test_what_is_there_twice_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=r"is not YAML: (train|epochs) is there twice .*line [12]"):
        load_config(tmp_path / "c.yaml")


def test_wrong_files(tmp_path: Path) -> None:
    for text, message in (("a: [", "is not YAML"), ("- 1", "holds a list"), ("\x00", "is not YAML")):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_config(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(("name", "batch", "rate"), [("s", 128, 0.35), ("m", 128, 0.35), ("l", 32, 0.18)])
def test_the_papers_recipe(name: str, batch: int, rate: float) -> None:
    """Section 4.1 and docs/reference.md, "Training"."""
    config = load_config(next(p for p in CONFIGS if p.stem == f"tinydet_{name}"))
    assert config.variant == name.upper()
    train = config.train
    assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 1e-5)
    assert (train.epochs, train.batch_size, train.learning_rate) == (240, batch, rate)
    assert (train.warmup_steps, train.warmup_start, train.final_learning_rate) == (500, pytest.approx(1 / 3), 1e-5)
    assert (train.rpn_samples, train.nms_pre, train.proposals, train.rcnn_samples) == (256, 2000, 2000, 512)
    assert (train.clip_norm, train.rcnn_positive_fraction) == (35.0, 0.25)


def test_a_config_survives_plain_values() -> None:
    assert config_from_dict(Config().to_dict()) == Config()
