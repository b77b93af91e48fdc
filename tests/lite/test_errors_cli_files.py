"""How commands end, and that a file is written whole or not at all."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from tinydet_lite.cli import run
from tinydet_lite.errors import UserError, printable
from tinydet_lite.files import atomic_path, atomic_write, check_target, remove_leftovers


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


# Writes half a file and waits; what SIGTERM or SIGKILL then leave of it is the tests' question.
_WAITING = """
import signal, sys, time
from tinydet_lite.cli import run
from tinydet_lite.files import atomic_path

def main():
    with atomic_path(sys.argv[1]) as temporary:
        temporary.write_bytes(b"half")
        print("ready", flush=True)
        time.sleep(60)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, ignores it
run(main)
"""


def _stop_half_way(target, number):
    """The exit code of a process that got a signal between opening and finishing `target`."""
    child = subprocess.Popen(
        [sys.executable, "-c", _WAITING, str(target)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        try:
            assert child.stdout.readline() == "ready\n"
            assert len(os.listdir(target.parent)) == 1
            child.send_signal(number)
            assert child.stderr.read() == ""
        finally:
            child.kill()
    return child.returncode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["term", "hup"])
def test_termination_leaves_nothing_half_written(tmp_path, number, code):
    assert _stop_half_way(tmp_path / "x.json", number) == code
    assert os.listdir(tmp_path) == []


def test_what_sigkill_leaves_is_found_later(tmp_path):
    assert _stop_half_way(tmp_path / "x.json", signal.SIGKILL) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert remove_leftovers(tmp_path) == [left]
    assert os.listdir(tmp_path) == []


def test_sigterm_is_as_before_when_run_returns(monkeypatch):
    during = []
    run(lambda: during.append(signal.getsignal(signal.SIGTERM)))
    with pytest.raises(ZeroDivisionError):
        run(_raiser(ZeroDivisionError()))
    assert callable(during[0])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    # Somebody's own handler stays, and so does "ignore".
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("changed"))
    run(lambda: None)


def test_run_works_outside_the_main_thread():
    during = []
    thread = threading.Thread(target=run, args=[lambda: during.append(signal.getsignal(signal.SIGTERM))])
    thread.start()
    thread.join()
    assert during == [signal.SIG_DFL]


def test_remove_leftovers_takes_only_its_own(tmp_path):
    for name in ("x", "a" * 240 + ".json", "line\nbreak", "\N{SNOWMAN}" * 80, "-"):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_bytes(b"half")
            os.link(temporary, tmp_path / "kept")
        (tmp_path / name).unlink()
        (tmp_path / "kept").rename(temporary)  # as if killed before the end
    token = "0123456789ab"
    link, folder = f".tinydet-partial-{token}-link", f".tinydet-partial-{token}-folder"
    users = {
        "x", ".x", f".{token}-x", f"tinydet-partial-{token}-x", f".tinydet-partial-{token}-",
        f".tinydet-partial-{token[:-1]}-x", ".tinydet-partial-0123456789AB-x", f".tinydet-partial-{token}-" + 51 * "x",
    }  # fmt: skip
    for name in users:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / link).symlink_to(tmp_path / "x")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f".tinydet-partial-{token}-deep").write_bytes(b"")
    removed = remove_leftovers(tmp_path)
    assert len(removed) == 5 and removed == sorted(removed)
    assert set(os.listdir(tmp_path)) == users | {link, folder}
    assert len(os.listdir(tmp_path / folder)) == 1
    assert remove_leftovers(tmp_path) == []


def test_remove_leftovers_of_no_folder(tmp_path):
    assert remove_leftovers(tmp_path / "missing") == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"folder .*file cannot be read"):
        remove_leftovers(tmp_path / "file")


def test_printable_escapes_what_a_terminal_would_obey():
    assert printable("\x1b[2Jcat\r\x9b\0") == "\\x1b[2Jcat\\x0d\\x9b\\x00"
    assert printable("caf\xe9 \u202f\u732b \U0001f408") == "caf\xe9 \u202f\u732b \U0001f408"


@pytest.mark.parametrize("path", [".", "/", "..", ""])
def test_folders_without_a_name_are_folders_too(path):
    with pytest.raises(UserError, match=rf"cannot write {re.escape(path)}.*: it is a folder"), atomic_path(path):
        pytest.fail("entered")


def test_check_target(tmp_path):
    assert check_target(str(tmp_path / "x")) == tmp_path / "x"
    with pytest.raises(UserError, match=r"cannot write /dev/null: it is a device"):
        check_target("/dev/null")
    with pytest.raises(UserError, match=r"there is no folder .*missing"):
        check_target(tmp_path / "missing" / "x")
    with pytest.raises(UserError, match=r"File name too long"):
        atomic_write(tmp_path / ("x" * 300), b"")
    assert os.listdir(tmp_path) == []


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
