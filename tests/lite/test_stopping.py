"""Signals as a question: the first is noted, the second interrupts, while files are closed none does."""

import os
import signal
import threading

import pytest

from tinydet_lite.commands.stopping import StopSignals


def send(number):
    os.kill(os.getpid(), number)


def test_without_a_signal():
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        assert not stop()
        assert signal.getsignal(signal.SIGINT) is not before
    stop.pass_on()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143), (signal.SIGHUP, SystemExit, 129)],
    ids=["int", "term", "hup"],
)
def test_the_first_is_noted_and_passed_on_later(number, error, code, monkeypatch):
    # nohup, under which the tests may run, ignores SIGHUP.
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    with StopSignals() as stop:
        send(number)
        assert stop()
    with pytest.raises(error) as raised:
        stop.pass_on()
    assert getattr(raised.value, "code", None) == code


def test_the_second_interrupts_unless_files_are_being_closed():
    with StopSignals() as stop:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        stop.finishing()
        send(signal.SIGINT)
        send(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        stop.pass_on()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            send(signal.SIGTERM)
            assert not stop()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_it_does_nothing():
    asked = []

    def work():
        with StopSignals() as stop:
            asked.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]
