"""GTMR against loops over docs/reference.md's rules, table 2 on real boxes, the suggestion, the command."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import references
from commands import Command
from tinydet_lite.boxes import inclusive_iou
from tinydet_lite.errors import UserError
from tinydet_tf.analysis import anchor_coverage
from tinydet_tf.analysis.anchor_coverage import coverage, missed, reachable_anchors
from tinydet_tf.analysis.anchor_sets import MODELS, AnchorSet, AspectInput, SquareInput, anchor_set, tinydet
from tinydet_tf.analysis.anchor_suggestion import suggest
from tinydet_tf.analysis.ground_truth import SIZES, ImageBoxes, is_of_size, read_annotations
from tinydet_tf.anchors import all_anchors, base_anchors
from tinydet_tf.config import VARIANTS, TrainConfig


def small_set(side: int = 64, positive_iou: float = 0.5) -> AnchorSet:
    """Few enough anchors for loops: 240 of strides 8 and 16."""
    bases = tuple(base_anchors(2.0 * stride, stride, (0.5, 1.0, 2.0)) for stride in (8, 16))
    return AnchorSet("small", (8, 16), bases, SquareInput(side), positive_iou, 0.3)


def one_anchor(*boxes: tuple[float, float, float, float], side: int = 64) -> AnchorSet:
    """These inclusive boxes and no others: one cell that is as large as the image."""
    return AnchorSet("given", (side,), (np.array(boxes, np.float32),), SquareInput(side), 0.5, 0.3)


def image_of(*boxes: tuple[float, float, float, float], side: int = 64) -> ImageBoxes:
    """Continuous corners on a square picture."""
    return ImageBoxes(1, side, side, np.array(boxes, np.float32).reshape(-1, 4))


def random_image(seed: int, width: int = 64, height: int = 64, number: int = 9) -> ImageBoxes:
    """Whole pixels: mostly small boxes, some large, some twice."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, [width - 4, height - 4], [number, 2])
    side = np.minimum(4 + rng.exponential(0.2, [number, 2]) * [width, height], [width, height] - low).astype(int)
    boxes = np.concatenate([low, low + side], 1)
    boxes[-1] = boxes[0]
    return ImageBoxes(seed, width, height, boxes.astype(np.float32))


