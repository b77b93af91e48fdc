"""The report's numbers by hand and against a slow reference, its page, and its folder; `evaluate.py --report`."""

from __future__ import annotations

import html
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from commands import Command
from scenes import dataset_of, random_scene
from tinydet_lite.errors import UserError
from tinydet_lite.models import DIGITS
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.evaluation import Evaluation, metrics_of
from tinydet_tf.matching import best_point, judge, point_at, threshold_curve
from tinydet_tf.report.charts import confusion_chart, f1_chart, precision_recall_chart
from tinydet_tf.report.folder import check_report_folder, write_report
from tinydet_tf.report.numbers import (
    CONFUSED,
    FOUND,
    INVENTED,
    MISSED,
    NOTHING,
    OFF,
    SECOND,
    Outcome,
    Report,
    confused_pairs,
    confusion,
    make_report,
    most_confused,
    outcomes,
    worst_pictures,
)
from tinydet_tf.report.page import page
from tinydet_tf.report.pictures import colour_of, draw_outcomes, label_of

ODD = {3: "<b>&amp;\"'", 17: "$x_1$ \\frac", 40: "红 ü\u202e"}


def report_of(
    dataset: CocoDataset, results: list[dict[str, Any]], *, suggested: float | None = None, most_pictures: int = 3
) -> Report:
    judged = judge(dataset, results)
    metrics, class_ap = metrics_of(judged, dataset)
    best = best_point(threshold_curve(judged, range(dataset.num_classes)))
    evaluation = Evaluation(metrics, class_ap, [], len(dataset), 1.0, 0, 0, best, (dataset, judged))
    return make_report(
        evaluation, model="m & m", data="d", split="val", suggested=suggested, default=0.3, most_pictures=most_pictures
    )


def result(box: list[float], score: float, category: int, image: int = 9) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": float(np.float32(score))}


def hand_made(folder: Path) -> tuple[CocoDataset, list[dict[str, Any]]]:
    """ants (3) and bees (17), no cats; each thing that may happen happens once."""
    boxes = [[10, 10, 20, 20], [50, 10, 20, 20], [90, 10, 20, 20], [130, 10, 20, 20], [10, 60, 30, 30]]
    dataset = dataset_of(
        folder,
        [
            {"box": boxes[0], "category": 3},  # found
            {"box": boxes[1], "category": 3},  # taken for a bee
            {"box": boxes[2], "category": 17},  # missed
            {"box": boxes[3], "category": 17},  # a bee found, and a better ant on the same place
            {"box": boxes[4], "category": 3, "crowd": 1},  # left out
        ],
    )
    results = [
        result(boxes[0], 0.9, 3),
        result([12, 10, 20, 20], 0.8, 3),  # a second box
        result([25, 10, 20, 20], 0.7, 3),  # overlaps the first ant by 1/7
        result(boxes[1], 0.8, 17),
        result(boxes[2], 0.4, 17),  # too low a score
        result(boxes[3], 0.6, 17),
        result(boxes[3], 0.95, 3),  # there is no ant left over: invented
        result([15, 65, 20, 20], 0.9, 3),  # in the crowd
        result([150, 100, 20, 20], 0.9, 3, image=4),  # where nothing is
    ]
    return dataset, results


def test_outcomes_by_hand(tmp_path: Path) -> None:
    dataset, results = hand_made(tmp_path)
    every = outcomes(judge(dataset, results), dataset, 0.5)
    told = Counter((one.kind, one.truth, one.found_as, one.reason) for one in every)
    assert told == {
        (FOUND, 0, 0, ""): 1,
        (FOUND, 1, 1, ""): 1,
        (CONFUSED, 0, 1, ""): 1,
        (MISSED, 1, None, ""): 1,
        (INVENTED, None, 0, SECOND): 1,
        (INVENTED, None, 0, OFF): 1,
        (INVENTED, None, 0, NOTHING): 2,
    }
    np.testing.assert_array_equal(
        confusion(every, 3),
        [[1, 1, 0, 0],
         [0, 1, 0, 1],
         [0, 0, 0, 0],
         [4, 0, 0, 0]],
    )  # fmt: skip
    assert confused_pairs(confusion(every, 3)) == [(0, 1, 1)]
    found = next(one for one in every if one.kind == CONFUSED)
    assert (found.truth_box, found.found_box, found.area) == ((50, 10, 20, 20), (50, 10, 20, 20), 400)
    # With a lower threshold the missed bee is found; with a higher one all that is left is missed.
    assert Counter(one.kind for one in outcomes(judge(dataset, results), dataset, 0.3))[MISSED] == 0
    assert Counter(one.kind for one in outcomes(judge(dataset, results), dataset, 1.0)) == {MISSED: 4}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.01, 0.4, 0.8])
