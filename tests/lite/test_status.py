"""The line that changes: on a terminal it is replaced and taken away, in a log it never stands."""

import io

import pytest

from tinydet_lite.commands.doctor import told
from tinydet_lite.lab.checkup import Finding
from tinydet_lite.status import StatusLine, doing


class Terminal(io.StringIO):
    def isatty(self):
        return True


def seen(written):
    """What a terminal of any width shows of `written` in the end, without blanks at lines' ends."""
    lines = []
    for text in written.split("\n"):
        shown = ""
        for part in text.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return "\n".join(lines)


def test_a_line_replaces_the_one_before_it_and_is_taken_away():
    terminal = Terminal()
    line = StatusLine(terminal)
    line.show("round 10 of 12")
    line.show("done")
    assert seen(terminal.getvalue()) == "done"
    line.clear()
    print("the result", file=terminal)
    assert seen(terminal.getvalue()) == "the result\n"


def test_it_is_no_wider_than_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    StatusLine(terminal).show("x" * 50)
    assert terminal.getvalue() == "\r" + "x" * 19


@pytest.mark.parametrize("stream", [io.StringIO(), None], ids=["a file", "no stream"])
def test_elsewhere_nothing_is_written(stream):
    line = StatusLine(stream)
    line.show("round 1 of 2")
    line.clear()
    assert not line.visible and (stream is None or stream.getvalue() == "")


def test_what_is_being_done_is_said_until_it_is_done_or_fails(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with doing("loading TensorFlow"):
        assert seen(terminal.getvalue()) == "loading TensorFlow ..."
    assert seen(terminal.getvalue()) == ""
    with pytest.raises(ImportError), doing("loading TensorFlow"):
        raise ImportError
    assert seen(terminal.getvalue()) == ""


def test_the_check_up_says_that_it_looks_before_each_finding(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    states = []

    def findings():
        for topic in ("version", "processor"):
            states.append(seen(terminal.getvalue()))
            yield Finding(topic, "as it should be")
        states.append(seen(terminal.getvalue()))

    told(findings())
    assert states == ["looking ..."] * 3
    assert seen(terminal.getvalue()) == ""
    assert capsys.readouterr().out.splitlines()[-1] == "All is well."
