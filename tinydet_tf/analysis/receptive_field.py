"""The effective receptive field (ERF) of each pyramid level: where a cell looks, against where its anchors stand.

Paper: section 3.1.2 and figure 3, after Luo et al. 2016 (arXiv 1701.04128). N is the side of the measured image in
pixels, L the pyramid levels, finest first, C a level's channels.

The ERF of a cell is the squared gradient of its output with respect to the image, summed over the colours, for a random
combination of its channels. Each draw's map has sum 1, so that every draw counts the same. Offsets are the centroid of
a map less the centre of the cell's anchors, stride * i + (stride - 1) / 2, in pixels, x to the right and y down.

What the geometry says: a convolution of stride 2 and odd kernel on an even side centres cell i on pixel 2i of its
input, half a pixel before the middle of the two pixels that it stands for. These halves add up to (stride - 1) / 2,
31.5 pixels at stride 64. The average pool in front moves the centre to 2i + 1/2, the middle. The published detector has
none in front of the stem, which leaves the stem's own half pixel at every level. TensorFlow pads an even side at the
bottom and right first: Keras's own backbones (model.backbones.Dialect) are off by as much, to the right and down.

Four things would hide the shift. This is what is done about each:

* Truncation. A field that the image cuts off has its centroid pulled to the image's centre. The network is fully
  convolutional, so the same weights are measured on a larger image (`CANVAS`). A measurement with `size` equal to the
  network's own input shows how much the cut hides.
* Squeeze-and-excite. Its global mean lets every pixel of the image act on every cell a little: a flat pedestal, which
  again pulls the centroid to the image's centre. The gates are held constant in the gradient (their values stay those
  of the image).
* Which cell. The four cells around the image's middle (one where the side is odd) stand symmetric to it; their mean
  also has no favourite among the cells that share a coarser cell through nearest upsampling. Two of the four, on the
  diagonal, hold every row and column.
* Chance. One gradient map is speckle: its centroid scatters by about 10 pixels. So the draws come in antithetic pairs:
  the second half has every kernel turned by 180 degrees about its own centre, and the noise image turned about the
  pixel where the geometry centres the cell. Turned kernels and turned noise are as probable as the first ones, so the
  mean over pairs is that over independent draws, whatever the network does between them: where the network samples
  symmetrically, the scatter cancels, and elsewhere it stays and shows in the standard error. What the pair leaves alone
  is the network's sampling grid, and that is what shifts.

Batch normalization holds the statistics of a training-mode pass over noise, of that draw's weights, and is constant in
the gradient. With fresh statistics (mean 0, variance 1) activations would shrink or grow from layer to layer and the
hard nonlinearities would act as in no trained network; differentiated batch statistics would be a pedestal once more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_path
from tinydet_tf.config import ModelConfig
from tinydet_tf.layers.blocks import BatchNorm
from tinydet_tf.model.backbones import BACKBONES
from tinydet_tf.model.detector import TinyDet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FloatArray = npt.NDArray[np.float64]

#: Side of the image that random weights are measured on: the field of stride 64 fits in with all that matters.
CANVAS = 768


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Which strided convolutions have an average pool in front."""

    name: str
    align: bool  # in front of the depthwise convolutions
    align_stem: bool
    pads_before: bool = True  # see model.backbones.Dialect; padding at the other end first mirrors the geometry

    def offset(self, stride: int) -> float:
        """ERF centre less anchor centre that the geometry predicts, in pixels, the same in x and y.

        It is that of the level alone, without what the FPN adds from coarser levels.
        """
        # Cell i of a level is centred on stride * i + start: a strided convolution keeps the start, a pool in front of
        # it adds half a pixel of its input.
        start = 0.5 if self.align_stem else 0.0
        if self.align:
            start += 0.5 * (stride - 2)
        offset = start - 0.5 * (stride - 1)
        return offset if self.pads_before else 0.0 - offset


WITHOUT = Alignment("without alignment", False, False)
PUBLISHED = Alignment("with alignment (as published, none at the stem)", True, False)
EVERYWHERE = Alignment("with alignment, at the stem too", True, True)


