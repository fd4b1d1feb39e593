"""Standard input is read where it is asked for, and nothing of it that is meant for others."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elsa_cli.commands import _input
from elsa_cli.commands._input import open_input, open_optional
from elsa_cli.errors import ElsaError, InputError, UsageError
from elsa_cli.ui import Screen
from tests.commands import shell
from tests.commands.forkserver import shared
from tests.commands.shell import names, one_line
from tests.helpers import elsa, write_raw

NESTED = "model.elsa.safetensors"
EXTRACT = "elsa extract --level 0.9"
sh = functools.partial(shell.sh, kind="light")


def script(text: str, folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Run a script that a shell reads from standard input."""
    (folder / "script").write_text(f'elsa() {{ {shared("light").shell} "$@"; }}\n{text}')
    with (folder / "script").open() as file:
        return subprocess.run(
            [name], stdin=file, capture_output=True, text=True, cwd=folder, check=False
        )


NAMED = [
    ["sparsify", "model.safetensors", "--levels", "0.5", "-o", "a"],
    ["extract", NESTED, "--level", "0.9", "-o", "b"],
    ["inspect", NESTED],
    ["verify", NESTED],
    ["pack", NESTED, "-o", "c"],
]


@pytest.mark.parametrize("line", NAMED, ids=lambda line: line[0])
@pytest.mark.parametrize("position", [0, 3])
def test_a_named_checkpoint_leaves_standard_input_alone(
    line: list[str], position: int, folder: Path
) -> None:
    (folder / "list").write_bytes(b"one\ntwo\n")
    with (folder / "list").open("rb", buffering=0) as file:
        file.seek(position)
        done = elsa(*line, stdin=file, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert file.tell() == position
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        writer.write(b"one\ntwo\n")
        writer.flush()  # and it is never closed while the command runs
        done = elsa(*line, stdin=reader, cwd=folder)
        assert done.returncode == 0, done.stderr
        writer.close()
        assert reader.read() == b"one\ntwo\n"


def test_a_loop_over_checkpoints(folder: Path) -> None:
    for source in ("printf 'model\\nother\\n' | ", ""):
        (folder / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        (folder / "list").write_text("model\nother\n")
        loop = "while read x; do elsa sparsify $x.safetensors --levels 0.5 -o $x.out; done"
        done = sh(source + loop + ("" if source else " < list"), folder)
        assert (done.returncode, done.stdout) == (0, "model.out\nother.out\n"), done.stderr


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_script_on_standard_input(shell: str, folder: Path, sparse: bytes) -> None:
    """Its rest is the shell's: without a checkpoint, the folder is searched."""
    done = script(f"{EXTRACT} -o x\necho next\n{EXTRACT} -o y\necho end", folder, shell)
    assert (done.returncode, done.stdout) == (0, "x\nnext\ny\nend\n"), done.stderr
    assert done.stderr.count(f"using {NESTED}") == 2
    assert (folder / "x").read_bytes() == (folder / "y").read_bytes() == sparse


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_loop_over_the_lines_of_a_file(shell: str, folder: Path, sparse: bytes) -> None:
    (folder / "list").write_text("x\ny\n")
    text = f'while read name; do {EXTRACT} -o "$name"; done < list'
    done = script(text, folder, shell)
    assert (done.returncode, done.stdout) == (0, "x\ny\n"), done.stderr
    assert (folder / "x").read_bytes() == (folder / "y").read_bytes() == sparse


def test_a_loop_over_the_lines_of_a_pipe(folder: Path) -> None:
    """It cannot be told from a path that is piped in; but nothing is taken in silence."""
    before = names(folder)
    done = sh(f"printf 'out-1\\nout-2\\n' | while read x; do {EXTRACT} -o $x; done", folder)
    error = one_line(done.stderr)
    assert "out-2: does not exist; standard input gave this name; name a checkpoint" in error
    done = sh(f"printf '\\n%s\\n%s\\n' {NESTED} out-2 | (read x; {EXTRACT} -o $x-)", folder)
    error = one_line(done.stderr)
    assert "neither a safetensors file nor one path: it has more lines, the first is" in error
    assert f"'{NESTED}' ({len(NESTED) + 2} bytes were read from it)" in error
    done = sh(f"echo out-1 | while read x; do {EXTRACT} -o $x; done", folder)
    assert "standard input is an empty pipe" in one_line(done.stderr)
    assert names(folder) == before


def test_no_more_of_a_pipe_is_taken_than_has_to_be(folder: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        with os.fdopen(write, "wb") as writer:
            writer.write(f"{NESTED}\n\nsecond\nthird\n".encode())
        done = elsa("verify", stdin=reader, cwd=folder)
        assert done.returncode == 2
        assert "it has more lines" in one_line(done.stderr)
        assert reader.read() == b"econd\nthird\n"


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (b"none.safetensors\n", 1, "none.safetensors: does not exist; standard input gave"),
        (b"folder\n", 1, "folder: is a folder; standard input gave this name"),
        (b"model.safetensors\nmodel.safetensors\n", 2, "it has more lines, the first is 'model.s"),
        (b"\n" * 100, 2, "neither a safetensors file nor one path; pipe"),
        (b"\nmodel.safetensors\n", 2, "neither a safetensors file nor one path"),
        (b"ab\0" * 100, 2, "neither a safetensors file nor one path"),
        (b"x" * 70_000, 2, "neither a safetensors file nor one path"),
        (b"\x1b[2J\x9b\n", 1, r"\x1b[2J\x9b: does not exist"),
    ],
)
@pytest.mark.parametrize("argument", [[], ["-"]])
def test_a_file_that_is_no_checkpoint_stays_where_it_was(
    argument: list[str], text: bytes, code: int, message: str, folder: Path
) -> None:
    (folder / "folder").mkdir()
    (folder / "text").write_bytes(text)
    with (folder / "text").open("rb", buffering=0) as file:
        done = elsa("inspect", *argument, stdin=file, cwd=folder)
        assert (done.returncode, done.stdout) == (code, b"")
        error = one_line(done.stderr)
        assert message in error
        assert ("to leave standard input alone" in error) == (not argument)
        assert "were read" not in error
        assert file.tell() == 0


def test_a_hyphen_reads_a_file_from_where_it_is(folder: Path) -> None:
    (folder / "list").write_text(f"first\n{NESTED}\n")
    done = sh("(read x; elsa verify -; elsa verify) < list", folder)
    assert done.stdout == f"{NESTED}\n{NESTED}\n", done.stderr
    assert f"using {NESTED}" in done.stderr  # by the second, to which the list does not belong


@pytest.mark.parametrize("failing", ["false", "elsa sparsify none --levels 0.5", ":"])
@pytest.mark.parametrize("line", [f"{EXTRACT} -o x", "elsa pack", "elsa sparsify --levels 0.5"])
def test_an_empty_pipe_is_an_error(failing: str, line: str, folder: Path) -> None:
    """The checkpoint in the folder may be an old one, of before the command that failed."""
    before = names(folder)
    done = sh(f"{failing} 2>&- | {line}", folder)
    assert (done.returncode, done.stdout) == (2, "")
    error = one_line(done.stderr)
    assert "standard input is an empty pipe: nothing was written into it; name a ch" in error
    assert ("add < /dev/null" in error) == ("sparsify --levels" not in line)
    assert names(folder) == before
    asked = sh(f"{failing} 2>&- | {line.replace(' --l', ' - --l')} -", folder)
    assert asked.returncode == 2


class Pipe:
    """A pipe in the place of standard input.

    Attributes:
        notes: What the screen was told.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read, self._write = os.pipe()
        monkeypatch.setattr(_input, "STDIN", self._read)
        self.notes: list[str] = []
        self.then: Callable[[], None] = lambda: None
        self.screen = Screen()
        monkeypatch.setattr(self.screen, "note", self._hear)

    def _hear(self, text: str) -> None:
        self.notes.append(text)
        self.then()

    def write(self, data: bytes) -> None:
        os.write(self._write, data)

    def end(self) -> None:
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def close(self) -> None:
        self.end()
        os.close(self._read)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    made = Pipe(monkeypatch)
    yield made
    made.close()


@pytest.mark.parametrize("argument", [None, "-"])
def test_a_silent_pipe_is_waited_for_and_said_so_once(
    argument: str | None, pipe: Pipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe gets its line only when it is told that it is waited for."""
    monkeypatch.chdir(folder)

    def then() -> None:
        pipe.write(f"{NESTED}\n".encode())
        pipe.end()

    pipe.then = then
    with open_input(argument, pipe.screen, search=True, patience=0) as found:
        assert (found.path, found.named) == (NESTED, True)
    assert pipe.notes == [
        "waiting for standard input: a path or a safetensors file; name a file to read that instead"
    ]


def test_a_pipe_that_speaks_is_not_spoken_of(
    pipe: Pipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    pipe.write(f"{NESTED}\n".encode())
    pipe.end()
    with open_input(None, pipe.screen, search=True, patience=3600) as found:
        assert found.path == NESTED
    assert pipe.notes == []


def test_a_header_whose_length_has_a_line_break_in_it(pipe: Pipe, tmp_path: Path) -> None:
    """The second of its bytes is 10, and they come in two parts."""
    data = write_raw(tmp_path / "file", b"{}".ljust(2648)).read_bytes()
    assert data[:8] == bytes([0x58, 10, 0, 0, 0, 0, 0, 0])

    def then() -> None:
        pipe.write(data[2:])
        pipe.end()

    pipe.write(data[:2])
    pipe.then = then
    with open_input(None, pipe.screen, search=False, patience=0) as found:
        assert not found.named
        assert Path(found.path).read_bytes() == data


def test_the_command_waits_and_says_so(folder: Path) -> None:
    """It says so before it gets a byte; and not under -q."""
    code = (
        "from elsa_cli.cli import main\n"
        "from elsa_cli.commands._input import open_input\n"
        "open_input.__wrapped__.__kwdefaults__['patience'] = 0.0\n"
        "main()"
    )
    for quiet in ([], ["-q"]):
        process = subprocess.Popen(
            [sys.executable, "-c", code, "verify", *quiet],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
        )  # fmt: skip
        assert process.stderr is not None
        said = b"" if quiet else process.stderr.readline()
        assert said.startswith(b"" if quiet else b"waiting for standard input: a path or")
        out, err = process.communicate(f"{NESTED}\n".encode(), timeout=60)
        assert (process.returncode, out) == (0, f"{NESTED}\n".encode())
        assert b"waiting" not in err


def test_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(_input, "STDIN", folder)
    with (
        pytest.raises(InputError, match="standard input: cannot be read: Is a directory"),
        open_input("-", Screen(), search=False),
    ):
        pass
    os.close(folder)
    with (  # nor is it there any more
        pytest.raises(UsageError, match="no checkpoint is given"),
        open_input(None, Screen(), search=False),
    ):
        pass


def test_an_optional_checkpoint_is_never_looked_for(pipe: Pipe) -> None:
    pipe.write(b"0.003\n")
    pipe.end()
    with open_optional(None, pipe.screen) as found:
        assert found is None
    with (
        pytest.raises(ElsaError, match=r"0\.003: does not exist; standard input gave this name$"),
        open_optional("-", pipe.screen),
    ):
        pass


def test_a_loop_over_trainings_of_a_new_model(tmp_path: Path) -> None:
    """Each has its own rate; none takes the next one's from the loop."""
    pytest.importorskip("torch")
    from tests.commands.tiny import write_recipe

    write_recipe(tmp_path)
    train = "elsa freeze-train --levels 0.5 --recipe recipe.py --steps 1 -q"
    loop = f"printf '0.01\\n0.003\\n' | while read lr; do {train} --lr $lr -o $lr.safetensors; done"
    done = sh(loop, tmp_path, kind="torch")
    assert (done.returncode, done.stdout) == (0, "0.01.safetensors\n0.003.safetensors\n"), done
    assert (tmp_path / "0.01.safetensors").read_bytes() != (
        tmp_path / "0.003.safetensors"
    ).read_bytes()
    (tmp_path / "lines").write_text("x\nnext\n")
    again = f"(read x; {train} 0.01.safetensors --steps 0; read y; echo $y) < lines"
    done = sh(again.replace("--levels 0.5 ", ""), tmp_path, kind="torch")
    assert done.stdout == "0.01.trained.elsa.safetensors\nnext\n", done.stderr


def test_a_hyphen_gives_a_training_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.commands.tiny import write_model

    write_model(tmp_path)
    train = "elsa freeze-train - --levels 0.5 --recipe recipe.py --steps 1 -q"
    done = sh(f"echo model.safetensors | {train}", tmp_path, kind="torch")
    assert (done.returncode, done.stdout) == (0, "model.trained.elsa.safetensors\n"), done.stderr
    done = sh(f"true | {train}", tmp_path, kind="torch")
    assert "standard input is empty" in one_line(done.stderr)
