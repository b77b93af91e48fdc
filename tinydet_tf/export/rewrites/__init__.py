"""The rewrites of the traced graph: exact in real numbers, each chosen by what the runtime runs fastest.

A rewrite that a configuration has no use for does nothing there.
"""

from __future__ import annotations

from tinydet_lite.errors import UserError

#: Each rewrite: what it does and why.
REWRITES: dict[str, str] = {
    "fold_batch_norm": (
        "batch normalization goes into the kernel and bias of the conv in front of it: no op is left of it"
    ),
    "fold_pixel_std": (
        "the division by the pixels' standard deviation goes into the stem's kernel: a pass over the image less"
    ),
    "pad_rows": "the stem's border is put around rows of pixels: around pixels, XNNPACK copies 3 numbers at a time",
    "fold_hard_swish": (
        "h-swish as x * relu6(x + 3), its 1/6 in the kernels behind it: ADD and MUL, which int8 runs fast, "
        "where the converter would make HARD_SWISH, which int8 does not"
    ),
    "fold_hard_sigmoid": "the gates of squeeze-and-excite as relu6(x + 3), their 1/6 in the kernel behind them",
    "fuse_pool": (
        "average pool and strided 3x3 depthwise conv as one 4x4 conv (section 3.1.2), the border computed apart"
    ),
    "pool_as_depthwise": (
        "the 2x2 average pool as a depthwise conv with constant kernel: int8 has no fast AVERAGE_POOL_2D"
    ),
    "broadcast_upsampling": "the pyramid adds a coarser level by broadcasting instead of enlarging it first",
    "merge_groups": (
        "grouped 1x1 convs with narrow groups as fewer, wider groups with zeros in between, as the runtime's "
        "tiles want them"
    ),
    "join_rpn_outputs": (
        "logits and deltas of the RPN by one conv: less to read; int8 wants them apart, each with its own scale"
    ),
    "decode_at_once": "boxes of all levels decoded together, by products with constant matrices instead of slices",
    "gather_corners": (
        "PSRoIAlign with one gather a sample and corner, row numbers by products with 0/1 matrices, no broadcasting"
    ),
    "rows_of_bins": (
        "the table that PSRoIAlign gathers from is transposed once, so that each gather reads all channels of a bin; "
        "not where the table is much larger than what is read from it, as in L"
    ),
}

_BOTH = frozenset({
    "fold_batch_norm", "fold_pixel_std", "pad_rows", "fold_hard_sigmoid", "fuse_pool", "merge_groups",
    "decode_at_once", "gather_corners", "rows_of_bins",
})  # fmt: skip
_FLOAT = _BOTH | {"broadcast_upsampling", "join_rpn_outputs"}
_INT8 = _BOTH | {"fold_hard_swish", "pool_as_depthwise"}

#: What pays in each format, by measurement (docs/rewrites.md).
_CHOSEN: dict[str, frozenset[str]] = {
    "float32": _FLOAT,
    "float16": _FLOAT,
    "dynamic": _FLOAT,
    "int8": _INT8,
    "int16": _INT8,
}


def rewrites_for(quantization: str) -> frozenset[str]:
    """The rewrites that pay for a format: 'float32', 'float16', 'dynamic', 'int8' or 'int16'.

    Raises:
      UserError: no such format.
    """
    if quantization not in _CHOSEN:
        raise UserError(f"there are no rewrites for the format {quantization!r}; use one of {', '.join(_CHOSEN)}")
    return _CHOSEN[quantization]


def formats_with(name: str) -> list[str]:
    """The formats for which a rewrite is chosen."""
    return [quantization for quantization, chosen in _CHOSEN.items() if name in chosen]


def check_rewrites(names: frozenset[str]) -> frozenset[str]:
    """The names themselves.

    Raises:
      UserError: one that does not exist.
    """
    for name in sorted(names):
        if name not in REWRITES:
            raise UserError(f"rewrite {name!r} does not exist; choose from {', '.join(REWRITES)}")
    return names