def test_outcomes_are_what_f1_counts(seed: int, threshold: float, tmp_path: Path) -> None:
    """Every object and every detection is in the matrix once, crowds apart, and the diagonal is what was found."""
    dataset, objects, results = random_scene(tmp_path, seed)
    evaluator = judge(dataset, results)
    curve = threshold_curve(evaluator, range(3))
    every = outcomes(evaluator, dataset, threshold)
    matrix, index = confusion(every, 3), curve.at(threshold)
    assert np.trace(matrix) == curve.found[index]
    assert matrix[:3].sum() == curve.objects == sum(not one["iscrowd"] for one in objects)
    assert matrix[:, :3].sum() - np.trace(matrix) == curve.invented[index]
    assert matrix[3, 3] == 0
    # Nothing that is left over fits together any more: greedy as pycocotools is, it stops at no pair.
    for missed in (one for one in every if one.kind == MISSED):
        for wrong in (one for one in every if one.kind == INVENTED and one.image_id == missed.image_id):
            a, b = missed.truth_box, wrong.found_box
            assert a is not None and b is not None
            wide = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
            high = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
            assert wide * high / (a[2] * a[3] + b[2] * b[3] - wide * high) < 0.5


def test_the_threshold_is_the_models_own_or_the_best_or_the_default(tmp_path: Path) -> None:
    dataset, results = hand_made(tmp_path)
    own, best, none = report_of(dataset, results, suggested=0.5), report_of(dataset, results), report_of(dataset, [])
    assert (own.threshold, own.threshold_source) == (0.5, "model")
    assert best.best is not None and (best.threshold, best.threshold_source) == (best.best.threshold, "split")
    assert (none.threshold, none.threshold_source, none.best) == (0.3, "default", None)
    point = own.point()
    assert (point.precision, point.recall) == (2 / 7, 2 / 4)
    assert point.f1 == pytest.approx(point_at(own.curve, 0.5).f1) == pytest.approx(2 * 2 / (4 + 7))


def test_sizes_and_classes_are_pycocotools_own(tmp_path: Path) -> None:
    dataset, _, results = random_scene(tmp_path, 5)
    report = report_of(dataset, results)
    for pr, name in zip(report.by_size, ("AP", "APs", "APm", "APl"), strict=True):
        assert (report.metrics[name] == -1) == np.isnan(pr.ap)
        assert np.isnan(pr.ap) or pr.ap == pytest.approx(report.metrics[name])
    assert report.by_size[0].ap50 == pytest.approx(report.metrics["AP50"])
    assert report.by_size[1].objects + report.by_size[2].objects == report.by_size[0].objects
    assert report.by_size[3].objects == 0 and np.isnan(report.by_size[3].precision).all()


def test_the_most_confused_classes_are_shown_and_nothing_is_lost() -> None:
    rng = np.random.default_rng(0)
    matrix = np.diag(np.append(rng.integers(1, 50, 80), 0))
    matrix[:80, 80], matrix[80, :80] = rng.integers(0, 9, 80), rng.integers(0, 9, 80)
    matrix[7, 42], matrix[42, 60] = 30, 20
    shown = most_confused(matrix, 3)
    assert shown.classes == (7, 42, 60) and len(shown.left_out) == 77
    assert shown.matrix.shape == (5, 5) and shown.matrix.sum() == matrix.sum()
    np.testing.assert_array_equal(shown.matrix[:3, :3], matrix[np.ix_((7, 42, 60), (7, 42, 60))])
    assert shown.matrix[3, 3] == np.delete(np.diag(matrix), [7, 42, 60]).sum()
    assert confused_pairs(matrix)[0] == (7, 42, 30)
    whole = most_confused(matrix, 80)
    assert whole.left_out == () and whole.matrix is matrix


