"""What is done with results: annotated pictures and videos, and files of numbers; one class a kind of file.

A writer makes its files at the first result, so that a run that fails at once leaves nothing behind. `close`
finishes what was begun, after an interruption and after another writer's error too: what was done is kept.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import queue
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ..detections import CSV_FIELDS
from ..errors import UserError, os_reason
from ..files import PathLike, atomic_path, atomic_write, check_target
from ..preprocess import JPEG_SUFFIXES
from .drawing import draw
from .opencv import Mp4, check_path, count_frames
from .ownership import COCO, CSV, LINES, REPORT, SIGN, first_foreign, first_foreign_label, foreign, is_signed
from .stream import Result

# Without the room for its index a video is lost as a whole: better stop while there is some.
_RESERVE_BYTES = 16 << 20
_FRAMES_PER_CHECK = 25
# A frame is repeated until the next one's time; a longer gap is a fault of the file's clock.
_LONGEST_HOLD = 60.0
# A file's name need not be UTF-8. In JSON Python writes its odd bytes as \udcff, and so does `cli.run` on a terminal.
_ERRORS = "backslashreplace"
# Results that wait to be drawn; they hold their pictures.
_BEHIND = 1


class Writer(Protocol):
    """What takes results, one after the other, and is closed once."""

    def foreign(self) -> Path | None:
        """A file that it would replace and that no earlier one like it wrote; None if there is none."""

    def write(self, result: Result) -> None: ...

    def close(self) -> None:
        """Finish; nothing is left to do where each result has a file of its own."""
        return


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if there is none.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({os_reason(error)})") from error


def drawn_names(names: Sequence[str]) -> list[str]:
    """A name for each picture's annotated one, no two the same, not even where case does not count."""
    # A JPEG stays one; what was lossless becomes PNG.
    ends = [".jpg" if Path(name).suffix.lower() in JPEG_SUFFIXES else ".png" for name in names]
    return _unique_names(names, ends, "_detected")


def label_names(names: Sequence[str]) -> list[str]:
    """As `drawn_names`, for each picture's YOLO text: its own name with .txt."""
    return _unique_names(names, [".txt"] * len(names), "")


def image_ids(names: Sequence[str]) -> list[int]:
    """COCO's image ids: the number in each name (000000000139.jpg: 139); 1, 2, 3 ... where one has none."""
    stems = [Path(name).stem for name in names]
    if all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(stems) + 1))


class DrawnPictures(Writer):
    """An annotated picture for each image file."""

    def __init__(self, folder: Path, names: Sequence[str], font: PathLike | None = None) -> None:
        """Take a folder, the source's file names, and `draw`'s font."""
        self._folder = folder
        self._names = drawn_names(names)
        self._font = font

    def foreign(self) -> Path | None:
        return first_foreign((self._folder / name for name in self._names), is_signed)

    def write(self, result: Result) -> None:
        make_folder(self._folder)
        name = self._names[result.frame.index]
        atomic_write(self._folder / name, _encode(draw(result.frame.pixels, result.detections, font=self._font), name))


class DrawnVideo:
    """An annotated mp4 of the source's size and length; it has its name when it is whole.

    A video file has one rate, a source's frames have times of their own: each frame is shown from its time on,
    so some are repeated, and one that comes too soon after another is left out.
    """

    def __init__(self, path: Path, rate: float | None, live: bool, font: PathLike | None = None) -> None:
        """Take where to write, and the source's rate.

        Args:
            path: ends in .mp4.
            rate: frames a second; None if unknown.
            live: the video's rate is the detector's where that is lower: repeated frames cost time.
            font: as `draw` takes it.

        Raises:
            UserError: OpenCV cannot take the path.
        """
        check_path(str(path))
        self._font = font
        self._path = path
        self._rate = rate
        self._live = live
        self._stack = ExitStack()
        self._temporary: Path | None = None
        self._video: Mp4 | None = None
        self._size = (0, 0)
        self._start = 0.0
        self._written = 0
        self._next_check = _FRAMES_PER_CHECK
        self._last: NDArray[np.uint8] | None = None

    def foreign(self) -> Path | None:
        return first_foreign([self._path], is_signed)

    def write(self, result: Result) -> None:
        drawn = draw(result.frame.pixels, result.detections, min_long_side=None, font=self._font)
        time = result.frame.time or 0.0
        if self._video is None:
            self._open(drawn.size, result.milliseconds)
            self._start = time
        assert self._video is not None and self._rate is not None
        picture = _even(np.asarray(drawn if drawn.size == self._size else drawn.resize(self._size)))
        if self._written >= self._next_check:
            self._next_check = self._written + _FRAMES_PER_CHECK
            self._check_room()
        slot = round((time - self._start) * self._rate)
        if slot - self._written > _LONGEST_HOLD * self._rate:
            self._start = time - self._written / self._rate
            slot = self._written
        while self._last is not None and self._written < slot:
            self._video.write(self._last)
            self._written += 1
        if slot == self._written:
            self._video.write(picture)
            self._written += 1
        self._last = picture

    def close(self) -> None:
        if self._video is None:
            return
        with self._stack:
            self._video.close()
            assert self._temporary is not None
            if count_frames(self._temporary) != self._written:
                raise UserError(f"cannot write {self._path}: the video did not come out whole; is the disk full?")
            with self._temporary.open("ab") as file:
                # A box of the kind that players skip.
                file.write((8 + len(SIGN)).to_bytes(4, "big") + b"free" + SIGN)

    def _open(self, size: tuple[int, int], milliseconds: float) -> None:
        rate = self._rate or 25.0
        if self._live:
            rate = max(1.0, min(rate, 1e3 / max(milliseconds, 1.0)))
        # OpenCV writes it as a fraction of 1000 for three digits, and MPEG-4 has no numerator above 65,535.
        self._rate = round(rate, 2)
        self._size = size
        make_folder(self._path.parent)
        check_target(self._path)
        self._check_room()
        width, height = size
        with ExitStack() as stack:
            self._temporary = stack.enter_context(atomic_path(self._path))
            self._video = Mp4(self._temporary, self._rate, width + width % 2, height + height % 2)
            self._stack = stack.pop_all()

    def _check_room(self) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free < _RESERVE_BYTES:
            raise UserError(f"cannot go on with {self._path}: only {free / 1e6:.0f} MB are free on its disk")


