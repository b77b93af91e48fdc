"""Backbone, TinyFPN and TinyRPN from trained weights, every operation in the form that the runtime runs fastest.

B = 1 image, H W cells, C channels. A value may be kept as a multiple of what it stands for (`Scaled`), so that constant
factors end up in the weights behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tinydet_tf.export.rewrites.pooled_depthwise import fused, pool_and_convolve
from tinydet_tf.export.rewrites.trained import Convolution, FloatArray, Trained, as_dense, as_grouped
from tinydet_tf.export.scopes import IMAGE, TRUNK, scope
from tinydet_tf.model.backbone import PIXEL_MEAN, PIXEL_STD
from tinydet_tf.model.backbones import BACKBONES, BlockSpec
from tinydet_tf.model.detector import TinyDet

#: Narrow groups of a pointwise conv are merged, with zeros in between: to what fits into 16 channels in integers, which
#: the runtime computes at a time, to 32 or more in float. Narrower ones are faster there on ARM, but slower on x86
#: (docs/rewrites.md).
INTEGER_GROUP, FLOAT_GROUP = 16, 32
#: In float, widths of the backbone, the pyramid and the RPN are filled up to a multiple of this with channels of zeros:
#: XNNPACK computes eight channels of a row at a time, but takes a slower kernel where filling up by itself would waste
#: more than a hundredth. Integers have no such kernel, and wider tiles cost more than they gain (docs/rewrites.md).
FLOAT_TILE = 8

#: What stands behind a conv, number by number.
Activation = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Scaled:
    """What it stands for is value * factor."""

    value: tf.Tensor
    factor: float = 1.0


class Trunk:
    """Traces the trunk of a detector.

    Args:
      detector: the trained model.
      integer: in the forms that integer arithmetic is fast in, else in those of float.
    """

    def __init__(self, detector: TinyDet, *, integer: bool) -> None:
        self.config, self.integer = detector.config, integer
        self.tile = 1 if integer else FLOAT_TILE
        self.spec = BACKBONES[self.config.backbone]
        self.dialect = self.spec.dialect
        self.trained = Trained(detector)

    def __call__(self, image: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
        """image uint8 [1, S, S, 3] -> features [1, H, W, channels], logits [1, H, W, ratios], deltas [1, H, W,
        4 * ratios], each a level, finest first."""
        features = self.pyramid(self.backbone(image))
        outputs = []
        for level, feature in enumerate(features):
            with scope(f"{TRUNK}/rpn{level}"):
                outputs.append(self.rpn(feature))
        return features, [logits for logits, _ in outputs], [deltas for _, deltas in outputs]

    # Backbone

    def backbone(self, image: tf.Tensor) -> list[Scaled]:
        dialect = self.dialect
        x, mean, pixel_scale = self.pixels(image)
        with scope(f"{TRUNK}/stem"):
            stem = self.trained.convolution("stem", "stem_bn", pixel_scale).of_inputs_above(mean)
            if self.config.align_stem:
                x = tf.nn.avg_pool2d(x, 2, 1, "VALID")
            y = self.stem(x, stem, mean)
            x = self.activate(y, dialect.stem_hard_swish, channels_apart=True)
        taps, channels = [], self.spec.stem
        for index, block in enumerate(self.spec.blocks, 1):
            with scope(f"{TRUNK}/block{index}"):
                residual = block.stride == 1 and channels == block.out
                x, channels = self.block(x, block, f"block{index}", expand=index > 1, residual=residual), block.out
            if block.tap:
                taps.append(x)
        return taps

    def pixels(self, image: tf.Tensor) -> tuple[tf.Tensor, FloatArray, FloatArray]:
        """What the stem sees [1, S, S, 3], what is still to be subtracted from it, and to be multiplied by: [3] each.

        Integers see the pixels as they are, which are whole numbers of 0 to 255; the mean is in the stem's shift, and
        around the picture. In float that would be a small difference of large numbers.
        """
        both = self.dialect.pixel_mean_and_std or (PIXEL_MEAN, PIXEL_STD)
        mean, std = (np.broadcast_to(np.asarray(values, np.float32), [3]) for values in both)
        with scope(IMAGE):
            # Rows of pixels instead of pixels of 3 channels: the runtime subtracts in runs of the last dimension.
            size = image.shape[1]
            rows = tf.cast(tf.reshape(image, [size, 3 * size]), tf.float32)
            if not self.integer:
                rows, mean = rows - np.tile(mean, size), np.zeros_like(mean)
            return tf.reshape(rows, image.shape), mean, 1.0 / std

    def stem(self, x: tf.Tensor, weights: Convolution, border: FloatArray) -> tf.Tensor:
        """The first conv, of stride 2, with `border` [3] around the picture [1, S, S, 3]."""
        weights = weights.with_outputs(-(-weights.kernel.shape[-1] // self.tile) * self.tile)
        after = weights.kernel.shape[0] // 2
        before = self.before(x.shape[1], after)
        if not self.integer:
            x = with_border(x, (before, after), (before, after), border)
            return tf.nn.conv2d(x, weights.kernel, 2, "VALID") + weights.shift
        # Integers are multiplied by fours or eights: a pair of pixels at a time, 6 numbers, leaves fewer of them empty.
        odd = (before + x.shape[2] + after) % 2
        x = with_border(x, (before, after), (before, after + odd), border)
        pairs = tf.reshape(x, [1, x.shape[1], x.shape[2] // 2, 6])
        return tf.nn.conv2d(pairs, weights.of_pairs().kernel, [1, 2, 1, 1], "VALID") + weights.shift

    def block(self, x: Scaled, spec: BlockSpec, name: str, *, expand: bool, residual: bool) -> Scaled:
        """One inverted residual (tinydet_tf.layers.blocks.inverted_residual); channels of zeros stay zeros."""
        y = x
        pooled = self.config.align and spec.stride == 2
        if expand and not spec.fused:
            weights = self.trained.convolution(f"{name}_expand", f"{name}_expand_bn")
            y = self.activate(self.convolve(y, weights, tile=self.tile), spec.hard_swish)
        if spec.fused:
            weights = self.trained.convolution(f"{name}_fused", f"{name}_fused_bn")
            y = Scaled(self.pool(y.value), y.factor) if pooled else y
            y = self.activate(self.convolve(y, weights, stride=spec.stride, tile=self.tile), spec.hard_swish)
        else:
            weights = self.trained.convolution(f"{name}_depthwise", f"{name}_depthwise_bn")
            y = self.depthwise(y, weights, spec.stride, pooled=pooled, hard_swish=spec.hard_swish)
        if spec.squeeze_excite and self.config.squeeze_excite:
            y = self.squeeze_excite(y, f"{name}_se")
        weights = self.trained.convolution(f"{name}_project", f"{name}_project_bn")
        out = self.convolve(y, weights, out_factor=x.factor if residual else 1.0, tile=self.tile)
        return Scaled(x.value + out, x.factor) if residual else Scaled(out)

    def squeeze_excite(self, x: Scaled, name: str) -> Scaled:
        gate = Scaled(tf.reduce_mean(x.value, [1, 2], keepdims=True), x.factor)
        gate = Scaled(tf.nn.relu(self.convolve(gate, self.trained.convolution(f"{name}_reduce"))))
        y = self.convolve(gate, self.trained.convolution(f"{name}_expand"), tile=self.tile)
        return Scaled(x.value * tf.nn.relu6(y + 3.0), x.factor / 6.0)

    def activate(self, x: tf.Tensor, hard_swish: bool, *, channels_apart: bool = False) -> Scaled:
        """What stands behind a conv.

        Args:
          channels_apart: of integers: each channel of x may be kept as a multiple of its own (equalization.py), which
            costs a pass. It pays behind the stem, whose channels are few and unlike (docs/quantization.md).
        """
        if not hard_swish:
            maximum = self.dialect.relu_max
            if maximum is None:
                return Scaled(tf.nn.relu(x))
            return Scaled(tf.nn.relu6(x) if maximum == 6.0 else tf.clip_by_value(x, 0.0, maximum))
        if self.integer:  # the converter would make HARD_SWISH of the other form, which the delegate leaves out in int8
            gate = x
            if channels_apart:  # the same numbers, by a kernel that can take a channel's factor back
                gate = tf.nn.depthwise_conv2d(x, np.ones([1, 1, x.shape[-1], 1], np.float32), [1, 1, 1, 1], "VALID")
            return Scaled(x * tf.nn.relu6(gate + 3.0), 1.0 / 6.0)
        return Scaled(x * (tf.nn.relu6(x + 3.0) * (1.0 / 6.0)))

    # Pyramid and RPN

    def pyramid(self, taps: Sequence[Scaled]) -> list[tf.Tensor]:
        merged = []
        for level, tap in enumerate(taps):
            with scope(f"{TRUNK}/lateral{level}"):
                merged.append(self.dense(tap, self.trained.convolution(f"lateral{level}")))
        for level in range(len(merged) - 2, -1, -1):
            with scope(f"{TRUNK}/lateral{level}"):
                merged[level] = self.add_upsampled(merged[level], merged[level + 1])
        features = []
        for level, x in enumerate(merged):
            with scope(f"{TRUNK}/fpn{level}"):
                features.append(self.pyramid_conv(x, f"fpn{level}", self.config.fpn_groups[level]))
        return features

    def add_upsampled(self, x: tf.Tensor, coarse: tf.Tensor) -> tf.Tensor:
        """x + coarse at twice its size: [1, 2H, 2W, C] and [1, H, W, C]."""
        _, height, width, channels = coarse.shape
        if self.integer:
            return x + tf.image.resize(coarse, [2 * height, 2 * width], "nearest")
        blocks = tf.reshape(x, [height, 2, width, 2, channels])
        total = blocks + tf.reshape(coarse, [height, 1, width, 1, channels])
        return tf.reshape(total, [1, 2 * height, 2 * width, channels])

    def pyramid_conv(self, x: tf.Tensor, name: str, groups: int, activate: Activation = tf.identity) -> tf.Tensor:
        """tinydet_tf.layers.blocks.pyramid_conv, and an activation."""
        if self.config.pyramid_conv == "conventional":
            return activate(self.dense(Scaled(x), self.trained.convolution(f"{name}_conv")))
        y = self.depthwise(Scaled(x), self.trained.convolution(f"{name}_depthwise"), 1).value
        return self.grouped(y, self.trained.convolution(f"{name}_pointwise"), groups, activate)

    def dense(self, x: Scaled, weights: Convolution) -> tf.Tensor:
        """A dense conv as wide as it was trained, though the runtime computes whole tiles."""
        y = self.convolve(x, weights, tile=self.tile)
        return first_of_groups(y, 1, weights.kernel.shape[-1])

    def grouped(self, x: tf.Tensor, weights: Convolution, groups: int, activate: Activation) -> tf.Tensor:
        """A pointwise conv in groups: narrow ones merged, in float the outputs of each filled up to tiles."""
        channels = weights.kernel.shape[-1]
        inner = weights.kernel.shape[2]
        together = INTEGER_GROUP // inner if self.integer else -(-FLOAT_GROUP // inner)
        if 1 < together < groups:
            weights, groups = merged(weights, groups, together)
        more = weights.kernel.shape[2] * groups - x.shape[-1]
        x = tf.pad(x, [(0, 0)] * 3 + [(0, more)]) if more else x
        out = weights.kernel.shape[-1] // groups
        weights = weights.with_group_outputs(groups, -(-out // self.tile) * self.tile)
        y = activate(tf.nn.conv2d(x, weights.kernel, 1, "VALID") + weights.shift)
        return first_of_groups(first_of_groups(y, groups, out), 1, channels)

    def rpn(self, feature: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = self.pyramid_conv(feature, "rpn_conv", self.config.rpn_groups, tf.nn.relu)
        score, box = self.trained.convolution("rpn_score"), self.trained.convolution("rpn_box")
        if self.integer:  # each with a scale of its own
            return tuple(self.convolve(Scaled(x), w) for w in (score, box))
        assert score.shift is not None and box.shift is not None
        both = Convolution(np.concatenate([score.kernel, box.kernel], -1), np.concatenate([score.shift, box.shift]))
        y = self.convolve(Scaled(x), both, tile=self.tile)
        scores, boxes = (weights.kernel.shape[-1] for weights in (score, box))
        return y[..., :scores], y[..., scores : scores + boxes]

    # Convolutions

    def convolve(
        self,
        x: Scaled,
        weights: Convolution,
        *,
        stride: int = 1,
        out_factor: float = 1.0,
        tile: int = 1,
    ) -> tf.Tensor:
        """A dense conv; what it gives stands for itself times `out_factor`, and ends with channels of zeros, up to a
        multiple of `tile`. Its inputs may have such channels, too."""
        weights = weights.with_inputs(x.value.shape[-1]).with_outputs(-(-weights.kernel.shape[-1] // tile) * tile)
        kernel = (weights.kernel * (x.factor / out_factor)).astype(np.float32)
        value, padding = self.padded(x.value, kernel.shape[0], stride)
        y = tf.nn.conv2d(value, kernel, stride, padding)
        return y if weights.shift is None else y + weights.shift / np.float32(out_factor)

    def depthwise(
        self, x: Scaled, weights: Convolution, stride: int, *, pooled: bool = False, hard_swish: bool | None = None
    ) -> Scaled:
        """A depthwise conv, behind a 2x2 average pool if `pooled`, and an activation unless `hard_swish` is None."""

        def activate(y: tf.Tensor) -> Scaled:
            return Scaled(y) if hard_swish is None else self.activate(y, hard_swish)

        value = x.value
        weights = weights.with_inputs(value.shape[-1], depthwise=True)
        kernel = (weights.kernel * x.factor).astype(np.float32)
        if pooled:
            side = value.shape[1]
            if fused(side, kernel.shape[0]):
                if hard_swish:  # no conv takes it in: once, on the whole
                    return activate(pool_and_convolve(value, kernel, weights.shift, tf.identity))
                return Scaled(pool_and_convolve(value, kernel, weights.shift, lambda y: activate(y).value))
            value = self.pool(value)
        value, padding = self.padded(value, kernel.shape[0], stride)
        y = tf.nn.depthwise_conv2d(value, kernel, [1, stride, stride, 1], padding)
        return activate(y if weights.shift is None else y + weights.shift)

    def pool(self, x: tf.Tensor) -> tf.Tensor:
        """tinydet_tf.layers.align_pool: [1, H, W, C] -> [1, H-1, W-1, C]."""
        if not self.integer:
            return tf.nn.avg_pool2d(x, 2, 1, "VALID")
        quarter = np.full([2, 2, x.shape[-1], 1], 0.25, np.float32)  # there is no fast AVERAGE_POOL_2D
        return tf.nn.depthwise_conv2d(x, quarter, [1, 1, 1, 1], "VALID")

    def padded(self, x: tf.Tensor, kernel: int, stride: int) -> tuple[tf.Tensor, str]:
        """As tinydet_tf.layers.blocks pads."""
        if stride == 1 or (x.shape[1] % 2 and x.shape[2] % 2):
            return x, "SAME"
        after = kernel // 2
        rows, columns = ([self.before(side, after), after] for side in x.shape[1:3])
        return tf.pad(x, [[0, 0], rows, columns, [0, 0]]), "VALID"

    def before(self, side: int, after: int) -> int:
        """How many zeros stand in front of `side` numbers where `after` stand behind them: stride 2, see `padded`."""
        return after if self.dialect.pads_before or side % 2 else after - 1


def with_border(x: tf.Tensor, rows: tuple[int, int], columns: tuple[int, int], border: FloatArray) -> tf.Tensor:
    """A map [1, H, W, C] of few channels with further rows and columns, in front and behind, that hold `border` [C]."""
    _, height, width, channels = x.shape
    wide = width + sum(columns)
    # As rows of pixels: around pixels of 3 channels XNNPACK would copy 3 numbers at a time.
    x = tf.reshape(x, [height, width * channels])
    if border.any():
        left, right = (np.tile(border, [height, count]) for count in columns)
        above, below = (np.tile(border, [count, wide]) for count in rows)
        x = tf.concat([above, tf.concat([left, x, right], 1), below], 0)
    else:
        x = tf.pad(x, [rows, [channels * count for count in columns]])
    return tf.reshape(x, [1, height + sum(rows), wide, channels])


def first_of_groups(x: tf.Tensor, groups: int, channels: int) -> tf.Tensor:
    """The first channels of each group: [1, H, W, groups * C] -> [1, H, W, groups * channels]."""
    _, height, width, wide = x.shape
    if wide == groups * channels:
        return x
    if groups == 1:
        return x[..., :channels]
    rows = tf.reshape(x, [height * width, groups, wide // groups])[:, :, :channels]
    return tf.reshape(rows, [1, height, width, groups * channels])


def merged(weights: Convolution, groups: int, together: int) -> tuple[Convolution, int]:
    """A grouped pointwise conv [1, 1, I / g, O] with every `together` groups made one.

    Zeros stand between the groups. Where the last one is not full it has further inputs, and outputs that repeat the
    last one: to be cut off, and with a scale that every runtime takes, which a channel of zeros would not have.
    """
    inner, channels = weights.kernel.shape[2:]
    fewer = -(-groups // together)
    more = (together * fewer - groups) * (channels // groups)
    whole = Convolution(as_dense(weights.kernel, groups)[None, None], None).with_inputs(inner * together * fewer)
    kernel = np.pad(whole.kernel[0, 0], [(0, 0), (0, more)], "edge")
    shift = None if weights.shift is None else np.pad(weights.shift, [0, more], "edge")
    return Convolution(as_grouped(kernel, fewer), shift), fewer
