"""Tiles: a large picture in overlapping pieces, so that small objects reach the network large enough.

Shape letters: T tiles, N detections, H, W the picture's height and width.

TinyDet stretches whatever it is given to a square, so square tiles keep an object's aspect: prefer a tile size,
or a grid whose rows and columns are in the proportion of the picture's height and width.

An object that a seam cuts is found twice: whole in one tile, as a truncated box in the next. The overlap makes
sure that one tile holds it whole (if it is no longer than overlap * tile side), so truncated boxes are dropped
where another tile sees the same place further from its border; what is left is merged by non-maximum suppression.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .detections import Detections
from .detector import Detector, Timing
from .errors import UserError
from .preprocess import ImageSource, as_rgb_array

MAX_GRID = 64  # rows, and columns
MAX_TILES = 1024
MIN_TILE_SIZE = 16  # pixels
MAX_OVERLAP = 0.9
OVERLAP = 0.2
MAX_DETECTIONS = 1000
# Above this share of the smaller of two boxes of a class, they are one object.
MATCH = 0.5
# A box this near an inner border of its tile, in pixels of the network's input, counts as cut by it.
BORDER = 2.0


def parse_grid(text: str) -> tuple[int, int]:
    """ "3x5" -> (3, 5): three rows of five tiles.

    Raises:
        UserError: it is not two numbers from 1 to 64 with an x between them.
    """
    match = re.fullmatch(r"\s*([0-9]{1,4})\s*[xX]\s*([0-9]{1,4})\s*", text)
    if match is None:
        raise UserError(f"tiles {text!r} came; expected rows x columns such as 3x5")
    return check_grid((int(match[1]), int(match[2])))


def check_grid(grid: Sequence[int]) -> tuple[int, int]:
    """(rows, columns), each from 1 to 64.

    Raises:
        UserError: it is not.
    """
    if len(grid) != 2 or not all(1 <= count <= MAX_GRID for count in grid):
        raise UserError(f"tiles {'x'.join(map(str, grid))} came; expected rows x columns, each from 1 to {MAX_GRID}")
    return int(grid[0]), int(grid[1])


def lay_tiles(
    width: int,
    height: int,
    *,
    grid: tuple[int, int] | None = None,
    tile_size: int | None = None,
    overlap: float = OVERLAP,
) -> NDArray[np.int64]:
    """Where the tiles of a picture lie, row by row.

    The first and last of a row or column are flush with the picture; the others stand evenly between them, so
    neighbours overlap by at least `overlap` of a tile's side. Every object no longer than overlap * tile side
    lies whole in some tile. A tile is never larger than the picture: one smaller than a tile is one tile. Of a
    grid on a picture with fewer pixels than rows or columns, only as many are left as differ.

    Args:
        width, height: of the picture in pixels.
        grid: (rows, columns). Tiles are as small as that number of them can cover the picture.
        tile_size: side of the square tiles in source pixels, instead of `grid`. Where one side of the picture is
            shorter, the tile has that side of the picture, and is stretched.
        overlap: of neighbours, as a fraction of a tile's side, from 0 to 0.9.

    Returns:
        int64 [T, 4], x1, y1, x2, y2: tile t is picture[y1:y2, x1:x2]. T is at least 1.

    Raises:
        UserError: an argument out of range, not exactly one of grid and tile_size, or more than 1024 tiles.
    """
    if width < 1 or height < 1:
        raise UserError(f"a picture of {width} x {height} came; expected at least 1 pixel")
    check_layout(grid=grid, tile_size=tile_size, overlap=overlap)
    if grid is not None:
        tops, tile_height = _spread_count(height, grid[0], overlap)
        lefts, tile_width = _spread_count(width, grid[1], overlap)
    else:
        assert tile_size is not None
        tops, tile_height = _spread_size(height, tile_size, overlap)
        lefts, tile_width = _spread_size(width, tile_size, overlap)
    if len(tops) * len(lefts) > MAX_TILES:
        raise UserError(
            f"a picture of {width} x {height} would take {len(tops)} x {len(lefts)} tiles; "
            f"at most {MAX_TILES} are allowed: make the tiles larger or the overlap smaller"
        )
    y1, x1 = (axis.reshape(-1) for axis in np.meshgrid(tops, lefts, indexing="ij"))  # [T]
    return np.stack([x1, y1, x1 + tile_width, y1 + tile_height], axis=1)


def check_layout(*, grid: tuple[int, int] | None, tile_size: int | None, overlap: float) -> None:
    """Whether these describe tiles at all, before there is a picture.

    Raises:
        UserError: an argument out of range, or not exactly one of grid and tile_size.
    """
    if (grid is None) == (tile_size is None):
        raise UserError("give either a grid of tiles or a tile size, one of the two")
    if grid is not None:
        check_grid(grid)
    if tile_size is not None and tile_size < MIN_TILE_SIZE:
        raise UserError(f"tile size {tile_size} came; expected at least {MIN_TILE_SIZE} pixels")
    # Written so that NaN fails too.
    if not 0.0 <= overlap <= MAX_OVERLAP:
        raise UserError(f"overlap {overlap} came; expected a fraction from 0 to {MAX_OVERLAP}")


def _shared(side: int, overlap: float) -> int:
    """Pixels that neighbours of this side share at least; a tile always brings at least one new pixel."""
    # 0.3 * 10 is a little more than 3 in binary, which is not meant.
    return min(int(np.ceil(overlap * side - 1e-9)), side - 1)


def _spread_count(length: int, count: int, overlap: float) -> tuple[NDArray[np.int64], int]:
    """Starts and side of `count` tiles over a length: the smallest side that covers it."""
    side = max(1, int(length / (count - (count - 1) * overlap)) - 1)
    while side + (count - 1) * (side - _shared(side, overlap)) < length:
        side += 1
    return _starts(length, side, count), side


def _spread_size(length: int, size: int, overlap: float) -> tuple[NDArray[np.int64], int]:
    """Starts and side of the tiles of a given side over a length."""
    side = min(size, length)
    step = side - _shared(side, overlap)
    return _starts(length, side, 1 - (side - length) // step), side


def _starts(length: int, side: int, count: int) -> NDArray[np.int64]:
    # Integers spread evenly: steps differ by one at most, so none is longer than the overlap allows.
    return np.unique(np.arange(count, dtype=np.int64) * (length - side) // max(count - 1, 1))


class TiledDetector:
    """Finds small objects in large pictures: a Detector, tile by tile, called like a Detector.

    Attributes:
        detector: what runs on each tile.
        labels, info, input_size, score_threshold, runtime, num_threads: the detector's.
        grid, tile_size, overlap, full_image, max_detections: as given.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        grid: tuple[int, int] | None = None,
        tile_size: int | None = None,
        overlap: float = OVERLAP,
        full_image: bool = True,
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        """Wrap a detector.

        Args:
            detector: a Detector. Its max_detections is a tile's limit.
            grid: (rows, columns).
            tile_size: side of the tiles in source pixels, instead of `grid`. The size of the training pictures,
                or the model's input size, is a good start.
            overlap: of neighbours, as a fraction of a tile's side, 0 to 0.9. Make it at least the size of the
                objects that must not be cut.
            full_image: run the whole picture as well, for objects too large for the tiles.
            max_detections: the most a picture may have.

        Raises:
            UserError: an argument is wrong.
        """
        check_layout(grid=grid, tile_size=tile_size, overlap=overlap)
        if max_detections < 1:
            raise UserError(f"max_detections {max_detections} came; expected at least 1")
        self.detector = detector
        self.grid, self.tile_size, self.overlap = grid, tile_size, float(overlap)
        self.full_image, self.max_detections = full_image, max_detections
        self.labels, self.info, self.input_size = detector.labels, detector.info, detector.input_size
        self.score_threshold = detector.score_threshold
        self.runtime, self.num_threads = detector.runtime, detector.num_threads

    def __call__(self, image: ImageSource) -> Detections:
        """Find the objects of one picture, as `Detector.__call__`.

        Raises:
            UserError: the picture does not decode, is no picture, or would take more than 1024 tiles.
        """
        return self.timed(image)[0]

    def timed(self, image: ImageSource) -> tuple[Detections, Timing]:
        """As calling it, and where the time of all tiles together went. Merging is postprocessing."""
        start = time.perf_counter()
        pixels = as_rgb_array(image)
        decode_ms = 1e3 * (time.perf_counter() - start)
        height, width = pixels.shape[:2]
        tiles = lay_tiles(width, height, grid=self.grid, tile_size=self.tile_size, overlap=self.overlap)
        if self.full_image and len(tiles) > 1:
            tiles = np.concatenate([tiles, [[0, 0, width, height]]])
        found, times = [], []
        for x1, y1, x2, y2 in tiles:
            detections, timing = self.detector.timed(pixels[y1:y2, x1:x2])
            found.append(detections)
            times.append(timing)
        merging = time.perf_counter()
        merged = merge_tiles(
            found, tiles, (width, height), input_size=self.input_size, max_detections=self.max_detections
        )
        end = time.perf_counter()
        return merged, Timing(
            preprocess_ms=decode_ms + sum(timing.preprocess_ms for timing in times),
            invoke_ms=sum(timing.invoke_ms for timing in times),
            postprocess_ms=sum(timing.postprocess_ms for timing in times) + 1e3 * (end - merging),
            total_ms=1e3 * (end - start),
        )


