"""Where pictures come from: image files, a URL's picture, a video, a camera; one class a kind.

A source is iterated once, maybe in another thread, and gives `Frame`s, and a `Problem` where one could not be
had. Frames: uint8 RGB [H, W, 3].
"""

from __future__ import annotations

import os
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..detector import Prepared
from ..errors import UserError, os_reason
from ..preprocess import IMAGE_SUFFIXES, as_rgb_array, decode_image, pictures_in
from .fetch import FETCHED, Found, file_name_of, look_at, suffix_of, without_secrets
from .opencv import Capture

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".h264", ".ts", ".wmv")

# Files that usually lie beside pictures: labels, lists, files of the system. Others that are not read are reported.
_COMPANIONS = (
    ".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".names", ".cache", ".md", ".html", ".ini",
    ".db", ".npy", ".npz",
)  # fmt: skip
_SUFFIXES_TOLD = 5

# Rates outside are a header's nonsense (raw H.264 has none at all).
_RATES = (0.1, 240.0)
_DEFAULT_RATE = 25.0
# Their headers count frames; others announce a duration, and OpenCV makes a number from it.
_COUNTED = (".mp4", ".m4v", ".mov", ".avi")
# A video that ends before this share of its announced length was cut short.
_WHOLE = 0.97
# A read that fails is a damaged frame or the end. So many more are tried for what the header announces, at the least
# and at the most.
_END_READS = 5
_MOST_FAILED_READS = 250

# A camera's picture may fail now and then; this many in a row mean that it is gone.
_FAILED_READS = 3
_FAILED_READ_PAUSE = 0.05
_RETRIES = 5
_RETRY_PAUSE = 2.0


