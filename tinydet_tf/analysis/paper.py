"""The paper's printed numbers, to compare with. Nothing here is measured or computed by this project.

Multiply-accumulates (tables 4-6, 9-18) are in millions; the paper calls them FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinydet_tf.config import ModelConfig, model_config

#: Table 2 as printed: GTMR in percent of all, small, medium and large objects. Its TinyDet is M.
TABLE2 = {
    "Faster R-CNN": (6.6, 17.0, 1.2, 1.9),
    "Faster R-CNN w/ FPN": (6.1, 15.2, 1.2, 2.3),
    "ThunderNet": (18.1, 53.1, 5.6, 1.2),
    "TinyDet-M": (8.4, 21.2, 2.2, 3.0),
}

#: Tables 10-12, one number for each row: the stem, then the blocks.
BACKBONE_ROWS: dict[str, tuple[float, ...]] = {
    "S": (
        11.06, 10.24, 39.73, 26.27, 18.55, 20.17, 20.17, 23.90, 16.22, 17.76, 17.76, 19.33, 31.37, 21.33, 16.68, 16.68,
        20.26,
    ),
    "M": (
        16.59, 20.28, 64.97, 55.99, 55.99, 55.99, 39.58, 41.78, 41.78, 31.58, 13.52, 12.44, 12.44, 38.71, 62.86, 42.76,
        33.58, 33.58, 20.26, 8.74,
    ),
    "L": (
        42.47, 51.91, 166.33, 143.33, 143.33, 143.33, 101.31, 106.92, 106.92, 80.86, 34.61, 31.84, 31.84, 98.91, 160.56,
        109.12, 85.25, 85.25, 51.15, 21.66,
    ),
}  # fmt: skip
BACKBONE_TOTAL = {"S": 347.48, "M": 703.42, "L": 1796.90}

#: Tables 13, 15, 17: the lateral convs, finest first, then the SCConvs.
FPN_ROWS: dict[str, tuple[float, ...]] = {
    "S": (16.07, 11.01, 3.95, 0.99, 18.03, 5.88, 6.27, 1.57),
    "M": (58.02, 23.91, 11.07, 3.95, 0.99, 25.09, 18.03, 5.88, 6.27, 1.57),
    "L": (148.52, 61.22, 28.35, 10.10, 2.52, 64.23, 46.16, 15.05, 16.06, 4.01),
}
FPN_TOTAL = {"S": 63.77, "M": 154.78, "L": 396.22}

#: Tables 14, 16, 18: SCConv, score and box convs, each summed over the levels.
RPN_ROWS: dict[str, tuple[float, ...]] = {
    "S": (8.33, 1.57, 6.27),
    "M": (33.42, 6.29, 25.17),
    "L": (85.55, 16.11, 64.42),
}
RPN_TOTAL = {"S": 16.17, "M": 64.88, "L": 166.08}

#: Table 9: whole millions.
TABLE9: dict[str, dict[str, float]] = {
    "S": {"total": 495, "backbone": 347, "fpn": 64, "rpn": 16, "rcnn": 68},
    "M": {"total": 991, "backbone": 703, "fpn": 155, "rpn": 65, "rcnn": 68},
    "L": {"total": 2427, "backbone": 1797, "fpn": 396, "rpn": 166, "rcnn": 68},
}

#: (variant, row) -> why the printed number differs from what the counting rule gives.
MISPRINTS: dict[tuple[str, str], str] = {
    ("S", "lateral1"): "table 13 prints 11.01 for the conv that table 15 prints as 11.07 (20x20, 112 -> 245, bias)",
}


@dataclass(frozen=True)
class Ablation:
    """A row of tables 4-7, or a choice that the text names: a change of TinyDet-M.

    Attributes:
      name: stem of its file in configs/ablations/.
      changes: values of ModelConfig that differ from TinyDet-M's.
      mmadds: what the paper prints for the whole detector; None where it prints nothing.
      met: False if the printed number cannot be reached, because the paper does not say enough.
      rounding: the printed number is rounded to so many millions.
    """

    name: str
    changes: dict[str, Any]
    mmadds: float | None
    rounding: float = 1.0
    met: bool = True

    @property
    def model(self) -> ModelConfig:
        return model_config("M", **self.changes)


#: For table 4 the groups were adjusted "to keep the total computation budget similar" (section 4.3.1), and not printed.
#: For MobileNetV3 and -B exactly one choice with more groups at finer levels gives the printed sums; for -C several do,
#: and this is one of them.
ABLATIONS: tuple[Ablation, ...] = (
    Ablation("table4_mobilenetv3", {"backbone": "mobilenetv3", "fpn_groups": (5, 1, 1, 1, 1), "rpn_groups": 5}, 963),
    Ablation(
        "table4_mobilenetv3_b", {"backbone": "mobilenetv3_b", "fpn_groups": (5, 1, 1, 1, 1), "rpn_groups": 5}, 1016
    ),
    Ablation(
        "table4_mobilenetv3_c", {"backbone": "mobilenetv3_c", "fpn_groups": (7, 7, 7, 7, 7), "rpn_groups": 5}, 1001
    ),
    Ablation("table4_mobilenetv3_bc", {}, 991),
    Ablation("table4_mobilenetv3_bc_without_se", {"squeeze_excite": False}, 988),
    # The paper prints 908 M, but neither the groups nor the layer for stride 64. TinyDet-M's groups give 43 M less.
    Ablation("table4_mobilenetv2", {"backbone": "mobilenetv2"}, 908, met=False),
    Ablation(
        "keras_mobilenetv3large",
        {"backbone": "mobilenetv3large", "fpn_groups": (5, 1, 1, 1, 1), "rpn_groups": 5},
        None,
    ),
    Ablation("table5_conventional", {"pyramid_conv": "conventional"}, 10115),
    Ablation("table5_depthwise_separable", {"fpn_groups": (1, 1, 1, 1, 1), "rpn_groups": 1}, 1970),
    Ablation("table5_sparsely_connected", {}, 991),
    Ablation("table6_a", {"fpn_groups": (1, 1, 1, 1, 1), "rpn_groups": 1}, 1970, rounding=10),
    Ablation("table6_b", {"fpn_groups": (245, 245, 245, 245, 245), "rpn_groups": 245}, 950, rounding=10),
    Ablation("table6_c", {"fpn_groups": (7, 7, 7, 7, 7), "rpn_groups": 49}, 1030, rounding=10),
    Ablation("table6_d", {"fpn_groups": (1, 1, 5, 7, 49), "rpn_groups": 49}, 1440, rounding=10),
    Ablation("table6_e", {}, 991),
    Ablation("table7_without_alignment", {"align": False}, None),
    Ablation("table7_with_alignment", {}, None),
    Ablation("alignment_with_stem", {"align_stem": True}, None),
    Ablation("psroi_align_max", {}, None),
    Ablation("psroi_align_mean", {"psroi_reduce": "mean"}, None),
)


def printed_rows(variant: str) -> dict[str, float]:
    """Row name, as `analysis.madds` names it, -> the paper's number, for the variant as published."""
    levels = len(FPN_ROWS[variant]) // 2
    names = ["stem", *(f"block{i}" for i in range(1, len(BACKBONE_ROWS[variant])))]
    rows = dict(zip(names, BACKBONE_ROWS[variant], strict=True))
    fpn_names = [f"lateral{i}" for i in range(levels)] + [f"fpn{i}" for i in range(levels)]
    rows |= dict(zip(fpn_names, FPN_ROWS[variant], strict=True))
    rows |= dict(zip(("rpn_conv", "rpn_score", "rpn_box"), RPN_ROWS[variant], strict=True))
    return rows


def printed_total(model: ModelConfig) -> float | None:
    """The paper's sum for a whole detector with 80 classes, where it prints one."""
    for variant, totals in TABLE9.items():
        if model == model_config(variant):
            return totals["total"]
    return next((row.mmadds for row in ABLATIONS if row.mmadds is not None and row.model == model), None)
