"""What people see: tables, lines, bars."""

from __future__ import annotations

import io
import os
import pty
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest

from elsa_cli.ui import Screen, progress


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
    return seen_to_the_end(master)


def work(screen: Screen) -> None:
    with screen.progress("counting sheep") as progress:
        progress(0, 2000)
        for _ in range(4):
            progress(500)


def test_a_bar_on_a_terminal(terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(progress, "BAR_AFTER", -1.0)
    work(Screen())
    assert "counting sheep" in seen(terminal)


def test_no_bar_for_short_work(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(progress, "BAR_AFTER", 3600.0)
    work(Screen())
    assert seen(terminal) == ""


def test_no_bar_when_quiet(terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(progress, "BAR_AFTER", -1.0)
    work(Screen(quiet=True))
    assert seen(terminal) == ""


def test_no_bar_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_AFTER", -1.0)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    work(Screen())
    assert stream.getvalue() == ""


def test_no_standard_error_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_AFTER", -1.0)
    monkeypatch.setattr(sys, "stderr", None)
    work(Screen())


def test_the_bar_is_gone_after_an_error(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cursor is shown again, and nothing of it stays."""
    monkeypatch.setattr(sys, "stderr", terminal[1])
    monkeypatch.setattr(progress, "BAR_AFTER", -1.0)

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


ODD = "a\x1b[2Jb\x07c\rd\x00e\x9bf\u202eg\u2066h\ud800i\udcffj"
SHOWN = r"a\x1b[2Jb\x07c\rd\x00e\x9bf\u202eg\u2066h\ud800i\xffj"


def test_nothing_that_is_shown_steers_the_terminal(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr(sys, "stderr", terminal[1])
    screen = Screen(quiet=False)
    screen.table([ODD, "b"], [[ODD, ODD]], title=ODD)
    screen.note(ODD)
    screen.warn(ODD)
    screen.problem(ODD)
    with screen.training_line() as line:
        line.note(ODD)
    text = seen(terminal)
    assert text.count(SHOWN) == 8
    plain = text.replace("\x1b[1mWarning: \x1b[0m", "Warning: ")
    assert [c for c in plain if not c.isprintable() and c not in "\r\n"] == []


def test_the_line_of_a_training_takes_names_as_they_are(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No markup, no pictures for words between colons, and nothing that steers the terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", terminal[1])
    with Screen().training_line() as line:
        line.update("start", 1, 4)
        line.note(f"[/b]{ODD} :smile: 1")
        line.update(f"[/b]{ODD} :smile: 2", 2, 4)
    text = seen(terminal)
    assert f"[/b]{SHOWN} :smile: 1" in text
    assert f"[/b]{SHOWN} :smile: 2" in text
    for odd in ("\x1b[2J", "\x07", "\x00", "\x9b", "\u202e", "\u2066"):
        assert odd not in text


@pytest.mark.parametrize(
    ("verbose", "number", "left_out"),
    [
        (False, 1234, "… 1,194 more rows; -v shows them all"),
        (None, 41, "… 1 more rows; redirect standard error to see them all"),
        (True, 1234, None),
        (False, 40, None),
    ],
)
def test_a_long_table_is_cut_on_a_terminal_only(
    verbose: bool | None,
    number: int,
    left_out: str | None,
    terminal: tuple[int, TextIO],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[f"row {at}", str(at)] for at in range(number)]
    monkeypatch.setattr(sys, "stderr", terminal[1])
    everything: list[str] = []
    reader = threading.Thread(target=lambda: everything.append(seen_to_the_end(terminal[0])))
    reader.start()
    Screen(verbose=verbose).table(["tensor", "number"], rows)
    terminal[1].write("THE END")
    terminal[1].flush()
    reader.join()
    lines = everything[0].splitlines()
    names = [line.split()[1] for line in lines if line.startswith(" row ")]
    every = [str(at) for at in range(number)]
    assert names == (every if left_out is None else every[:20] + every[-20:])
    if left_out is not None:
        assert lines.index(f" {left_out}") == 3 + 20  # the blank line, the names, the rule
    else:
        assert "more rows" not in everything[0]
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    Screen(verbose=verbose).table(["tensor", "number"], rows)
    assert len(stream.getvalue().splitlines()) == number + 4


def seen_to_the_end(master: int) -> str:
    text = b""
    while not text.endswith(b"THE END"):
        text += os.read(master, 1 << 16)
    return text.decode().removesuffix("THE END")


@pytest.mark.parametrize(
    ("env", "bold"), [({}, True), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)]
)
def test_the_names_of_columns_are_bold(
    env: dict[str, str],
    bold: bool,
    terminal: tuple[int, TextIO],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bold is no colour; a terminal that says it is dumb gets nothing."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", terminal[1])
    Screen().table(["tensor"], [["a"]])
    text = seen(terminal)
    assert ("\x1b[1mtensor\x1b[0m" in text) == bold
    assert ("\x1b" in text) == bold


@pytest.mark.parametrize(("columns", "longest"), [("60", 60), ("30", 30), ("500", 133)])
def test_a_table_fits_the_terminal(
    columns: str, longest: int, terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", terminal[1])
    name = "model.layers.31.self_attn.q_proj.weight" * 3
    Screen().table(["tensor", "kept"], [[name, "12.00 %"]])
    lines = seen(terminal).splitlines()
    assert max(map(len, lines)) <= longest
    assert name in "".join(line[: longest - 10].strip() for line in lines)


def test_a_terminal_of_unknown_width(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new pseudo-terminal says that it has no columns; 80 are as good as any."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", terminal[1])
    Screen().table(["tensor"], [["x" * 100]])
    assert " " + "x" * 78 + "\r\n " + "x" * 22 + "\r\n" in seen(terminal)


def test_a_table_where_there_is_no_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1", "backslashreplace")
    monkeypatch.setattr(sys, "stderr", stream)
    Screen().table(["tensor"], [["é模"]])
    stream.flush()
    assert stream.buffer.getvalue() == b"\n tensor\n ------\n \xe9\\u6a21\n\n"


def test_a_table_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    Screen().table(["tensor"], [["a"]])
    Screen().problem("b")