class Frame:
    """A picture.

    Attributes:
        name: of its file, or of the video or camera.
        index: its number in the source, from 0; what could not be read counts.
        ready: what the source's `reader` made of its file; None where it has none.
        time: seconds since the source's first frame; None for image files.
        arrived: time.perf_counter() when it was there.
    """

    def __init__(
        self,
        name: str,
        index: int,
        pixels: NDArray[np.uint8] | Callable[[], NDArray[np.uint8]],
        time: float | None = None,
        arrived: float | None = None,
        ready: Prepared | None = None,
    ) -> None:
        """Take a picture.

        Args:
            pixels: uint8 [H, W, 3], RGB, upright; or what gives them, called when they are first wanted.
            arrived: None for now.
        """
        self.name = name
        self.index = index
        self.time = time
        self.arrived = perf_counter() if arrived is None else arrived
        self.ready = ready
        self._pixels = pixels

    @property
    def size(self) -> tuple[int, int]:
        """(W, H), without decoding anything that is not wanted otherwise."""
        if self.ready is not None:
            return self.ready.size
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], RGB, upright."""
        if not isinstance(self._pixels, np.ndarray):
            self._pixels = self._pixels()
        return self._pixels


@dataclass(frozen=True)
class Problem:
    """Something to tell the user; the source goes on, or ends in order.

    Attributes:
        message: one line.
        lost: whether a part of the source is missing for good, so that the work is not whole.
    """

    message: str
    lost: bool


class Source(Protocol):
    """What is iterated once, for frames and problems.

    Attributes:
        name: to show, without secrets.
        live: it does not wait: what is not taken at once grows old.
        still: its frames are pictures of their own rather than moments of one film.
        count: how many frames to expect; None if unknown.
        rate: frames a second; None if it has none.
        names: each picture's file name, if it is still; else None.
    """

    name: str
    live: bool
    still: bool
    count: int | None
    rate: float | None
    names: Sequence[str] | None

    def __iter__(self) -> Iterator[Frame | Problem]: ...

    def close(self) -> None:
        """End the iteration soon; called from another thread."""


def open_source(given: str | os.PathLike[str] | int) -> ImageFiles | FetchedPicture | VideoFile | Camera:
    """The source that a word of the command line means.

    Args:
        given: an image, a folder (its images, sorted, without its subfolders), a video; a camera: its number,
            /dev/videoN, or a URL (rtsp, http, tcp, udp). A URL that ends like a video file is a video; one of
            a picture (http, https, ftp), by its ending or by what the server says, is that picture, fetched once;
            file:// is the path behind it. A Path is never a camera's number, an int is nothing else.

    Raises:
        UserError: there is no such thing, it does not open, or OpenCV is needed and missing.
    """
    if isinstance(given, (int, np.integer)):
        if isinstance(given, bool) or given < 0:
            raise UserError(f"the source {given!r} came; a camera has a number from 0 up")
        return Camera(str(int(given)))
    word = os.fspath(given)
    if not word:
        # Path("") is the working directory.
        raise UserError("--source is empty; give an image, a folder of images, a video or a camera")
    scheme = re.match(r"(\w+)://", word)
    if scheme is not None and scheme[1].lower() != "file":
        return _open_url(word, scheme[1].lower())
    path = Path(word) if scheme is None else _path_of_file_url(word)
    if path.is_dir():
        return ImageFiles(*_images_in(path))
    if path.suffix.lower() in VIDEO_SUFFIXES and path.exists():
        return VideoFile(str(path))
    camera = r"\d+|/dev/video\d+" if isinstance(given, str) else r"/dev/video\d+"
    if re.fullmatch(camera, word) is not None and not path.is_file():
        return Camera(word)
    if not path.exists():
        raise UserError(f"--source {word}: no such image, folder or video")
    return ImageFiles([path])


def _open_url(url: str, scheme: str) -> FetchedPicture | VideoFile | Camera:
    suffix = suffix_of(url)
    if suffix in VIDEO_SUFFIXES:
        return VideoFile(url)
    found = look_at(url, suffix in IMAGE_SUFFIXES) if scheme in FETCHED else Found("stream")
    if found.kind == "picture":
        return FetchedPicture(url, found.data)
    return VideoFile(url) if found.kind == "video" else Camera(url)


def _path_of_file_url(url: str) -> Path:
    """file:///a%20b.jpg -> /a b.jpg"""
    rest = url.partition("://")[2]
    host, slash, local = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UserError(f"--source {url}: expected file:///path of a file on this machine")
    quoted, plain = Path(urllib.request.url2pathname(f"/{local}")), Path(f"/{local}")
    # Typed by hand, a name may have a % of its own.
    return plain if plain.exists() and not quoted.exists() else quoted


class ImageFiles:
    """Image files in the given order. One that does not decode is a Problem; if it is the only one, an error.

    Attributes:
        reader: makes a file ready for a network; a frame then decodes its pixels only when somebody wants them.
    """

    live = False
    still = True
    rate: float | None = None

    def __init__(self, paths: Sequence[Path], folder: Path | None = None, passed_over: str = "") -> None:
        """Take files.

        Args:
            paths: at least one.
            folder: they are what it held: even a single bad one is only a Problem.
            passed_over: what else it held, for people.
        """
        self.paths = tuple(paths)
        self.folder = folder
        self.passed_over = passed_over
        self.name = str(folder or self.paths[0])
        self.names: Sequence[str] | None = tuple(path.name for path in self.paths)
        self.count: int | None = len(self.paths)
        self.reader: Callable[[Path], Prepared] | None = None
        self._alone = len(self.paths) == 1 and folder is None
        self._closed = False

    def __iter__(self) -> Iterator[Frame | Problem]:
        for index, path in enumerate(self.paths):
            if self._closed:
                return
            try:
                frame = self._frame(path, index)
            except UserError as error:
                if self._alone:
                    raise
                yield Problem(str(error), lost=True)
            else:
                yield frame
                count = pictures_in(path)
                if count > 1:
                    yield Problem(f"{path.name} holds {count} pictures; the first one was taken", lost=False)

    def _frame(self, path: Path, index: int) -> Frame:
        arrived = perf_counter()
        if self.reader is None:
            return Frame(path.name, index, as_rgb_array(path))
        ready = self.reader(path)
        return Frame(path.name, index, lambda: as_rgb_array(path), arrived=arrived, ready=ready)

    def close(self) -> None:
        self._closed = True