def merge_tiles(
    found: Sequence[Detections],
    tiles: NDArray[np.int64],
    image_size: tuple[int, int],
    *,
    input_size: int,
    match: float = MATCH,
    border: float = BORDER,
    max_detections: int = MAX_DETECTIONS,
) -> Detections:
    """The detections of all tiles as those of the picture.

    1. A box that touches an inner border of its tile is dropped where another tile no larger holds it whole
       without touching: that tile has seen the object, or its own box of it.
    2. Best score first, each class for itself: a box is dropped where one taken from another tile covers more
       than `match` of the smaller of the two. Within a tile, the detector's own soft-NMS has decided.

    Args:
        found: of each tile, in pixels of the tile.
        tiles: [T, 4], as `lay_tiles`; the whole picture may be one of them.
        image_size: (W, H).
        input_size: the network's, for what touching means.
        match: intersection over the smaller box from which two are one object.
        border: how near a box touches, in pixels of the network's input.
        max_detections: how many to give at most.

    Returns:
        Detections in pixels of the picture. Equal scores: the earlier tile first.
    """
    source = np.repeat(np.arange(len(tiles)), [len(detections) for detections in found])  # [N], its tile
    if not len(source):
        return Detections.empty()
    boxes = np.concatenate([d.boxes for d in found]) + tiles[source][:, [0, 1, 0, 1]].astype(np.float32)  # [N, 4]
    scores = np.concatenate([d.scores for d in found])  # [N]
    class_ids = np.concatenate([d.class_ids for d in found])  # [N]
    names = [name for d in found for name in d.names]

    kept = np.flatnonzero(~_seen_whole_elsewhere(boxes, source, tiles, image_size, border / input_size))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    taken = _suppress(boxes[order], class_ids[order], source[order], match, max_detections)
    chosen = order[taken]
    return Detections(boxes[chosen], scores[chosen], class_ids[chosen], tuple(names[i] for i in chosen))


