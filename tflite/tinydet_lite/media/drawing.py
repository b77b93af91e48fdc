"""Pictures with their detections drawn in, for people to look at.

Shape letters: H, W the drawn picture's height and width, N detections, K places a label may go.

Small objects are what TinyDet is for, so they decide how things are drawn: small pictures are enlarged first,
outlines lie outside the box, and a label goes where it covers no object and no other label, if there is such
a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..detections import Detections
from ..files import PathLike
from ..preprocess import ImageSource, as_rgb_array
from .fonts import check_font, font_for, open_font, written

# Sizes below are for a picture whose longer side has this many pixels, and grow with it.
REFERENCE_SIDE = 960
_FONT_SIZE = 16.0
_CROWDED_FONT_SIZE = 13.5
_CROWDED = 20
_MIN_FONT_SIZE = 9
_LINE_WIDTH = 2.6
_THINNEST_LINE = 1.5
_HALO = 1.0
_HALO_OPACITY = 0.5
# A one-pixel picture need not become 960 pixels wide.
_MAX_ENLARGEMENT = 16.0

_GOLDEN_ANGLE = 137.50776
_FIRST_HUE = 45.0
# The golden sequence comes back near a hue after 8, 13, 21 steps: five lightnesses tell those classes apart.
_LIGHTNESSES = (0.74, 0.83, 0.67, 0.79, 0.62)
_CHROMA = 0.19
# Of labels: every one of these colours is light.
_INK = (0, 0, 0)

_Colour = tuple[int, int, int]


@cache
def class_colour(class_id: int) -> _Colour:
    """The colour of a class, RGB: the same in every picture, and far from its neighbours'.

    Hues step by the golden angle in OKLCH (Ottosson 2020), where equal steps look equal; in HSV half of them
    would be green. Chroma is lowered until the colour exists on a screen.
    """
    lightness = _LIGHTNESSES[class_id % len(_LIGHTNESSES)]
    hue = math.radians(_FIRST_HUE + _GOLDEN_ANGLE * class_id)
    chroma = _CHROMA
    while True:
        linear = _oklab_to_linear_rgb(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
        if all(-1e-3 <= value <= 1.0 + 1e-3 for value in linear) or chroma < 1e-3:
            red, green, blue = (round(255 * _to_srgb(value)) for value in linear)
            return red, green, blue
        chroma *= 0.95


def draw(
    image: ImageSource,
    detections: Detections,
    *,
    min_long_side: int | None = REFERENCE_SIDE,
    show_scores: bool = True,
    font: PathLike | None = None,
) -> Image.Image:
    r"""A copy of the picture with an outline and a label for each detection.

    Args:
        image: the picture that was detected on, in any form that `Detector` takes.
        detections: what the Detector found in it.
        min_long_side: a picture whose longer side is shorter is enlarged smoothly to it, so that labels can
            be read; None keeps every picture's size.
        show_scores: "person 87%" rather than "person".
        font: a TrueType file. None: Pillow's own font, and for labels with letters that it lacks one of the
            system's. A letter that is nowhere is written as its number (\u7ea2): labels that differ look different.

    Returns:
        A new RGB image. Its size is the picture's, or larger as `min_long_side` says.

    Raises:
        UserError: the picture or the font cannot be used.
    """
    pixels = as_rgb_array(image)
    height, width = pixels.shape[:2]
    factor = 1.0
    if min_long_side is not None:
        factor = min(max(1.0, min_long_side / max(width, height)), _MAX_ENLARGEMENT)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = Image.fromarray(pixels)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    canvas = np.array(picture)  # [H, W, 3]
    if not len(detections):
        return Image.fromarray(canvas)

    unit = max(size) / REFERENCE_SIDE
    boxes = detections.boxes.astype(np.float64) * (np.array(size * 2) / np.array((width, height) * 2))  # [N, 4]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])  # [N]
    colours = [class_colour(int(class_id)) for class_id in detections.class_ids]
    widths = [_line_width(box, unit) for box in boxes]
    # Large ones first, so that what lies in front of them, and is usually smaller, stays whole.
    for index in np.argsort(-areas, kind="stable"):
        _draw_outline(canvas, boxes[index], widths[index], unit, colours[index])

    labels = _lay_out(detections, boxes, widths, areas, size, _load_font(font, unit, len(boxes)), show_scores, font)
    for label in labels:
        if label.leader is not None:
            _draw_leader(canvas, label.leader, max(1.0, 1.2 * unit), colours[label.index])
    for label in labels:
        _fill_label(canvas, label.box, unit, colours[label.index])
    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    for label in labels:
        x1, y1, _, y2 = label.box
        pen.text((x1 + label.padding, (y1 + y2) / 2), label.text, _INK, label.font, anchor="lm")
    return drawn


# ---------------------------------------------------------------------------------------------------- labels


@dataclass(frozen=True)
class _Label:
    index: int  # of the detection
    text: str
    font: ImageFont.FreeTypeFont
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels
    padding: int  # between the box's left side and the text
    leader: tuple[float, float, float, float] | None  # a line from the object to a label that stands off


def _load_font(path: PathLike | None, unit: float, count: int) -> ImageFont.FreeTypeFont:
    points = max(_MIN_FONT_SIZE, round((_CROWDED_FONT_SIZE if count > _CROWDED else _FONT_SIZE) * unit))
    if path is not None:
        check_font(str(path))
    return open_font(None if path is None else str(path), points)


def _lay_out(
    detections: Detections,
    boxes: NDArray[np.float64],
    widths: Sequence[float],
    areas: NDArray[np.float64],
    size: tuple[int, int],
    font: ImageFont.FreeTypeFont,
    show_scores: bool,
    given: PathLike | None = None,
) -> list[_Label]:
    """Give each detection a place for its label, the smallest object first: it has the fewest good places.

    `font` writes all labels if it is the `given` one, else those whose letters it has.
    """
    placed = np.zeros((0, 4))
    labels = []
    for index in np.argsort(areas, kind="stable"):
        path = font_for(detections.names[index]) if given is None else str(given)
        own = font if given is not None or path is None else open_font(path, font.size)
        name = written(detections.names[index], path)
        ascent, descent = own.getmetrics()
        padding = max(2, round(0.3 * (ascent + descent)))
        label_height = ascent + descent + max(2, round(0.12 * (ascent + descent)))
        score = f" {100 * detections.scores[index]:.0f}%" if show_scores else ""
        text = _fit_text(name, int(detections.class_ids[index]), score, own, size[0] - 2 * padding)
        label_width = math.ceil(own.getlength(text)) + 2 * padding
        if not text or label_height > size[1]:
            continue
        gap = widths[index] + 1.0
        places, costs = _places(boxes[index], label_width, label_height, gap, size)
        costs = costs + _crowding(places, index, boxes, areas, placed)
        best = places[int(costs.argmin())]
        x1, y1, x2, y2 = (round(value) for value in best)
        leader = _leader(boxes[index], best, gap + 0.5 * label_height)
        labels.append(_Label(int(index), text, own, (x1, y1, x2, y2), padding, leader))
        placed = np.concatenate([placed, best[np.newaxis]])
    return labels


def _fit_text(name: str, class_id: int, score: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """The label's text; where the whole picture is narrower its name is shortened, and its id tells it from others.

    Empty if nothing fits.
    """
    if font.getlength(name + score) <= room:
        return name + score
    for length in range(len(name) - 1, 0, -1):
        text = name[:length].rstrip() + f"...#{class_id}" + score
        if font.getlength(text) <= room:
            return text
    return ""


def _places(
    box: NDArray[np.float64], width: int, height: int, gap: float, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a label may go: [K, 4] inside the picture, and how much each is disliked for its own sake [K]."""
    x1, y1, x2, y2 = box
    centre_x, centre_y = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
    corners: list[tuple[float, float, float]] = []
    for step in (0.0, 0.8, 1.8, 3.0, 4.5):
        away = step * height
        dislike = 0.0 if step == 0.0 else 0.25 + 0.12 * step
        above, below = y1 - gap - height - away, y2 + gap + away
        right, left = x2 + gap + away, x1 - gap - width - away
        corners += [
            (x1 - gap + 1, above, dislike),
            (x2 + gap - 1 - width, above, dislike + 0.04),
            (centre_x, above, dislike + 0.05),
            (x1 - gap + 1, below, dislike + 0.06),
            (x2 + gap - 1 - width, below, dislike + 0.08),
            (centre_x, below, dislike + 0.09),
            (right, y1, dislike + 0.10),
            (right, centre_y, dislike + 0.11),
            (right, y2 - height, dislike + 0.12),
            (left, y1, dislike + 0.14),
            (left, centre_y, dislike + 0.15),
            (left, y2 - height, dislike + 0.16),
        ]
        if step:
            corners += [
                (right, above, dislike + 0.1),
                (left, above, dislike + 0.1),
                (right, below, dislike + 0.12),
                (left, below, dislike + 0.12),
            ]
    # In a large object's own corner: a crowded or picture-filling object has no better place.
    corners += [(x1 + 1, y1 + 1, 0.12), (x2 - 1 - width, y1 + 1, 0.16), (x1 + 1, y2 - 1 - height, 0.18)]
    table = np.array(corners)  # [K, 3]
    # Whole pixels keep the letters crisp; the picture's sides are firm.
    left_top = np.clip(np.round(table[:, :2]), 0, np.array(size) - np.array((width, height)))  # [K, 2]
    moved = np.abs(left_top - table[:, :2]).sum(axis=1) / height  # pushed away from where it was meant to be
    places = np.concatenate([left_top, left_top + np.array((width, height))], axis=1)  # [K, 4]
    return places, table[:, 2] + 0.05 * moved


