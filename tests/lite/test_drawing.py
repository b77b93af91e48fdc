"""Colours, outlines and labels of annotated pictures."""

import itertools

import numpy as np
import pytest
from PIL import Image

from tinydet_lite import Detections, UserError, draw
from tinydet_lite.media import fonts
from tinydet_lite.media.drawing import _lay_out, _line_width, _load_font, class_colour


def _detections(boxes, class_ids=None, names=None):
    count = len(boxes)
    class_ids = np.zeros(count, np.int32) if class_ids is None else np.array(class_ids, np.int32)
    scores = np.linspace(0.9, 0.4, count).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, class_ids, names or ("thing",) * count)


def _contrast(first, second):
    """WCAG 2's contrast ratio of two sRGB colours."""

    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(colour) / 255]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_stable_distinct_and_readable():
    assert class_colour(0) == class_colour(0)
    colours = [class_colour(class_id) for class_id in range(80)]
    assert len(set(colours)) == 80
    for near, far in itertools.combinations(range(12), 2):
        distance = np.abs(np.subtract(colours[near], colours[far])).sum()
        assert distance > 40, (near, far)  # measured: at least 45
    for colour in colours:
        assert _contrast(colour, (0, 0, 0)) >= 4.5  # WCAG AA; measured: at least 5


def test_nothing_found_leaves_the_picture_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (1000, 800, 3), dtype=np.uint8)
    drawn = draw(picture, Detections.empty())
    np.testing.assert_array_equal(np.asarray(drawn), picture)


def test_the_given_picture_is_not_changed():
    picture = np.zeros((1000, 1000, 3), np.uint8)
    pil = Image.fromarray(picture)
    draw(picture, _detections([[100, 100, 300, 300]]))
    draw(pil, _detections([[100, 100, 300, 300]]))
    assert not picture.any()
    assert not np.asarray(pil).any()


@pytest.mark.parametrize(
    ("size", "min_long_side", "expected"),
    [
        ((320, 320), 960, (960, 960)),
        ((640, 480), 960, (960, 720)),
        ((100, 640), 960, (150, 960)),
        ((2000, 1000), 960, (2000, 1000)),
        ((320, 320), None, (320, 320)),
        ((1, 1), 960, (16, 16)),
    ],
)
def test_small_pictures_are_enlarged(size, min_long_side, expected):
    drawn = draw(Image.new("RGB", size), _detections([[0, 0, *size]]), min_long_side=min_long_side)
    assert drawn.size == expected
    assert drawn.mode == "RGB"


def test_an_outline_surrounds_the_object_without_covering_it():
    picture = np.full((960, 960, 3), 90, np.uint8)
    drawn = np.asarray(draw(picture, _detections([[400, 500, 500, 560]], [3])))
    # The object's own pixels are untouched, but for the antialiased corner curve and rim.
    np.testing.assert_array_equal(drawn[504:556, 404:496], picture[504:556, 404:496])
    for y, x in ((498, 450), (561, 450), (530, 398), (530, 501)):
        assert tuple(drawn[y, x]) == class_colour(3)
    # Enlarged pictures: the box moves along.
    drawn = np.asarray(draw(picture[:320, :320], _detections([[100, 200, 130, 220]], [3])))
    assert tuple(drawn[630, 298]) == class_colour(3)
    assert tuple(drawn[630, 345]) == (90, 90, 90)


def test_an_outline_at_the_picture_edge_stays_visible():
    picture = np.zeros((960, 960, 3), np.uint8)
    drawn = np.asarray(draw(picture, _detections([[0, 0, 960, 960]], [1])))
    for y, x in ((1, 800), (958, 480), (480, 1), (480, 958)):
        assert tuple(drawn[y, x]) == class_colour(1)


def test_lines_suit_picture_and_object():
    small, large = np.array([0.0, 0, 12, 12]), np.array([0.0, 0, 500, 500])
    assert 1.0 <= _line_width(small, 1.0) < _line_width(large, 1.0)
    assert _line_width(large, 4.0) == 4 * _line_width(large, 1.0)
    assert _line_width(large, 0.1) == 1.0


def _layout(boxes, size, names=None):
    boxes = np.array(boxes, float)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    found = _detections(boxes, names=names)
    return _lay_out(found, boxes, [2.0] * len(boxes), areas, size, _load_font(None, 1.0, len(boxes)), True)


