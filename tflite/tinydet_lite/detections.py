"""What a detector found in one picture.

Shape letters: N detections.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import UserError

CSV_FIELDS = ("class_id", "name", "score", "x1", "y1", "x2", "y2")


class Detection(NamedTuple):
    """One object: its class, its score in [0, 1], its box x1, y1, x2, y2 in the source picture's pixels."""

    name: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects of one picture, best score first.

    Attributes:
        boxes: float32 [N, 4], x1, y1, x2, y2: continuous corners (x2 - x1 is the width) in pixels of the
            source picture, upright, within [0, W] x [0, H].
        scores: float32 [N], in [0, 1], descending.
        class_ids: int32 [N], from 0, an index into the model's labels.
        names: N class names, one a detection.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = (self.boxes.shape, self.scores.shape, self.class_ids.shape)
        if shapes != ((count, 4), (count,), (count,)):
            raise ValueError(
                f"boxes, scores, class_ids of shapes {shapes} and {count} names came; expected [N, 4], [N], [N] and N"
            )
        dtypes = (self.boxes.dtype, self.scores.dtype, self.class_ids.dtype)
        if dtypes != (np.dtype(np.float32), np.dtype(np.float32), np.dtype(np.int32)):
            raise ValueError(f"boxes, scores, class_ids of {dtypes} came; expected float32, float32, int32")
        if count > 1 and not (self.scores[:-1] >= self.scores[1:]).all():
            raise ValueError("scores must be descending")

    @classmethod
    def empty(cls) -> Detections:
        """Nothing found."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Detection:
        x1, y1, x2, y2 = (float(value) for value in self.boxes[index])
        return Detection(self.names[index], int(self.class_ids[index]), float(self.scores[index]), (x1, y1, x2, y2))

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    def above(self, score: float) -> Detections:
        """Those that score at least `score`."""
        count = int((self.scores >= np.float32(score)).sum())  # a prefix, since scores descend
        return Detections(self.boxes[:count], self.scores[:count], self.class_ids[:count], self.names[:count])

    def only(self, class_ids: Collection[int]) -> Detections:
        """Those of the given classes (`classes.class_ids_of` finds ids by name)."""
        kept = np.isin(self.class_ids, list(class_ids))  # [N]
        names = tuple(name for name, keep in zip(self.names, kept) if keep)
        return Detections(self.boxes[kept], self.scores[kept], self.class_ids[kept], names)

    def to_dicts(self) -> list[dict[str, Any]]:
        """For JSON: a dict an object, {"name", "class_id", "score", "box": [x1, y1, x2, y2]}.

        Rounded to a hundredth of a pixel and to 0.0001 of a score; `to_coco` does not round.
        """
        return [
            {
                "name": found.name,
                "class_id": found.class_id,
                "score": round(found.score, 4),
                "box": [round(value, 2) for value in found.box],
            }
            for found in self
        ]

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """In COCO's result format: {"image_id", "category_id", "bbox": [x, y, width, height], "score"}.

        Args:
            image_id: the picture's id in the dataset.
            category_ids: the dataset's category id of each class (`ModelInfo.category_ids`).
        """
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[found.class_id],
                "bbox": [
                    found.box[0],
                    found.box[1],
                    found.box[2] - found.box[0],
                    found.box[3] - found.box[1],
                ],
                "score": found.score,
            }
            for found in self
        ]

    def to_yolo(self, width: int, height: int) -> str:
        """In YOLO's text format: a line "class cx cy w h confidence" an object, shares of the picture's sides.

        Without the confidence these are YOLO's label files; tools that read labels ignore or accept it.

        Args:
            width, height: the picture's, in pixels.
        """
        lines = []
        for _, class_id, score, (x1, y1, x2, y2) in self:
            shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{class_id} {' '.join(f'{share:.6f}' for share in shares)} {score:.6f}\n")
        return "".join(lines)

    def csv_rows(self) -> list[list[str]]:
        """A row an object, the values of CSV_FIELDS; rounded as `to_dicts` rounds."""
        return [
            [str(class_id), name, f"{score:.4f}", *(f"{value:.2f}" for value in box)]
            for name, class_id, score, box in self
        ]

    def to_csv(self) -> str:
        """A CSV table with CSV_FIELDS as its first line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([CSV_FIELDS, *self.csv_rows()])
        return text.getvalue()

    def to_supervision(self) -> Any:
        """As `supervision.Detections`; the class names are its data["class_name"], as its annotators expect.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError(f"to_supervision needs supervision ({error}); pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
