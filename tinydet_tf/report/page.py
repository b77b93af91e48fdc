"""The page of a report: one html file beside its charts and pictures. It fetches nothing from elsewhere."""

from __future__ import annotations

import html
import math
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinydet_lite.errors import printable
from tinydet_tf.matching import IOU
from tinydet_tf.report.numbers import (
    CONFUSED,
    FOUND,
    INVENTED,
    MISSED,
    NOTHING,
    OFF,
    SECOND,
    SIZES,
    Picture,
    Report,
    Shown,
    confused_pairs,
    rows_at,
)
from tinydet_tf.report.pictures import colour_of

#: So many pairs of classes are listed.
_MOST_PAIRS = 10
#: A table of more classes has to be opened.
_FEW_CLASSES = 20
_STYLE = """
:root { --ink: #1c2733; --soft: #5b6773; --line: #dfe4e8; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto; max-width: 70rem;
  padding: 1.5rem 1.2rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
.soft { color: var(--soft); overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; min-width: 7rem; }
.card b { display: block; font-size: 1.45rem; font-weight: 600; }
.card span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
img { max-width: 100%; height: auto; display: block; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
tr.mark td { background: #fff4e8; }
summary { cursor: pointer; }
figure { margin: 1.2rem 0; }
figcaption { font-size: .9rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
.key { display: inline-block; width: 1.9rem; height: .85rem; border-radius: .2rem; margin: 0 .35rem 0 1rem;
  vertical-align: -.05rem; }
.key:first-child { margin-left: 0; }
"""


@dataclass(frozen=True)
class PictureFile:
    """A drawn picture: what it shows, the name of its source, and its path from the page."""

    picture: Picture
    name: str
    path: str


def page(report: Report, shown: Shown, charts: dict[str, str], pictures: Sequence[PictureFile]) -> str:
    """The whole html.

    Args:
      shown: of `most_confused`, what the chart shows.
      charts: "f1", "precision_recall", "confusion" -> the path from the page.
      pictures: the worst first.
    """
    parts = [
        _head(report),
        _threshold(report, charts["f1"]),
        _curves(report, charts["precision_recall"]),
        _confusion(report, shown, charts["confusion"]),
        _pictures(report, pictures),
        _how(report),
    ]
    title = f"Report of {_text(report.model)}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    point = report.point()
    cards = [
        (_number(report.metrics["AP"]), "AP (IoU 0.50 to 0.95)"),
        (_number(report.metrics["AP50"]), "AP50"),
        (_number(report.metrics["APs"]), "AP of small objects"),
        (_number(point.f1), f"F1 from a score of {point.threshold:.2f} on"),
        (_number(point.precision), "precision there"),
        (_number(point.recall), "recall there"),
    ]
    scope = f" ({_text(report.scope)})" if report.scope else ""
    boxes = "".join(f'<div class="card"><b>{value}</b><span>{text}</span></div>' for value, text in cards)
    wrong = {kind: report.count(kind) for kind in (FOUND, MISSED, INVENTED, CONFUSED)}
    sentence = (
        f"<p>There are {_count(report.curve.objects, 'object')} in {_count(report.num_images, 'picture')}{scope}. "
        f"From a score of {point.threshold:.2f} on, the model finds {wrong[FOUND]:,}, misses {wrong[MISSED]:,}, takes "
        f"{wrong[CONFUSED]:,} for another class, and invents {wrong[INVENTED]:,} that are not there.</p>"
    )
    return (
        f"<h1>{_text(report.model)}</h1>\n"
        f'<p class="soft">on the {_text(report.split)} split of {_text(report.data)}</p>\n'
        f'<div class="cards">{boxes}</div>\n{sentence}'
    )


