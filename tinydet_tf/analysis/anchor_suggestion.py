"""Anchors for the user's own data: the model.anchor_scale (and anchor_ratios) that miss the fewest objects.

An anchor's side is scale x stride on every level, so that one number changes the anchors of all levels and the search
has one dimension. The search minimises GTMR (section 3.3) over all objects, large and small alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from tinydet_tf.analysis.anchor_coverage import BoolArray, Coverage, count, missed
from tinydet_tf.analysis.anchor_sets import AnchorSet, tinydet
from tinydet_tf.analysis.ground_truth import ImageBoxes
from tinydet_tf.config import ModelConfig, TrainConfig

#: How many boxes the search looks at. It draws whole images, because the boxes of an image compete for anchors.
SAMPLE_BOXES = 3000
# Scales tried: four an octave between these, then sixteen an octave around the best.
_LOWEST, _HIGHEST, _COARSE, _FINE = 0.5, 16.0, 4, 16
# A difference in misses counts if it is larger than two standard deviations of its sign test.
_DEVIATIONS = 2.0
# Other ratios change the shape of the RPN's weights: they must also avoid a tenth of the misses.
_RATIO_GAIN = 0.1
#: If the median object's side is below TINY_SIDE pixels of the network's input, other anchors do not help. The advice
#: is then an input so large that this side becomes AIM_SIDE.
TINY_SIDE, AIM_SIDE = 4.0, 8.0


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """What was found.

    Attributes:
      current: the architecture given.
      suggested: the one to train; equal to `current` if nothing is clearly better.
      current_coverage, suggested_coverage: their coverage of the sample.
      tried: scale -> GTMR in percent of the sample, with the current ratios.
      boxes, images: the size of the sample.
      median_side: square root of the area of the median box, in pixels of the network's input.
    """

    current: ModelConfig
    suggested: ModelConfig
    current_coverage: Coverage
    suggested_coverage: Coverage
    tried: dict[float, float]
    boxes: int
    images: int
    median_side: float

    def assignments(self) -> list[str]:
        """What to hand to train.py's --set; empty where the current values stay."""
        result = []
        if self.suggested.anchor_scale != self.current.anchor_scale:
            result.append(f"model.anchor_scale={self.suggested.anchor_scale:g}")
        if self.suggested.anchor_ratios != self.current.anchor_ratios:
            result.append(f"model.anchor_ratios=[{','.join(f'{r:g}' for r in self.suggested.anchor_ratios)}]")
        return result

    def larger_input(self) -> int | None:
        """The input_size that would bring the median object to AIM_SIDE, if it is tiny now."""
        if self.median_side >= TINY_SIDE:
            return None
        stride = self.current.strides[-1]
        return math.ceil(self.current.input_size * AIM_SIDE / self.median_side / stride) * stride


