"""Ground truth without pictures: the boxes and sizes of images, from COCO's json, an .npz or a loaded data set.

G ground truths of one image. Boxes are continuous corners x1, y1, x2, y2 in pixels of the source image. Crowd boxes are
left out, because training does not use them. An .npz does not say which boxes are crowds, so it keeps them.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinydet_lite.errors import UserError, os_reason
from tinydet_tf.data.coco import CocoDataset, Entries, image_sizes, read_corners, read_json

#: The names of an .npz's arrays; _NPZ_COLUMNS names the first columns of each.
NPZ_IMAGES, NPZ_BOXES = "images_id_w_h_license", "boxes_imgid_catid_x_y_w_h"
_NPZ_COLUMNS = {NPZ_IMAGES: ("id", "width", "height"), NPZ_BOXES: ("image id", "category id", "x", "y", "w", "h")}
#: A box whose part inside the image is thinner than this, in pixels, is dropped, as in load_coco.
_MIN_SIDE = 1.0
#: Sides of squares, in pixels of the source image, whose areas are COCO's limits between small, medium and large.
SMALL_SIDE, MEDIUM_SIDE = 32, 96
SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """One image. boxes: float32 [G, 4]; path: of the picture, which may be missing; None where no path is known.

    as_stored: see CocoImage.
    """

    id: int
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    path: Path | None = None
    as_stored: bool = False


def is_of_size(boxes: npt.NDArray[np.float32], size: str) -> npt.NDArray[np.bool_]:
    """Which boxes are "all", "small", "medium" or "large", by the area of the box: [G, 4] -> bool [G].

    COCO's evaluation takes the area of the object's outline instead, which makes more of them small: 41% of COCO
    (section 1), where 31% of val2017's boxes are. Boxes are used here because an anchor is a box, most data sets have
    no outlines, and table 2 was computed with boxes: its columns add up to "all" with 31% of small objects.
    """
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    small, medium = area < SMALL_SIDE**2, area < MEDIUM_SIDE**2
    return {"all": np.ones(len(boxes), bool), "small": small, "medium": medium & ~small, "large": ~medium}[size]


def from_dataset(dataset: CocoDataset) -> list[ImageBoxes]:
    """The images of a loaded data set without their crowd boxes; images without a box are kept."""
    return [ImageBoxes(i.id, i.width, i.height, i.boxes[~i.is_crowd], i.path, i.as_stored) for i in dataset.images]


def read_annotations(path: Path, image_dir: Path | None = None) -> list[ImageBoxes]:
    """The images of a COCO-format json or of an .npz, in the file's order. The pictures need not be there.

    Args:
      path: *.npz with the integer arrays NPZ_IMAGES [images, >=3] and NPZ_BOXES [boxes, 6]; any other name is a json,
        whose images give width and height.
      image_dir: where the json's pictures are, if they are to be drawn on.

    Raises:
      UserError: a file that is missing, damaged or of another kind, or no box in it.
    """
    images = _read_npz(path) if path.suffix.lower() == ".npz" else _read_coco(path, image_dir)
    if not any(len(image.boxes) for image in images):
        raise UserError(f"{path} has no boxes; expected at least one that is not a crowd's")
    return images


def _read_coco(path: Path, image_dir: Path | None) -> list[ImageBoxes]:
    document = read_json(path)
    entries = Entries(path, document)
    ids = entries.column("images", "id", int)
    entries.check_unique("images", ids)
    names = entries.column("images", "file_name", str) if image_dir is not None else [""] * len(ids)
    paths = [image_dir / name if image_dir is not None else None for name in names]
    for index, entry in enumerate(document["images"]):
        for key in ("width", "height"):
            if entry.get(key) is None:
                raise UserError(f'{path}: images[{index}] has no "{key}"; give the data with its images (--data)')
    sizes = image_sizes(path, document["images"], [Path() for _ in ids])  # [images, 2]
    owners = entries.indices("annotations", "image_id", ids)
    counted = np.array([not entry.get("iscrowd", 0) for entry in document["annotations"]], bool)
    corners = read_corners(path, document["annotations"])
    return _grouped(ids, sizes, owners[counted], corners[counted], paths)


def _read_npz(path: Path) -> list[ImageBoxes]:
    arrays = {}
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array; expected an .npz with {' and '.join(_NPZ_COLUMNS)}")
        with loaded as file:
            for name in _NPZ_COLUMNS:
                if name not in file.files:
                    found = ", ".join(file.files) or "nothing"
                    raise UserError(f"{path} has no array {name}; expected {' and '.join(_NPZ_COLUMNS)}, found {found}")
                arrays[name] = file[name]
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"annotation file {path} does not exist") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path} is damaged or no .npz ({error}); expected {' and '.join(_NPZ_COLUMNS)}") from error
    except OSError as error:
        raise UserError(f"annotation file {path} cannot be read: {os_reason(error)}") from error
    for name, columns in _NPZ_COLUMNS.items():
        array = arrays[name]
        if array.ndim != 2 or array.shape[1] < len(columns) or array.dtype.kind not in "iuf":
            raise UserError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}; expected numbers, rows of {', '.join(columns)}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} has numbers that are not finite; expected pixels")
    images, boxes = arrays[NPZ_IMAGES], arrays[NPZ_BOXES].astype(np.float64)
    if (images[:, 1:3] < 1).any():
        raise UserError(f"{path}: {NPZ_IMAGES} has an image without a width or a height; expected at least a pixel")
    ids = [int(value) for value in images[:, 0]]
    position = {value: index for index, value in enumerate(ids)}
    if len(position) != len(ids):
        raise UserError(f"{path}: {NPZ_IMAGES} names an image twice; ids must be unique")
    owners = np.array([position.get(int(value), -1) for value in boxes[:, 0]], np.int64)
    if (owners < 0).any():
        raise UserError(f"{path}: a box belongs to image {int(boxes[owners < 0][0, 0])}, which {NPZ_IMAGES} lacks")
    corners = np.concatenate([boxes[:, 2:4], boxes[:, 2:4] + boxes[:, 4:6]], 1)
    return _grouped(ids, images[:, 1:3].astype(np.int64), owners, corners, [None] * len(ids))


def _grouped(
    ids: Sequence[int],
    sizes: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    corners: npt.NDArray[np.float64],
    paths: Sequence[Path | None],
) -> list[ImageBoxes]:
    """Boxes [boxes, 4] of the images `owners` [boxes], clipped to them, those thinner than a pixel left out."""
    clipped = np.clip(corners, 0.0, np.tile(sizes, 2)[owners])
    kept = (clipped[:, 2:] - clipped[:, :2] >= _MIN_SIDE).all(1)
    owners, boxes = owners[kept], clipped[kept].astype(np.float32)
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(len(ids) + 1))
    return [
        ImageBoxes(image_id, int(width), int(height), boxes[order[start:end]], path)
        for image_id, (width, height), start, end, path in zip(ids, sizes, ends[:-1], ends[1:], paths, strict=True)
    ]
