"""Tiny videos for tests, made with OpenCV; the test is skipped, and says so, where that is missing."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydet_lite.media.opencv import Capture, Mp4


def moving_block(index: int, width: int = 128, height: int = 96) -> NDArray[np.uint8]:
    """Black, with a red block of 32 x 32 that moves two pixels a frame to the right, from x = 16, at y = 32."""
    picture = np.zeros((height, width, 3), np.uint8)
    x = 16 + 2 * index
    picture[32:64, x : x + 32, 0] = 255
    return picture


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]], rate: float = 25.0) -> Path:
    """An mp4 (MPEG-4); an .avi or .mkv of JPEG pictures, in which a damaged frame spoils no other."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV makes the test's video")
    height, width = frames[0].shape[:2]
    if path.suffix == ".mp4":
        video = Mp4(path, rate, width, height)
        for frame in frames:
            video.write(frame)
        video.close()
    else:
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), rate, (width, height))
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
    return path


def read_video(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    """All frames, and the rate."""
    capture = Capture(str(path))
    frames = []
    while (frame := capture.read()) is not None:
        frames.append(frame)
    rate = capture.rate
    capture.close()
    return frames, rate


def turned(path: Path, height: int) -> None:
    """Write "turn by 90 degrees clockwise" into an mp4's header (the matrix of tkhd), as phones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # behind version, times, track, duration, layer, volume
    assert struct.unpack(">9i", data[matrix : matrix + 36])[0] == 0x10000
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, height << 16, 0, 0x40000000)
    path.write_bytes(bytes(data))


def slowed(path: Path, start: int, factor: int) -> None:
    """Give the frames of an mp4 from `start` on `factor` times their duration (a second run in stts)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"stts")
    runs, count, duration = struct.unpack(">3i", data[place + 8 : place + 20])
    assert runs == 1
    table = struct.pack(">5i", 2, start, duration, count - start, factor * duration)
    # moov lies behind the frames, so their offsets stay; the boxes around stts grow by the 8 bytes of a run.
    data[place + 8 : place + 20] = table
    for box in (b"stts", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        at = data.index(box) - 4
        data[at : at + 4] = struct.pack(">i", struct.unpack(">i", data[at : at + 4])[0] + 8)
    # An edit list would cut the film back to its first duration.
    edits = data.find(b"elst")
    if edits > 0:
        data[edits : edits + 4] = b"free"
    path.write_bytes(bytes(data))