def suggest(
    model: ModelConfig,
    train: TrainConfig,
    images: Sequence[ImageBoxes],
    *,
    inside: bool = True,
    sample_boxes: int = SAMPLE_BOXES,
    seed: int = 0,
    progress: bool = False,
) -> Suggestion:
    """Searches anchor_scale, then tries the ratios of the data's own boxes.

    Args:
      model, train: what is to be trained; the input size and the thresholds count.
      images: ground truth with at least one box.
      inside: see `coverage`.
      sample_boxes: the search stops drawing images at so many boxes.
      seed: of the draw.
      progress: a bar on stderr, if that is a terminal.
    """
    sample = _sample(images, sample_boxes, seed)
    with tqdm(desc="anchor scales", unit="scale", disable=None if progress else True, leave=False) as bar:

        def misses(candidate: ModelConfig) -> BoolArray:
            bar.update()
            anchors = tinydet("candidate", candidate, train)
            return np.concatenate([missed(anchors, image, inside=inside) for image in sample])

        current = misses(model)
        found = {model.anchor_scale: current}

        def search(ratios: tuple[float, ...], scales: Iterable[float], found: dict[float, BoolArray]) -> float:
            for scale in scales:
                if scale not in found:
                    found[scale] = misses(dataclasses.replace(model, anchor_scale=scale, anchor_ratios=ratios))
            # Of equally good scales the middle one: at the ends of their range some objects only just get an anchor.
            fewest = min(each.sum() for each in found.values())
            equals = sorted(scale for scale, each in found.items() if each.sum() == fewest)
            return equals[(len(equals) - 1) // 2]

        coarse = round(math.log2(_HIGHEST / _LOWEST) * _COARSE)
        best = search(model.anchor_ratios, (_rounded(_LOWEST * 2 ** (i / _COARSE)) for i in range(coarse + 1)), found)
        best = search(model.anchor_ratios, _around(best), found)
        chosen, chosen_misses = model, current
        if _clearly_fewer(found[best], current):
            chosen, chosen_misses = dataclasses.replace(model, anchor_scale=best), found[best]

        ratios = _data_ratios(tinydet("current", model, train), sample, model.num_ratios)
        others: dict[float, BoolArray] = {}
        other = search(ratios, _around(chosen.anchor_scale), others)
        enough = others[other].sum() <= (1 - _RATIO_GAIN) * chosen_misses.sum()
        if ratios != model.anchor_ratios and enough and _clearly_fewer(others[other], chosen_misses):
            chosen = dataclasses.replace(model, anchor_scale=other, anchor_ratios=ratios)
            chosen_misses = others[other]

    def summed(flat: BoolArray) -> Coverage:
        return count([flat], sample)

    return Suggestion(
        current=model,
        suggested=chosen,
        current_coverage=summed(current),
        suggested_coverage=summed(chosen_misses),
        tried={scale: float(100 * found[scale].mean()) for scale in sorted(found)},
        boxes=len(current),
        images=len(sample),
        median_side=float(np.median(np.sqrt(_sides(tinydet("current", model, train), sample).prod(1)))),
    )


def _sample(images: Sequence[ImageBoxes], boxes: int, seed: int) -> list[ImageBoxes]:
    """Images with boxes, in random order, until they hold `boxes` of these."""
    chosen: list[ImageBoxes] = []
    drawn = 0
    for index in np.random.default_rng(seed).permutation(len(images)):
        if drawn >= boxes:
            break
        if len(images[index].boxes):
            chosen.append(images[index])
            drawn += len(images[index].boxes)
    return chosen


def _sides(anchors: AnchorSet, images: Sequence[ImageBoxes]) -> npt.NDArray[np.float64]:
    """Width and height of every box as the network sees it: [boxes, 2]."""
    sides = []
    for image in images:
        frame = anchors.resize(image.width, image.height)
        sides.append((image.boxes[:, 2:] - image.boxes[:, :2]) * [frame.scale_x, frame.scale_y])
    return np.concatenate(sides)


def _data_ratios(anchors: AnchorSet, images: Sequence[ImageBoxes], number: int) -> tuple[float, ...]:
    """height : width in the middles of `number` equal parts of the boxes."""
    sides = _sides(anchors, images)
    quantiles = np.quantile(sides[:, 1] / sides[:, 0], (np.arange(number) + 0.5) / number)
    return tuple(float(f"{ratio:.2g}") for ratio in quantiles)


def _clearly_fewer(fewer: BoolArray, more: BoolArray) -> bool:
    """Whether two sets of misses differ by more than chance: a sign test of the objects that only one misses."""
    gained, lost = int((more & ~fewer).sum()), int((fewer & ~more).sum())
    return gained - lost > _DEVIATIONS * math.sqrt(gained + lost)


def _around(scale: float) -> list[float]:
    """The fine grid between the coarse neighbours of a scale, and the scale itself."""
    steps = _FINE // _COARSE
    return [scale] + [_rounded(scale * 2 ** (i / _FINE)) for i in range(1 - steps, steps) if i]


def _rounded(scale: float) -> float:
    """A number rounded to three digits, so that the value that is measured is also the one that is printed to paste."""
    return float(f"{scale:.3g}")
