"""The worst pictures of a report, drawn: what was found, missed, invented and confused, a colour each."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tinydet_lite.detections import Detections
from tinydet_lite.media.drawing import class_colour, draw
from tinydet_tf.report.numbers import CONFUSED, FOUND, INVENTED, MISSED, Outcome

#: The longer side of a drawn picture at most, in pixels: a dozen of them have to load in a browser.
LONGEST_SIDE = 1600
_QUALITY = 88
#: Which of tinydet_lite's class colours each kind is drawn in: four that differ in hue and lightness.
_COLOURS = {FOUND: 6, MISSED: 8, INVENTED: 10, CONFUSED: 4}


def colour_of(kind: str) -> tuple[int, int, int]:
    """RGB."""
    return class_colour(_COLOURS[kind])


def draw_outcomes(pixels: np.ndarray, outcomes: Sequence[Outcome], class_names: Sequence[str]) -> bytes:
    """A picture with the outcomes of its objects and detections, as a JPEG.

    What is found has an outline and no label: the mistakes are what one looks for.

    Args:
      pixels: uint8 RGB [H, W, 3].
      outcomes: with boxes in its pixels.
      class_names: of their class indices.
    """
    height, width = pixels.shape[:2]
    factor = min(1.0, LONGEST_SIDE / max(height, width))
    picture = Image.fromarray(pixels)
    if factor < 1.0:
        picture = picture.resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BOX)
    scale = np.array(picture.size * 2) / (width, height, width, height)
    boxes, kinds, names = [], [], []
    # What is found first: the mistakes are drawn over it where sizes are equal.
    for one in sorted(outcomes, key=lambda one: one.kind != FOUND):
        label = label_of(one, class_names)
        x, y, w, h = one.truth_box if one.truth_box is not None and one.kind != FOUND else (one.found_box or (0,) * 4)
        box = np.clip(np.array([x, y, x + w, y + h]) * scale, 0, picture.size * 2)
        boxes.append(box)
        kinds.append(_COLOURS[one.kind])
        names.append(label)
    drawn = draw(
        picture,
        Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.ones(len(boxes), np.float32),
            np.array(kinds, np.int32),
            tuple(names),
        ),
        show_scores=False,
    )
    content = io.BytesIO()
    drawn.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def label_of(one: Outcome, class_names: Sequence[str]) -> str:
    """'missed car', 'invented car 0.87', 'car, found as van 0.61'; empty for what is found."""
    if one.kind == FOUND:
        return ""
    if one.truth is None:
        assert one.found_as is not None
        return f"invented {class_names[one.found_as]} {one.score:.2f}"
    if one.found_as is None:
        return f"missed {class_names[one.truth]}"
    return f"{class_names[one.truth]}, found as {class_names[one.found_as]} {one.score:.2f}"