def _seen_whole_elsewhere(
    boxes: NDArray[np.float32],
    source: NDArray[np.int64],
    tiles: NDArray[np.int64],
    image_size: tuple[int, int],
    border: float,
) -> NDArray[np.bool_]:
    """bool [N]: which boxes are cut by their tile, and lie in another tile that is no larger and does not cut them."""
    limits = np.array([0, 0, *image_size])
    margin = border * (tiles[:, 2:] - tiles[:, :2])  # [T, 2]
    # A side of a tile on the picture's border cuts nothing.
    inner = np.where(tiles == limits, np.array([-np.inf, -np.inf, np.inf, np.inf]), tiles)  # [T, 4]
    inner[:, :2] += margin
    inner[:, 2:] -= margin
    area = (tiles[:, 2:] - tiles[:, :2]).prod(axis=1)  # [T]
    cut = ~_within(boxes, inner[source])  # [N]
    seen = np.zeros(len(boxes), bool)
    for place, size in zip(inner, area):
        seen |= _within(boxes, place) & (size <= area[source])
    return cut & seen


def _within(boxes: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.bool_]:
    inside = (boxes[..., :2] >= places[..., :2]) & (boxes[..., 2:] <= places[..., 2:])
    return np.asarray(inside.all(axis=-1))


def _suppress(
    boxes: NDArray[np.float32],
    class_ids: NDArray[np.int32],
    source: NDArray[np.int64],
    match: float,
    max_detections: int,
) -> list[int]:
    """Rows to keep of boxes [N, 4] in descending order of score, at most max_detections."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)  # [N]
    live = np.ones(len(boxes), bool)
    taken: list[int] = []
    # A row at a time: N x N overlaps of thousands of boxes would take hundreds of megabytes.
    for row in range(len(boxes)):
        if not live[row]:
            continue
        taken.append(row)
        if len(taken) == max_detections:
            break
        rest = slice(row + 1, None)
        sides = np.minimum(boxes[rest, 2:], boxes[row, 2:]) - np.maximum(boxes[rest, :2], boxes[row, :2])
        shared = np.maximum(sides, 0.0).prod(axis=1)
        same = shared > match * np.minimum(area[rest], area[row])
        live[rest] &= ~(same & (class_ids[rest] == class_ids[row]) & (source[rest] != source[row]))
    return taken
