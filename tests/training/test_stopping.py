"""The first signal asks, the second one ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from elsa_cli.training.stopping import StopSignals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


class Ended(Exception):
    """Raised by the handler of a test."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_ends(number: int) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with StopSignals() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
        assert stop.signal == number
        with pytest.raises(Ended):
            signal.raise_signal(number)
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_signals_are_given_back() -> None:
    with StopSignals():
        pass
    for number in SIGNALS:
        with pytest.raises(Ended):
            signal.raise_signal(number)


def test_signals_are_given_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), StopSignals():
        raise ZeroDivisionError
    with pytest.raises(Ended):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_was_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)  # as under nohup, or in the background
    with StopSignals() as stop:
        signal.raise_signal(number)
        assert not stop.asked
    assert signal.getsignal(number) is signal.SIG_IGN


def test_another_thread_takes_no_signals() -> None:
    found: list[bool] = []

    def work() -> None:
        with StopSignals() as stop:
            found.append(stop.asked)

    before = [signal.getsignal(n) for n in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert [signal.getsignal(n) for n in SIGNALS] == before
