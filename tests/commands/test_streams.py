"""Standard input, standard output and standard error."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.shell import names, one_line, sh
from tests.helpers import elsa


def nested_bytes(folder: Path) -> bytes:
    return (folder / "model.elsa.safetensors").read_bytes()


def test_output_to_standard_output(folder: Path, sparse: bytes) -> None:
    before = names(folder)
    done = elsa("extract", "--level", "0.9", "-o", "-", cwd=folder)
    assert (done.returncode, done.stdout) == (0, sparse)
    done = elsa("sparsify", "model.safetensors", "--levels", "0.5,0.7,0.9", "-o", "-", cwd=folder)
    assert (done.returncode, done.stdout) == (0, nested_bytes(folder))
    assert names(folder) == before


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1"])
def test_output_to_a_name_of_standard_output(target: str, folder: Path, sparse: bytes) -> None:
    """A pipe has no folder to make a sibling in: it gets the bytes."""
    done = sh(f"elsa extract --level 0.9 -q -o {target} | cat > out", folder)
    assert (folder / "out").read_bytes().startswith(sparse), done.stderr


def test_output_to_a_fifo(folder: Path, sparse: bytes) -> None:
    os.mkfifo(folder / "fifo")
    done = sh("cat fifo > out & elsa extract --level 0.9 -o fifo; wait", folder)
    assert (done.returncode, done.stdout) == (0, "fifo\n"), done.stderr
    assert (folder / "out").read_bytes() == sparse
    assert (folder / "fifo").is_fifo()


def test_output_through_a_symlink(folder: Path, sparse: bytes) -> None:
    (folder / "real").mkdir()
    (folder / "real" / "file").write_bytes(b"old")
    (folder / "link").symlink_to("real/file")
    assert elsa("extract", "--level", "0.9", "-o", "link", cwd=folder).returncode == 0
    assert (folder / "link").is_symlink()
    assert (folder / "real" / "file").read_bytes() == sparse
    assert names(folder / "real") == ["file"]


@pytest.mark.parametrize("argument", [["-"], []])
def test_bytes_on_standard_input(argument: list[str], folder: Path, sparse: bytes) -> None:
    done = elsa(
        "extract", *argument, "--level", "0.9", "-o", "x", stdin=nested_bytes(folder), cwd=folder
    )
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr
    assert (folder / "x").read_bytes() == sparse
    sh(f"elsa extract {' '.join(argument)} --level 0.9 -o y < model.elsa.safetensors", folder)
    assert (folder / "y").read_bytes() == sparse


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_a_path_on_standard_input(ending: str, folder: Path, sparse: bytes) -> None:
    for path in ("model.elsa.safetensors", str(folder / "model.elsa.safetensors")):
        line = (path + ending).encode()
        done = elsa("extract", "--level", "0.9", "-o", "x", stdin=line, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert (folder / "x").read_bytes() == sparse


@pytest.mark.parametrize("name", ["a", "1234567", "12345678", "ünï cödé.safetensors", " x "])
def test_paths_of_any_length(name: str, folder: Path) -> None:
    (folder / "model.elsa.safetensors").rename(folder / name)
    done = elsa("verify", stdin=f"{name}\n".encode(), cwd=folder)
    assert (done.returncode, done.stdout.decode()) == (0, f"{name}\n"), done.stderr


def test_a_path_that_is_not_unicode(folder: Path) -> None:
    """As in a locale whose standard output is strict."""
    name = b"m\xff.safetensors"
    shutil.copy(os.fsencode(folder) + b"/model.safetensors", os.fsencode(folder) + b"/" + name)
    done = subprocess.run(
        [sys.executable, "-m", "elsa_cli", "sparsify", name, "--levels", "0.5", "-q"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONUTF8": "0"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"m\xff.elsa.safetensors\n"), done.stderr


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (b"none.safetensors\n", 1, "none.safetensors: does not exist"),
        (b"a\nb\n", 2, "neither a safetensors file nor one path"),
        (b"\x00\x01", 2, "neither a safetensors file nor one path"),
        (b"x" * 70_000, 2, "neither a safetensors file nor one path"),
        (b"\x10\0\0\0\0\0\0\0{}", 1, "standard input: the header needs 24 bytes"),
        (b"\x02\0\0\0\0\0\0\0{}", 1, "standard input: holds no levels"),
    ],
)
def test_standard_input_that_cannot_be_used(
    given: bytes, code: int, message: str, folder: Path
) -> None:
    done = elsa("extract", "--level", "0.9", "-o", "x", stdin=given, cwd=folder)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in one_line(done.stderr)
    assert "/dev/fd" not in done.stderr.decode()
    assert "x" not in names(folder)


@pytest.mark.parametrize("redirect", ["< /dev/null", "<&-", "< empty"])
def test_without_standard_input_the_folder_is_searched(
    redirect: str, folder: Path, sparse: bytes
) -> None:
    (folder / "empty").write_bytes(b"")
    done = sh(f"elsa extract --level 0.9 -o x {redirect}", folder)
    assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr
    assert "using model.elsa.safetensors" in done.stderr
    assert (folder / "x").read_bytes() == sparse


def test_sparsify_never_guesses_its_input(folder: Path) -> None:
    done = elsa("sparsify", "--levels", "0.5", cwd=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "no checkpoint is given" in one_line(done.stderr)


def test_no_name_for_the_output(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    done = elsa("sparsify", "--levels", "0.5", stdin=data, cwd=folder)
    assert done.returncode == 2
    assert "give -o FILE, or -o -" in one_line(done.stderr)
    done = elsa("extract", "--level", "0.5", stdin=nested_bytes(folder), cwd=folder)
    assert done.returncode == 2
    # Inspect and verify need none, and have no path to print.
    for command in ("inspect", "verify"):
        done = elsa(command, stdin=nested_bytes(folder), cwd=folder)
        assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, folder: Path, sparse: bytes) -> None:
    """The number of a closed stream must not become that of a file of ours."""
    done = sh(f"elsa extract model.elsa.safetensors --level 0.9 -o x {closed}", folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "x").read_bytes() == sparse


def test_bytes_to_a_closed_standard_output(folder: Path) -> None:
    done = sh("elsa extract --level 0.9 -q -o - >&-", folder)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


@pytest.mark.parametrize(
    "line",
    [
        "extract --level 0.9 -o -",
        "extract --level 0.9 -o x",
        "inspect --json",
        "--help",
        "--version",
    ],
)
def test_a_full_standard_output(line: str, folder: Path) -> None:
    quiet = "" if line.startswith("--") else "-q"
    done = sh(f"elsa {line} {quiet} > /dev/full", folder)
    assert done.returncode == 1
    assert "No space left" in one_line(done.stderr)


@pytest.mark.parametrize("line", ["extract --level 0.9 -o -", "inspect --json", "--help", "verify"])
def test_a_closed_pipe_ends_quietly(line: str, folder: Path) -> None:
    quiet = "" if line == "--help" else "-q"
    done = sh(f"(elsa {line} {quiet}; echo $? >&2) | head -c 0", folder)
    assert re.fullmatch(r"\d+\n", done.stderr), done.stderr
    # Output so short that it fits the pipe may be written before its reader is gone.
    assert int(done.stderr) in (0, 1)


def test_a_pipe_closed_in_the_middle(made: Path) -> None:
    done = sh("(elsa extract model.elsa.safetensors --level 0.9 -q -o -; echo $? >&2) "
              "| head -c 10 | wc -c", made)  # fmt: skip
    assert done.stdout.strip() == "10"
    assert re.fullmatch(r"\d+\n", done.stderr), done.stderr


def test_tables_go_to_standard_error_without_colours(folder: Path) -> None:
    for line in (
        ["sparsify", "model.safetensors", "--levels", "0.5", "-o", "a", "-v"],
        ["extract", "model.elsa.safetensors", "--level", "0.9", "-v"],
        ["inspect", "model.elsa.safetensors"],
        ["inspect", "model.safetensors"],
        ["pack", "model.elsa.safetensors"],
        ["verify", "model.elsa.safetensors"],
        ["verify", "model.safetensors"],
        ["extract"],
    ):
        done = elsa(*line, cwd=folder)
        assert b"\x1b" not in done.stdout + done.stderr
        assert done.stderr
        assert len(done.stdout.splitlines()) <= 1


def test_quiet(folder: Path) -> None:
    for line in (
        ["sparsify", "model.safetensors", "--levels", "0.5", "-o", "a"],
        ["extract", "model.elsa.safetensors", "--level", "0.9", "-o", "a"],
        ["inspect", "model.elsa.safetensors"],
        ["pack", "model.elsa.safetensors", "-o", "a"],
        ["pack", "--unpack", "a", "-o", "b"],
        ["verify", "b"],
        ["verify"],
    ):
        done = elsa(*line, "-q", cwd=folder)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().strip() in (line[-1], "model.elsa.safetensors")
    done = elsa("extract", "--level", "0.8", "-q", cwd=folder)
    assert "not stored" in one_line(done.stderr)


def on_a_terminal(*args: str, cwd: Path, **env: str) -> tuple[int, str]:
    """Run with a terminal as standard error and output; return the code and what it shows."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "elsa_cli", *args],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | env,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            got = os.read(master, 1 << 16)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not got:
            break
        shown += got
    os.close(master)
    return process.wait(), shown.decode()


def test_terminal_and_no_color(folder: Path) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7]|10[0-7]|38|48)[0-9;]*m")
    code, shown = on_a_terminal("extract", "--level", "0.8", cwd=folder)
    assert code == 1
    assert colour.search(shown)
    for line in (["extract", "--level", "0.8"], ["inspect"], ["sparsify"]):
        _, shown = on_a_terminal(*line, cwd=folder, NO_COLOR="1")
        assert not colour.search(shown), shown


def test_bytes_are_not_sent_to_a_terminal(folder: Path) -> None:
    code, shown = on_a_terminal("extract", "--level", "0.9", "-o", "-", cwd=folder)
    assert code == 2
    assert "standard output is a terminal" in shown
