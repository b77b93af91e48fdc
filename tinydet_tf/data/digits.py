"""The embedded data set "digits": real handwritten digits, mostly small, on photographs and textures.

It needs no download: the digits are scikit-learn's copy of the UCI set (1,797 images of 8x8 pixels and 17 grey levels,
Alpaydin & Kaynak 1998) and the photographs are the two that scikit-learn ships. From these every scene is drawn anew:

- a background: a jittered crop of a photograph, a procedural texture, or a blend of two;
- 10 to 36 digits, 23 on average, of 8 to 64 pixels height (log-uniform, so that 77 % are small by COCO's definition,
  box area below 32^2), turned, sheared, recoloured for a minimal contrast with what lies under them, some translucent;
- unlabelled clutter: strokes, blobs and letters drawn through the same steps as the digits, so that neither sharp edges
  nor line width give a digit away;
- no digit is covered by more than a third.

Training and validation share neither a handwriting sample nor a region of a photograph. Every scene has a generator of
its own, seeded by (seed, split, index): asking for more images extends a split and leaves the earlier scenes alone.

Letters used in shapes: H and W the image's sides, h and w those of one drawn thing, in pixels. A size is (W, H).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tinydet_lite.errors import UserError, os_reason
from tinydet_tf.data.cache import cache_folder

_LOG = logging.getLogger(__name__)

# Part of the cache folder's name: raise it when anything below changes a scene (a test compares with recorded ones).
_VERSION = 2
_SPLITS = ("train", "val")
CLASS_NAMES = tuple(str(digit) for digit in range(10))

_MIN_HEIGHT, _MAX_HEIGHT = 8.0, 64.0  # height of a digit before it is turned, in pixels
_COUNT_RANGE = (10, 36)  # digits on a 320x320 scene of density 1; other sizes keep the density
_CLUTTER_RANGE = (4, 14)
_COUNT_REFERENCE_SIDE = 320
_MAX_TURN_DEGREES = 20.0  # a 6 must not become a 9
_MAX_COVERED = 0.35  # share of a digit's pixels that later things may cover, all together
_MIN_INSIDE = 0.75  # share of a digit's pixels that has to lie inside the image
_INK_ALPHA = 0.25  # a pixel belongs to a drawn thing if the stencil's opacity is at least this
_MIN_CONTRAST = 60.0  # between ink and local background, in grey levels of 255
_PLACE_ATTEMPTS = 12
_VAL_SHARE = 0.2  # share of each class's handwriting samples that is for val
_JPEG_QUALITY = 92
# A stencil is a digit of 8x8 cells with an empty border, in _CELL_PIXELS^2 pixels a cell. Turned and sheared within the
# limits above, a digit stays within _CUT_CELLS x _CUT_CELLS cells.
_BORDER_CELLS = 2
_CELL_PIXELS = 6
_STENCIL_SIDE = (8 + 2 * _BORDER_CELLS) * _CELL_PIXELS
_CUT_CELLS = 11.5
_OVERSAMPLED_BELOW = 32.0  # heights up to which a pixel is averaged from 2x2
_STALE_SECONDS = 24 * 3600
# A generator's drawing of a larger scene would take gigabytes. At twice the density no place is left.
_MIN_SIDE, _MAX_SIDE = 96, 8192
_MAX_DENSITY = 2.0
# Columns of a photograph, as fractions of its width. The gap keeps out-of-focus edges from being shared.
_PHOTO_COLUMNS = {"train": (0.0, 0.66), "val": (0.68, 1.0)}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# Letters that no handwritten digit resembles, as polylines in a unit square (x to the right, y down).
_LETTERS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((0.0, 1.0), (0.5, 0.0), (1.0, 1.0)), ((0.2, 0.62), (0.8, 0.62))),  # A
    (((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0)), ((0.0, 0.5), (0.8, 0.5))),  # E
    (((1.0, 0.0), (0.0, 0.0), (0.0, 1.0)), ((0.0, 0.5), (0.75, 0.5))),  # F
    (((0.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (1.0, 1.0)), ((0.0, 0.5), (1.0, 0.5))),  # H
    (((0.0, 0.0), (0.0, 1.0)), ((0.95, 0.0), (0.0, 0.55), (1.0, 1.0))),  # K
    (((0.0, 1.0), (0.0, 0.0), (0.5, 0.6), (1.0, 0.0), (1.0, 1.0)),),  # M
    (((0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0)),),  # N
    (((0.0, 0.0), (1.0, 0.0)), ((0.5, 0.0), (0.5, 1.0))),  # T
    (((0.0, 0.0), (0.0, 0.8), (0.3, 1.0), (0.7, 1.0), (1.0, 0.8), (1.0, 0.0)),),  # U
    (((0.0, 0.0), (0.25, 1.0), (0.5, 0.35), (0.75, 1.0), (1.0, 0.0)),),  # W
    (((0.0, 0.0), (1.0, 1.0)), ((1.0, 0.0), (0.0, 1.0))),  # X
    (((0.0, 0.0), (0.5, 0.5), (0.5, 1.0)), ((1.0, 0.0), (0.5, 0.5))),  # Y
)

_Size = tuple[int, int]  # width, height


@dataclasses.dataclass(frozen=True)
class _Source:
    """What the scenes of one split are drawn from; read-only."""

    stencils: tuple[Image.Image, ...]  # one a handwriting sample, mode L, soft: _cut thresholds it
    samples: np.ndarray  # int64 [M], indices into load_digits
    labels: np.ndarray  # int64 [M], 0..9
    photos: tuple[Image.Image, ...]  # RGB, only this split's columns
    letters: tuple[Image.Image, ...]
    # float32 [2H, 2W], standard normal: drawing it anew for every scene would take a tenth of the time
    grain: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Placed:
    """One digit on a scene. box: x1, y1, x2, y2, continuous corners in pixels."""

    label: int
    sample: int
    box: tuple[int, int, int, int]


def digits_folder(
    cache_dir: Path | None = None,
    *,
    seed: int = 0,
    num_train: int = 1600,
    num_val: int = 250,
    image_size: int | tuple[int, int] = 320,
    density: float = 1.0,
) -> Path:
    """The folder of the digits set, drawn on the first call (in less than a minute for the defaults) and kept.

    The folder is an ordinary COCO one: {train,val}/instances.json beside {train,val}/images/*.jpg, categories 1..10
    named "0".."9". Each annotation also has "sample", the index of the handwriting in sklearn's load_digits.
    The same arguments give the same bytes (with the same versions of numpy, Pillow and scikit-learn).

    Args:
        cache_dir: where to keep it. None: $TINYDET_CACHE, else $XDG_CACHE_HOME/tinydet_tf, else ~/.cache/tinydet_tf.
        seed: at least 0. Also decides which handwriting is for validation.
        num_train, num_val: images of each split, at least 1.
        image_size: side of the square images in pixels, or (width, height), sides 96 to 8192. Digits keep their size
            in pixels; their number follows the area. Backgrounds grow with the image.
        density: how many digits and how much clutter an area holds, as a multiple of the usual (10 to 36 digits on
            320x320), in (0, 2].

    Raises:
        UserError: an argument out of range, a cache that cannot be written, or a damaged folder in the cache.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    for name, value, least in (
        ("seed", seed, 0),
        ("num_train", num_train, 1),
        ("num_val", num_val, 1),
        ("image_size", min(size), _MIN_SIDE),
    ):
        if value < least:
            raise UserError(f"digits: {name} is {value}, expected at least {least}")
    if max(size) > _MAX_SIDE:
        raise UserError(f"digits: image_size is {max(size)}, expected at most {_MAX_SIDE}")
    if not 0.0 < density <= _MAX_DENSITY:
        raise UserError(f"digits: density is {density}, expected a number above 0, at most {_MAX_DENSITY:g}")
    root = cache_folder() if cache_dir is None else Path(cache_dir)
    sides = f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
    suffix = "" if density == 1.0 else f"-density{float(density)}"  # in full: other digits are another set
    final = root / f"digits-v{_VERSION}-seed{seed}-train{num_train}-val{num_val}-size{sides}{suffix}"
    if final.exists():
        return _checked(final)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root, final.name)
        temporary = root / f".{final.name}.{secrets.token_hex(6)}"
        temporary.mkdir()
    except OSError as error:
        raise UserError(
            f"digits: cannot write to the cache {root} ({os_reason(error)}); "
            "set TINYDET_CACHE to a folder that can be written"
        ) from error
    try:
        started = time.monotonic()
        counts = {"train": num_train, "val": num_val}
        for split, source in zip(_SPLITS, _load_sources(seed, size), strict=True):
            _write_split(temporary / split, source, split, counts[split], seed, size, density)
        try:
            temporary.rename(final)
        except OSError:
            # Another process was first: its folder holds the same bytes.
            if not final.exists():
                raise
        _LOG.info("digits: drew %d images in %.1f s: %s", num_train + num_val, time.monotonic() - started, final)
    except OSError as error:
        raise UserError(
            f"digits: cannot write {final} ({os_reason(error)}); make room, or set TINYDET_CACHE to another folder"
        ) from error
    finally:
        # Nothing is left under this name after a successful rename; after anything else, Ctrl-C included, there is.
        shutil.rmtree(temporary, ignore_errors=True)
    return _checked(final)


def _checked(folder: Path) -> Path:
    missing = [split for split in _SPLITS if not (folder / split / "instances.json").is_file()]
    if missing:
        raise UserError(f"digits: {folder} is damaged (no {missing[0]}/instances.json); delete it, it is drawn again")
    return folder


def _remove_stale(root: Path, name: str) -> None:
    """Remove what killed builds left behind; a build in progress is younger than _STALE_SECONDS."""
    for leftover in root.glob(f".{name}.*"):
        try:
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue  # its builder just finished


def _load_sources(seed: int, size: _Size) -> tuple[_Source, _Source]:
    """(train, val), disjoint in handwriting and in photograph regions."""
    # scikit-learn takes most of a second to import, and a set that is already drawn does not need it.
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    stencils = [_stencil(image) for image in digits.images]
    labels = np.asarray(digits.target, np.int64)
    rng = np.random.default_rng([seed, len(_SPLITS)])
    chosen: dict[str, list[np.ndarray]] = {split: [] for split in _SPLITS}
    for digit in range(10):
        of_class = rng.permutation(np.flatnonzero(labels == digit))
        held_out = round(_VAL_SHARE * len(of_class))
        chosen["val"].append(of_class[:held_out])
        chosen["train"].append(of_class[held_out:])
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    letters = tuple(_letter(strokes) for strokes in _LETTERS)
    grain = rng.standard_normal((2 * size[1], 2 * size[0]), np.float32)
    sources = []
    for split in _SPLITS:
        samples = np.sort(np.concatenate(chosen[split]))
        left, right = _PHOTO_COLUMNS[split]
        sources.append(
            _Source(
                stencils=tuple(stencils[sample] for sample in samples),
                samples=samples,
                labels=labels[samples],
                photos=tuple(p.crop((round(left * p.width), 0, round(right * p.width), p.height)) for p in photos),
                letters=letters,
                grain=grain,
            )
        )
    return sources[0], sources[1]


def _stencil(image: np.ndarray) -> Image.Image:
    """A handwriting sample [8, 8] of levels 0..16 as a larger, soft stencil, mode L."""
    padded = np.pad(image, _BORDER_CELLS).astype(np.float32) * (255.0 / 16.0)
    levels = Image.fromarray(np.rint(padded).astype(np.uint8))
    # The bicubic surface through the 8x8 levels has the pen's outline as a level line, which _cut follows.
    return levels.resize((_STENCIL_SIDE, _STENCIL_SIDE), Image.Resampling.BICUBIC)


def _letter(strokes: tuple[tuple[tuple[float, float], ...], ...]) -> Image.Image:
    side = _STENCIL_SIDE
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        points = [(side * (0.27 + 0.46 * x), side * (0.2 + 0.6 * y)) for x, y in stroke]
        draw.line(points, fill=255, width=round(0.1 * side), joint="curve")
    # Blurred to the slope of _stencil's edges, so that one threshold suits both.
    return image.filter(ImageFilter.GaussianBlur(0.035 * side))


def _write_split(folder: Path, source: _Source, split: str, count: int, seed: int, size: _Size, density: float) -> None:
    """Draw and write `count` scenes and their instances.json."""
    images_dir = folder / "images"
    images_dir.mkdir(parents=True)
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([seed, _SPLITS.index(split), index])
        pixels, digits = _scene(source, rng, size, density)
        Image.fromarray(pixels).save(images_dir / _file_name(index), quality=_JPEG_QUALITY)
        for digit in digits:
            x1, y1, x2, y2 = digit.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": digit.label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "segmentation": [],
                    "sample": digit.sample,
                }
            )
    document = {
        "info": {"description": f"tinydet digits, {split}", "version": str(_VERSION), "seed": seed},
        "images": [
            {"id": index + 1, "file_name": _file_name(index), "width": size[0], "height": size[1]}
            for index in range(count)
        ],
        "categories": [
            {"id": label + 1, "name": name, "supercategory": "digit"} for label, name in enumerate(CLASS_NAMES)
        ],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(document), encoding="utf-8")


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _scene(
    source: _Source, rng: np.random.Generator, size: _Size, density: float = 1.0
) -> tuple[np.ndarray, list[_Placed]]:
    """One scene: uint8 [H, W, 3] and its digits, in drawing order, at least one."""
    background = _background(source, rng, size)
    digits: list[_Placed] = []
    # On a texture without a calm spot for any digit (rare), start over on flat grey: a scene always has a digit.
    for pixels in (background, np.full_like(background, rng.integers(40, 216))):
        digits = _draw_things(_Canvas(pixels), source, rng, density)
        if digits:
            return _camera(pixels, source.grain, rng), digits
    raise AssertionError("no digit could be placed on an empty canvas")


def _draw_things(canvas: _Canvas, source: _Source, rng: np.random.Generator, density: float) -> list[_Placed]:
    image_height, image_width = canvas.owner.shape
    area = (image_width / _COUNT_REFERENCE_SIDE) * (image_height / _COUNT_REFERENCE_SIDE)
    side = min(image_width, image_height)
    num_digits, num_clutter = (
        max(1, round(density * area * rng.integers(low, high + 1))) for low, high in (_COUNT_RANGE, _CLUTTER_RANGE)
    )
    placed: list[_Placed] = []
    heights: list[float] = []
    order = rng.permutation(np.repeat([True, False], [num_digits, num_clutter]))
    for is_digit in order:
        if not is_digit:
            canvas.stamp(_clutter(source, rng, side), rng, None, covers=True)
            continue
        height = _log_uniform(rng, _MIN_HEIGHT, min(_MAX_HEIGHT, 0.4 * side))
        beside = None
        if placed and rng.random() < 0.25:
            # Written beside an earlier one, about as large: numbers of several digits, and partial overlap.
            neighbour = int(rng.integers(len(placed)))
            beside = placed[neighbour].box
            height = float(np.clip(heights[neighbour] * rng.uniform(0.85, 1.15), _MIN_HEIGHT, _MAX_HEIGHT))
        choice = int(rng.integers(len(source.stencils)))
        alpha = _cut(source.stencils[choice], rng, height)
        box = canvas.stamp(alpha, rng, beside, covers=False)
        if box is not None:
            placed.append(_Placed(int(source.labels[choice]), int(source.samples[choice]), box))
            heights.append(height)
    return placed


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _cut(stencil: Image.Image, rng: np.random.Generator, height: float) -> np.ndarray:
    """A stencil turned, sheared, scaled to about `height`, inked by a pen of random width: alpha float32 [h, w]."""
    turn = math.radians(rng.uniform(-_MAX_TURN_DEGREES, _MAX_TURN_DEGREES))
    shear, aspect = rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.15)
    fold = 2 if height < _OVERSAMPLED_BELOW else 1
    side = fold * math.ceil(height * _CUT_CELLS / 8)
    step = 8 * _CELL_PIXELS / (fold * height)  # stencil pixels an output pixel
    cos, sin = step * math.cos(turn), step * math.sin(turn)
    # Output pixel -> stencil pixel, about the centre of both: the turn after the shear.
    a, b, d, e = cos / aspect, shear * cos - sin, sin / aspect, shear * sin + cos
    middle, centre = side / 2, _STENCIL_SIDE / 2
    matrix = (a, b, centre - (a + b) * middle, d, e, centre - (d + e) * middle)
    turned = np.asarray(stencil.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    # A ramp about the threshold, narrower where the stencil is enlarged more: large digits get no blurred edges.
    threshold, width = rng.uniform(95.0, 150.0), min(60.0, 90.0 * step)
    levels = (np.arange(256, dtype=np.float32) - np.float32(threshold)) * np.float32(1.0 / width) + np.float32(0.5)
    alpha = np.minimum(np.maximum(levels, 0.0), 1.0)[turned]
    if fold == 2:
        # A sum of slices, because numpy's mean over two short axes takes ten times as long.
        alpha = 0.25 * (alpha[::2, ::2] + alpha[1::2, ::2] + alpha[::2, 1::2] + alpha[1::2, 1::2])
    return _trimmed(alpha)


def _trimmed(alpha: np.ndarray) -> np.ndarray:
    """alpha [h, w] without its empty rows and columns; unchanged where all is empty."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else alpha


def _clutter(source: _Source, rng: np.random.Generator, image_side: int) -> np.ndarray:
    """Something that is not a digit, for an image of this shorter side: alpha float32 [h, w]."""
    kind = rng.random()
    if kind < 0.45:
        height = _log_uniform(rng, _MIN_HEIGHT, min(_MAX_HEIGHT, 0.4 * image_side))
        return _cut(source.letters[int(rng.integers(len(source.letters)))], rng, height)
    # Drawn larger and reduced, for smooth edges.
    side = round(_log_uniform(rng, 8.0, 0.3 * image_side))
    fold = 4 if side < 32 else 2
    full = fold * side
    image = Image.new("L", (full, full))
    draw = ImageDraw.Draw(image)
    if kind < 0.8:  # a stroke: a chain of points that wanders
        steps = int(rng.integers(2, 5))
        points = [tuple(full * rng.uniform(0.1, 0.9, 2)) for _ in range(steps)]
        draw.line(points, fill=255, width=round(fold * max(1.2, rng.uniform(0.04, 0.12) * side)), joint="curve")
    else:  # a blob: a polygon about the centre
        corners = int(rng.integers(4, 12))
        angles = np.sort(rng.uniform(0.0, 2 * math.pi, corners))
        radii = full * rng.uniform(0.15, 0.4, corners)
        draw.polygon(
            [(full / 2 + r * math.cos(t), full / 2 + r * math.sin(t)) for r, t in zip(radii, angles, strict=True)],
            fill=255,
        )
    reduced = image.resize((side, side), Image.Resampling.BOX)
    if kind >= 0.8:
        reduced = reduced.filter(ImageFilter.GaussianBlur(side * rng.uniform(0.0, 0.1)))
    return _trimmed(np.asarray(reduced, np.float32) * np.float32(1 / 255))


class _Canvas:
    """A scene being drawn, and which digit owns which pixel.

    pixels: uint8 [H, W, 3], drawn in place. owner: int16 [H, W], index of the topmost digit + 1, 0 where there is none.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.owner: np.ndarray = np.zeros(pixels.shape[:2], np.int16)
        self.inked = [0]  # inked[i]: number of pixels of digit i; 0 stands for "no digit"
        self.lost = [0]  # lost[i]: how many of these are covered

    def stamp(
        self,
        alpha: np.ndarray,
        rng: np.random.Generator,
        beside: tuple[int, int, int, int] | None,
        *,
        covers: bool,
    ) -> tuple[int, int, int, int] | None:
        """Draw alpha [h, w] in a legible colour; its box in the image, or None where no place was found.

        beside: the box next to which to draw it; None: anywhere. covers: clutter, which owns no pixels of its own.
        """
        height, width = alpha.shape
        all_ink = int(np.count_nonzero(alpha >= _INK_ALPHA))
        image_height, image_width = self.owner.shape
        for attempt in range(_PLACE_ATTEMPTS):
            left, top = self._position((height, width), rng, beside if attempt < _PLACE_ATTEMPTS // 2 else None)
            x1, y1, x2, y2 = (
                max(left, 0),
                max(top, 0),
                min(left + width, image_width),
                min(top + height, image_height),
            )
            if x2 <= x1 or y2 <= y1:
                continue
            visible = alpha[y1 - top : y2 - top, x1 - left : x2 - left]
            ink = visible >= _INK_ALPHA
            inked = int(np.count_nonzero(ink))
            if inked < _MIN_INSIDE * all_ink or inked == 0:
                continue
            covered = np.bincount(self.owner[y1:y2, x1:x2][ink], minlength=len(self.inked))
            covered[0] = 0
            if any(self.lost[i] + covered[i] > _MAX_COVERED * self.inked[i] for i in np.flatnonzero(covered)):
                continue
            if not _paint(self.pixels[y1:y2, x1:x2], visible, ink, rng):
                continue
            for i in np.flatnonzero(covered):
                self.lost[i] += int(covered[i])
            self.owner[y1:y2, x1:x2][ink] = 0 if covers else len(self.inked)
            if not covers:
                self.inked.append(inked)
                self.lost.append(0)
            rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
            return (
                x1 + int(columns[0]),
                y1 + int(rows[0]),
                x1 + int(columns[-1]) + 1,
                y1 + int(rows[-1]) + 1,
            )
        return None

    def _position(
        self, shape: tuple[int, int], rng: np.random.Generator, beside: tuple[int, int, int, int] | None
    ) -> tuple[int, int]:
        """Left and top for something of `shape` (h, w); up to a quarter of it may leave the image."""
        height, width = shape
        image_height, image_width = self.owner.shape
        if beside is not None:
            x1, y1, x2, y2 = beside
            gap = rng.uniform(-0.2, 0.35) * width
            left = x2 + gap if rng.random() < 0.5 else x1 - width - gap
            return round(left), round((y1 + y2 - height) / 2 + rng.uniform(-0.15, 0.15) * height)
        # One in ten may touch the border.
        margin = 0.25 if rng.random() < 0.1 else 0.0
        left = rng.uniform(-margin * width, image_width - (1 - margin) * width)
        top = rng.uniform(-margin * height, image_height - (1 - margin) * height)
        return round(left), round(top)


def _paint(region: np.ndarray, alpha: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> bool:
    """Blend a colour of sufficient contrast into region uint8 [h, w, 3] by alpha [h, w]; False, and nothing drawn,
    where the background is too busy or too close to the middle grey for the opacity drawn."""
    under = region.astype(np.float32)
    luma = under @ _LUMA
    flat = luma.ravel()
    mean = float(flat.sum()) / flat.size
    spread = math.sqrt(max(float(flat @ flat) / flat.size - mean * mean, 0.0))
    opacity = rng.uniform(0.7, 1.0) if rng.random() < 0.4 else 1.0
    # Strokes thinner than a pixel reach only part of their opacity.
    reach = opacity * min(1.0, float(alpha[ink].sum()) / np.count_nonzero(ink) + 0.1)
    least = max(_MIN_CONTRAST, 1.6 * spread)
    room = {1: 255.0 - mean, -1: mean}
    side = 1 if rng.random() < room[1] / 255.0 else -1
    if room[side] * reach < least:
        side = -side
    if room[side] * reach < least:
        return False
    contrast = rng.uniform(least, min(room[side] * reach, least + 110.0))
    colour = _colour_of_luma(mean + side * contrast / reach, rng)
    blend = (np.float32(opacity) * alpha)[..., None]
    np.copyto(region, under + blend * (colour - under) + np.float32(0.5), casting="unsafe")
    return True


def _colour_of_luma(luma: float, rng: np.random.Generator) -> np.ndarray:
    """A colour of random hue and the given luma (0..255): float32 [3]."""
    colour = np.float32(255.0) * (1 - rng.uniform(0.0, 1.0) * rng.random(3, np.float32)).astype(np.float32)
    own = float(colour @ _LUMA)
    if own > luma:
        return colour * np.float32(luma / own)
    return colour + (255 - colour) * np.float32((luma - own) / max(255.0 - own, 1e-3))


def _background(source: _Source, rng: np.random.Generator, size: _Size) -> np.ndarray:
    """uint8 [H, W, 3]: a photograph, a texture, or two of these divided by a soft edge."""
    first = _layer(source, rng, size)
    if rng.random() < 0.75:
        return first
    second = _layer(source, rng, size)
    angle = rng.uniform(0.0, 2 * math.pi)
    across = _coordinates(size, angle) - rng.uniform(-0.3, 0.3)
    weight = np.clip(across * np.float32(255.0 / rng.uniform(0.005, 0.3)) + np.float32(127.5), 0.0, 255.0)
    mask = Image.fromarray(weight.astype(np.uint8))
    return np.array(Image.composite(Image.fromarray(second), Image.fromarray(first), mask))


def _layer(source: _Source, rng: np.random.Generator, size: _Size) -> np.ndarray:
    if rng.random() < 0.6:
        return _photo(source, rng, size)
    return _texture(rng, size)


def _photo(source: _Source, rng: np.random.Generator, size: _Size) -> np.ndarray:
    """A crop of a photograph, mirrored, stretched and recoloured: uint8 [H, W, 3]."""
    photo = source.photos[int(rng.integers(len(source.photos)))]
    # The same crop sizes for both splits, whose regions differ in width.
    width = min(_log_uniform(rng, 90.0, 204.0), photo.width)
    height = min(width * rng.uniform(0.75, 1.6) * (size[1] / size[0]), photo.height)
    left = rng.uniform(0.0, photo.width - width)
    top = rng.uniform(0.0, photo.height - height)
    crop = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.15:
        crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 5.0)))
    # One table a channel is contrast, brightness, tint and gamma at once.
    contrast, brightness, gamma = rng.uniform(0.5, 1.1), rng.uniform(-45.0, 45.0), rng.uniform(0.7, 1.4)
    levels = np.arange(256) / 255.0
    table: list[int] = []
    for tint in rng.uniform(0.8, 1.2, 3):
        channel = (255.0 * levels**gamma * tint - 128.0) * contrast + 128.0 + brightness
        table += np.rint(np.clip(channel, 0, 255)).astype(int).tolist()
    pixels = np.array(crop.point(table))  # a copy: what Pillow lends is read-only
    if rng.random() < 0.2:
        pixels = pixels[..., rng.permutation(3)]
    return pixels


def _texture(rng: np.random.Generator, size: _Size) -> np.ndarray:
    """A procedural texture between two colours: uint8 [H, W, 3]."""
    kind = int(rng.integers(5))
    if kind == 0:  # a gradient, along a line or about a point
        along = _coordinates(size, rng.uniform(0, 2 * math.pi)) + 0.5
        if rng.random() < 0.5:
            along = np.hypot(along - rng.uniform(), _coordinates(size, rng.uniform(0, math.pi)))
        mix = np.clip(along, 0.0, 1.0)
    elif kind == 1:  # stripes, soft or hard
        wave = np.sin(_coordinates(size, rng.uniform(0, math.pi)) * 2 * math.pi * rng.uniform(3.0, 40.0))
        mix = np.clip(wave * _log_uniform(rng, 0.5, 8.0) * 0.5 + 0.5, 0.0, 1.0)
    elif kind == 2:  # checkers
        angle, frequency = rng.uniform(0, math.pi / 2), math.pi * rng.uniform(3.0, 24.0)
        product = np.sin(_coordinates(size, angle) * frequency) * np.sin(
            _coordinates(size, angle + math.pi / 2) * frequency
        )
        mix = np.clip(product * 8.0 + 0.5, 0.0, 1.0)
    else:  # clouds: noise of several octaves; kind 4 is one octave, large blurred patches
        mix = np.zeros((size[1], size[0]), np.float32)
        cells = int(rng.integers(2, 7))
        weight, total = 1.0, 0.0
        for _ in range(1 if kind == 4 else 5):
            grid = Image.fromarray(rng.random((cells, cells), np.float32))
            mix += weight * np.asarray(grid.resize(size, Image.Resampling.BICUBIC))
            total += weight
            weight *= rng.uniform(0.4, 0.8)
            cells *= 2
        mix = np.clip(mix / total, 0.0, 1.0)
    # The two colours lie at most 110 grey levels apart: a digit still finds contrast with both.
    base = rng.uniform(20.0, 235.0)
    other = float(np.clip(base + rng.uniform(-110.0, 110.0), 5.0, 250.0))
    low, high = _colour_of_luma(base, rng), _colour_of_luma(other, rng)
    shades = np.rint(low + (high - low) * np.linspace(0.0, 1.0, 256)[:, None]).astype(np.uint8)
    return shades[(mix * np.float32(255.0)).astype(np.uint8)]


def _coordinates(size: _Size, angle: float) -> np.ndarray:
    """Position along a direction, about -0.5..0.5 over the image: float32 [H, W]."""
    across, down = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5 for side in size)
    return np.float32(math.cos(angle)) * across + np.float32(math.sin(angle)) * down[:, None]


def _camera(pixels: np.ndarray, grain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of a sensor, the same on the three channels, over the whole scene: uint8 [H, W, 3]."""
    height, width = pixels.shape[:2]
    top = int(rng.integers(0, grain.shape[0] - height + 1))
    left = int(rng.integers(0, grain.shape[1] - width + 1))
    noise = np.float32(rng.uniform(0.0, 7.0)) * grain[top : top + height, left : left + width]
    return np.clip(pixels + np.rint(noise).astype(np.int16)[..., None], 0, 255).astype(np.uint8)