def test_the_worst_pictures_come_first() -> None:
    def some(image: int, found: int, missed: int) -> list[Outcome]:
        good = Outcome(image, 0, 0, (0, 0, 9, 9), (0, 0, 9, 9), 0.9)
        return [good] * found + [Outcome(image, 0, None, (0, 0, 9, 9))] * missed

    every = [*some(5, 2, 1), *some(3, 0, 2), *some(8, 4, 2), *some(2, 9, 0), *some(1, 0, 2)]
    pictures = worst_pictures(every, 9)
    assert [picture.image_id for picture in pictures] == [1, 3, 8, 5], "none without a mistake"
    assert (pictures[2].mistakes, pictures[2].count(FOUND), pictures[2].count(MISSED)) == (2, 4, 2)
    assert worst_pictures(every, 1) == pictures[:1] and worst_pictures([], 3) == []


def test_each_kind_is_drawn_in_its_colour_with_its_words() -> None:
    names = ("ant", "bee")
    kinds = {
        FOUND: (Outcome(1, 0, 0, (20, 20, 30, 30), (20, 20, 30, 30), 0.9), ""),
        MISSED: (Outcome(1, 1, None, (20, 20, 30, 30)), "missed bee"),
        INVENTED: (Outcome(1, None, 0, None, (20, 20, 30, 30), 0.456, reason=NOTHING), "invented ant 0.46"),
        CONFUSED: (Outcome(1, 0, 1, (20, 20, 30, 30), (20, 20, 30, 30), 0.61), "ant, found as bee 0.61"),
    }
    assert len({colour_of(kind) for kind in kinds}) == 4
    blank = np.full([100, 100, 3], 40, np.uint8)
    for kind, (one, words) in kinds.items():
        assert one.kind == kind and label_of(one, names) == words
        drawn = opened(draw_outcomes(blank, [one], names))
        assert drawn.shape == (960, 960, 3)
        # In the middle of the left side. JPEG moves colours by at most 22 here; the other kinds' are 79 away or more.
        line = drawn[350, 180:195].astype(int)
        assert np.abs(line - colour_of(kind)).max(1).min() <= 40, kind
    large = opened(draw_outcomes(np.zeros([1000, 4000, 3], np.uint8), [kinds[MISSED][0]], names))
    assert large.shape == (400, 1600, 3)


def opened(content: bytes) -> np.ndarray:
    import io

    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