class FetchedPicture:
    """A picture that came from a URL."""

    live = False
    still = True
    rate: float | None = None

    def __init__(self, url: str, data: bytes) -> None:
        """Take a picture.

        Args:
            url: where it is from.
            data: its file's bytes.
        """
        self.name = without_secrets(url)
        self.names: Sequence[str] | None = (file_name_of(url),)
        self.count: int | None = 1
        self._data = data

    def __iter__(self) -> Iterator[Frame | Problem]:
        yield Frame(file_name_of(self.name), 0, as_rgb_array(decode_image(self._data, self.name)))

    def close(self) -> None:
        pass


class VideoFile:
    """A video, frame by frame, upright as its header says, at the times that the file gives."""

    live = False
    still = False
    names: Sequence[str] | None = None

    def __init__(self, given: str, open_capture: Callable[[str], Capture] = Capture) -> None:
        """Open a video, to see that it is one.

        Args:
            given: a path or URL.
            open_capture: how to open it.

        Raises:
            UserError: it does not open, or OpenCV is missing.
        """
        self.name = Path(without_secrets(given)).name
        self._given = given
        self._open_capture = open_capture
        self._closed = False
        capture = self._open()
        self._announced = capture.count
        self.count: int | None = capture.count or None
        self.rate: float | None = capture.rate if _RATES[0] <= capture.rate <= _RATES[1] else _DEFAULT_RATE
        capture.close()

    def __iter__(self) -> Iterator[Frame | Problem]:
        capture = self._open()
        period = 1.0 / (self.rate or _DEFAULT_RATE)
        index = frames = failed = 0
        first, last = 0.0, -period
        try:
            while not self._closed:
                pixels = capture.read()
                if pixels is None:
                    failed += 1
                    if failed > min(max(_END_READS, self._announced - index), _MOST_FAILED_READS):
                        break
                    continue
                if failed:
                    yield Problem(f"{self.name}: {_frames(failed)} from number {index} on did not decode", lost=False)
                    index += failed
                    failed = 0
                position = capture.position
                if frames == 0:
                    first = position
                # Times that stand still or go back come from streams without any.
                last = position - first if position - first > last else last + period
                yield Frame(self.name, index, pixels, last)
                index += 1
                frames += 1
        finally:
            capture.close()
        if self._closed:
            return
        if frames == 0:
            raise UserError(f"{self.name}: no frame in it can be read")
        if self._announced * period * _WHOLE > last + 2 * period:
            yield Problem(
                f"{self.name}: ends after {_frames(index)}, {last + period:.1f} s; its header announces "
                f"{self._announced}, {self._announced * period:.1f} s; it may be cut short or damaged",
                lost=True,
            )
        elif index < self._announced and Path(self.name).suffix.lower() in _COUNTED:
            missing = self._announced - index
            yield Problem(f"{self.name}: {_frames(missing)} of {self._announced} did not decode", lost=False)

    def close(self) -> None:
        self._closed = True

    def _open(self) -> Capture:
        capture = self._open_capture(self._given)
        if not capture.is_open:
            if Path(self._given).is_file():
                raise UserError(f"{self._given} does not open as a video; it may be empty, cut short or damaged")
            raise UserError(f"{without_secrets(self._given)} cannot be opened as a video")
        return capture


