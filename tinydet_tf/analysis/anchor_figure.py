"""Figure 6: the smallest anchors' centres, and the anchor that fits each small object best, detectors side by side.

G small objects of one image. Everything is drawn in pixels of the source image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinydet_lite.boxes import inclusive_iou, to_continuous
from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_path, check_target
from tinydet_tf.analysis.anchor_coverage import is_inside, missed
from tinydet_tf.analysis.anchor_sets import AnchorSet, FloatArray, Frame
from tinydet_tf.analysis.ground_truth import ImageBoxes, is_of_size
from tinydet_tf.data.opening import load_pixels

#: The file formats of the figure, by the suffix of the file's name.
FORMATS = (".png", ".jpg", ".jpeg", ".pdf")
_DPI = 100
_PANEL_WIDTH, _TITLE_HEIGHT, _GAP = 640, 48, 8  # pixels
_GREY = 90
_ASSIGNED, _MISSED = "#2fe36f", "#ff3b30"


def check_figure(path: Path) -> None:
    """Refuse, before any work is done, a file that could not be written.

    Raises:
      UserError: another ending than FORMATS, or see `check_target`.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--figure {path}: the ending {path.suffix!r} is no format; give one of {', '.join(FORMATS)}")
    check_target(path)


def choose_image(images: Sequence[ImageBoxes], image_id: int | None) -> ImageBoxes:
    """The image of this id. Without an id: the first image with a small object, else the first.

    Raises:
      UserError: no such id.
    """
    if image_id is not None:
        for image in images:
            if image.id == image_id:
                return image
        raise UserError(f"--image-id {image_id} is not among the {len(images)} images; the first is {images[0].id}")
    return next((image for image in images if is_of_size(image.boxes, "small").any()), images[0])


def draw(image: ImageBoxes, detectors: Sequence[AnchorSet], path: Path, *, inside: bool = True) -> None:
    """Writes the figure: one panel of 640 pixels' width for each detector; on grey if the picture is missing.

    Dots: centres of the finest level. White: the best anchor of each small object. The object is green, or red where
    no anchor is assigned to it.

    Args:
      inside: only anchors that do not leave the image count, as in training.

    Raises:
      UserError: the picture cannot be read or has another size than its annotations say, or the file not be written.
    """
    check_figure(path)
    pixels = _pixels(image)
    height = round(_PANEL_WIDTH * image.height / image.width)
    total = (len(detectors) * (_PANEL_WIDTH + _GAP) - _GAP, height + _TITLE_HEIGHT)
    figure = Figure((total[0] / _DPI, total[1] / _DPI), dpi=_DPI)
    for index, detector in enumerate(detectors):
        left = index * (_PANEL_WIDTH + _GAP)
        axes = figure.add_axes((left / total[0], 0, _PANEL_WIDTH / total[0], height / total[1]))
        axes.imshow(pixels, extent=(0, image.width, image.height, 0), aspect="auto")
        _panel(axes, image, detector, inside)
        axes.set(xlim=(0, image.width), ylim=(image.height, 0))
        axes.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=_DPI)


def _panel(axes: Any, image: ImageBoxes, detector: AnchorSet, inside: bool) -> None:
    frame = detector.resize(image.width, image.height)
    back = 1 / np.array([frame.scale_x, frame.scale_y] * 2)
    (rows, columns), stride = detector.cells(frame)[0], detector.strides[0]
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    half = stride / 2  # the middle of an inclusive cell, in continuous pixels
    axes.scatter((x * stride + half) * back[0], (y * stride + half) * back[1], s=2.5, c="black", linewidths=0)

    small = is_of_size(image.boxes, "small")
    lost = missed(detector, image, inside=inside)[small]
    for box, is_lost in zip(image.boxes[small], lost, strict=True):
        _rectangle(axes, box, color=_MISSED if is_lost else _ASSIGNED)
    for box in best_anchors(detector, frame, detector.gt_boxes(frame, image.boxes[small]), inside=inside):
        _rectangle(axes, to_continuous(box) * back, color="white")
    axes.set_title(
        f"{detector.name}, stride {stride}: {lost.sum()} of {small.sum()} small objects without an anchor", fontsize=10
    )


def best_anchors(detector: AnchorSet, frame: Frame, gt_boxes: FloatArray, *, inside: bool = True) -> FloatArray:
    """The anchor of the highest IoU with each ground truth, however low: float32 [G, 4], inclusive pixels."""
    anchors = detector.anchors(frame)
    if inside:
        anchors = anchors[is_inside(anchors, frame)]
    if not len(anchors) or not len(gt_boxes):
        return np.zeros([0, 4], np.float32)
    return np.stack([anchors[np.argmax(inclusive_iou(anchors, box[None])[:, 0])] for box in gt_boxes])


def _rectangle(axes: Any, box: npt.NDArray[Any], color: str) -> None:
    axes.add_patch(Rectangle((box[0], box[1]), *(box[2:] - box[:2]), fill=False, edgecolor=color, linewidth=1.2))


def _pixels(image: ImageBoxes) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]; a grey pixel [1, 1, 3] where there is no picture."""
    if image.path is None or not image.path.is_file():
        return np.full([1, 1, 3], _GREY, np.uint8)
    return load_pixels(image.path, image.width, image.height, as_stored=image.as_stored, says="annotations say")