class Links(HTMLParser):
    """What a page asks the browser to load, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_folder_is_whole_and_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    dataset, _, results = random_scene(tmp_path / "data", 1, ODD)
    folder = tmp_path / "report"
    written = []
    for _ in range(2):
        check_report_folder(folder)
        write_report(report_of(dataset, results), dataset, folder)
        written.append({p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert written[0] == written[1]
    assert set(written[0]) == {
        "index.html", "report.json", "f1.png", "precision_recall.png", "confusion.png", "pictures/01.jpg",
        "pictures/02.jpg", "pictures/03.jpg",
    }  # fmt: skip
    text = (folder / "index.html").read_text()
    parser = Links()
    parser.feed(text)
    assert parser.open == [] and len(parser.links) >= 10
    assert all((folder / unquote(link)).is_file() for link in parser.links), parser.links
    assert "http" not in text and "<script" not in text
    assert html.escape(ODD[3]) in text and "<b>&amp;\"'" not in text and "m &amp; m" in text
    numbers = json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    report = report_of(dataset, results)
    assert numbers["confusion"]["matrix"] == report.matrix.tolist()
    assert [entry["name"] for entry in numbers["classes"]] == list(ODD.values())
    assert report.best is not None and numbers["best"]["f1"] == report.best.f1
    assert [(one["image_id"], one["file"]) for one in numbers["worst_pictures"]] == [
        (one.image_id, f"{one.image_id}.png") for one in report.pictures
    ]
    assert sum(numbers["invented_because"].values()) == report.count(INVENTED)
    # With fewer pictures the old ones are gone.
    write_report(report_of(dataset, results, most_pictures=1), dataset, folder)
    assert [path.name for path in (folder / "pictures").iterdir()] == ["01.jpg"]


def test_the_charts_have_the_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    dataset, results = hand_made(tmp_path)
    report = report_of(dataset, results)
    other = replace(report, class_names=("ant", "wasp", "cat"))
    for chart in (f1_chart, precision_recall_chart, lambda r: confusion_chart(r, most_confused(r.matrix, 9))):
        assert chart(report) == chart(report) != chart(other)


@pytest.mark.parametrize("kind", ["nothing found", "no objects", "one class", "all right", "many classes"])
def test_unusual_sets_have_a_page(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    box = [10.0, 10.0, 20.0, 20.0]
    if kind == "many classes":
        dataset, _, results = random_scene(tmp_path / "data", 0, {i: f"class {i}" for i in range(1, 31)})
    else:
        names = {3: "ant"} if kind == "one class" else {3: "ant", 17: "bee"}
        dataset = dataset_of(
            tmp_path / "data", [] if kind == "no objects" else [{"box": box, "category": 3}], names=names
        )
        results = [] if kind == "nothing found" else [result(box, 0.9, 3)]
    report = report_of(dataset, results)
    write_report(report, dataset, tmp_path / "report")
    text = (tmp_path / "report" / "index.html").read_text()
    json.loads((tmp_path / "report" / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    if kind in ("nothing found", "no objects"):
        assert "No detection matches an object at any score" in text and report.threshold == 0.3
    if kind in ("one class", "all right"):
        assert "There is no mistake in any picture" in text and report.best is not None and report.best.f1 == 1.0
    if kind == "many classes":
        assert "The chart shows the 20 with the most mistakes" in " ".join(text.split())
    elif kind != "one class":
        assert "without an object in this split" in text


def test_what_was_passed_over_is_told(tmp_path: Path) -> None:
    dataset, results = hand_made(tmp_path)
    report = replace(report_of(dataset, results), scope="the numbers leave out 2 that cannot be used")
    charts = {"f1": "a", "precision_recall": "b", "confusion": "c"}
    assert "(the numbers leave out 2" in page(report, most_confused(report.matrix, 9), charts, [])


def test_folders_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    for name in ("index.html", "report.json"):
        (tmp_path / "mine" / name).write_text("x")
    check_report_folder(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for name, words in (("file", "is a file"), ("mine", "holds thesis.tex"), ("no/where", "there is no folder")):
        with pytest.raises(UserError, match=words):
            check_report_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["index.html"], "holds index.html"),  # somebody's page
        (["pictures/1.jpg"], "holds pictures"),  # somebody's photographs
        (["pictures/01.jpg"], "holds pictures"),
        (["report.json", "pictures/01.jpg", "pictures/holiday.jpg"], "holds pictures/holiday.jpg"),
    ],
)
def test_files_of_other_people_are_kept(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=words):
        check_report_folder(tmp_path)


def test_an_interrupted_report_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    check_report_folder(tmp_path)
    for name in (
        "report.json",
        "f1.png",
        ".tinydet-partial-0123456789ab-x",
        "pictures/.tinydet-partial-0123456789ab-x",
    ):
        (tmp_path / name).write_text("x")
        check_report_folder(tmp_path)


def test_the_command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    data = digits_folder(tmp_path / "digits", num_train=1, num_val=2)
    folder = tmp_path / "report"
    given = ("evaluate.py", "--model", DIGITS, "--data", data, "--threads", 1, "--report", folder)
    done = command(*given, "--worst", 1, "--json", tmp_path / "numbers.json")
    assert done.code == 0, done.err
    numbers, evaluation = (json.loads(p.read_text()) for p in (folder / "report.json", tmp_path / "numbers.json"))
    assert numbers["best"] == evaluation["best_f1"] and numbers["metrics"]["AP"] == pytest.approx(
        evaluation["AP"], abs=1e-6
    )
    assert numbers["best"]["f1"] > 0.3  # measured: 0.78 over all of val
    assert f"Best F1 here: {numbers['best']['f1']:.3f}" in done.out and "the model suggests" in done.out
    assert [path.name for path in (folder / "pictures").iterdir()] == ["01.jpg"]
    command("evaluate.py", "--model", DIGITS, "--report", tmp_path / "no/where").assert_refused_alone("no folder")
    command(*given, "--worst", -1).assert_refused_alone("--worst is -1")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command(*given).assert_refused_alone("matplotlib", "pip install")
