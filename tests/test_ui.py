"""What people see: numbers, tables, bars."""

from __future__ import annotations

import io
import os
import pty
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from elsa_cli import ui
from elsa_cli.ui import Screen, count, percent, size


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (99_949, "99.9 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (94_900_000, "94.9 MB"),
        (102_400_000_000, "102 GB"),
        (10**12, "1 TB"),
        (5 * 10**18, "5e+03 PB"),
    ],
)
def test_size(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


def test_percent_and_count() -> None:
    assert [percent(f) for f in (0, 0.1, 0.12345, 1)] == [
        "0.00 %",
        "10.00 %",
        "12.35 %",
        "100.00 %",
    ]
    assert count(25_502_912) == "25,502,912"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """Give both ends of a terminal; pytest takes over standard error only after fixtures."""
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with os.fdopen(slave, "w") as stream:
        yield master, stream
    os.close(master)


def seen(terminal: tuple[int, TextIO]) -> str:
    """Return what was shown up to now."""
    master, stream = terminal
    stream.write("THE END")
    stream.flush()
    text = b""
    while not text.endswith(b"THE END"):
        text += os.read(master, 1 << 16)
    return text.decode().removesuffix("THE END")


def work(screen: Screen) -> None:
    with screen.progress("counting sheep") as progress:
        progress(0, 2000)
        for _ in range(4):
            progress(500)


def test_a_bar_on_a_terminal(terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(ui, "BAR_AFTER", -1.0)
    work(Screen())
    assert "counting sheep" in seen(terminal)


def test_no_bar_for_short_work(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(ui, "BAR_AFTER", 3600.0)
    work(Screen())
    assert seen(terminal) == ""


def test_no_bar_when_quiet(terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(ui, "BAR_AFTER", -1.0)
    work(Screen(quiet=True))
    assert seen(terminal) == ""


def test_no_bar_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "BAR_AFTER", -1.0)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    work(Screen())
    assert stream.getvalue() == ""


def test_no_standard_error_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "BAR_AFTER", -1.0)
    monkeypatch.setattr(sys, "stderr", None)
    work(Screen())


def test_the_bar_is_gone_after_an_error(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cursor is shown again, and nothing of it stays."""
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(ui, "BAR_AFTER", -1.0)

    def fail() -> None:
        with Screen().progress("sheep") as progress:
            progress(1, 2)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    text = seen(terminal)
    assert text.rindex("\x1b[?25h") > text.rindex("sheep")


def test_the_line_of_a_training(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal[1])
    with Screen().training_line() as line:
        line.note("before")
        line.update("level [0.9]", 1, 4)
        line.note("[b]done[/b]")
        line.update("level [0.9]", 2, 4)
    text = seen(terminal)
    assert "before\r\n" in text
    assert "50 %" in text
    assert "steps/s" in text
    assert "[b]done[/b]" in text
    assert text.rindex("\x1b[?25h") > text.rindex("level")  # it is taken off the screen


def test_the_line_of_a_training_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Screen().training_line() as line:
        line.update("level 0.9", 1, 4)
        line.note("level 0.9: done")
    assert stream.getvalue() == "level 0.9: done\n"
    with Screen(quiet=True).training_line() as line:
        line.note("nothing")
    assert "nothing" not in stream.getvalue()


def test_a_table_on_a_terminal_and_in_a_log(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "model.layers.31.self_attn.q_proj.weight" * 3
    rows = [[name, "1"], ["[b]x[/b]", "22"]]
    monkeypatch.setattr(sys, "stderr", terminal[1])
    Screen().table(["tensor", "kept"], rows, title="[i]T[/i]")
    assert "\x1b[" in seen(terminal)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    Screen().table(["tensor", "kept"], rows, title="[i]T[/i]")
    text = stream.getvalue()
    assert "\x1b" not in text
    # Names are never cut off or taken for markup; numbers are on the right.
    assert name in text
    assert "[b]x[/b]" in text
    assert "[i]T[/i]" in text
    first, second = (
        next(line.rstrip() for line in text.splitlines() if word in line)
        for word in (name, "[b]x[/b]")
    )
    assert first.endswith(" 1")
    assert second.endswith(" 22")
    assert len(first) == len(second)


def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    screen = Screen(quiet=True)
    screen.table(["a"], [["b"]])
    screen.note("c")
    screen.warn("d")
    assert stream.getvalue() == ""
    Screen().warn("d")
    assert stream.getvalue() == "Warning: d\n"
