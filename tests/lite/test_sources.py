"""Sources: what the command line means, and that damaged files and lost cameras are told and survived."""

import http.server
import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.errors import UserError
from tinydet_lite.media.sources import Camera, Frame, ImageFiles, Problem, VideoFile, open_source

from .videos import moving_block, slowed, turned, write_video


class FakeCapture:
    """Gives what it is told: a frame, or None for a read that fails."""

    rate = 30.0
    count = 0
    position = 0.0

    def __init__(self, frames, is_open=True):
        self.frames = list(frames)
        self.is_open = is_open
        self.closed = False

    def read(self):
        return self.frames.pop(0) if self.frames else None

    def close(self):
        self.closed = True


def camera(*captures, **keywords):
    """A Camera that opens one fake after the other, and the list of those."""
    waiting = list(captures)
    asked = []

    def open_capture(device):
        asked.append(device)
        return waiting.pop(0)

    return Camera("2", open_capture, pause=0.01, **keywords), asked


def frame(value):
    return np.full((4, 6, 3), value, np.uint8)


def test_camera_survives_single_failed_reads():
    source, asked = camera(FakeCapture([frame(0), None, frame(1), None, None, frame(2)]), retries=0)
    items = []
    with pytest.raises(UserError, match=r"camera2 is lost"):
        for item in source:
            items.append(item)
    frames = [item for item in items if isinstance(item, Frame)]
    assert [f.pixels[0, 0, 0] for f in frames] == [0, 1, 2]
    assert [f.index for f in frames] == [0, 1, 2]
    assert frames[0].time == 0.0 and frames[2].time >= frames[1].time > 0.0
    assert sum("could not be read" in item.message for item in items if isinstance(item, Problem)) == 5
    assert not any(item.lost for item in items if isinstance(item, Problem))
    assert asked == [2]


def test_camera_is_opened_again_and_given_up():
    first = FakeCapture([frame(0)])
    source, asked = camera(
        first, FakeCapture([], is_open=False), FakeCapture([frame(1)]), *[FakeCapture([])] * 2, retries=2
    )
    messages, values = [], []
    with pytest.raises(UserError, match="no picture came in 2 attempts"):
        for item in source:
            if isinstance(item, Problem):
                messages.append(item.message)
            else:
                values.append(int(item.pixels[0, 0, 0]))
    assert values == [0, 1]
    assert first.closed
    assert sum("opening it again" in message for message in messages) == 4
    assert sum("pictures come again" in message for message in messages) == 1
    assert len(asked) == 5