def _threshold(report: Report, chart: str) -> str:
    best, used = report.best, report.point()
    if best is None:
        first = "No detection matches an object at any score from 0.01 on, so there is no best threshold."
    else:
        first = (
            f"F1 is highest from a score of <b>{best.threshold:.2f}</b> on: {best.f1:.3f}, with precision "
            f"{best.precision:.3f} and recall {best.recall:.3f}."
        )
    second = {
        "model": f"The model itself suggests {used.threshold:.2f}, which its users get: F1 {used.f1:.3f} here. This "
        "page counts with that one.",
        "split": "The model suggests none of its own. This page counts with the best one.",
        "default": f"This page counts with {used.threshold:.2f}.",
    }[report.threshold_source]
    rows = [
        [f"{point.threshold:.2f}", f"{point.precision:.3f}", f"{point.recall:.3f}", f"{point.f1:.3f}", f"{found:,}",
         f"{missed:,}", f"{wrong:,}"]
        for point, found, missed, wrong in rows_at(report)
    ]  # fmt: skip
    mark = None if best is None else f"{best.threshold:.2f}"
    table = _table(["score from", "precision", "recall", "F1", "objects found", "not found", "wrong boxes"], rows, mark)
    return (
        "<h2>Which score threshold?</h2>\n"
        "<p>A detector gives every box a score, and you decide from which score on you believe it. A low threshold "
        "finds more objects and invents more; a high one invents few and misses more. Precision is the share of the "
        "boxes that are right, recall the share of the objects that are found, and F1 is high only where both are."
        "</p>\n"
        f"<p>{first} {second}</p>\n"
        f'<img src="{_link(chart)}" alt="F1, precision and recall against the score threshold" width="1600">\n'
        f"{table}\n"
        "<p>If a missed object costs you more than a false alarm, go lower; if a false alarm costs more, go higher. "
        "<code>tinydet export --threshold T</code> puts T into the file; <code>tinydet detect --threshold T</code> and "
        "<code>Detector(..., score_threshold=T)</code> take it for one run.</p>"
    )


def _curves(report: Report, chart: str) -> str:
    sizes = [
        [name, f"{pr.objects:,}", _number(pr.ap), _number(pr.ap50), *_found_of(report, name)]
        for name, pr in zip(SIZES, report.by_size, strict=True)
    ]
    counts: dict[int, list[int]] = {}
    for one in report.outcomes:
        if one.truth is not None:
            entry = counts.setdefault(one.truth, [0, 0])
            entry[0] += 1
            entry[1] += one.kind == FOUND
    order = sorted(
        range(len(report.class_names)), key=lambda i: (-_sortable(report.by_class[i].ap), report.class_names[i])
    )
    classes = []
    for index in order:
        pr, best = report.by_class[index], report.class_best[index]
        objects, found = counts.get(index, [0, 0])
        classes.append(
            [_text(report.class_names[index]), f"{pr.objects:,}", _number(pr.ap), _number(pr.ap50),
             f"{found / objects:.3f}" if objects else "-",
             "-" if best is None else f"{best.threshold:.2f}", "-" if best is None else f"{best.f1:.3f}"]
        )  # fmt: skip
    head = ["class", "objects", "AP", "AP50", f"recall from {report.threshold:.2f}", "its best threshold", "F1 there"]
    table = f'<div class="wide">{_table(head, classes)}</div>'
    if len(classes) > _FEW_CLASSES:  # what comes behind it would be far away
        table = f"<details><summary>All {len(classes)} classes, the best first</summary>{table}</details>"
    shown_recall = f"recall from {report.threshold:.2f}"
    without = sum(not pr.objects for pr in report.by_class)
    told = f"<p>{_count(without, 'class', 'classes')} without an object in this split: no curve.</p>" if without else ""
    return (
        "<h2>Precision and recall, by size and class</h2>\n"
        "<p>From left to right the threshold falls: more objects are found, and more boxes are wrong. The area under a "
        "curve is the AP50 in its legend. Small is below 32 x 32 pixels of the picture as it is in the file, large "
        "above 96 x 96, as COCO has it.</p>\n"
        f'<img src="{_link(chart)}" alt="Precision against recall, by size and by class" width="1600">\n'
        f"{_table(['size', 'objects', 'AP', 'AP50', shown_recall], sizes)}\n"
        f"{table}\n"
        f"{told}"
    )


#: COCO's limits, as pycocotools applies them: an area on a limit is of both sizes.
_AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


def _found_of(report: Report, size: str) -> list[str]:
    low, high = _AREAS[size]
    there = [one for one in report.outcomes if one.truth is not None and low <= one.area <= high]
    return [f"{sum(one.kind == FOUND for one in there) / len(there):.3f}" if there else "-"]


