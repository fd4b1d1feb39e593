"""The group: its commands, its version, and how it is started."""

from __future__ import annotations

import errno
import pkgutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from elsa_cli import cli as module
from elsa_cli import commands
from elsa_cli.cli import cli
from elsa_cli.errors import Call, ElsaError, Param, UsageError, Words
from tests.helpers import elsa


def test_commands_are_the_files() -> None:
    files = {m.name for m in pkgutil.iter_modules(commands.__path__) if m.name[0] != "_"}
    context = click.Context(cli)
    assert {name.replace("-", "_") for name in cli.list_commands(context)} == files
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
    assert cli.get_command(context, "_options") is None
    assert cli.get_command(context, "nonsense") is None


def test_version() -> None:
    done = elsa("--version")
    assert (done.returncode, done.stdout) == (0, f"elsa {version('elsa-cli')}\n".encode())


def test_the_script_is_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "elsa"
    if not script.exists():
        pytest.skip("the script is not installed beside this interpreter")
    for line in (["--help"], ["extract", "--level", "0.9"], ["nonsense"]):
        ours, theirs = (
            subprocess.run(
                [*start, *line],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd=tmp_path,
                check=False,
            )
            for start in ([sys.executable, "-m", "elsa_cli"], [script])
        )
        forked = elsa(*line, cwd=tmp_path)  # what the other tests look at is no other thing
        assert (forked.returncode, forked.stdout) == (ours.returncode, ours.stdout)
        assert forked.stderr == ours.stderr
        assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
        assert ours.stderr == theirs.stderr


def test_no_command_shows_the_help() -> None:
    done = elsa()
    assert done.returncode in (0, 2)
    assert b"sparsify" in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr


class Boom(ElsaError):
    exit_code = 7


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("a\nb", hint="c"), 2, "Error: a b; c\n"),
        (Boom("x", file="f", tensor="t"), 7, "Error: f: t: x\n"),
        (click.UsageError("a\n  b"), 2, "Error: a b (see `elsa --help`)\n"),
        (KeyboardInterrupt(), 130, "\nError: interrupted\n"),
        (OSError(5, "bad disk", "f"), 1, "Error: f: bad disk\n"),
        (OSError(28, "full"), 1, "Error: standard output: full\n"),
        (MemoryError(), 1, "Error: out of memory; close other programs, or use fewer --threads\n"),
        (BrokenPipeError(), 1, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_becomes_a_line_and_a_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """click itself ends the line that a ^C stands in."""

    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr(module, "cli", fails)
    assert module._run([]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("a", hint="b"), 2, "Error: a; b"),
        (Boom("x"), 7, "Error: x"),
        (OSError(5, "bad disk", "f"), 1, "Error: f: bad disk"),
        (MemoryError(), 1, "Error: out of memory; close other programs, or use fewer --threads"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_debug_adds_a_traceback(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line and the exit code are the same."""

    @click.command()
    @click.option("--debug", is_flag=True)
    def fails(debug: bool) -> None:
        raise error

    monkeypatch.setattr(module, "cli", fails)
    assert module._run(["--debug"]) == code
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "Traceback (most recent call last):"
    assert shown[-1] == line
    assert module._run([]) == code
    assert capsys.readouterr().err == line + "\n"


def test_an_error_names_the_options_of_the_command_that_ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**values: object) -> None:
        raise UsageError(Words("{} is bad", Param("masks", "x")), hint=Words("{}", Call("pack")))

    command = cli.get_command(click.Context(cli), "sparsify")
    assert command is not None
    monkeypatch.setattr(command, "callback", fails)
    assert module._run(["sparsify", "m", "--levels", "0.5"]) == 2
    assert capsys.readouterr().err == "Error: --masks x is bad; `elsa pack`\n"


def test_a_broken_pipe_that_click_sees(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends the program itself, with the same code."""

    @click.command()
    def fails() -> None:
        raise BrokenPipeError(errno.EPIPE, "broken")

    monkeypatch.setattr(module, "cli", fails)
    with pytest.raises(SystemExit) as caught:
        module._run([])
    assert caught.value.code == 1
    assert capsys.readouterr().err == ""


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fails() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "cli", fails)
    with pytest.raises(ZeroDivisionError):
        module._run([])
