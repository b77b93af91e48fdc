"""The weights of a trained detector as numpy arrays, by the names of its layers.

I input and O output channels of a convolution, K its kernel's side, g its groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras as keras

from tinydet_tf.model.detector import TinyDet

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Convolution:
    """kernel * x plus `shift` channel by channel: a conv with its bias, or with its batch normalization folded in.

    kernel: [K, K, I / g, O], or [K, K, I, 1] of a depthwise conv. shift (None: 0): [O].
    """

    kernel: FloatArray
    shift: FloatArray | None

    def with_inputs(self, channels: int, *, depthwise: bool = False) -> Convolution:
        """With further inputs that it does not look at, `channels` in all; a depthwise conv gives zeros for them."""
        more = channels - self.kernel.shape[2]
        shift = self.shift if self.shift is None or not depthwise else np.pad(self.shift, [0, more])
        return Convolution(np.pad(self.kernel, [(0, 0), (0, 0), (0, more), (0, 0)]), shift)

    def of_inputs_above(self, mean: FloatArray) -> Convolution:
        """For inputs from which `mean` [I] is still to be subtracted: that lies in the shift then. Of a dense conv."""
        moved = np.einsum("hwio,i->o", self.kernel.astype(np.float64), mean)
        shift = np.float64(0.0) if self.shift is None else self.shift
        return Convolution(self.kernel, (shift - moved).astype(np.float32))

    def of_pairs(self) -> Convolution:
        """For a map whose pixels are taken by two, [H, W / 2, 2 I]: [K, (K + 1) / 2, 2 I, O]. Of a dense conv."""
        rows, columns, inputs, outputs = self.kernel.shape
        kernel = np.pad(self.kernel, [(0, 0), (0, columns % 2), (0, 0), (0, 0)])
        return Convolution(kernel.reshape(rows, -1, 2 * inputs, outputs), self.shift)

    def with_outputs(self, channels: int) -> Convolution:
        """With further outputs that are zeros, `channels` in all."""
        return self.with_group_outputs(1, channels)

    def with_group_outputs(self, groups: int, channels: int) -> Convolution:
        """With further outputs that are zeros at the end of each group, `channels` in each."""

        def filled(values: FloatArray) -> FloatArray:
            parts = values.reshape(*values.shape[:-1], groups, -1)
            more = [(0, 0)] * (parts.ndim - 1) + [(0, channels - parts.shape[-1])]
            return np.pad(parts, more).reshape(*values.shape[:-1], -1)

        return Convolution(filled(self.kernel), None if self.shift is None else filled(self.shift))


class Trained:
    """Reads layers by name, whichever part of the detector they are in."""

    def __init__(self, detector: TinyDet) -> None:
        self.layers = detector.named_layers()

    def convolution(
        self, name: str, batch_norm: str | None = None, input_scale: FloatArray | None = None
    ) -> Convolution:
        """A conv, depthwise, grouped or dense layer and the batch normalization behind it.

        Args:
          input_scale: [I], what the inputs are still to be multiplied by.
        """
        kernel, *bias = self._weights(name)
        if input_scale is not None:
            kernel = kernel * input_scale[:, None]
        if batch_norm is None:
            return Convolution(kernel, bias[0] if bias else None)
        layer = self.layers[batch_norm]
        gamma, beta, mean, variance = [w.astype(np.float64) for w in self._weights(batch_norm)]
        scale = gamma / np.sqrt(variance + layer.epsilon)
        shift = beta - mean * scale
        if bias:
            shift = shift + bias[0] * scale
        scale = scale.astype(np.float32)
        depthwise = isinstance(self.layers[name], keras.layers.DepthwiseConv2D)
        return Convolution(kernel * (scale[:, None] if depthwise else scale), shift.astype(np.float32))

    def _weights(self, name: str) -> list[FloatArray]:
        with tf.init_scope():  # outside of the graph that is being traced
            return [np.asarray(w, np.float32) for w in self.layers[name].get_weights()]


def as_dense(kernel: FloatArray, groups: int) -> FloatArray:
    """A grouped pointwise kernel [1, 1, I / g, O] -> [I, O] with zeros between the groups."""
    inner, out = kernel.shape[2:]
    dense = np.zeros([inner * groups, out], np.float32)
    for group in range(groups):
        columns = slice(group * out // groups, (group + 1) * out // groups)
        dense[group * inner : (group + 1) * inner, columns] = kernel[0, 0, :, columns]
    return dense


def as_grouped(dense: FloatArray, groups: int) -> FloatArray:
    """[I, O] -> [1, 1, I / g, O], the blocks on the diagonal; what lies outside of them is left out."""
    inputs, out = dense.shape
    blocks = dense.reshape(groups, inputs // groups, groups, out // groups)
    return np.concatenate([blocks[g, :, g] for g in range(groups)], -1)[None, None]
