"""Parameters of a PyTorch network and the Keras variables that are the same.

Layouts: PyTorch's convolutions are [O, I/g, kh, kw] and its fully connected layers [O, I], with O outputs, I inputs and
g groups; Keras' are [kh, kw, I/g, O] and [I, O]. A depthwise kernel is [C, 1, kh, kw] there and [kh, kw, C, 1] here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet_tf.model.detector import TinyDet

Arrays = Mapping[str, NDArray[np.float32]]

# For each kind of layer, PyTorch's axes in Keras' order.
CONV = (2, 3, 1, 0)
DEPTHWISE = (2, 3, 0, 1)
DENSE = (1, 0)
VECTOR = (0,)

#: How many names a message lists.
_LISTED = 4


@dataclass(frozen=True)
class Parameter:
    """One PyTorch tensor, and the Keras variable that is the same with its axes in another order."""

    name: str
    layer: str
    weight: str  # the layer's attribute
    axes: tuple[int, ...]  # for each axis of the variable, PyTorch's axis

    def published_shape(self, keras_shape: Iterable[int]) -> tuple[int, ...]:
        keras_shape = tuple(keras_shape)
        return tuple(keras_shape[axis] for axis in np.argsort(self.axes))


def kernel(name: str, layer: str, axes: tuple[int, ...]) -> Parameter:
    return Parameter(f"{name}.weight", layer, "depthwise_kernel" if axes == DEPTHWISE else "kernel", axes)


def batch_norm(name: str, layer: str) -> list[Parameter]:
    pairs = (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance"))
    return [Parameter(f"{name}.{theirs}", layer, ours, VECTOR) for theirs, ours in pairs]


def variables_of(detector: TinyDet, parameters: Iterable[Parameter]) -> dict[str, Any]:
    """The variable of each parameter, by published name. Two parameters with one variable are a bug of this module."""
    layers = detector.named_layers()
    variables = {p.name: getattr(layers[p.layer], p.weight) for p in parameters}
    if len({id(v) for v in variables.values()}) != len(variables):
        raise RuntimeError("two published names mean one variable")
    return variables


def mismatch(tensors: Arrays, parameters: Iterable[Parameter], variables: Mapping[str, Any]) -> str | None:
    """Tells which tensors are missing, unknown or of another shape; None if tensors and parameters match one to one."""
    missing = [name for name in variables if name not in tensors]
    unknown = [name for name in tensors if name not in variables]
    shapes = []
    for parameter in parameters:
        expected = parameter.published_shape(variables[parameter.name].shape)
        if parameter.name in tensors and tensors[parameter.name].shape != expected:
            found = list(tensors[parameter.name].shape)
            shapes.append(f"{parameter.name} is {found}, expected {list(expected)}")
    problems = [
        f"{len(texts)} {what}: {listed(texts)}"
        for what, texts in (("missing", missing), ("not known", unknown), ("of another shape", shapes))
        if texts
    ]
    return "; ".join(problems) if problems else None


def listed(texts: list[str], count: int = _LISTED) -> str:
    shown = ", ".join(texts[:count])
    return shown if len(texts) <= count else f"{shown} and {len(texts) - count} more"
