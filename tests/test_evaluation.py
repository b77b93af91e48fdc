"""Our numbers against plain pycocotools on the original json: crowds, areas, gaps in the ids, boxes we would clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinydet_lite.detections import Detections
from tinydet_lite.detector import Detector
from tinydet_lite.errors import UserError
from tinydet_tf import evaluation as evaluation_module
from tinydet_tf.data.coco import CocoDataset, load_coco
from tinydet_tf.evaluation import METRICS, coco_metrics, evaluate, match_classes, write_evaluation

NAMES = ("ant", "bee", "cat")  # in the order of the ids


def write_data(folder: Path, seed: int = 0) -> CocoDataset:
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image_id in (9, 4, 70):
        for _ in range(12):
            x, y = rng.uniform(0, 180, 2)
            width, height = np.exp(rng.uniform(np.log(3), np.log(130), 2))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([3, 17, 40])),
                    "bbox": [float(x), float(y), float(width), float(height)],  # some leave the image
                    "area": float(width * height * rng.uniform(0.4, 1)),  # of an outline
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    annotations[5]["bbox"][2] = 0.5  # thinner than a pixel: not trained on, but a missed object all the same
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in (9, 4, 70)],
        "categories": [{"id": i, "name": n} for i, n in zip((40, 3, 17), ("cat", "ant", "bee"), strict=True)],
        "annotations": annotations,
    }
    folder.mkdir(exist_ok=True)
    for image_id in (9, 4, 70):
        Image.new("RGB", (200, 200)).save(folder / f"{image_id}.png")
    (folder / "instances.json").write_text(json.dumps(document))
    return load_coco(folder / "instances.json", folder)


def some_results(dataset: CocoDataset) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    truth = json.loads(dataset.annotation_file.read_text())["annotations"]
    results = []
    for annotation in truth:
        for _ in range(2):
            box = np.array(annotation["bbox"]) + rng.normal(0, 3, 4)
            category = annotation["category_id"] if rng.random() < 0.8 else 17
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(category),
                    "bbox": [float(v) for v in np.maximum(box, 1)],
                    "score": float(rng.random()),
                }
            )
    return results


def plain_pycocotools(dataset: CocoDataset, results: list[dict[str, Any]]) -> list[float]:
    truth = COCO(str(dataset.annotation_file))
    evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(v) for v in evaluator.stats]


def test_the_twelve_numbers_are_pycocotools_own(tmp_path: Path) -> None:
    dataset = write_data(tmp_path)
    results = some_results(dataset)
    metrics, class_ap = coco_metrics(dataset, results)
    expected = plain_pycocotools(dataset, results)
    assert [metrics[name] for name in METRICS] == pytest.approx(expected, abs=1e-12)
    assert 0.05 < metrics["AP"] < 0.95
    assert tuple(class_ap) == NAMES
    assert np.mean(list(class_ap.values())) == pytest.approx(metrics["AP"], abs=1e-9)


def test_a_subset_is_judged_on_its_own_images(tmp_path: Path) -> None:
    dataset = write_data(tmp_path)
    results = some_results(dataset)
    one, _ = coco_metrics(dataset.subset(1), results)
    document = json.loads(dataset.annotation_file.read_text())
    document["images"] = document["images"][:1]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] == 9]
    (tmp_path / "one.json").write_text(json.dumps(document))
    alone = load_coco(tmp_path / "one.json", tmp_path)
    other, _ = coco_metrics(alone, [r for r in results if r["image_id"] == 9])
    assert one == other


def test_no_detections(tmp_path: Path) -> None:
    metrics, class_ap = coco_metrics(write_data(tmp_path), [])
    assert metrics["AP"] == metrics["APs"] == metrics["AR100"] == 0.0
    assert set(class_ap.values()) == {0.0}
    document = json.loads((tmp_path / "instances.json").read_text())
    document["annotations"] = [{**a, "area": 10} for a in document["annotations"]]
    (tmp_path / "instances.json").write_text(json.dumps(document))
    metrics, _ = coco_metrics(load_coco(tmp_path / "instances.json", tmp_path), [])
    assert metrics["APl"] == -1.0, "no ground truth of that size: not measured, rather than zero"


def test_a_perfect_detector_scores_one_and_classes_are_matched_by_name(tmp_path: Path) -> None:
    dataset = write_data(tmp_path)
    document = json.loads(dataset.annotation_file.read_text())
    document["annotations"] = [a for a in document["annotations"] if a["bbox"][2] >= 1 and not a["iscrowd"]]
    dataset.annotation_file.write_text(json.dumps(document))
    dataset = load_coco(dataset.annotation_file, tmp_path)
    order = ("zebra", "cat", "bee", "ant")  # another order, and one class more
    calls = iter(dataset.images)

    def detect(pixels: np.ndarray) -> Detections:
        assert pixels.shape == (200, 200, 3) and pixels.dtype == np.uint8
        image = next(calls)
        raw = [a for a in document["annotations"] if a["image_id"] == image.id]
        boxes = np.array([[*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]] for a in raw])
        names = [{3: "ant", 17: "bee", 40: "cat"}[a["category_id"]] for a in raw] + ["zebra"]
        boxes = np.concatenate([boxes, [[0, 0, 10, 10]]]).astype(np.float32)
        ids = np.array([order.index(n) for n in names], np.int32)
        return Detections(boxes, np.linspace(0.9, 0.5, len(names)).astype(np.float32), ids, tuple(names))

    evaluation = evaluate(detect, order, dataset)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    path = tmp_path / "out.json"
    results = write_evaluation(evaluation, path)
    assert json.loads(path.read_text())["AP"] == evaluation.metrics["AP"]
    written = json.loads(results.read_text())
    assert {r["category_id"] for r in written} == {3, 17, 40}
    assert all(set(r) == {"image_id", "category_id", "bbox", "score"} for r in written)
    with pytest.raises(UserError, match="3 classes, 1 of which the model \\(2 classes\\) does not know \\(bee\\)"):
        match_classes(("ant", "cat"), dataset)
    # The same class under another name: by its id, where those of the others agree.
    names = ("cat", "honey bee", "ant", "zebra")
    assert match_classes(names, dataset, (40, 17, 3, 50)) == [40, 17, 3, None]
    for ids in ((40, 17, 4, 50), (40, 18, 3, 50), ()):  # another ant, no 17, none at all
        with pytest.raises(UserError, match="does not know"):
            match_classes(names, dataset, ids)


@pytest.mark.parametrize("as_stored", [False, True])
def test_a_detector_sees_a_photograph_as_if_it_read_the_file_itself(tmp_path: Path, as_stored: bool) -> None:
    detector = Detector("digits", num_threads=1, score_threshold=0.0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture.resize((1600, 1300), Image.Resampling.BICUBIC).save(tmp_path / "1.jpg", exif=exif)
    size = {"width": 1600, "height": 1300} if as_stored else {"width": 1300, "height": 1600}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 99, 99], "area": 9801, "iscrowd": 0}
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", **size}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(detector.labels, 1)],
        "annotations": [box],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    dataset = load_coco(tmp_path / "instances.json", tmp_path)
    results = evaluate(detector, detector.labels, dataset).results
    if as_stored:  # as of a file without the orientation
        content = bytearray((tmp_path / "1.jpg").read_bytes())
        content[content.index(b"Exif") : content.index(b"Exif") + 4] = b"none"
        (tmp_path / "1.jpg").write_bytes(content)
    found = detector(tmp_path / "1.jpg")
    assert len(found) > 0
    assert results == found.to_coco(1, list(range(1, 1 + len(detector.labels))))


@pytest.mark.parametrize("inside", [False, True])  # found beforehand, or only by decoding
def test_objects_of_broken_images_are_left_out_not_missed(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are those of pycocotools on a json without the broken image and its annotations."""
    dataset = write_data(tmp_path)
    results = some_results(dataset)
    path = dataset.images[1].path
    before, mark, pixels = path.read_bytes().partition(b"IDAT")
    path.write_bytes(before + mark + (bytes(20) + pixels[20:] if inside else b""))
    document = json.loads(dataset.annotation_file.read_text())
    document["images"] = [image for image in document["images"] if image["id"] != 4]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != 4]
    (tmp_path / "without.json").write_text(json.dumps(document))
    kept = [result for result in results if result["image_id"] != 4]
    expected = plain_pycocotools(load_coco(tmp_path / "without.json", tmp_path), kept)

    shown = iter((9, 70))  # in the order of the file
    monkeypatch.setattr(
        evaluation_module, "_coco_results", lambda _, number, __: [r for r in kept if r["image_id"] == number]
    )
    evaluation = evaluate(lambda _: next(shown), NAMES, dataset)
    np.testing.assert_array_equal([evaluation.metrics[name] for name in METRICS], expected)
    assert (evaluation.num_images, evaluation.skipped_images) == (2, 1)
    # The same where several processes share the images.
    shown = iter((9, 70))
    shared = evaluate(lambda _: next(shown), NAMES, dataset, gather=lambda rows: rows)
    assert shared.metrics == evaluation.metrics and shared.skipped_images == 1 and shared.num_images == 2