def _crowding(
    places: NDArray[np.float64],
    index: int,
    boxes: NDArray[np.float64],
    areas: NDArray[np.float64],
    placed: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How much a label in each place [K, 4] would hide -> [K]."""
    label_area = (places[0, 2] - places[0, 0]) * (places[0, 3] - places[0, 1])
    on_objects = _intersections(places, boxes)  # [K, N]
    # The hidden share of each object: a label hides all of a small one and next to nothing of a large one.
    hidden = on_objects / np.maximum(areas, 1.0)  # [K, N]
    cost = 2.0 * hidden.sum(axis=1) + 3.0 * hidden[:, index]
    # Two labels on each other are the worst: neither can be read.
    cost += 12.0 * _intersections(places, placed).sum(axis=1) / label_area
    return np.asarray(cost)


def _intersections(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shared area of every pair of continuous boxes: [K, 4], [N, 4] -> [K, N]."""
    low = np.maximum(a[:, np.newaxis, :2], b[np.newaxis, :, :2])  # [K, N, 2]
    high = np.minimum(a[:, np.newaxis, 2:], b[np.newaxis, :, 2:])  # [K, N, 2]
    return np.asarray(np.maximum(high - low, 0.0).prod(axis=2))


def _leader(
    box: NDArray[np.float64], label: NDArray[np.float64], reach: float
) -> tuple[float, float, float, float] | None:
    """The line that joins a label to its object, None where they are neighbours within `reach` pixels."""
    # In each direction: both ends at the middle of what they share, or at the facing sides.
    ends = []
    for axis in (0, 1):
        low, high = max(box[axis], label[axis]), min(box[axis + 2], label[axis + 2])
        if low <= high:
            ends.append(((low + high) / 2, (low + high) / 2))
        elif box[axis] > label[axis + 2]:
            ends.append((box[axis], label[axis + 2]))
        else:
            ends.append((box[axis + 2], label[axis]))
    (from_x, to_x), (from_y, to_y) = ends
    if math.hypot(to_x - from_x, to_y - from_y) <= reach:
        return None
    return from_x, from_y, to_x, to_y


# --------------------------------------------------------------------------------------------------- strokes


def _line_width(box: NDArray[np.float64], unit: float) -> float:
    """An outline's width in pixels: in proportion to the picture, thinner around small objects."""
    side = min(box[2] - box[0], box[3] - box[1])
    return float(max(1.0, min(_LINE_WIDTH * unit, max(_THINNEST_LINE * unit, 0.06 * side))))


def _draw_outline(
    canvas: NDArray[np.uint8], box: NDArray[np.float64], line: float, unit: float, colour: _Colour
) -> None:
    """An antialiased rounded outline just outside `box`; a dark rim sets it off from any background."""
    height, width = canvas.shape[:2]
    half = line / 2
    # The middle of the line. At the picture's edge the line moves inside rather than out of sight.
    x1, y1 = max(box[0] - half, half), max(box[1] - half, half)
    x2, y2 = min(box[2] + half, width - half), min(box[3] + half, height - half)
    radius = min(4.0 * unit, max(0.0, 0.2 * min(x2 - x1, y2 - y1)))
    halo = _HALO * max(1.0, unit)
    border = math.ceil(half + halo + 1)
    corner = border + math.ceil(radius) + 1
    left, top, right, bottom = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
    if right - left <= 2 * corner or bottom - top <= 2 * corner:
        windows = [(left - border, top - border, right + border, bottom + border)]
    else:
        # Four strips: the inside of a large box is most of it, and stays untouched.
        windows = [
            (left - border, top - border, right + border, top + corner),
            (left - border, bottom - corner, right + border, bottom + border),
            (left - border, top + corner, left + corner, bottom - corner),
            (right - corner, top + corner, right + border, bottom - corner),
        ]
    for window in windows:
        area, x, y = _window(canvas, window)
        if area.size:
            distance = np.abs(_rounded_box_distance(x, y, (x1, y1, x2, y2), radius))
            _blend(area, (0, 0, 0), _HALO_OPACITY * np.clip(half + halo - distance + 0.5, 0, 1))
            _blend(area, colour, np.clip(half - distance + 0.5, 0, 1))


def _fill_label(canvas: NDArray[np.uint8], box: tuple[int, int, int, int], unit: float, colour: _Colour) -> None:
    halo = max(1, round(_HALO * unit))
    area, x, y = _window(canvas, (box[0] - halo - 1, box[1] - halo - 1, box[2] + halo + 1, box[3] + halo + 1))
    distance = _rounded_box_distance(x, y, box, min(3.0 * unit, 0.25 * (box[3] - box[1])))
    _blend(area, (0, 0, 0), 0.5 * _HALO_OPACITY * np.clip(halo - distance + 0.5, 0, 1))
    _blend(area, colour, np.clip(0.5 - distance, 0, 1))


def _draw_leader(
    canvas: NDArray[np.uint8], line: tuple[float, float, float, float], width: float, colour: _Colour
) -> None:
    from_x, from_y, to_x, to_y = line
    margin = math.ceil(width + 2)
    area, x, y = _window(
        canvas,
        (
            math.floor(min(from_x, to_x)) - margin,
            math.floor(min(from_y, to_y)) - margin,
            math.ceil(max(from_x, to_x)) + margin,
            math.ceil(max(from_y, to_y)) + margin,
        ),
    )
    along_x, along_y = to_x - from_x, to_y - from_y
    share = ((x - from_x) * along_x + (y - from_y) * along_y) / (along_x**2 + along_y**2)
    share = np.clip(share, 0.0, 1.0)
    distance = np.hypot(x - from_x - share * along_x, y - from_y - share * along_y)
    _blend(area, (0, 0, 0), _HALO_OPACITY * np.clip(width / 2 + _HALO - distance + 0.5, 0, 1))
    _blend(area, colour, np.clip(width / 2 - distance + 0.5, 0, 1))


def _window(
    canvas: NDArray[np.uint8], window: tuple[int, int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """The canvas within `window`, a view [h, w, 3], and its pixels' centres: x [1, w], y [h, 1]."""
    height, width = canvas.shape[:2]
    x1, x2 = max(window[0], 0), max(min(window[2], width), 0)
    y1, y2 = max(window[1], 0), max(min(window[3], height), 0)
    x = np.arange(x1, max(x1, x2), dtype=np.float32)[np.newaxis, :] + np.float32(0.5)
    y = np.arange(y1, max(y1, y2), dtype=np.float32)[:, np.newaxis] + np.float32(0.5)
    return canvas[y1:y2, x1:x2], x, y


def _rounded_box_distance(
    x: NDArray[np.float32], y: NDArray[np.float32], box: tuple[float, float, float, float], radius: float
) -> NDArray[np.float32]:
    """Distance in pixels from each point to a rounded rectangle's edge, negative inside -> [h, w]."""
    x1, y1, x2, y2 = box
    across = np.abs(x - np.float32((x1 + x2) / 2)) - np.float32((x2 - x1) / 2 - radius)  # [1, w]
    down = np.abs(y - np.float32((y1 + y2) / 2)) - np.float32((y2 - y1) / 2 - radius)  # [h, 1]
    outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0))  # [h, w]
    return np.asarray(outside + np.minimum(np.maximum(across, down), 0) - np.float32(radius))


def _blend(area: NDArray[np.uint8], colour: _Colour, opacity: NDArray[Any]) -> None:
    """Lay `colour` over `area` [h, w, 3], a view of the canvas, by `opacity` [h, w]."""
    share = opacity[..., np.newaxis].astype(np.float32)
    area[...] = np.round(area * (1 - share) + np.array(colour, np.float32) * share).astype(np.uint8)


# --------------------------------------------------------------------------------------------------- colours


def _oklab_to_linear_rgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """Bjorn Ottosson, "A perceptual color space for image processing", 2020."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _to_srgb(linear: float) -> float:
    """Linear light -> sRGB's curve (IEC 61966-2-1), both 0 to 1."""
    value = min(max(linear, 0.0), 1.0)
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
