"""The charts of a report, by matplotlib: precision-recall curves, F1 against the threshold, the confusion matrix.

matplotlib is the extra `plots`. Each function gives a PNG; the same numbers give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinydet_lite.errors import UserError
from tinydet_lite.media.fonts import font_for, written
from tinydet_tf.matching import THRESHOLDS
from tinydet_tf.report.numbers import SIZES, PrecisionRecall, Report, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: So many classes have a colour of their own in a chart; of more, the best and the worst have.
MOST_LINES = 10
#: So many classes fit into the matrix.
MOST_CLASSES = 20
_LONGEST_NAME = 24
_DPI = 160
_GREY = "#9aa3ad"
_INK = "#1c2733"
_SIZE_COLOURS = {"all": _INK, "small": "#c2410c", "medium": "#0f766e", "large": "#6d28d9"}


def check_matplotlib() -> None:
    """
    Raises:
      UserError: matplotlib cannot be imported.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--report draws with matplotlib, which is missing ({error}); pip install matplotlib, or tinydet-tf[plots]"
        ) from error


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    # Without the version of matplotlib in it.
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."


def _name(text: str) -> tuple[str, dict[str, Any]]:
    """A text with class names as a font can write it, and the options of a matplotlib text in that font."""
    path = font_for(text)
    options: dict[str, Any] = {"parse_math": False}  # "$" is a letter
    if path is not None:
        from matplotlib.font_manager import FontProperties

        options["fontproperties"] = FontProperties(fname=path)
    return written(text, path), options


def _set_names(texts: Sequence[Any], names: Sequence[str], size: float) -> None:
    """Writes class names into texts of matplotlib that are there already."""
    for text, name in zip(texts, names, strict=True):
        shown, options = _name(name)
        text.set_parse_math(False)
        text.set_text(shown)
        if "fontproperties" in options:
            text.set_fontproperties(options["fontproperties"])
        text.set_fontsize(size)


def _axes(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    axes.tick_params(labelsize=8, color=_GREY)
    axes.grid(color="#e5e8eb", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)


def _class_lines(
    axes: Axes, report: Report, x: np.ndarray, y: Callable[[int], np.ndarray], rank: Sequence[float]
) -> None:
    """A line a class. Of more than MOST_LINES classes all are grey but the highest- and the lowest-ranked few."""
    there = [index for index, value in enumerate(rank) if not np.isnan(value)]
    order = sorted(there, key=lambda index: (-rank[index], index))
    coloured = order
    if len(order) > MOST_LINES:
        half = MOST_LINES // 2
        coloured = order[:half] + order[-half:]
        for index in sorted(set(order) - set(coloured)):
            axes.plot(x, y(index), color=_GREY, linewidth=0.5, alpha=0.6)
    lines = []
    for place, index in enumerate(coloured):
        (line,) = axes.plot(x, y(index), color=f"C{place}", linewidth=1.4)
        lines.append(line)
    if not lines:
        return
    legend = axes.legend(
        lines, [""] * len(lines), fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02)
    )
    _set_names(legend.get_texts(), [f"{_short(report.class_names[i])}: {rank[i]:.2f}" for i in coloured], 7.5)


def precision_recall_chart(report: Report) -> bytes:
    """Precision against recall at IoU 0.5: by size (the mean over classes), and by class."""
    figure = _figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    recalls = np.linspace(0, 1, len(report.by_size[0].precision))
    _axes(
        left,
        "recall: share of the objects that is found",
        "precision: share of boxes that are right",
        "By size, AP50, and objects",
    )
    for name, curve in zip(SIZES, report.by_size, strict=True):
        if curve.objects:
            label = f"{name}: {curve.ap50:.2f} ({curve.objects})"
            width = 1.9 if name == "all" else 1.4
            left.plot(recalls, _reached(curve), color=_SIZE_COLOURS[name], linewidth=width, label=label)
    if left.lines:
        left.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    _axes(right, "recall", "precision", "By class, and AP50")
    _class_lines(right, report, recalls, lambda i: _reached(report.by_class[i]), [c.ap50 for c in report.by_class])
    return _png(figure)


def _reached(curve: PrecisionRecall) -> np.ndarray:
    """The precision as far as the recall was reached; NaN, which is not drawn, beyond."""
    return np.where(curve.precision > 0, curve.precision, np.nan)


def f1_chart(report: Report) -> bytes:
    """F1 against the score threshold: precision, recall and F1 over all classes, and F1 of each class."""
    figure = _figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    curve = report.curve
    _axes(left, "score threshold", "", "All classes together")
    for name, values, colour, width in (
        ("precision", curve.precision, "#0f766e", 1.2), ("recall", curve.recall, "#6d28d9", 1.2),
        ("F1", curve.f1, _INK, 2.0),
    ):  # fmt: skip
        left.plot(THRESHOLDS, values, color=colour, linewidth=width, label=name)
    if report.best is not None:
        left.plot(
            report.best.threshold, report.best.f1, "o", color=_INK, markersize=6,
            label=f"best: {report.best.f1:.2f} from {report.best.threshold:.2f} on",
        )  # fmt: skip
    left.axvline(report.threshold, color="#c2410c", linewidth=1.2, linestyle="--",
                 label=f"used here: {report.threshold:.2f}")  # fmt: skip
    left.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    _axes(right, "score threshold", "F1", "F1 of each class, and its best")
    best = [np.nan if point is None else point.f1 for point in report.class_best]
    _class_lines(right, report, THRESHOLDS, lambda index: report.class_curves[index].f1, best)
    return _png(figure)


def confusion_chart(report: Report, shown: Shown) -> bytes:
    """The confusion matrix: counts, and as the colour the share of the row."""
    matrix, names = shown.matrix, [_short(report.class_names[index]) for index in shown.classes]
    labels = [*names, *([f"{len(shown.left_out)} others"] if shown.left_out else [])]
    count = len(matrix)
    side = max(3.6, 0.36 * count + 2.2)
    figure = _figure(side + 0.4, side)
    axes = figure.subplots()
    # What is invented has no objects to be a share of: its row is shared out among the detections of it.
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 8.0 if count <= 12 else 6.0
    for row in range(count):
        for column in range(count):
            if matrix[row, column]:
                dark = shares[row, column] > 0.55
                axes.text(column, row, f"{matrix[row, column]:,}" if count <= 12 else str(matrix[row, column]),
                          ha="center", va="center", fontsize=size, color="white" if dark else _INK)  # fmt: skip
    axes.axhline(count - 1.5, color=_GREY, linewidth=0.8)
    axes.axvline(count - 1.5, color=_GREY, linewidth=0.8)
    for axis, last in ((axes.xaxis, "missed"), (axes.yaxis, "invented")):
        texts = [*labels, last]
        axis.set_ticks(range(count), [_name(text)[0] for text in texts])  # of other texts it would only keep these
        _set_names(axis.get_ticklabels(), texts, size)
    for text in axes.get_xticklabels():
        text.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("what was found", fontsize=9, color=_INK)
    axes.set_ylabel("what is there", fontsize=9, color=_INK)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    return _png(figure)