@dataclasses.dataclass(frozen=True, eq=False)
class LevelField:
    """The ERF of one level.

    Attributes:
      stride: in pixels.
      theory: offset by the geometry, of this level alone, in pixels.
      offset: (x, y) of the ERF's centroid less the anchor centre, in pixels, mean over the draws.
      standard_error: of the two, over the draws; nan for a single draw.
      rms_radius: root of the mean squared distance from the centroid, in pixels.
      energy: float64 [N, N], sum at most 1; its middle ((N - 1) / 2 on both axes) is the anchor centre.
    """

    stride: int
    theory: float
    offset: tuple[float, float]
    standard_error: tuple[float, float]
    rms_radius: float
    energy: FloatArray


def centroid(energy: FloatArray) -> tuple[float, float]:
    """(x, y) of the centre of mass of [H, W], in pixels from the array's middle."""
    total = energy.sum()
    height, width = energy.shape
    x = float(energy.sum(0) @ (np.arange(width) - 0.5 * (width - 1)) / total)
    y = float(energy.sum(1) @ (np.arange(height) - 0.5 * (height - 1)) / total)
    return x, y


def rms_radius(energy: FloatArray) -> float:
    """Root of the mean squared distance from the centroid of [N, N], in pixels."""
    x, y = centroid(energy)
    position = np.arange(energy.shape[0]) - 0.5 * (energy.shape[0] - 1)
    squared = (position - x) ** 2 + ((position - y) ** 2)[:, None]
    return math.sqrt(float((energy * squared).sum() / energy.sum()))


def random_pyramid(config: ModelConfig, alignment: Alignment) -> keras.Model:
    """Backbone and FPN for `measure_random`; normalization keeps the statistics of the last training-mode pass."""
    config = dataclasses.replace(config, align=alignment.align, align_stem=alignment.align_stem)
    return TinyDet(config, 1, batch_norm=BatchNorm(momentum=0.0)).pyramid


def measure_random(
    pyramid: keras.Model,
    strides: Sequence[int],
    alignment: Alignment,
    *,
    draws: int,
    seed: int = 0,
    size: int | None = None,
    progress: bool = False,
) -> list[LevelField]:
    """The ERFs over random weights, drawn anew from the layers' initializers, and Gaussian noise images.

    Args:
      pyramid: of plain layers, normalized images -> levels, as `random_pyramid` gives it; its weights change.
      strides: of its outputs; even.
      alignment: what the pyramid was built with. It says about which point the second image of a pair is turned; a
        wrong one costs precision and does not move the mean.
      draws: pairs of (weights, image).
      seed: seeds everything that is drawn. The weights of a draw are the same whatever the alignment.
      size: N; None: the pyramid's own input.
      progress: a bar on stderr, if that is a terminal.

    Raises:
      UserError: draws below 1, or a size that does not fit.
    """
    if draws < 1:
        raise UserError(f"draws is {draws}; give at least 1")
    own = int(pyramid.inputs[0].shape[1])
    probe = _Probe(pyramid, strides, size or own)
    results = [_Mean(probe.size) for _ in strides]
    bar = tqdm(range(draws), desc=alignment.name, unit="draw", disable=None if progress else True, leave=False)
    for draw in bar:
        generator = np.random.default_rng([seed, draw])
        kernels = _draw_kernels(pyramid, generator)
        image = _noise(generator, probe.size)
        cotangents = [generator.standard_normal(channels, np.float32) for channels in probe.channels]
        pyramid(_noise(generator, own)[None], training=True)
        maps = [probe.gradient(image, level, 0, cotangents[level]) for level in range(len(strides))]
        for variable, kernel in kernels:
            variable.assign(kernel[::-1, ::-1])
        for level, stride in enumerate(strides):
            # The image is turned about its middle, then moved so that the other cell sees what the first one saw, but
            # turned. Wrapping at the border does no harm to noise.
            shift = round(2 * alignment.offset(stride))
            turned = np.roll(image[::-1, ::-1], (shift, shift), (0, 1))
            results[level].add(maps[level], probe.gradient(turned, level, -1, cotangents[level]))
    return [result.field(stride, alignment.offset(stride)) for stride, result in zip(strides, results, strict=True)]


def alignments(config: ModelConfig) -> tuple[Alignment, ...]:
    """WITHOUT, PUBLISHED and EVERYWHERE, with the padding of a detector's backbone."""
    pads_before = BACKBONES[config.backbone].dialect.pads_before
    return tuple(dataclasses.replace(a, pads_before=pads_before) for a in (WITHOUT, PUBLISHED, EVERYWHERE))