class JsonReport:
    """detections.json: one document for all image files."""

    def __init__(self, path: Path, model: str) -> None:
        """Take where to write, and the model's name."""
        self._file = _WholeFile(path)
        self._model = model
        self._any = False

    def foreign(self) -> Path | None:
        return foreign(self._file.path, REPORT)

    def write(self, result: Result) -> None:
        if not self._any:
            self._file.write(f'{{\n  "model": {json.dumps(self._model)},\n  "images": [\n')
        image = {
            "file": result.frame.name,
            "width": result.frame.size[0],
            "height": result.frame.size[1],
            "detections": result.detections.to_dicts(),
        }
        self._file.write((",\n" if self._any else "") + textwrap.indent(json.dumps(image, indent=2), "    "))
        self._any = True

    def close(self) -> None:
        if self._any:
            self._file.close("\n  ]\n}\n")


class JsonLines:
    """A JSON object a line and frame, on the disk at once: another program can read along."""

    def __init__(self, path: Path, live: bool) -> None:
        """Take where to write; lines of a live source say the clock's time too."""
        self._file = _GrowingFile(path)
        self._live = live

    def foreign(self) -> Path | None:
        return foreign(self._file.path, LINES)

    def write(self, result: Result) -> None:
        frame = result.frame
        line: dict[str, Any] = {"source": frame.name, "frame": frame.index, "time": round(frame.time or 0.0, 4)}
        if self._live:
            line["utc"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        line["width"], line["height"] = frame.size
        line["ms"] = round(result.milliseconds, 2)
        line["detections"] = result.detections.to_dicts()
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self._file.close()


class CocoResults:
    """COCO's results, which pycocotools' loadRes reads; with the file's name, which it ignores.

    The image id of a video's frame is its number, from 1.
    """

    def __init__(self, path: Path, category_ids: Sequence[int], ids: Sequence[int] | None) -> None:
        """Take where to write, the model's category ids, and the image ids of image files."""
        self._file = _WholeFile(path)
        self._category_ids = category_ids
        self._ids = ids
        self._separator = "[\n"

    def foreign(self) -> Path | None:
        return foreign(self._file.path, COCO)

    def write(self, result: Result) -> None:
        frame = result.frame
        image_id = frame.index + 1 if self._ids is None else self._ids[frame.index]
        if self._separator == "[\n":
            self._file.write("")  # the file of a run that finds nothing is an empty list
        for found in result.detections.to_coco(image_id, self._category_ids):
            self._file.write(self._separator + json.dumps({**found, "file_name": frame.name}))
            self._separator = ",\n"

    def close(self) -> None:
        self._file.close("[]\n" if self._separator == "[\n" else "\n]\n")


class YoloLabels(Writer):
    """A text file a picture in labels/, empty where nothing is found; a video's end in the frame's number."""

    def __init__(self, folder: Path, names: Sequence[str] | None, film: str = "") -> None:
        """Take a folder, and the names of image files; None for a video or camera, whose name is `film`."""
        self._folder = folder
        self._names = None if names is None else label_names(names)
        self._film = film
        self._begun = False

    def foreign(self) -> Path | None:
        if not self._folder.is_dir():
            return None
        if self._names is not None:
            return first_foreign_label(self._folder / name for name in self._names)
        return first_foreign_label(self._of_film())

    def _of_film(self) -> list[Path]:
        """What an earlier run has written for the film, also for frames that this one does not come to."""
        film = re.compile(re.escape(file_stem(self._film)) + r"_\d{6,}\.txt")
        return [path for path in sorted(self._folder.iterdir()) if film.fullmatch(path.name)]

    def write(self, result: Result) -> None:
        if not self._begun:
            self._begun = True
            if self._names is None and self._folder.is_dir():
                for path in self._of_film():
                    path.unlink()
        frame = result.frame
        film = f"{file_stem(frame.name)}_{frame.index:06d}.txt"
        name = film if self._names is None else self._names[frame.index]
        make_folder(self._folder)
        width, height = frame.size
        atomic_write(self._folder / name, result.detections.to_yolo(width, height).encode())


class CsvTable:
    """A line an object: file, frame (from 0), time in seconds (empty for image files), and CSV_FIELDS."""

    def __init__(self, path: Path) -> None:
        """Take where to write."""
        self._file = _GrowingFile(path)
        self._begun = False

    def foreign(self) -> Path | None:
        return foreign(self._file.path, CSV)

    def write(self, result: Result) -> None:
        frame = result.frame
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if not self._begun:
            rows.writerow(["file", "frame", "time", *CSV_FIELDS])
            self._begun = True
        time = "" if frame.time is None else f"{frame.time:.4f}"
        rows.writerows([frame.name, str(frame.index), time, *row] for row in result.detections.csv_rows())
        self._file.write(text.getvalue())

    def close(self) -> None:
        self._file.close()


class Behind:
    """Another writer in a thread of its own: drawing takes as long as small networks do.

    Its error is raised by the next `write`, or by `close`.
    """

    def __init__(self, writer: Writer) -> None:
        """Take the writer to run."""
        self._writer = writer
        self._results: queue.Queue[Result | None] = queue.Queue(_BEHIND)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def foreign(self) -> Path | None:
        return self._writer.foreign()

    def write(self, result: Result) -> None:
        self._raise_error()
        self._results.put(result)

    def close(self) -> None:
        self._results.put(None)
        self._thread.join()
        try:
            self._writer.close()
        finally:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        failed = False
        while True:
            result = self._results.get()
            if result is None:
                return
            if failed:
                continue  # so that nobody waits for room
            try:
                self._writer.write(result)
            except BaseException as error:  # for the thread that writes to raise
                self._error = error
                failed = True


def file_stem(name: str) -> str:
    """A source's name as a part of a file name: "rtsp://host:554/1" -> "host_554_1"."""
    stem = Path(name).stem if "://" not in name else name.split("://", 1)[1]
    return "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in stem).strip("_. ") or "video"


class _GrowingFile:
    """Text on the disk as soon as it is written, under its final name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._whole = 0

    def write(self, text: str) -> None:
        try:
            if self._file is None:
                make_folder(self.path.parent)
                self._file = FileIO(check_target(self.path), "w")
            rest = memoryview(text.encode("utf-8", _ERRORS))
            while rest:
                rest = rest[self._file.write(rest) :]
            self._whole = self._file.tell()
        except OSError as error:
            self._cut()
            raise UserError(f"cannot write {self.path}: {os_reason(error)}") from error

    def _cut(self) -> None:
        """What is not whole goes; a full disk has room for that."""
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(self._whole)

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                raise UserError(f"cannot write {self.path}: {os_reason(error)}") from error


class _WholeFile:
    """Text that has its name when it is whole; meanwhile it is on the disk, not in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self._file: IO[str] | None = None
        self._failed = False

    def write(self, text: str) -> None:
        try:
            if self._file is None:
                make_folder(self.path.parent)
                temporary = self._stack.enter_context(atomic_path(self.path))
                self._file = self._stack.enter_context(
                    temporary.open("x", encoding="utf-8", errors=_ERRORS, newline="")
                )
            self._file.write(text)
        except OSError:
            self._failed = True
            # Through atomic_path, which removes the temporary file and words the message.
            self._stack.__exit__(*sys.exc_info())
            raise

    def close(self, end: str) -> None:
        """Finish with `end`, if anything was written."""
        if self._file is not None and not self._failed:
            self.write(end)
            self._stack.close()


def _unique_names(names: Sequence[str], ends: Sequence[str], mark: str) -> list[str]:
    unique: list[str] = []
    used: set[str] = set()
    for name, end in zip(names, ends):
        candidate = f"{Path(name).stem}{mark}{end}"
        attempt = 1
        while candidate.casefold() in used:
            # First a.jpeg beside a.jpg -> a.jpeg_detected.jpg, which says where it is from.
            again = "" if attempt == 1 else f"_{attempt}"
            candidate = f"{name}{mark}{again}{end}"
            attempt += 1
        used.add(candidate.casefold())
        unique.append(candidate)
    return unique


def _even(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The last column and row twice where their number is odd."""
    height, width = pixels.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return pixels
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encode(picture: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".jpg"):
        # Full colour resolution: thin coloured outlines smear otherwise.
        picture.save(buffer, "JPEG", quality=92, subsampling=0, comment=SIGN)
    else:
        signed = PngImagePlugin.PngInfo()
        signed.add_text("Software", SIGN.decode())
        picture.save(buffer, "PNG", pnginfo=signed)
    return buffer.getvalue()
