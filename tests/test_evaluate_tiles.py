"""evaluate.py --tiles and --tile-size, and make_digits.py --size and --density for the large pictures they are for."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from commands import Command
from tinydet_lite.models import DIGITS


def test_tiles_find_small_digits_in_a_large_picture(command: Command, tmp_path: Path) -> None:
    options = ("--train-images", 1, "--val-images", 1, "--size", "960x320", "--density", 0.5)
    made = command("make_digits.py", "--cache", tmp_path, *options)
    assert made.code == 0, made.err
    data = Path(made.out.strip())
    with Image.open(next((data / "val" / "images").iterdir())) as picture:
        assert picture.size == (960, 320)

    found = []
    for more in ([], ["--tiles", "1x3", "--overlap", "0.1"], ["--tile-size", "320", "--no-full-image"]):
        numbers = tmp_path / "numbers.json"
        done = command("evaluate.py", "--model", DIGITS, "--data", data, "--threads", 1, "--json", numbers, *more)
        assert done.code == 0, done.err
        found.append(json.loads(numbers.read_text())["AP50"])
    assert found[1] > found[0] and found[2] > found[0], found


def test_bad_input(command: Command, tmp_path: Path) -> None:
    for arguments, message in (
        (("--tiles", "3"), "rows x columns such as 3x5"),
        (("--tiles", "0x3"), "from 1 to 64"),
        (("--tile-size", "15"), "at least 16"),
        (("--tiles", "2x2", "--tile-size", "320"), "one of the two"),
        (("--tiles", "2x2", "--overlap", "0.95"), "overlap 0.95 came"),
        (("--overlap", "0.1"), "give --tiles or --tile-size too"),
        (("--no-full-image",), "give --tiles or --tile-size too"),
    ):
        command("evaluate.py", "--model", DIGITS, *arguments).assert_refused_alone(message)
    for size in ("320x", "x320", "320x320x3", "-320", "wide"):
        made = command("make_digits.py", "--cache", tmp_path, "--size", size)
        made.assert_refused_alone(f"--size {size} came", "1920x1080")
    command("make_digits.py", "--cache", tmp_path, "--density", 0).assert_refused("density is 0.0")
    assert list(tmp_path.iterdir()) == []
