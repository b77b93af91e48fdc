"""What is written: names, videos in real time, errors of a writer in another thread."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tinydet_lite.detections import Detections
from tinydet_lite.errors import UserError
from tinydet_lite.media import writers
from tinydet_lite.media.sources import Frame
from tinydet_lite.media.stream import Result
from tinydet_lite.media.writers import Behind, CocoResults, DrawnVideo, drawn_names, file_stem, image_ids, label_names

from .videos import read_video


def result(index, time, shape=(48, 64), milliseconds=10.0, detections=None):
    pixels = np.full((*shape, 3), 10 * (index % 20), np.uint8)
    found = Detections.empty() if detections is None else detections
    return Result(Frame("clip.mp4", index, pixels, time), found, milliseconds, milliseconds)


def written(path, results, rate=25.0, live=False):
    """The video's frames by their grey / 10, and its rate."""
    pytest.importorskip("cv2")
    video = DrawnVideo(path, rate, live)
    for one in results:
        video.write(one)
    video.close()
    frames, rate = read_video(path)
    return [round(float(frame.mean()) / 10) for frame in frames], rate


def test_names():
    names = drawn_names(["A.jpg", "a.jpg", "a.JPG", "a.jpg_detected.jpg"])
    assert len({name.casefold() for name in names}) == 4
    assert drawn_names(["a.jpg", "a.jpeg", "b.bmp"]) == ["a_detected.jpg", "a.jpeg_detected.jpg", "b_detected.png"]
    assert label_names(["a.jpg", "a.png", "b.png"]) == ["a.txt", "a.png.txt", "b.txt"]
    assert image_ids(["000000000139.jpg", "7.png"]) == [139, 7]
    assert image_ids(["7.jpg", "007.png"]) == image_ids(["x.jpg", "7.png"]) == [1, 2]
    assert file_stem("rtsp://host:554/live/1") == "host_554_live_1"
    assert file_stem("film.2026.mp4") == "film.2026"
    assert file_stem("rtsp://") == "video"


def test_constant_rate_is_kept_frame_by_frame(tmp_path):
    rate = 30000 / 1001
    numbers, came = written(tmp_path / "x.mp4", [result(index, index / rate) for index in range(100)], rate)
    assert numbers == [index % 20 for index in range(100)]
    assert came == pytest.approx(rate, abs=1e-3)


@pytest.mark.parametrize("rate", [119.947, 238.853, 0.1])
def test_odd_rates(tmp_path, rate):
    """MPEG-4 has no fraction with a larger part than 65,535."""
    numbers, came = written(tmp_path / "x.mp4", [result(index, index / rate) for index in range(12)], rate)
    assert numbers == list(range(12))
    assert came == pytest.approx(rate, abs=0.01)


def test_variable_rate_is_kept_in_time(tmp_path):
    times = [0.0, 0.04, 0.08, 0.2, 0.32, 0.33, 0.36]
    numbers, _ = written(tmp_path / "x.mp4", [result(index, time) for index, time in enumerate(times)])
    # Frame 2 is shown for three periods, 3 too; 5 comes at the same slot as 4.
    assert numbers == [0, 1, 2, 2, 2, 3, 3, 3, 4, 6]


def test_a_clock_that_jumps_makes_no_hours_of_video(tmp_path):
    numbers, _ = written(tmp_path / "x.mp4", [result(0, 5.0), result(1, 95443.7), result(2, 95443.74)])
    assert numbers == [0, 1, 2]


@pytest.mark.parametrize(("shape", "size"), [((47, 63), (48, 64)), ((2, 2), (2, 2)), ((1, 31), (2, 32))])
def test_sizes(tmp_path, shape, size):
    written(tmp_path / "x.mp4", [result(index, index / 25, shape) for index in range(3)])
    frames, _ = read_video(tmp_path / "x.mp4")
    assert [frame.shape for frame in frames] == [(*size, 3)] * 3


def test_a_size_that_changes(tmp_path):
    numbers, _ = written(tmp_path / "x.mp4", [result(0, 0.0), result(5, 0.04, (24, 48)), result(9, 0.08)])
    assert numbers == [0, 5, 9]


def test_a_live_video_has_the_rate_of_the_detector(tmp_path):
    _, rate = written(tmp_path / "x.mp4", [result(0, 0.0, milliseconds=100.0)], 30.0, live=True)
    assert rate == 10.0
    _, rate = written(tmp_path / "x.mp4", [result(0, 0.0, milliseconds=1.0)], None, live=True)
    assert rate == 25.0


def test_a_video_stops_before_the_disk_is_full(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    video = DrawnVideo(tmp_path / "x.mp4", 25.0, False)
    for index in range(25):
        video.write(result(index, index / 25))
    monkeypatch.setattr(writers.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    with pytest.raises(UserError, match=r"only 5 MB are free"):
        video.write(result(25, 1.0))
    video.close()
    assert len(read_video(tmp_path / "x.mp4")[0]) == 25


def test_coco_without_any_detection(tmp_path):
    coco = CocoResults(tmp_path / "coco.json", [1], None)
    coco.write(result(0, 0.0))
    coco.close()
    assert json.loads((tmp_path / "coco.json").read_text()) == []
    nothing = CocoResults(tmp_path / "none.json", [1], None)
    nothing.close()
    assert not (tmp_path / "none.json").exists()


class FailingWriter:
    def __init__(self, good):
        self.good = good
        self.threads = set()
        self.closed = False

    def write(self, one):
        self.threads.add(threading.get_ident())
        if one.frame.index >= self.good:
            raise UserError("full")

    def close(self):
        self.closed = True


def test_behind_raises_once_what_its_writer_raised():
    inner = FailingWriter(3)
    behind = Behind(inner)
    with pytest.raises(UserError, match="full"):
        for index in range(100):
            behind.write(result(index, 0.0))
    behind.close()
    assert inner.closed and threading.get_ident() not in inner.threads

    inner = FailingWriter(1)
    behind = Behind(inner)
    behind.write(result(0, 0.0))
    behind.write(result(1, 0.0))
    with pytest.raises(UserError, match="full"):
        behind.close()
    assert inner.closed