def reference_missed(anchors: AnchorSet, image: ImageBoxes, inside: bool) -> list[bool]:
    """Every anchor of the map, in loops. The input has the picture's size."""
    side = image.width
    boxes = []
    for stride, base in zip(anchors.strides, anchors.bases, strict=True):
        for row in range(side // stride):
            for column in range(side // stride):
                boxes += [b + np.array([column, row, column, row]) * stride for b in base]
    usable = [not inside or (min(b) >= 0 and b[2] <= side - 1 and b[3] <= side - 1) for b in boxes]
    gt = [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in image.boxes]
    answers = references.assign(
        np.array(boxes),
        usable,
        np.array(gt),
        positive_iou=anchors.positive_iou,
        negative_iou=anchors.best_iou,
        best_iou=anchors.best_iou,
    )
    return [g not in answers for g in range(len(gt))]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("positive_iou", [0.5, 0.7])
def test_matches_the_reference(inside: bool, positive_iou: float) -> None:
    anchors = small_set(positive_iou=positive_iou)
    kinds = set()
    for seed in range(8):
        image = random_image(seed)
        expected = reference_missed(anchors, image, inside)
        assert missed(anchors, image, inside=inside).tolist() == expected, seed
        kinds |= set(expected)
    assert kinds == {True, False}


def test_one_anchor_that_is_the_best_of_two_serves_the_later() -> None:
    anchors = one_anchor((0, 0, 9, 9))
    image = image_of((0, 0, 10, 16), (0, 0, 16, 10))  # IoU 0.625 with both
    assert missed(anchors, image).tolist() == [True, False]
    result = coverage(anchors, [image])
    assert result.missed == {"all": 1, "small": 1, "medium": 0, "large": 0}
    assert result.gtmr("all") == 50.0 and result.gtmr("large") is None


def test_the_lower_threshold_decides() -> None:
    anchors = one_anchor((0, 0, 9, 9))
    assert missed(anchors, image_of((0, 0, 10, 33))).tolist() == [False]  # 0.303
    assert missed(anchors, image_of((0, 0, 10, 34))).tolist() == [True]  # 0.294


def test_ties_go_to_every_best_anchor() -> None:
    anchors = one_anchor((0, 0, 9, 9), (10, 0, 19, 9))
    # The first box ties (0.5 with both); the second takes one of the two, and one is left to the first.
    assert missed(anchors, image_of((0, 0, 20, 10), (0, 0, 10, 10))).tolist() == [False, False]


def test_anchors_that_leave_the_image() -> None:
    anchors = one_anchor((-1, 0, 9, 9))
    image = image_of((0, 0, 10, 10))
    assert missed(anchors, image).tolist() == [True]
    assert missed(anchors, image, inside=False).tolist() == [False]


def test_an_image_without_boxes() -> None:
    assert missed(small_set(), image_of()).shape == (0,)
    assert coverage(small_set(), [image_of()]).gtmr("all") is None
    assert coverage(small_set(), []).total["all"] == 0


@pytest.mark.parametrize("model", MODELS)
def test_pruned_equals_unpruned(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors = anchor_set(model)
    for seed, (width, height) in enumerate([(640, 426), (300, 500)]):
        image = random_image(seed, width, height, number=6)
        for inside in (True, False):
            pruned = missed(anchors, image, inside=inside)
            with monkeypatch.context() as unpruned:
                unpruned.setattr(anchor_coverage, "reachable_anchors", lambda each, frame, _: each.anchors(frame))
                np.testing.assert_array_equal(pruned, missed(anchors, image, inside=inside))


def test_pruning_keeps_every_anchor_that_reaches_the_threshold() -> None:
    anchors = anchor_set("m")
    frame = anchors.resize(640, 480)
    gt = anchors.gt_boxes(frame, random_image(3, 640, 480, number=12).boxes)
    everything = anchors.anchors(frame)
    needed = everything[(inclusive_iou(everything, gt) >= 0.3).any(1)]
    kept = {tuple(box) for box in reachable_anchors(anchors, frame, gt).tolist()}
    assert len(needed) > 20 and {tuple(box) for box in needed.tolist()} <= kept
    assert len(kept) < len(everything) / 4


def test_the_sets() -> None:
    counts = {name: anchor_set(name).count(640, 480) for name in MODELS}
    # 800x1067 pixels: 50 x 67 cells x 15; (200 x 267 + 100 x 134 + 50 x 67 + 25 x 34 + 13 x 17) x 3.
    assert counts == {
        "faster_rcnn": 50_250, "faster_rcnn_fpn": 213_663, "thundernet_32_512": 10_000, "thundernet": 10_000,
        "s": 6_375, "m": 25_575, "l": 65_472,
    }  # fmt: skip
    for variant, model in VARIANTS.items():
        anchors = anchor_set(variant.lower())
        expected = np.concatenate(
            all_anchors(model.level_sizes, model.strides, model.anchor_scale, model.anchor_ratios)
        )
        np.testing.assert_array_equal(anchors.anchors(anchors.resize(333, 222)), expected)
    sides = {round(float(np.prod(b[2:] - b[:2] + 1)) ** 0.5, -1) for b in anchor_set("thundernet_32_512").bases[0]}
    assert sides == {30, 60, 130, 260, 510}
    with pytest.raises(UserError, match="'xl' is unknown; choose from faster_rcnn"):
        anchor_set("xl")
    with pytest.raises(UserError, match="'S' is unknown"):
        anchor_set("S")


def test_how_an_image_enters() -> None:
    frame = AspectInput(800, 1333)(640, 480)
    assert (frame.width, frame.height) == (1067, 800) and frame.scale_x == frame.scale_y == 800 / 480
    frame = AspectInput(800, 1333)(1000, 200)  # the long side stops it
    assert (frame.width, frame.height) == (1333, 267)
    anchors = anchor_set("s")
    # As the input pipeline: inclusive at the source's resolution, then scaled.
    boxes = anchors.gt_boxes(anchors.resize(640, 160), np.array([[64, 16, 640, 160]], np.float32))
    np.testing.assert_array_equal(boxes, [[32, 32, 319.5 - 0.5, 318]])


def test_sizes_are_areas_of_boxes() -> None:
    boxes = np.array([[0, 0, 32, 31], [0, 0, 32, 32], [0, 0, 96, 95], [0, 0, 96, 96]], np.float32)
    assert [is_of_size(boxes, size).tolist() for size in SIZES[1:]] == [
        [True, False, False, False], [False, True, True, False], [False, False, False, True],
    ]  # fmt: skip
    assert is_of_size(boxes, "all").all()


@pytest.fixture(scope="module")
def val2017(coco_mini: Path) -> list[ImageBoxes]:
    file = coco_mini / "val2017_boxes.npz"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    with np.load(file) as arrays:
        sizes, found = arrays["images_id_w_h_license"], arrays["boxes_imgid_catid_x_y_w_h"].astype(np.float32)
    corners = np.concatenate([found[:, 2:4], found[:, 2:4] + found[:, 4:6]], 1)
    return [ImageBoxes(int(i), int(w), int(h), corners[found[:, 0] == i]) for i, w, h in sizes[::16, :3]]


def test_table_2(val2017: list[ImageBoxes]) -> None:
    names = ("faster_rcnn", "faster_rcnn_fpn", "thundernet_32_512", "thundernet", "m")
    results = {name: coverage(anchor_set(name), val2017) for name in names}
    everything = {name: result.gtmr("all") or 0.0 for name, result in results.items()}
    small = {name: result.gtmr("small") or 0.0 for name, result in results.items()}
    order = sorted(("faster_rcnn", "faster_rcnn_fpn", "thundernet", "m"), key=lambda n: everything[n])
    assert order == ["faster_rcnn_fpn", "faster_rcnn", "m", "thundernet"]
    # Of all the boxes: 50.9 / 19.4 = 2.6 (table 2: 2.5), and with ThunderNet's published sizes 87.5 / 19.4 = 4.5.
    assert 2 < small["thundernet"] / small["m"] < 3
    assert 4 < small["thundernet_32_512"] / small["m"] < 5.5
    paper = {"faster_rcnn": 17.0, "faster_rcnn_fpn": 15.2, "thundernet": 53.1, "m": 21.2}
    for name, printed in paper.items():
        assert abs(small[name] - printed) < 4, (name, small[name])  # of all the boxes at most 2.6 apart


def squares(side: float, jitter: float, number: int = 80) -> list[ImageBoxes]:
    """Pictures of 320x320 with four squares each of about this side, apart from one another."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(number):
        sides = side * np.exp(rng.normal(0, jitter, [4, 1]))
        low = rng.uniform(0, 160 - 2 * side, [4, 2]) + [[0, 0], [160, 0], [0, 160], [160, 160]]
        images.append(ImageBoxes(index, 320, 320, np.concatenate([low, low + sides], 1).astype(np.float32)))
    return images


def test_the_suggestion_finds_a_planted_scale() -> None:
    found = suggest(VARIANTS["M"], TrainConfig(), squares(5.0, 0.05), sample_boxes=100)
    # Sides of 12.8 (scale 3.2) cannot reach an IoU of 0.3 with sides of 5 (25 / 164); those near 5 (scale 1.25) do.
    assert (found.current_coverage.gtmr("all") or 0) > 90
    # An IoU of 0.3 ends at sides of 9.1, scale 2.3; the middle of what fits is wanted.
    assert 1 < found.suggested.anchor_scale < 2
    assert found.suggested_coverage.gtmr("all") == 2.0  # two lie between the anchors
    assert min(found.tried.values()) == 2.0
    assert found.assignments() == [f"model.anchor_scale={found.suggested.anchor_scale:g}"]
    assert found.boxes == 100 and found.images == 25 and found.larger_input() is None
    again = suggest(VARIANTS["M"], TrainConfig(), squares(5.0, 0.05), sample_boxes=100)
    assert again.suggested == found.suggested and again.tried == found.tried


def test_the_suggestion_leaves_good_anchors_alone() -> None:
    found = suggest(VARIANTS["S"], TrainConfig(), squares(20.0, 0.02), sample_boxes=60)
    assert found.suggested == found.current and found.assignments() == []


def test_the_suggestion_finds_other_ratios() -> None:
    images = []
    for image in squares(6.0, 0.05):
        boxes = image.boxes.copy()
        boxes[:, 3] = boxes[:, 1] + (boxes[:, 2] - boxes[:, 0]) * 14  # 6 x 84: far from 0.5, 1 and 2
        images.append(ImageBoxes(image.id, 320, 400, boxes))
    found = suggest(VARIANTS["S"], TrainConfig(), images, sample_boxes=60)
    # 14 x 320 / 400 = 11.2 as the network sees it.
    assert (
        found.suggested.anchor_ratios == (11.0, 11.0, 11.0) and "model.anchor_ratios=[11,11,11]" in found.assignments()
    )
    assert (found.suggested_coverage.gtmr("all") or 0.0) < 0.5 * (found.current_coverage.gtmr("all") or 0.0)


def test_tiny_objects_want_a_larger_input() -> None:
    found = suggest(VARIANTS["S"], TrainConfig(), squares(2.0, 0.0), sample_boxes=20)
    assert found.median_side == pytest.approx(2.0, abs=1e-4) and found.larger_input() == 1280


# The command


@pytest.fixture(name="command")
def bound_command(command: Command) -> Command:
    return functools.partial(command, "anchor_coverage.py")


IMAGES = np.array([[7, 64, 48, 1], [3, 64, 48, 1]], np.int32)
BOXES = np.array([[7, 1, 4, 5, 10, 12], [3, 1, 0, 0, 60, 48], [7, 2, 20, 4, 40, 40]], np.int32)


@pytest.fixture
def coco_json(tmp_path: Path) -> Path:
    """The boxes of BOXES, a crowd, and no pictures."""
    document: dict[str, Any] = {
        "images": [{"id": int(i), "file_name": f"{i}.jpg", "width": int(w), "height": int(h)} for i, w, h, _ in IMAGES],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {"id": n, "image_id": int(b[0]), "category_id": int(b[1]), "bbox": b[2:].tolist(), "iscrowd": 0}
            for n, b in enumerate(BOXES)
        ],
    }
    document["annotations"].append({"id": 9, "image_id": 7, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1})
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path


def test_a_json_without_pictures(coco_json: Path) -> None:
    first, second = read_annotations(coco_json)
    assert (first.id, first.width, first.height) == (7, 64, 48)
    np.testing.assert_array_equal(first.boxes, [[4, 5, 14, 17], [20, 4, 60, 44]])
    np.testing.assert_array_equal(second.boxes, [[0, 0, 60, 48]])


def test_the_table_keeps_the_papers_figures_apart(command: Any, coco_json: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, text, _ = command(
        "--annotations", coco_json, "--models", "m", "thundernet", "--set", "model.anchor_scale=3", "--json", out
    )
    assert code == 0
    measured, _, paper = text.partition("Printed in the paper's table 2")
    assert "53.1" in paper and "53.1" not in measured and "21.2" in paper and "yours (S)" in measured
    content = json.loads(out.read_text())
    assert [row["name"] for row in content["models"]] == ["TinyDet-M", "ThunderNet", "yours (S)"]
    assert content["models"][0]["total"] == {"all": 3, "small": 1, "medium": 2, "large": 0}
    assert content["models"][0]["gtmr"]["large"] is None
    assert content["paper_table2"]["ThunderNet"]["small"] == 53.1


def test_suggestion_of_the_command(command: Any, coco_json: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, text, _ = command("--annotations", coco_json, "--suggest", "--json", out)
    assert code == 0 and "Searched on 3 objects of 2 images" in text
    assert len(json.loads(out.read_text())["suggestion"]["tried"]) > 20


def test_without_data_it_takes_the_digits(command: Any) -> None:
    few = ("--set", "data.digits_train_images=4", "--set", "data.digits_val_images=1")
    code, text, _ = command("--models", "s", "--limit", 3, *few)
    assert code == 0 and "embedded digits" in text and "of 3 images" in text


def test_wrong_input_is_one_line(command: Any, coco_json: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        code, _, err = command(*arguments)
        assert code == 2 and "Traceback" not in err and ": error: " in err.strip().splitlines()[-1], (arguments, err)
        return str(err.strip().splitlines()[-1])

    assert "'xl' is unknown" in refused("--models", "xl")
    assert "does not exist" in refused("--annotations", tmp_path / "none.json")
    assert "give one of them" in refused("--annotations", coco_json, "--data", tmp_path)
    assert "--limit is 0" in refused("--limit", 0)
    assert "there is no folder" in refused("--annotations", coco_json, "--json", tmp_path / "none" / "f.json")
    assert "did you mean" in refused("--set", "model.anchor_scal=3")
    assert "variant 'X' does not exist" in refused("--variant", "X")

    document = json.loads(coco_json.read_text())
    for key, value, words in (
        ("images", None, '"images" is a NoneType'),
        ("annotations", [], "has no boxes"),
        ("annotations", document["annotations"][-1:], "has no boxes"),  # the crowd
        ("annotations", [{"id": 1, "image_id": 7, "category_id": 1}], "has no bbox"),
        ("annotations", [{"id": 1, "image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9]}], "which images does not"),
        ("images", [{"id": 7, "file_name": "a.jpg"}], 'has no "width"'),
    ):
        coco_json.write_text(json.dumps(document | {key: value}))
        assert words in refused("--annotations", coco_json)
    coco_json.write_text("{")
    assert "is not valid json" in refused("--annotations", coco_json)


def test_one_image_with_boxes_beyond_the_limit(command: Any, coco_json: Path) -> None:
    document = json.loads(coco_json.read_text())
    coco_json.write_text(json.dumps(document | {"annotations": document["annotations"][1:2]}))
    code, _, err = command("--annotations", coco_json, "--limit", 1)
    assert code == 2 and "have no box" in err


def test_tinydets_thresholds_are_the_configs() -> None:
    train = TrainConfig(rpn_positive_iou=0.6, rpn_negative_iou=0.2)
    anchors = tinydet("mine", VARIANTS["S"], train)
    assert (anchors.positive_iou, anchors.best_iou) == (0.6, 0.2)
