"""Tiles cover the picture and hold small objects whole; merged boxes are those of a slow reference."""

from __future__ import annotations

import itertools
import runpy
import sys

import numpy as np
import pytest

from tinydet_lite.detections import Detections
from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.tiles import TiledDetector, lay_tiles, merge_tiles, parse_grid

from .conftest import SIZE


@pytest.mark.parametrize("how", [{"grid": (1, 1)}, {"grid": (3, 1)}, {"grid": (7, 1)}, {"tile_size": 32}])
def test_tiles_cover_the_picture_and_hold_small_objects_whole(how):
    for length, overlap in itertools.product((1, 2, 17, 100, 101, 319, 320, 321), (0.0, 0.1, 0.2, 0.3, 0.55, 0.9)):
        tiles = lay_tiles(20, length, overlap=overlap, **how)
        starts, ends = tiles[:, 1], tiles[:, 3]
        assert starts[0] == 0 and ends[-1] == length
        side = int(ends[0] - starts[0])
        assert side >= 1 and (ends - starts == side).all()
        longest = max(1, min(int(overlap * side + 1e-9), side - 1)) if length > 1 else 1
        first = np.arange(length - longest + 1)[:, None]  # every object of that length, of one pixel without overlap
        held = ((starts <= first) & (first + longest <= ends)).any(axis=1)
        assert held.all(), (length, overlap, longest, np.flatnonzero(~held), tiles)


def test_grids_have_their_rows_and_columns_and_a_small_picture_is_one_tile():
    tiles = lay_tiles(1920, 1080, grid=(3, 5), overlap=0.2)
    assert len(tiles) == 15 and len(np.unique(tiles[:, 0])) == 5 and len(np.unique(tiles[:, 1])) == 3
    assert lay_tiles(300, 200, tile_size=320).tolist() == [[0, 0, 300, 200]]
    assert lay_tiles(320, 320, tile_size=320, overlap=0.9).tolist() == [[0, 0, 320, 320]]
    assert lay_tiles(640, 320, tile_size=320, overlap=0.0).tolist() == [[0, 0, 320, 320], [320, 0, 640, 320]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_grid("3"), "rows x columns such as 3x5"),
        (lambda: parse_grid("3x-5"), "rows x columns such as 3x5"),
        (lambda: parse_grid("0x5"), "tiles 0x5 came"),
        (lambda: parse_grid("3x65"), "from 1 to 64"),
        (lambda: lay_tiles(9, 9, tile_size=15), "at least 16"),
        (lambda: lay_tiles(9, 9, grid=(2, 2), overlap=0.95), "overlap 0.95 came"),
        (lambda: lay_tiles(9, 9, grid=(2, 2), overlap=float("nan")), "overlap nan came"),
        (lambda: lay_tiles(9, 9), "one of the two"),
        (lambda: lay_tiles(9, 9, grid=(2, 2), tile_size=32), "one of the two"),
        (lambda: lay_tiles(9000, 9000, tile_size=32), "at most 1024"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UserError, match=message):
        call()
    assert parse_grid(" 3X5 ") == (3, 5)


def _reference(found, tiles, image_size, input_size, match, border, max_detections):
    """[(score, class, box)], box by box in plain Python."""

    def inside(box, tile):
        margins = [border / input_size * (tile[2 + axis] - tile[axis]) for axis in (0, 1)]
        low = [tile[axis] == 0 or box[axis] >= tile[axis] + margins[axis] for axis in (0, 1)]
        high = [
            tile[2 + axis] == image_size[axis] or box[2 + axis] <= tile[2 + axis] - margins[axis] for axis in (0, 1)
        ]
        return all(low + high)

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    candidates = []
    for index, (detections, tile) in enumerate(zip(found, tiles.tolist(), strict=True)):
        for one in detections:
            box = [one.box[side] + tile[side % 2] for side in range(4)]
            others = [other for other in tiles.tolist() if area(other) <= area(tile)]
            if inside(box, tile) or not any(inside(box, other) for other in others):
                candidates.append((one.score, one.class_id, box, index))
    candidates.sort(key=lambda candidate: -candidate[0])
    taken = []
    for score, class_id, box, index in candidates:
        for _, other_class, other, other_index in taken:
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            shared = max(width, 0) * max(height, 0)
            if class_id == other_class and index != other_index and shared > match * min(area(box), area(other)):
                break
        else:
            taken.append((score, class_id, box, index))
    return [(score, class_id, box) for score, class_id, box, _ in taken[:max_detections]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("full_image", [False, True])
def test_merging_is_the_references(seed, full_image):
    rng = np.random.default_rng(seed)
    tiles = lay_tiles(200, 150, grid=(2, 3), overlap=0.3)
    if full_image:
        tiles = np.concatenate([tiles, [[0, 0, 200, 150]]])
    found = []
    for x1, y1, x2, y2 in tiles:
        count = int(rng.integers(0, 25))
        sides = np.array([x2 - x1, y2 - y1])
        low = rng.integers(0, sides - 8, (count, 2))  # whole pixels, so that boxes do touch
        high = np.minimum(low + rng.integers(4, 40, (count, 2)), sides)
        class_ids = rng.integers(0, 2, count).astype(np.int32)
        scores = np.sort(rng.permutation(1000)[:count] / 1000 + 1e-4 * len(found))[::-1].astype(np.float32)
        boxes = np.concatenate([low, high], axis=1).astype(np.float32)
        found.append(Detections(boxes, scores, class_ids, tuple(str(class_id) for class_id in class_ids)))
    merged = merge_tiles(found, tiles, (200, 150), input_size=64, match=0.5, border=2.0, max_detections=60)
    expected = _reference(found, tiles, (200, 150), 64, 0.5, 2.0, 60)
    assert 0 < len(expected) < sum(len(detections) for detections in found)
    np.testing.assert_array_equal(merged.scores, np.array([row[0] for row in expected], np.float32))
    np.testing.assert_array_equal(merged.class_ids, [row[1] for row in expected])
    np.testing.assert_array_equal(merged.boxes, np.array([row[2] for row in expected], np.float32))


def test_an_object_on_a_seam_is_found_once_and_whole(model_path):
    detector = Detector(model_path, num_threads=1)
    tiled = TiledDetector(detector, tile_size=SIZE, overlap=0.25, full_image=False)
    picture = np.zeros((SIZE, 2 * SIZE, 3), np.uint8)
    second = int(lay_tiles(2 * SIZE, SIZE, tile_size=SIZE, overlap=0.25)[1, 0])
    picture[20:30, second - 4 : second + 8, 0] = 255  # its right half alone in the second tile
    found, timing = tiled.timed(picture)
    assert found.names == ("red thing",)
    np.testing.assert_array_equal(found.boxes, [[second - 4, 20, second + 8, 30]])
    assert 0 < timing.invoke_ms < timing.total_ms
    assert tiled.labels == detector.labels and tiled.info is detector.info and tiled.input_size == SIZE
    assert len(tiled(np.zeros((5, 5, 3), np.uint8))) == 0


def test_without_sahi_its_model_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sahi", None)
    module = runpy.run_module("tinydet_lite.sahi")
    with pytest.raises(UserError, match=r"needs sahi .*pip install sahi"):
        module["TinyDetDetectionModel"](model_path="x.tflite")
