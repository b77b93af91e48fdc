"""The folder of a report: who may use it, and what is written into it in which order."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tinydet_lite.errors import UserError, os_reason
from tinydet_lite.files import atomic_write
from tinydet_tf.data.coco import CocoDataset
from tinydet_tf.data.pipeline import load_arrays
from tinydet_tf.report.charts import MOST_CLASSES, confusion_chart, f1_chart, precision_recall_chart
from tinydet_tf.report.numbers import Report, most_confused
from tinydet_tf.report.page import PictureFile, page
from tinydet_tf.report.pictures import draw_outcomes

PAGE, NUMBERS, PICTURES = "index.html", "report.json", "pictures"
#: How the name of a file begins whose writing was interrupted (tinydet_lite.files).
_PARTIAL = ".tinydet-partial-"
#: The worst pictures are called by their rank.
_PICTURE = r"\d\d+\.jpg"
CHARTS = {"f1": "f1.png", "precision_recall": "precision_recall.png", "confusion": "confusion.png"}


def check_report_folder(folder: Path) -> None:
    """Makes sure that a report may be written there; writes nothing.

    Raises:
      UserError: it is a file, its parent is missing, or it holds something that no report wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--report {folder} is a file; give a folder")
    if not folder.parent.is_dir():
        raise UserError(f"--report {folder}: there is no folder {folder.parent}")
    foreign = _foreign(folder)
    if foreign is not None:
        raise UserError(f"--report {folder} holds {foreign}, which is no report's; give a new folder")


def _foreign(folder: Path) -> str | None:
    """Something in the folder that no report wrote; None where there is nothing.

    Other people's pages and pictures have the same names: a report has its numbers beside
    them, written first.
    """
    names = {path.name for path in folder.glob("*") if not path.name.startswith(_PARTIAL)}
    pictures = {path.name for path in (folder / PICTURES).glob("*") if not path.name.startswith(_PARTIAL)}
    known = {PAGE, NUMBERS, PICTURES, *CHARTS.values()} if NUMBERS in names else set()
    strange = sorted(names - known - ({PICTURES} if not pictures else set()))
    strange += [f"{PICTURES}/{name}" for name in sorted(pictures) if not re.fullmatch(_PICTURE, name)]
    return strange[0] if strange else None


def write_report(report: Report, dataset: CocoDataset, folder: Path) -> Path:
    """Writes page, numbers, charts and pictures; gives the page.

    The page is written last, and an old one is removed first: where there is one, all that it shows is there.

    Args:
      dataset: that was evaluated, for its pictures.
      folder: `check_report_folder` has seen it. An old report in it is replaced.

    Raises:
      UserError: the folder cannot be written, or a picture can no longer be read; then there is no page.
    """
    images = {image.id: image for image in dataset.images}
    shown = most_confused(report.matrix, MOST_CLASSES)
    # All that can go wrong while it is made does so before the first file is touched.
    files: dict[str, bytes] = {
        NUMBERS: (json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n").encode(),
        CHARTS["f1"]: f1_chart(report),
        CHARTS["precision_recall"]: precision_recall_chart(report),
        CHARTS["confusion"]: confusion_chart(report, shown),
    }
    pictures = []
    for rank, picture in enumerate(report.pictures, 1):
        record = images[picture.image_id]
        path = f"{PICTURES}/{rank:02d}.jpg"
        files[path] = draw_outcomes(load_arrays(record)[0], picture.outcomes, report.class_names)
        pictures.append(PictureFile(picture, record.path.name, path))
    content = page(report, shown, CHARTS, pictures).encode()
    try:
        folder.mkdir(exist_ok=True)
        (folder / PAGE).unlink(missing_ok=True)
        (folder / PICTURES).mkdir(exist_ok=True)
        for old in (folder / PICTURES).iterdir():  # numbered pictures: `check_report_folder` has seen them
            old.unlink()
    except OSError as error:
        raise UserError(f"--report {folder} cannot be written: {os_reason(error)}") from error
    for name, data in files.items():
        atomic_write(folder / name, data)
    atomic_write(folder / PAGE, content)
    return folder / PAGE