class _Probe:
    """Gradient maps of single cells, on images of another size than the pyramid was built for."""

    def __init__(self, pyramid: keras.Model, strides: Sequence[int], size: int) -> None:
        if size < strides[-1] or size % strides[-1]:
            raise UserError(f"input size {size}: expected a multiple of {strides[-1]}, the coarsest stride")
        self.size, self._strides = size, tuple(strides)
        # The same layers are called on a new input, so that the weights are shared; only the gates' means are replaced.
        self._model = keras.models.clone_model(
            pyramid,
            input_tensors=keras.Input([size, size, 3]),
            clone_function=_held,
        )
        self.channels = tuple(int(output.shape[-1]) for output in self._model.outputs)
        self._gradient = tf.function(self._trace, autograph=False)

    def cells(self, level: int) -> tuple[int, ...]:
        """The one or two middle rows of a level."""
        count = self.size // self._strides[level]
        return (count // 2,) if count % 2 else (count // 2 - 1, count // 2)

    def gradient(
        self, image: npt.NDArray[np.float32], level: int, side: int, cotangent: npt.NDArray[Any]
    ) -> FloatArray:
        """Squared gradient float64 [N, N], moved so that the cell's anchor centre is the middle, cut at the edges.

        Args:
          image: float32 [N, N, 3], normalized.
          level: index.
          side: 0 the first, -1 the last of the middle cells, in row and column.
          cotangent: [C], the combination of channels.
        """
        cell = self.cells(level)[side]
        padded = np.zeros([len(self.channels), max(self.channels)], np.float32)
        padded[level, : self.channels[level]] = cotangent
        counts = np.array([self.size // stride for stride in self._strides])
        # For the other levels any cell will do, because their cotangents are zero.
        cells = np.minimum(cell, counts - 1)
        energy = self._gradient(tf.constant(image[None]), tf.constant(cells, tf.int32), tf.constant(padded))
        stride = self._strides[level]
        return _moved(energy.numpy().astype(np.float64), self.size // 2 - (stride * cell + stride // 2))

    def _trace(self, image: tf.Tensor, cells: tf.Tensor, cotangents: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(image)
            outputs = tf.nest.flatten(self._model(image, training=False))
            terms = [
                tf.reduce_sum(output[0, cells[i], cells[i]] * cotangents[i, : self.channels[i]])
                for i, output in enumerate(outputs)
            ]
            combined = tf.add_n(terms)
        return tf.reduce_sum(tf.square(tape.gradient(combined, image)), [0, 3])


class _HeldMean(keras.layers.GlobalAveragePooling2D):
    """The global mean, which the gradient treats as a constant."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(super().call(inputs))


def _held(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return _HeldMean.from_config(layer.get_config())
    return layer


class _Mean:
    """Collects the mean map and the centroids over draws, each of which has two halves."""

    def __init__(self, size: int) -> None:
        self._sum = np.zeros([size, size])
        self._centroids: list[tuple[float, float]] = []

    def add(self, first: FloatArray, second: FloatArray) -> None:
        energy = 0.5 * (first / first.sum() + second / second.sum())
        self._sum += energy
        self._centroids.append(centroid(energy))

    def field(self, stride: int, theory: float) -> LevelField:
        found = np.asarray(self._centroids)  # [draws, 2]
        count = len(found)
        error = found.std(0, ddof=1) / math.sqrt(count) if count > 1 else np.full(2, np.nan)
        mean = found.mean(0)
        energy = self._sum / count
        return LevelField(
            stride=stride,
            theory=theory,
            offset=(float(mean[0]), float(mean[1])),
            standard_error=(float(error[0]), float(error[1])),
            rms_radius=rms_radius(energy),
            energy=energy,
        )


def _noise(generator: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    """Standard normal float32 [size, size, 3], as normalized images are on average."""
    return generator.standard_normal([size, size, 3], np.float32)


def _draw_kernels(model: keras.Model, generator: np.random.Generator) -> list[tuple[Any, npt.NDArray[np.float32]]]:
    """Draws each kernel [height, width, ...] anew from its layer's own initializer, in place; biases stay."""
    drawn = []
    for layer in model.layers:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        variable = getattr(layer, "depthwise_kernel" if depthwise else "kernel", None)
        if variable is None:
            continue
        initializer = layer.depthwise_initializer if depthwise else layer.kernel_initializer
        # An initializer without a seed gives the same values each time it is called.
        seeded = type(initializer).from_config({**initializer.get_config(), "seed": int(generator.integers(2**31))})
        kernel = seeded(variable.shape).numpy()
        variable.assign(kernel)
        drawn.append((variable, kernel))
    return drawn


def _moved(energy: FloatArray, shift: int) -> FloatArray:
    """[N, N] moved down and right by `shift` pixels; zeros fill the gap."""
    start = abs(shift) - shift
    return np.pad(energy, abs(shift))[start : start + len(energy), start : start + len(energy)]


def table(fields: Sequence[LevelField]) -> str:
    """The levels as lines of text, offsets in pixels."""
    lines = [f"{'stride':>6} {'theory':>7} {'offset x':>17} {'offset y':>17} {'rms radius':>11}"]
    for field in fields:
        x, y = (f"{value:+.2f} +- {error:.2f}" for value, error in zip(field.offset, field.standard_error, strict=True))
        lines.append(f"{field.stride:>6} {field.theory:>+7.1f} {x:>17} {y:>17} {field.rms_radius:>11.1f}")
    return "\n".join(lines)


def as_json(fields: Sequence[LevelField]) -> list[dict[str, Any]]:
    """The levels as plain values, without the maps; a standard error that does not exist is null."""
    return [
        {
            "stride": field.stride,
            "theory": field.theory,
            "offset": list(field.offset),
            "standard_error": [None if math.isnan(error) else error for error in field.standard_error],
            "rms_radius": field.rms_radius,
        }
        for field in fields
    ]


def draw_figure(
    path: Path, rows: Sequence[tuple[str, Sequence[LevelField]]], *, window: int, anchor_scale: float, title: str
) -> None:
    """Figure 3 as a PNG: a row for each setting, a column for each level, the anchor centre in each panel's middle.

    Args:
      rows: (label, levels).
      window: side in pixels of the shown part, as a rule the network's input.
      anchor_scale: anchor side over stride.

    Raises:
      UserError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("the figure needs matplotlib; pip install matplotlib") from error

    columns = len(rows[0][1])
    figure = Figure(figsize=(2.1 * columns + 0.3, 2.35 * len(rows) + 0.75), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, fields) in zip(axes, rows, strict=True):
        for panel, field in zip(row, fields, strict=True):
            _draw_panel(panel, field, window, anchor_scale)
        row[0].set_ylabel(label.replace(" (", "\n("), fontsize=8)
    figure.suptitle(
        f"{title}\ncolours: root of the mean squared gradient; red: anchor and its centre; cyan cross: centroid",
        fontsize=9,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_panel(panel: Axes, field: LevelField, window: int, anchor_scale: float) -> None:
    from matplotlib.patches import Rectangle

    size = len(field.energy)
    window = min(window, size)
    start = (size - window) // 2
    shown = field.energy[start : start + window, start : start + window]
    # Means of 4 x 4 pixels, because the strides leave a comb and the draws leave speckle.
    shown = shown.reshape(window // 4, 4, window // 4, 4).mean((1, 3))
    reach = 0.5 * window
    panel.imshow(
        np.sqrt(shown / shown.max()),
        cmap="gray",
        vmin=0.0,
        vmax=1.0,
        extent=(-reach, reach, reach, -reach),
        interpolation="bilinear",
    )
    side = anchor_scale * field.stride
    panel.add_patch(Rectangle((-side / 2, -side / 2), side, side, fill=False, edgecolor="red", linewidth=1.2))
    panel.plot(0, 0, "o", color="red", markersize=3)
    panel.plot(*field.offset, "+", color="cyan", markersize=11, markeredgewidth=1.5)
    panel.set_xlim(-reach, reach)
    panel.set_ylim(reach, -reach)
    panel.set_xticks([])
    panel.set_yticks([])
    x, y = field.offset
    panel.set_title(f"stride {field.stride}: {x:+.1f}, {y:+.1f} px", fontsize=9)
