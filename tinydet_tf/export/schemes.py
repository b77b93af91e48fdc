"""The schemes of quantization: what each makes of weights and activations, in which parts, from which ranges.

Boxes, scores and coordinates (the scopes proposals, roi and final) are float in every scheme: one scale for all of them
costs most of the AP. The picture's bytes become integers as they are.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from tinydet_lite.errors import UserError
from tinydet_tf.export.scopes import HEAD, TABLE, TRUNK

#: How a range comes out of what the calibration images gave (`calibration.ranges`): their ends, or what the 0.001th and
#: the 99.999th percentile enclose.
METHODS = ("min_max", "percentile")
#: What a graph is traced for. float16: for what computes in float16 where the processor can, in float32 elsewhere.
Arithmetic = Literal["float32", "float16", "integer"]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One way to quantize.

    Attributes:
      name: of the format that it is a form of, a key of FORMATS.
      weights: 'float32', 'float16' or 'int8' (per output channel, symmetric).
      activation_bits: 8 or 16: convolutions and fully connected layers compute in integers from calibrated ranges;
        'dynamic': in integers from ranges taken as the model runs, but for depthwise convolutions; None: in float.
      parts: the scopes (of tensor names, see `scopes`) that are quantized, as regular expressions; () for all.
      float_parts: scopes inside these that stay float.
      method: a key of METHODS.
      bias_correction: of int8: whether biases take back what rounding moves a layer by (bias_correction.py).
      equalization: of int8: whether channels are brought to like ranges first (equalization.py).
    """

    name: str
    weights: str
    activation_bits: int | str | None = None
    parts: tuple[str, ...] = ()
    float_parts: tuple[str, ...] = ()
    method: str = "min_max"
    bias_correction: bool = True
    equalization: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"calibration method {self.method!r} does not exist; choose from {', '.join(METHODS)}")

    @property
    def integer(self) -> bool:
        """Whether activations are integers: then ranges are needed."""
        return isinstance(self.activation_bits, int)

    @property
    def arithmetic(self) -> Arithmetic:
        """What the graph is traced for."""
        return "integer" if self.integer else "float16" if self.weights == "float16" else "float32"

    def covers(self, tensor: str) -> bool:
        """Whether an operator that writes a tensor of this name is to be quantized."""
        inside = not self.parts or in_scopes(tensor, self.parts)
        return inside and not in_scopes(tensor, self.float_parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as json gives them back: what identifies the scheme in a file of results."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }


def in_scopes(tensor: str, scopes: tuple[str, ...]) -> bool:
    """Whether a tensor's name lies in one of the scopes. The names of what the converter fused are joined by ';'."""
    return bool(scopes) and re.search(scope_pattern(scopes), tensor) is not None


def scope_pattern(scopes: tuple[str, ...]) -> str:
    """The regular expression on tensor names that `in_scopes` and the recipes search for.

    A fused operator has the names of all that it does, its own last part first: the first decides.
    """
    return f"^(?:{'|'.join(scopes)})/"


#: Where the weights are. Elsewhere constants compute coordinates and indices: rounded, they point past the features.
WEIGHTED_PARTS = (TRUNK, HEAD)

#: What is quantized from calibrated ranges. The table is the RoI stage's view of the features, which are int8 already.
STATIC_PARTS = (TRUNK, TABLE, HEAD)

#: What `export.py --format` takes.
FORMATS: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", "float32"),
        # Half the size; in float16 where the processor has it (a Raspberry Pi 5): float32's results at int8's speed.
        Scheme("float16", "float16", parts=WEIGHTED_PARTS),
        # Activations float, quantized as the model runs: a third of the size, no calibration.
        Scheme("dynamic", "int8", "dynamic", parts=WEIGHTED_PARTS),
        # The fast one; percentile kept AP and APs on both models (docs/quantization.md).
        Scheme("int8", "int8", 8, parts=STATIC_PARTS, method="percentile"),
        # Nearly float32's numbers in int8's size, on slow kernels.
        Scheme("int16", "int8", 16, parts=STATIC_PARTS),
    )
}


def scheme_named(name: str) -> Scheme:
    """The format's scheme.

    Raises:
      UserError: there is none; the message lists what there is.
    """
    if name not in FORMATS:
        raise UserError(f"format {name!r} does not exist; choose from {', '.join(FORMATS)}")
    return FORMATS[name]