def _confusion(report: Report, shown: Shown, chart: str) -> str:
    reasons = report.reasons()
    pairs = confused_pairs(report.matrix)
    limit = ""
    if shown.left_out:
        limit = (
            f"<p>The data has {len(report.class_names)} classes. The chart shows the {len(shown.classes)} with the "
            f"most mistakes between classes; the other {len(shown.left_out)} are added up, and "
            "their own cell holds mistakes among them, too. report.json has every class.</p>"
        )
    names = [_text(name) for name in report.class_names]
    rows = [[f"{names[there]} taken for {names[found]}", f"{count:,}"] for there, found, count in pairs[:_MOST_PAIRS]]
    listed = _table(["most frequent", "times"], rows) if rows else "<p>No object is taken for another class.</p>"
    return (
        "<h2>What is taken for what?</h2>\n"
        f"<p>Rows are what is there, columns what was found, from a score of {report.threshold:.2f} on. The diagonal "
        "is right. The last column counts objects that were missed, the last row boxes that were invented.</p>\n"
        f"{limit}"
        f'<div class="wide"><img src="{_link(chart)}" alt="The confusion matrix" width="760"></div>\n'
        f"{listed}\n"
        f"<p>Of {report.count(INVENTED):,} invented boxes, {reasons[SECOND]:,} are a second box on an object that has "
        f"one, {reasons[OFF]:,} lie beside an object of their class (they overlap it, but by less than {IOU:g}), and "
        f"{reasons[NOTHING]:,} are where nothing of their class is.</p>"
    )


def _pictures(report: Report, pictures: Sequence[PictureFile]) -> str:
    keys = "".join(
        f'<span class="key" style="background: rgb{colour_of(kind)}"></span>{text}'
        for kind, text in (
            (FOUND, "found"), (MISSED, "missed"), (INVENTED, "invented, with its score"),
            (CONFUSED, "found as another class"),
        )
    )  # fmt: skip
    if not pictures:
        return "<h2>The worst pictures</h2>\n<p>There is no mistake in any picture.</p>"
    figures = []
    for file in pictures:
        counts = ", ".join(
            f"{file.picture.count(kind)} {word}"
            for kind, word in ((FOUND, "found"), (MISSED, "missed"), (INVENTED, "invented"), (CONFUSED, "confused"))
        )
        figures.append(
            f'<figure><figcaption><b>{_text(file.name)}</b>: {counts}</figcaption><a href="{_link(file.path)}">'
            f'<img src="{_link(file.path)}" alt="{_text(file.name)}" loading="lazy"></a></figure>'
        )
    return (
        f"<h2>The worst pictures</h2>\n<p>The {_count(len(pictures), 'picture')} with the most mistakes, from a score "
        f"of {report.threshold:.2f} on.</p>\n<p>{keys}</p>\n" + "\n".join(figures)
    )


def _how(report: Report) -> str:
    return (
        "<h2>How this was counted</h2>\n"
        f"<p>A box has found an object if it has its class and they overlap by at least {IOU:g} (IoU); each object can "
        "be found once, by the box with the highest score. The matches are pycocotools' own. An object and a box that "
        "are left over and overlap by as much, but differ in class, are counted as confused. Boxes around groups "
        "(crowds) and detections in them are left out. F1 over all classes counts every object the same, whatever its "
        "class. AP is COCO's, of detections at all scores.</p>\n"
        '<p class="soft">The numbers behind this page: <a href="report.json">report.json</a>.</p>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], mark: str | None = None) -> str:
    """Cells are html; mark: the first cell of the row that is marked."""
    lines = ["<table>", "<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for row in rows:
        chosen = ' class="mark"' if row[0] == mark else ""
        lines.append(f"<tr{chosen}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _text(value: Any) -> str:
    """For html: one line, nothing of it markup."""
    return html.escape(printable(str(value)))


def _link(path: str) -> str:
    return html.escape(urllib.parse.quote(path))


def _count(number: int, thing: str, things: str | None = None) -> str:
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) or value < 0 else f"{value:.3f}"


def _sortable(value: float) -> float:
    return -1.0 if math.isnan(value) else value
