"""How commands end, and that a file is written whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from tinydet_lite.cli import run
from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_path, atomic_write


def _raiser(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("two\nlines  here"), 2, "prog.py: error: two lines here\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "prog.py: error: No space left on device\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "f"),
            2,
            "prog.py: error: f: Permission denied\n",
        ),
        (KeyboardInterrupt(), 130, "prog.py: interrupted\n"),
    ],
)
def test_run_prints_one_line(monkeypatch, capsys, error, code, line):
    monkeypatch.setattr(sys, "argv", ["/somewhere/prog.py"])
    with pytest.raises(SystemExit) as stop:
        run(_raiser(error))
    assert stop.value.code == code
    assert capsys.readouterr() == ("", line)


def test_run_returns_after_success_and_keeps_the_traceback_of_a_bug():
    ran = []
    run(lambda: ran.append(1))
    assert ran == [1]
    with pytest.raises(ZeroDivisionError):
        run(_raiser(ZeroDivisionError()))


def test_run_survives_a_reader_that_goes_away():
    program = "from tinydet_lite.cli import run\nrun(lambda: [print('x' * 1000) for _ in range(10000)])"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(10)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 141


def test_atomic_write_replaces_whole(tmp_path):
    target = tmp_path / ("a" * 240 + ".json")
    atomic_write(target, b"old")
    atomic_write(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == [target.name]


def test_atomic_write_respects_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        atomic_write(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_atomic_path_leaves_the_old_file_when_the_block_raises(tmp_path, error):
    target = tmp_path / "x.weights.h5"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".weights.h5")  # Keras insists on it
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.weights.h5"]


def test_atomic_write_errors_name_file_and_reason(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*missing"):
        atomic_write(tmp_path / "missing" / "x", b"")
    with pytest.raises(UserError, match="is a folder"):
        atomic_write(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot write .*x"):
        atomic_write(tmp_path / "file" / "x", b"")


def test_atomic_write_cleans_up_when_the_disk_is_full(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*x: No space left on device"):
        atomic_write(tmp_path / "x", b"data")
    assert os.listdir(tmp_path) == []
