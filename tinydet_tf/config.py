"""What a TinyDet is and how it is trained, as frozen dataclasses, and the strict YAML that overrides them.

Architecture numbers: paper tables 1, 13-18 (groups) and section 4.1 (anchors, recipe); the backbones' tables are in
model/backbones.py. What the paper leaves out was read off the published implementation. `Config` is what a run folder
keeps as config.yaml: it holds every value, so that a run can be rebuilt from it alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tinydet_lite.errors import UserError
from tinydet_tf.model.backbones import BACKBONES, tap_strides
from tinydet_tf.recipes import recipe_file

#: Of a configuration: what every library beneath takes, as a seed too.
LARGEST_INTEGER = 2**31 - 1
#: The ranges of the numbers of a section; of a list every number. What may be null is checked where it is not.
RANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "model": {
        "between 0 and 1": ("proposal_nms_iou",),
        "positive": (
            "input_size", "channels", "fpn_groups", "rpn_groups", "anchor_scale", "anchor_ratios", "roi_finest",
            "rcnn_hidden", "nms_pre_test", "proposals_test",
        ),
    },
    "data": {
        "between 0 and 1": ("expand_share", "mosaic"),
        "positive": ("limit", "digits_train_images", "digits_val_images"),
        "zero or more": ("digits_seed", "copy_paste"),
    },
    "train": {
        "between 0 and 1": (
            "warmup_start", "momentum", "rpn_positive_iou", "rpn_negative_iou", "rcnn_positive_iou",
            "rcnn_positive_fraction", "ema",
        ),
        "positive": (
            "epochs", "batch_size", "learning_rate", "clip_norm", "rpn_samples", "nms_pre", "proposals",
            "rcnn_samples", "validate_every", "early_stopping_patience", "reference_batch", "rpn_positive_iou",
            "rcnn_positive_iou", "rcnn_positive_fraction",
        ),
        "zero or more": ("freeze_backbone", "final_learning_rate", "warmup_steps", "weight_decay", "seed"),
    },
}  # fmt: skip
_FITS: dict[str, Callable[[float], bool]] = {
    "between 0 and 1": lambda v: 0 <= v <= 1,
    "positive": lambda v: v > 0,
    "zero or more": lambda v: v >= 0,
}


def _check_ranges(config: Any, section: str) -> None:
    """
    Raises:
      UserError: the first number that is out of its range.
    """
    for text, names in RANGES[section].items():
        for name in names:
            value = getattr(config, name)
            values = value if isinstance(value, tuple) else (value,)
            if value is not None and not (values and all(map(_FITS[text], values))):
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(f"{section}.{name} is {shown}; it must be {text}")


@dataclass(frozen=True)
class ModelConfig:
    """One detector. Pixels are those of the square network input; levels are listed finest first."""

    #: a name of BACKBONES: the paper's mobilenetv3_d and _bc, its ablations, edge_s, edge_m, efficientnet_lite0
    backbone: str = "mobilenetv3_d"
    input_size: int = 320  # pixels of a side, a multiple of the coarsest stride
    strides: tuple[int, ...] = (8, 16, 32, 64)  # of the pyramid levels, as the backbone gives them
    squeeze_excite: bool = True  # squeeze-and-excite where the tables have it; off: table 4's "w/o SE"
    align: bool = True  # 2x2 average pool before each strided depthwise conv (section 3.1.2)
    align_stem: bool = False  # the same in front of the stem, as the paper says; the published stem has none
    channels: int = 245  # of the pyramid: 5 channels x 7 x 7 bins
    pyramid_conv: str = "scconv"  # of FPN and RPN (table 5); or "conventional": one 3x3 conv, no groups
    fpn_groups: tuple[int, ...] = (7, 5, 1, 1)  # of each level's SCConv; all 1 is the depthwise-separable conv
    rpn_groups: int = 49  # of the RPN's SCConv
    anchor_scale: float = 2.25  # anchor side = scale x stride; anchor-coverage --suggest finds one for your data
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height : width
    roi_levels: int = 2  # how many levels, the finest ones, the second stage looks at
    roi_finest: float = 30.0  # RoI side in pixels that belongs to the finest level
    psroi_reduce: str = "max"  # of a bin's 4 samples: "max", as published, or "mean"
    rcnn_hidden: int = 1024  # width of the second stage's hidden layer
    nms_pre_test: int = 1000  # candidates a level when detecting
    proposals_test: int = 200  # that the second stage looks at when detecting
    proposal_nms_iou: float = 0.7  # overlap above which of two proposals one goes

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise UserError(f"backbone {self.backbone!r} is unknown; choose one of {', '.join(sorted(BACKBONES))}")
        if self.pyramid_conv not in ("scconv", "conventional"):
            raise UserError(f"pyramid_conv is {self.pyramid_conv!r}; choose 'scconv' or 'conventional'")
        if self.psroi_reduce not in ("max", "mean"):
            raise UserError(f"psroi_reduce is {self.psroi_reduce!r}; choose 'max' (published) or 'mean'")
        _check_ranges(self, "model")
        levels = len(self.strides)
        if self.proposals_test > levels * self.nms_pre_test:
            raise UserError(
                f"model.proposals_test is {self.proposals_test}; {levels} levels of model.nms_pre_test, "
                f"{self.nms_pre_test} candidates each, cannot give more than {levels * self.nms_pre_test}"
            )
        if len(self.fpn_groups) != levels:
            raise UserError(
                f"fpn_groups has {len(self.fpn_groups)} numbers for {levels} pyramid levels; give one a level"
            )
        taps = tap_strides(self.backbone)
        if self.strides != taps:
            raise UserError(f"strides is {list(self.strides)}; backbone {self.backbone} feeds levels of {list(taps)}")
        if not 1 <= self.roi_levels <= levels:
            raise UserError(f"roi_levels is {self.roi_levels}; give 1 to {levels}, the number of pyramid levels")
        if self.channels % 49 or any(self.channels % g for g in (*self.fpn_groups, self.rpn_groups)):
            raise UserError(
                f"channels is {self.channels}; it must be a multiple of 49 (7x7 bins) and of every group count "
                f"({', '.join(map(str, (*self.fpn_groups, self.rpn_groups)))})"
            )
        if self.input_size % self.strides[-1]:
            near = max(1, round(self.input_size / self.strides[-1])) * self.strides[-1]
            raise UserError(
                f"input_size is {self.input_size}; it must be a multiple of {self.strides[-1]}, the coarsest stride "
                f"(nearest: {near})"
            )

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Height (= width) of each pyramid level in cells."""
        return tuple(self.input_size // s for s in self.strides)

    @property
    def num_ratios(self) -> int:
        return len(self.anchor_ratios)


_M = ModelConfig(
    backbone="mobilenetv3_bc",
    strides=(4, 8, 16, 32, 64),
    fpn_groups=(49, 7, 5, 1, 1),
    anchor_scale=3.2,
    roi_levels=3,
    roi_finest=22.4,
)
VARIANTS: dict[str, ModelConfig] = {
    "S": ModelConfig(),
    "M": _M,
    "L": dataclasses.replace(_M, input_size=512, anchor_scale=5.12, roi_finest=35.8),
}


#: What training does to images beside the flip; "ssd" is the paper's, whole (section 4.1, data/augment.py).
AUGMENTATIONS = ("none", "ssd")


#: The name of the embedded data set (data/splits.py).
DIGITS = "digits"


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are fed."""

    root: str | None = None  # the data set's folder (docs/data.md), or digits; null without jsons is digits too
    train_json: str | None = None  # COCO-format annotations, instead of root
    train_images: str | None = None  # the folder of their images
    val_json: str | None = None  # the same for validation
    val_images: str | None = None  # the folder of their images
    voc_first_pixel: int = 1  # what Pascal VOC's boxes count from; 0: xmin..xmax are corners, as some tools write
    limit: int | None = None  # train (and validate) on the first N images only
    horizontal_flip: bool | None = None  # null: on, but for the digits (a mirrored 2 is no 2)
    augmentation: str = "ssd"  # "ssd" is the paper's; with "none" few pictures are learnt by heart
    expand_share: float = 0.5  # of "ssd": the training images that are put on a canvas of up to four times their sides
    mosaic: float = 0.0  # the share of training images that show four (data/small_objects.py)
    copy_paste: int = 0  # copies of small objects pasted into a training image, at most
    cache: bool = False  # keep decoded, resized images in memory
    validate_on_train: bool = False  # measure AP on the training images: shows what was learnt by heart
    digits_seed: int = 0  # which digits set
    digits_train_images: int = 1600  # its scenes to train on
    digits_val_images: int = 250  # and to validate on

    def __post_init__(self) -> None:
        _check_ranges(self, "data")
        if self.voc_first_pixel not in (0, 1):
            raise UserError(f"data.voc_first_pixel is {self.voc_first_pixel!r}; choose 0 or 1")
        if self.augmentation not in AUGMENTATIONS:
            choices = " or ".join(map(repr, AUGMENTATIONS))
            raise UserError(f"data.augmentation is {self.augmentation!r}; choose {choices}")


#: What a run without --init starts from; one with --init starts from the path of its weights.
STARTS = (DIGITS, "random")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class TrainConfig:
    """The recipe. The defaults are for one machine and a data set of hundreds to thousands of images; the paper's
    numbers (section 4.1) stand in configs/tinydet_{s,m,l}.yaml.
    """

    epochs: int = 100  # passes over the training images
    batch_size: int = 16  # images a step, of all devices together
    optimizer: str = "adamw"  # or "sgd" with momentum, which the paper uses
    learning_rate: float = 0.003  # after the warm-up; from there it falls as a cosine
    reference_batch: int | None = None  # the learning rate is for this batch size, and scaled in proportion to others
    final_learning_rate: float = 1e-5  # at the end
    warmup_steps: int = 500  # that the learning rate rises for, at most a fifth of the run
    warmup_start: float = 0.1  # of the learning rate; the released config's is 1/3, the paper says 0
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.01  # adamw: decoupled; sgd: L2, added to the gradient
    clip_norm: float = 35.0  # the gradient's norm is cut to this
    #: Of the layers' arithmetic: "float32", "mixed_bfloat16" or "mixed_float16"; weights, statistics, losses and boxes
    #: are float32.
    precision: str = "float32"
    seed: int = 0  # of all that is random
    #: what a run starts from: "digits", weights that come along for S and have seen the embedded digits
    #: (docs/starts.md), "random", as any network that has no such weights, or what --init gave, with its whole path
    start: str = DIGITS
    validate_every: int = 1  # epochs from validation to validation
    early_stopping_patience: int | None = None  # validations without a better AP
    freeze_backbone: int = 0  # epochs at the start that train everything else alone
    #: Momentum of the weights' moving average, which is what is evaluated and kept; BN's statistics stay as they are.
    ema: float | None = None
    qat: bool = False  # with the rounding of the int8 .tflite (training/qat/); from trained weights
    # RPN
    rpn_positive_iou: float = 0.5  # an anchor with at least this overlap is an object
    rpn_negative_iou: float = 0.3  # one with less than this with every object is background
    rpn_samples: int = 256  # anchors an image, at most half of them objects
    nms_pre: int = 1000  # candidates a level; the paper trains with 2000 of them, 2000 proposals and 512 samples
    proposals: int = 500  # an image, that samples are taken from
    # R-CNN
    rcnn_sampling: str = "ohem"  # RoIs of the highest loss; or "random", what OHEM is compared with
    rcnn_positive_iou: float = 0.5  # a proposal with at least this overlap is an object
    rcnn_samples: int = 256  # proposals an image
    rcnn_positive_fraction: float = 0.25  # objects among them, at most

    def __post_init__(self) -> None:
        _check_ranges(self, "train")
        if self.rcnn_samples > self.proposals:
            raise UserError(
                f"train.rcnn_samples is {self.rcnn_samples}; it cannot be more than train.proposals, {self.proposals}"
            )
        if self.rpn_negative_iou > self.rpn_positive_iou:
            raise UserError(
                f"train.rpn_negative_iou is {self.rpn_negative_iou:g}, above train.rpn_positive_iou, "
                f"{self.rpn_positive_iou:g}: anchors in between would be object and background at once; give at most "
                f"{self.rpn_positive_iou:g}"
            )
        if self.rpn_samples < 2:
            raise UserError("train.rpn_samples is 1, of which half are positives: none; give at least 2")
        if int(self.rcnn_samples * self.rcnn_positive_fraction) < 1:
            raise UserError(
                f"train.rcnn_samples is {self.rcnn_samples}, of which train.rcnn_positive_fraction, "
                f"{self.rcnn_positive_fraction:g}, leaves no positive; give at least "
                f"{math.ceil(1 / self.rcnn_positive_fraction)} samples"
            )
        peak, batch = self.learning_rate, self.reference_batch
        scaled = "" if batch is None else f" of {self.batch_size} images for train.reference_batch, {batch}"
        peak = peak if batch is None else peak * self.batch_size / batch
        if self.final_learning_rate > peak:
            raise UserError(
                f"train.final_learning_rate is {self.final_learning_rate:g}, above train.learning_rate, "
                f"{peak:g}{scaled}: the rate would rise to the end; give at most that"
            )
        if self.momentum == 1:
            raise UserError("train.momentum is 1, with which no step is ever forgotten; give less than 1, as 0.9")
        if self.ema == 1:
            raise UserError("train.ema is 1, with which the average never moves; give less than 1, for example 0.999")
        if self.rcnn_sampling not in ("ohem", "random"):
            raise UserError(f"train.rcnn_sampling is {self.rcnn_sampling!r}; choose 'ohem' (the paper's) or 'random'")
        if self.start not in STARTS and not Path(self.start).is_absolute():
            raise UserError(f"train.start is {self.start!r}; choose {' or '.join(map(repr, STARTS))}, or give --init")
        if self.precision not in PRECISIONS:
            raise UserError(f"train.precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if self.qat and self.precision != "float32":
            raise UserError(f"train.precision is {self.precision}; with train.qat it has to be float32")
        if self.optimizer not in ("sgd", "adamw"):
            raise UserError(f"train.optimizer is {self.optimizer!r}; choose 'sgd' or 'adamw'")


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    variant: str = "S"  # S, M or L: which defaults `model` has
    class_names: tuple[str, ...] = ()  # filled in from the data when a run starts
    category_ids: tuple[int, ...] = ()  # the data set's own id of each class; filled in likewise
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        model, train = self.model, self.train
        if self.category_ids and len(self.category_ids) != len(self.class_names):
            raise UserError(
                f"category_ids has {len(self.category_ids)} numbers and class_names {len(self.class_names)} names; "
                "give an id a class, or neither: the data has both"
            )
        candidates = len(model.strides) * train.nms_pre
        if train.proposals > candidates:
            raise UserError(
                f"train.proposals is {train.proposals}; {len(model.strides)} levels of train.nms_pre, {train.nms_pre} "
                f"candidates each, cannot give more than {candidates}"
            )
        # Anchors that leave the input are not trained on. (Here, because a search for anchors may try such a scale.)
        least = model.anchor_scale * model.strides[0] * min(max(r, 1 / r) for r in model.anchor_ratios) ** 0.5
        if least > model.input_size:
            raise UserError(
                f"model.anchor_scale is {model.anchor_scale:g}: the smallest anchors, {least:.0f} pixels long, do not "
                f"fit in model.input_size, {model.input_size}, and none would be trained; give a smaller scale"
            )

    def to_dict(self) -> dict[str, Any]:
        return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(self)))


def model_config(variant: str, **overrides: Any) -> ModelConfig:
    """The variant's architecture with single values replaced.

    Raises:
      UserError: no such variant, no such key, or a value that does not fit.
    """
    if variant not in VARIANTS:
        raise UserError(f"variant {variant!r} does not exist; choose one of {', '.join(VARIANTS)}")
    return typing.cast(ModelConfig, _replace(VARIANTS[variant], overrides, "model"))


class _Loader(yaml.SafeLoader):
    """As PyYAML's, which keeps the last of two values of one key and drops the other in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: Any) -> Any:
    """The content of a YAML text.

    Raises:
      ValueError: it is no YAML, a key is there twice in one section, or it is no text; the message is one line.
    """
    if not isinstance(text, str):
        raise ValueError(f"a {type(text).__name__} is no text")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # for an impossible date, lists nested too deeply
        raise ValueError(" ".join(str(error).split())) from error


def load_config(
    path: str | Path | None = None,
    *,
    variant: str | None = None,
    assignments: typing.Sequence[str] = (),
    base: Config | None = None,
) -> Config:
    """The configuration of a YAML file (or the defaults), then `key=value` assignments such as train.epochs=3.

    Args:
      path: a YAML file with keys of `Config`, or the name of one in configs/ ("digits_s"); None for the defaults.
      variant: overrides the file's; its architecture is the base that the file's `model:` section changes.
      assignments: `section.key=value`, the value in YAML's syntax.
      base: what to start from where there is no file; None for the defaults.

    Raises:
      UserError: a file that cannot be read, an unknown key (the nearest known one is suggested), a wrong type.
    """
    values: dict[str, Any] = {} if base is None else base.to_dict()
    if path is not None:
        try:
            text = recipe_file(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"config {path} cannot be read ({error}); give a YAML file") from error
        try:
            loaded = read_yaml(text) or {}
        except ValueError as error:
            raise UserError(f"config {path} is not YAML: {error}") from error
        if not isinstance(loaded, dict):
            raise UserError(
                f"config {path} holds a {type(loaded).__name__}; expected keys such as variant, model, train"
            )
        values = loaded
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise UserError(f"--set {assignment!r}: expected key=value, for example train.epochs=3")
        try:
            value = read_yaml(text)
        except ValueError as error:
            raise UserError(f"--set {assignment!r}: the value is not YAML ({error})") from error
        target = values
        *sections, name = key.split(".")
        for section in sections:
            if target.get(section) is None:  # a section with nothing in it
                target[section] = {}
            target = target[section]
            if not isinstance(target, dict):
                raise UserError(f"--set {assignment!r}: {section} is a single value, it has no keys")
        # A section changes the keys that it has and keeps the others, as in a file.
        there = target.get(name)
        target[name] = {**there, **value} if isinstance(there, dict) and isinstance(value, dict) else value
    if variant is not None:
        values["variant"] = variant
    return config_from_dict(values)


def assignment(key: str, text: str) -> str:
    """A `key=value` for `load_config` that gives `text`, whatever is in it."""
    return f"{key}='" + text.replace("'", "''") + "'"


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """A Config from nested plain values; see `load_config`."""
    variant = values.get("variant", "S")
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise UserError(f"variant {variant!r} does not exist; choose one of {', '.join(VARIANTS)}")
    return typing.cast(Config, _replace(Config(variant=variant, model=VARIANTS[variant]), values, ""))


def save_config(config: Config) -> str:
    """YAML text that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _replace(base: Any, values: Mapping[str, Any], where: str) -> Any:
    """A copy of the dataclass with `values` put in, each checked against the field's type."""
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.5)
            suggestion = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(hints)}"
            raise UserError(f"unknown config key {name!r}; {suggestion}")
        if dataclasses.is_dataclass(hints[key]):
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise UserError(f"config key {name} is {value!r}; expected a section of keys")
            changes[key] = _replace(getattr(base, key), value, name)
        else:
            changes[key] = _coerce(value, hints[key], name)
    return dataclasses.replace(base, **changes)


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """`value` as the annotated type. ints become floats; a YAML `1e-5`, which is a string to YAML 1.1, too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"config key {name} is {value!r}; expected a list")
        return tuple(_coerce(v, args[0], f"{name}[{i}]") for i, v in enumerate(value))
    if hint is float and not isinstance(value, bool):
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, int | float) and abs(value) < 1e300:  # an int may be too large for a float
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INTEGER:
            return value
        if name == "model.input_size":
            raise UserError(
                f"config key {name} is {value!r}; expected int, the one side in pixels: TinyDet's input is square, "
                "because every image is stretched to it"
            )
    elif isinstance(value, hint):
        return value
    raise UserError(f"config key {name} is {value!r}; expected {hint.__name__}")