class Camera:
    """A camera: the pictures as they come. One that is lost is opened again, a few times, with pauses."""

    live = True
    still = False
    count: int | None = None
    names: Sequence[str] | None = None

    def __init__(
        self,
        given: str,
        open_capture: Callable[[str | int], Capture] = Capture,
        retries: int = _RETRIES,
        pause: float = _RETRY_PAUSE,
    ) -> None:
        """Open a camera.

        Args:
            given: its number, /dev/videoN, or a URL.
            open_capture: how to open it.
            retries: how often a lost camera is opened again before giving up.
            pause: seconds before each time.

        Raises:
            UserError: it does not open, or OpenCV is missing.
        """
        number = re.fullmatch(r"(?:/dev/video)?(\d+)", given)
        self._device: str | int = int(number.group(1)) if number else given
        self.name = f"camera{number.group(1)}" if number else without_secrets(given)
        self._open_capture = open_capture
        self._retries = retries
        self._pause = pause
        self._closed = threading.Event()
        # A picture that is called a stream "comes again" each time it is opened, without end.
        self._enough = 1 if number else 2
        self._capture = open_capture(self._device)
        if not self._capture.is_open:
            raise UserError(f"{self.name} cannot be opened; is it connected, and not used by another program?")
        rate = self._capture.rate
        self.rate: float | None = rate if _RATES[0] <= rate <= _RATES[1] else None

    def __iter__(self) -> Iterator[Frame | Problem]:
        index, came, failed, retries, start = 0, 0, 0, 0, 0.0  # came: since it was opened
        try:
            while not self._closed.is_set():
                pixels = self._capture.read_later() if self._capture.is_open else None
                if pixels is not None:
                    now = perf_counter()
                    if index == 0:
                        start = now
                    came += 1
                    if retries and came == self._enough:
                        yield Problem(f"{self.name}: pictures come again", lost=False)
                        retries = 0
                    failed = 0
                    yield Frame(self.name, index, pixels, now - start, now)
                    index += 1
                    continue
                failed += 1
                if failed < _FAILED_READS and self._capture.is_open:
                    if retries == 0:
                        yield Problem(f"{self.name}: a picture could not be read", lost=False)
                    self._closed.wait(_FAILED_READ_PAUSE)
                    continue
                if index == 0 and retries == min(1, self._retries):
                    raise UserError(f"{self.name} opens and gives no picture; is it a camera or a stream?")
                if retries == self._retries:
                    if 0 < came < self._enough:
                        raise UserError(
                            f"{self.name} gives one picture and ends, whenever it is opened; it is no stream"
                        )
                    raise UserError(f"{self.name} is lost: no picture came in {retries} attempts to open it again")
                retries += 1
                came = failed = 0
                yield Problem(
                    f"{self.name}: no picture comes; opening it again in {self._pause:g} s "
                    f"({retries} of {self._retries})",
                    lost=False,
                )
                self._capture.close()
                if not self._closed.wait(self._pause):
                    self._capture = self._open_capture(self._device)
        finally:
            self._capture.close()

    def close(self) -> None:
        self._closed.set()


def _images_in(folder: Path) -> tuple[list[Path], Path, str]:
    """A folder's images, the folder, and what else it holds, for people; as ImageFiles takes them."""
    images, others = [], []
    try:
        for file in folder.iterdir():
            suffix = file.suffix.lower()
            if file.name.startswith("."):  # also macOS' ._a.jpg, which is no picture
                continue
            if suffix in IMAGE_SUFFIXES and file.is_file():
                images.append(file)
            elif suffix not in _COMPANIONS and not file.is_dir():
                others.append(suffix or "no ending")
    except OSError as error:
        raise UserError(f"{folder}: {os_reason(error)}") from error
    told = ""
    if others:
        most = [suffix for suffix, _ in Counter(sorted(others)).most_common()]
        more = ", ..." if len(most) > _SUFFIXES_TOLD else ""
        count = "1 file" if len(others) == 1 else f"{len(others)} files"
        told = f"passed over: {count} ({', '.join(most[:_SUFFIXES_TOLD])}{more})"
    if not images:
        reason = f"; {told}" if told else ""
        raise UserError(f"the folder {folder} has no images ({', '.join(IMAGE_SUFFIXES)}){reason}")
    return sorted(images), folder, told


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
