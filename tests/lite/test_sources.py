"""Sources: what the command line means, and that damaged files and lost cameras are told and survived."""

import base64
import http.server
import io
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet_lite.errors import UserError
from tinydet_lite.media import fetch
from tinydet_lite.media.sources import (
    Camera,
    FetchedPicture,
    Frame,
    ImageFiles,
    Problem,
    VideoFile,
    open_source,
)

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

    def read_later(self):
        return self.read()

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


def test_further_pages_and_frames_are_told(tmp_path):
    pages = [Image.new("RGB", (6, 4), (value, 0, 0)) for value in (0, 100, 200)]
    for name in ("a.tif", "b.gif", "c.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "d.tif")
    items = list(open_source(tmp_path))
    assert [item.name for item in items if isinstance(item, Frame)] == ["a.tif", "b.gif", "c.png", "d.tif"]
    notes = [(item.message, item.lost) for item in items if isinstance(item, Problem)]
    assert notes == [
        (f"{name} holds 3 pictures; the first one was taken", False) for name in ("a.tif", "b.gif", "c.png")
    ]


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


def test_paths_and_numbers(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("tinydet_lite.media.sources.Camera", lambda given: opened.append(given))
    for given in (2, np.int64(3), Path("/dev/video7")):
        open_source(given)
    assert opened == ["2", "3", "/dev/video7"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such image"):
        open_source(Path("0"))  # a Path is no number
    for wrong in (-1, True):
        with pytest.raises(UserError, match="a number from 0 up"):
            open_source(wrong)
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    assert [one.name for one in open_source(tmp_path)] == ["a.png"]
    assert [one.name for one in open_source(tmp_path / "a.png")] == ["a.png"]


def _encoded(kind="JPEG", size=(64, 48)):
    data = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(data, kind)
    return data.getvalue()


@contextmanager
def served(answers):
    """A server; `answers` maps a path to (status, headers, body). Gives its address and the list of what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            status, headers, body = (
                answers(self) if callable(answers) else answers.get(self.path.partition("?")[0], (404, {}, b""))
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("/a.jpg", "image/jpeg", "a.jpg"),
        ("/a.JPG?width=640", "text/plain", "a.JPG"),
        ("/a%20b.jfif", None, "a b.jfif"),
        ("/snapshot", "image/jpeg; charset=binary", "snapshot"),
        ("/object/4711", "application/octet-stream", "4711"),
    ],
)
def test_the_picture_of_a_url_is_fetched_once(no_proxy, path, kind, name):
    body = _encoded()
    headers = {"Content-Length": str(len(body))} | ({} if kind is None else {"Content-Type": kind})
    with served({path.partition("?")[0]: (200, headers, body)}) as (host, asked):
        source = open_source(f"http://{host}{path}")
        assert isinstance(source, FetchedPicture) and source.still and not source.live
        (frame,) = source
    assert [path for path, _ in asked] == [path]
    assert (frame.name, source.names, frame.index, frame.pixels.shape) == (name, (name,), 0, (48, 64, 3))
    assert frame.pixels[20, 20, 0] > 190 and frame.pixels[20, 20, 2] < 30


def test_a_url_that_is_no_picture(no_proxy, monkeypatch):
    opened = []
    monkeypatch.setattr("tinydet_lite.media.sources.Camera", lambda given: opened.append(given))
    monkeypatch.setattr("tinydet_lite.media.sources.VideoFile", lambda given: opened.append(given))
    monkeypatch.setattr(fetch, "_MOST_BYTES", 1000)
    stream = {"Content-Type": "multipart/x-mixed-replace; boundary=part"}
    page = {"Content-Type": "text/html", "Content-Length": "4"}
    answers = {
        "/video.jpg": (200, stream, b""),
        "/live": (200, stream, b""),
        "/page": (200, page, b"<p/>"),
        "/busy": (503, {}, b""),
        "/private": (403, {}, b""),
        "/film": (200, {"Content-Type": "video/mp4", "Content-Length": "4"}, b"abcd"),
        "/page.jpg": (200, page, b"<p/>"),
        "/cut.jpg": (200, {"Content-Type": "image/jpeg"}, _encoded()[:-200]),
        "/large.jpg": (200, {"Content-Type": "image/jpeg"}, bytes(2000)),
    }
    with served(answers) as (host, _):
        for path in ("/video.jpg", "/live", "/page", "/film", "/busy"):
            open_source(f"http://{host}{path}")
            assert opened.pop() == f"http://{host}{path}"
        for path, told in (
            ("/missing.jpg", "cannot be fetched (the server answers 404"),
            ("/missing", "cannot be fetched (the server answers 404"),
            ("/private", "cannot be fetched (the server answers 403"),
            ("/page.jpg", "is not an image"),
            ("/cut.jpg", "does not decode"),
            ("/large.jpg", "is larger than"),
        ):
            with pytest.raises(UserError) as error:
                list(open_source(f"http://me:secret@{host}{path}?token=secret"))
            assert told in str(error.value) and "secret" not in str(error.value), path
    with pytest.raises(UserError, match="cannot be fetched"):
        open_source(f"http://{host}/a.jpg")  # nobody listens there any more
    assert not opened


def test_the_password_of_a_url(no_proxy):
    body = _encoded()

    def answer(request):
        if request.headers.get("Authorization") is None:
            return 401, {"WWW-Authenticate": 'Basic realm="camera"', "Content-Length": "0"}, b""
        return 200, {"Content-Type": "image/jpeg"}, body

    with served(answer) as (host, asked):
        (frame,) = open_source(f"http://me:se%20cret@{host}/a.jpg")
    assert frame.name == "a.jpg"
    assert asked[-1][1] == "Basic " + base64.b64encode(b"me:se cret").decode()


def test_file_urls(tmp_path):
    for name in ("a b.png", "50%.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    for url in (f"file://{tmp_path}/a%20b.png", f"file://localhost{tmp_path}/a b.png", f"FILE://{tmp_path}/50%.png"):
        (frame,) = open_source(url)
        assert frame.pixels.shape == (4, 6, 3)
    assert len(list(open_source(f"file://{tmp_path}"))) == 2
    for url in (f"file://{tmp_path}/missing.png", "file://other/share/a.png"):
        with pytest.raises(UserError, match=r"no such image|on this machine"):
            open_source(url)


def test_a_stream_that_never_gives_a_picture_is_given_up():
    source, asked = camera(*[FakeCapture([]) for _ in range(9)])
    with pytest.raises(UserError, match="opens and gives no picture"):
        assert all(isinstance(item, Problem) for item in source)
    assert len(asked) == 2


def test_a_picture_that_is_called_a_stream_is_given_up():
    """It opens, gives its one picture, ends, and would do so for ever."""
    asked = []

    def open_capture(device):
        asked.append(device)
        return FakeCapture([frame(len(asked))])

    items = []
    with pytest.raises(UserError, match="gives one picture and ends"):
        for item in Camera("tcp://host:1/picture", open_capture, retries=3, pause=0.01):
            items.append(item)
    assert len(asked) == 4
    assert sum(isinstance(item, Frame) for item in items) == 4


def test_what_a_folder_holds_beside_its_images_is_told(tmp_path):
    for name in (
        "a.jpg",
        "b.JFIF",
        "c.heic",
        "d.HEIC",
        "e",
        "f.avif",
        "a.txt",
        "a.xml",
        "classes.txt",
        ".DS_Store",
        "._a.jpg",
    ):
        (tmp_path / name).write_bytes(_encoded(size=(6, 4)))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    source = open_source(tmp_path)
    assert [item.name for item in source] == ["a.jpg", "b.JFIF"]
    assert source.passed_over == "passed over: 5 files (.heic, .avif, .png, no ending)"
    for name in ("a.jpg", "b.JFIF", "e", "f.avif", "gone.png"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"has no images .*; passed over: 2 files \(\.heic\)"):
        open_source(tmp_path)


def test_without_opencv(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    for word in (str(tmp_path / "clip.mp4"), "0", "rtsp://host/1"):
        with pytest.raises(UserError, match="install it with: pip install opencv-python-headless"):
            open_source(word)