def test_ids_that_no_float_can_tell_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several processes are float64; ids may be time stamps in nanoseconds."""
    plain = write_data(tmp_path)
    far = 1_700_000_000_123_456_000

    def move(document: Any) -> None:
        for entry in document["images"]:
            entry["id"] += far
        for entry in document["annotations"]:
            entry["image_id"] += far
            entry["category_id"] += far
        for entry in document["categories"]:
            entry["id"] += far

    moved = rewritten(tmp_path, move)
    found = [{**r, "image_id": r["image_id"] + far, "category_id": r["category_id"] + far} for r in some_results(plain)]
    monkeypatch.setattr(
        evaluation_module, "_coco_results", lambda _, number, __: [r for r in found if r["image_id"] == number]
    )
    alone = evaluate(lambda _: Detections.empty(), NAMES, moved)
    shared = evaluate(lambda _: Detections.empty(), NAMES, moved, gather=lambda rows: rows)
    assert shared.results == alone.results == found and shared.metrics == alone.metrics


def test_broken_images_and_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = write_data(tmp_path)
    Image.new("RGB", (200, 100)).save(tmp_path / "4.png")

    def nothing(pixels: np.ndarray) -> Detections:
        return Detections.empty()

    evaluation = evaluate(nothing, NAMES, dataset)
    objects = int((~dataset.images[1].is_crowd).sum())
    assert (evaluation.num_images, evaluation.skipped_images, evaluation.skipped_objects) == (2, 1, objects)
    assert "4.png decodes to 200x100" in caplog.text
    assert evaluation.scope().startswith("2 images, ")
    assert evaluation.scope().endswith(f"leave out 1 that cannot be used, and the {objects} objects in them")


def rewritten(folder: Path, change: Any, encoding: str = "utf-8") -> CocoDataset:
    document = json.loads((folder / "instances.json").read_text())
    change(document)
    (folder / "other.json").write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))
    return load_coco(folder / "other.json", folder)


def each(key: str, value: Any) -> Any:
    """Sets a key of every annotation to what `value` makes of the old one."""

    def change(document: dict[str, Any]) -> None:
        for annotation in document["annotations"]:
            annotation[key] = value(annotation.get(key))

    return change


SAME = {
    "annotation ids from 0": each("id", lambda number: number - 1),
    "iscrowd as text": each("iscrowd", str),
    "iscrowd as a float": each("iscrowd", float),
    "iscrowd as a truth value": each("iscrowd", bool),
    "area as text": each("area", str),
    "nothing": lambda document: None,
}


@pytest.mark.parametrize("writing", SAME)
def test_the_writing_of_a_value_changes_no_number(writing: str, tmp_path: Path) -> None:
    """pycocotools, given the file, takes a match with annotation 0 for none, and "0" for a crowd."""
    expected = write_data(tmp_path)
    results = some_results(expected)
    dataset = rewritten(tmp_path, SAME[writing])
    assert coco_metrics(dataset, results) == coco_metrics(expected, results)
    for image, other in zip(dataset.images, expected.images, strict=True):
        np.testing.assert_array_equal(image.is_crowd, other.is_crowd)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_encodings_that_json_may_have(encoding: str, tmp_path: Path) -> None:
    expected = write_data(tmp_path)
    results = some_results(expected)
    dataset = rewritten(tmp_path, lambda document: None, encoding)
    assert coco_metrics(dataset, results) == coco_metrics(expected, results)


@pytest.mark.parametrize("key", ["iscrowd", "area"])
def test_null_is_as_if_it_were_missing(key: str, tmp_path: Path) -> None:
    results = some_results(write_data(tmp_path))
    missing = rewritten(tmp_path, lambda document: [a.pop(key) for a in document["annotations"]])
    expected = coco_metrics(missing, results)
    assert coco_metrics(rewritten(tmp_path, each(key, lambda _: None)), results) == expected


@pytest.mark.parametrize(
    "key, value",
    [("iscrowd", 2), ("iscrowd", "yes"), ("iscrowd", [0]), ("iscrowd", -1), ("area", "large"), ("area", -1.0),
     ("area", float("nan")), ("area", {}), ("area", 10**400)],
)  # fmt: skip
def test_what_has_no_meaning_is_named(key: str, value: Any, tmp_path: Path) -> None:
    write_data(tmp_path)

    def change(document: dict[str, Any]) -> None:
        document["annotations"][3][key] = value

    with pytest.raises(UserError, match=rf"annotations\[3\] \(id 4\) has {key} .*, expected ") as error:
        rewritten(tmp_path, change)
    assert "\n" not in str(error.value)


def test_twelve_objects_found_perfectly_give_one(tmp_path: Path) -> None:
    """With annotation ids from 0 it was 0.865."""
    dataset = rewritten(write_data(tmp_path).annotation_file.parent, each("id", lambda number: number - 1))
    document = json.loads(dataset.annotation_file.read_text())
    results = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in document["annotations"]
        if not a["iscrowd"]
    ]
    assert coco_metrics(dataset, results)[0]["AP"] == pytest.approx(1.0)


def test_an_image_that_is_listed_twice_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_data(tmp_path)

    def change(document: dict[str, Any]) -> None:
        document["images"].append({**document["images"][1], "id": 71})

    assert len(rewritten(tmp_path, change)) == 4
    assert "1 image files are listed more than once (4.png), each time with its own boxes" in caplog.text