def test_network_camera_that_ends_twice(monkeypatch):
    """OpenCV itself on JPEGs over http, as cheap network cameras send them."""
    pytest.importorskip("cv2")
    monkeypatch.delenv("http_proxy", raising=False)
    jpeg = io.BytesIO()
    Image.fromarray(moving_block(0)).save(jpeg, "JPEG")
    part = b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % jpeg.tell() + jpeg.getvalue() + b"\r\n"
    visits = []

    class Pictures(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            visits.append(self.path)
            self.send_response(200 if len(visits) <= 3 else 503)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
            self.end_headers()
            if len(visits) <= 3:
                self.wfile.write(8 * part)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            source = Camera(f"http://me:secret@127.0.0.1:{server.server_port}/live", retries=2, pause=0.01)
            frames, messages = [], []
            with pytest.raises(UserError, match="is lost: no picture came in 2 attempts"):
                for item in source:
                    if isinstance(item, Frame):
                        frames.append(item)
                    else:
                        messages.append(item.message)
        finally:
            server.shutdown()
    assert 15 <= len(frames) <= 24
    assert all(f.pixels[40:56, 20:44, 0].min() > 200 and f.pixels[40:56, 20:44, 2].max() < 60 for f in frames)
    assert sum("come again" in message for message in messages) >= 1
    assert not any("secret" in message for message in messages)


def test_closing_ends_a_camera_that_waits():
    source = Camera("0", lambda device: FakeCapture([frame(0)]), pause=60.0)
    items = iter(source)
    assert isinstance(next(items), Frame)
    threading.Timer(0.2, source.close).start()
    assert all(isinstance(item, Problem) for item in items)


def test_camera_that_does_not_open():
    with pytest.raises(UserError, match="camera2 cannot be opened"):
        camera(FakeCapture([], is_open=False))


def test_names_without_passwords():
    capture = FakeCapture([], is_open=False)
    with pytest.raises(UserError) as error:
        Camera("rtsp://me:secret@host:554/1?token=secret", lambda device: capture)
    assert "rtsp://host:554/1 cannot be opened" in str(error.value)
    assert "secret" not in str(error.value)


def test_images(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    items = list(open_source(str(tmp_path)))
    assert [item.name for item in items if isinstance(item, Frame)] == ["a.png", "c.png"]
    assert [item.index for item in items if isinstance(item, Frame)] == [0, 2]
    assert isinstance(items[1], Problem) and items[1].lost and "b.png does not decode" in items[1].message
    assert items[0].pixels.shape == (4, 6, 3) and items[0].time is None
    with pytest.raises(UserError, match=r"b\.png does not decode"):
        list(ImageFiles([paths[1]]))


def test_video(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [moving_block(index) for index in range(30)])
    source = open_source(str(path))
    assert isinstance(source, VideoFile)
    assert (source.name, source.count, source.rate, source.live, source.still) == ("clip.mp4", 30, 25.0, False, False)
    frames = list(source)
    assert [f.index for f in frames] == list(range(30))
    assert [f.time for f in frames] == pytest.approx([index / 25 for index in range(30)], abs=1e-3)
    for f in frames:
        # Red, not blue; the codec leaves the first channel of the block within 20 of 255 (measured: 5).
        x = 16 + 2 * f.index
        assert np.abs(f.pixels[36:60, x + 4 : x + 28].astype(int) - (255, 0, 0)).max() <= 20


def test_video_is_turned_upright(tmp_path):
    path = write_video(tmp_path / "phone.mp4", [moving_block(index) for index in range(5)])
    turned(path, 96)
    (first, *_) = open_source(str(path))
    assert first.pixels.shape == (128, 96, 3)
    # Clockwise: the block's y 32..63 of 96 becomes x 32..63, its x 16..47 becomes y 16..47.
    assert first.pixels[20:44, 36:60, 0].min() > 200
    assert first.pixels[60:].max() < 50


def test_variable_rate(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [moving_block(index) for index in range(20)])
    slowed(path, 10, 3)
    times = [f.time for f in open_source(str(path))]
    assert times == pytest.approx([n / 25 for n in range(10)] + [(10 + 3 * n) / 25 for n in range(10)], abs=2e-3)


@pytest.mark.parametrize("ending", [".avi", ".mkv"])
def test_video_cut_short(tmp_path, ending):
    path = write_video(tmp_path / f"clip{ending}", [moving_block(index) for index in range(30)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *frames, problem = open_source(str(path))
    assert 5 < len(frames) < 25
    assert isinstance(problem, Problem) and problem.lost
    assert "announces 30" in problem.message


@pytest.mark.parametrize("ending", [".avi", ".mkv"])
def test_damaged_frames_in_the_middle(tmp_path, ending):
    path = write_video(tmp_path / f"clip{ending}", [moving_block(index) for index in range(100)])
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\xd8", len(data) // 2)  # where a JPEG begins
    data[place : place + 300] = bytes(300)
    path.write_bytes(bytes(data))
    items = list(open_source(str(path)))
    (problem,) = (item for item in items if isinstance(item, Problem))
    frames = [item for item in items if isinstance(item, Frame)]
    # The others keep their numbers and their times.
    (missing,) = set(range(100)) - {f.index for f in frames}
    assert 30 < missing < 60 and len(frames) == 99
    assert problem.message == f"clip{ending}: 1 frame from number {missing} on did not decode" and not problem.lost
    assert [f.time for f in frames] == pytest.approx([f.index / 25 for f in frames], abs=2e-3)


def test_times_that_stand_still():
    """As of a stream without times (raw H.264)."""
    source = VideoFile("x.h264", lambda given: FakeCapture([frame(0), None, frame(1), frame(2)]))
    items = [item for item in source if isinstance(item, Frame)]
    assert [item.time for item in items] == pytest.approx([0, 1 / 30, 2 / 30])


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_no_video(tmp_path, content):
    pytest.importorskip("cv2")
    path = tmp_path / "clip.mp4"
    if content is None:
        write_video(path, [moving_block(0)] * 30)
        content = path.read_bytes()[:-400]  # without its index
    path.write_bytes(content)
    with pytest.raises(UserError, match="does not open as a video"):
        open_source(str(path))


def test_video_without_frames(tmp_path):
    path = write_video(tmp_path / "clip.avi", [moving_block(0)] * 3)
    data = path.read_bytes()
    data = data.replace(b"\xff\xd8", b"\0\0").replace(b"JFIF", b"\0\0\0\0").replace(b"\xff\xc0", b"\0\0")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"clip\.avi"):
        list(open_source(str(path)))


def test_what_a_word_means(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("tinydet_lite.media.sources.Camera", lambda given: opened.append(given))
    cameras = ["0", "/dev/video7", "rtsp://host/1", "http://host/stream", "tcp://127.0.0.1:8888"]
    for word in cameras:
        open_source(word)
    assert opened == cameras
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (6, 4)).save("0", "PNG")
    assert isinstance(open_source("0"), ImageFiles)


def test_without_opencv(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    for word in (str(tmp_path / "clip.mp4"), "0", "rtsp://host/1"):
        with pytest.raises(UserError, match="install it with: pip install opencv-python-headless"):
            open_source(word)