def _overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def test_labels_of_small_objects_cover_no_object_and_no_label():
    rng = np.random.default_rng(0)
    cells = rng.permutation(7 * 8)[:24]
    low = np.stack([cells % 7 * 130 + 20, cells // 7 * 115 + 20], axis=1) + rng.integers(0, 60, (24, 2))
    boxes = np.concatenate([low, low + rng.integers(8, 30, (24, 2))], axis=1)
    labels = _layout(boxes, (960, 960))
    assert sorted(label.index for label in labels) == list(range(24))
    for label in labels:
        for box in boxes:
            assert _overlap(label.box, box) == 0
    for first, second in itertools.combinations(labels, 2):
        assert _overlap(first.box, second.box) == 0


@pytest.mark.parametrize(
    "box", [(0, 0, 9, 9), (951, 0, 960, 9), (0, 631, 9, 640), (951, 631, 960, 640), (0, 0, 960, 640)]
)
def test_labels_never_leave_the_picture(box):
    (label,) = _layout([box], (960, 640), ("a rather long class name",))
    x1, y1, x2, y2 = label.box
    assert 0 <= x1 < x2 <= 960
    assert 0 <= y1 < y2 <= 640
    if box[2] - box[0] < 100:
        assert _overlap(label.box, box) == 0


def test_a_crowd_gets_leaders_and_readable_labels():
    """Twelve tiny objects side by side: labels must go further away, and then say whose they are."""
    boxes = [(400 + 14 * i, 300, 410 + 14 * i, 312) for i in range(12)]
    labels = _layout(boxes, (960, 640))
    assert any(label.leader is not None for label in labels)
    for first, second in itertools.combinations(labels, 2):
        assert _overlap(first.box, second.box) == 0


def test_a_long_name_is_shortened_to_the_picture_and_an_impossible_one_left_out():
    (label,) = _layout([(0, 0, 50, 50)], (120, 100), ("an extraordinarily long name",))
    assert label.text.startswith("an")
    assert "..." in label.text
    assert label.text.endswith("...#0 90%")  # the id, because another class may begin alike
    assert label.box[2] <= 120
    assert _layout([(0, 0, 5, 5)], (12, 12)) == []


def test_scores_can_be_left_out_and_the_font_chosen(tmp_path):
    picture = Image.new("RGB", (960, 960))
    found = _detections([[100, 100, 300, 300]])
    with_scores, without = draw(picture, found), draw(picture, found, show_scores=False)
    assert np.asarray(with_scores).sum() > np.asarray(without).sum()  # a shorter label, on black
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(UserError, match=r"no\.ttf: cannot be used as a font"):
        draw(picture, found, font=tmp_path / "no.ttf")


@pytest.fixture
def alone(monkeypatch):
    """As on a system without fonts."""
    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    fonts._font_for.cache_clear()
    yield
    fonts._font_for.cache_clear()


@pytest.fixture
def dejavu(monkeypatch):
    """A system whose only font is the one that comes with matplotlib: many alphabets, none of East Asia's."""
    matplotlib = pytest.importorskip("matplotlib")
    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    monkeypatch.setattr(fonts, "system_fonts", lambda: (path,))
    fonts._font_for.cache_clear()
    yield path
    fonts._font_for.cache_clear()


ALIKE = (
    "grün",
    "grön",
    "红",
    "绿",
    "дом",
    "кот",
    "red",
    "red\u200b",
    "red\x07",
    "\U0001f98a",
    "\U0001f43b",
    "a\udcffb",
)


def _pictures(names, **keywords):
    picture = Image.new("RGB", (960, 200), (90, 90, 90))
    return [np.asarray(draw(picture, _detections([[40, 90, 160, 140]], names=(n,)), **keywords)) for n in names]


def test_labels_that_differ_are_drawn_differently_without_any_font(alone):
    for first, second in itertools.combinations(_pictures(ALIKE), 2):
        assert not np.array_equal(first, second)
    assert fonts.written("grün red", None) == "gr\\xfcn red"
    assert fonts.written("红", None) == "\\u7ea2"
    assert fonts.unwritable(ALIKE, None) == [name for name in ALIKE if name != "red"]


def test_labels_that_differ_are_drawn_differently_with_a_font(dejavu):
    for keywords in ({}, {"font": dejavu}):
        for first, second in itertools.combinations(_pictures(ALIKE, **keywords), 2):
            assert not np.array_equal(first, second)
    for name in ("grün", "дом", "gru\u0308n"):
        assert fonts.font_for(name) == dejavu
        assert fonts.written(name, dejavu) in ("grün", "дом")
    assert fonts.font_for("red") is None  # Pillow's own
    # The font that has most of a label's letters.
    assert fonts.written("grün 红", fonts.font_for("grün 红")) == "grün \\u7ea2"
    assert fonts.unwritable(["grün", "дом", "красный 红"], None) == ["красный 红"]
    assert fonts.unwritable(["grün", "红"], dejavu) == ["红"]


def test_fonts_of_many_alphabets_come_first():
    names = ["Zapf.ttf", "DejaVuSans-Bold.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf"]
    assert sorted(names, key=fonts._order) == [
        "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Zapf.ttf", "DejaVuSans-Bold.ttf",
    ]  # fmt: skip


def test_any_boxes_can_be_drawn():
    """A hundred random boxes, a hair's breadth or the whole picture, on odd sizes."""
    rng = np.random.default_rng(0)
    for width, height in ((31, 500), (500, 7), (1, 1), (333, 222)):
        ends = np.sort(rng.uniform(0, 1, (100, 2, 2)) ** 3, axis=1).reshape(-1, 4) * ([width, height] * 2)
        boxes = np.clip(ends, 0, [width, height] * 2)
        drawn = draw(np.zeros((height, width, 3), np.uint8), _detections(boxes, rng.integers(0, 80, 100)))
        assert np.asarray(drawn).any()
