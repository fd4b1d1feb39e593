"""Exit codes, and one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.shell import names, one_line
from tests.helpers import elsa
from tests.operations.models import flip, place

NESTED = "model.elsa.safetensors"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("extract --level 0.8", 1, f"{NESTED}: level 0.8 is not stored; stored are 0.9, 0.7, 0.5"),
        ("extract model.safetensors --level 0.9", 1, "model.safetensors: holds no levels; make"),
        ("extract none --level 0.9", 1, "none: does not exist"),
        ("extract . --level 0.9", 1, ".: is a folder"),
        ("sparsify folder --levels 0.9", 1, "folder: is a folder; name the safetensors file"),
        ("sparsify none --levels 0.5", 1, "none: does not exist"),
        (f"sparsify {NESTED} --levels 0.5", 1, "is a nested checkpoint already"),
        ("sparsify text --levels 0.5", 1, "text: a header of"),
        ("sparsify model.safetensors --levels dense", 1, "dense alone needs no mask"),
        ("pack --unpack -o x", 1, f"{NESTED}: is not packed"),
        ("verify model.safetensors", 1, "holds no levels"),
        (f"extract {NESTED} --level 0.9 -o none/x", 1, "its folder does not exist; mkdir -p"),
        (f"extract {NESTED} --level 0.9 -o folder", 1, "folder: is a folder"),
        (f"extract {NESTED} --level 0.9 -o there --no-clobber", 1, "there: exists already"),
        ("sparsify model.safetensors --levels 0.5 -o there --no-clobber", 1, "exists already"),
        (f"pack {NESTED} -o there --no-clobber", 1, "exists already"),
        (f"extract {NESTED} --level 0.9 -o {NESTED}", 2, "the output is also an input"),
        (f"extract {NESTED} --level 0.9 -o folder/../{NESTED}", 2, "also an input"),
        (f"extract {NESTED} --level 0.9 -o link", 2, "also an input"),
        (f"pack {NESTED} -o {NESTED}", 2, "also an input"),
        ("sparsify model.safetensors --levels 0.5 -o model.safetensors", 2, "also an input"),
        ("sparsify model.safetensors --levels 1.5", 2, "level 1.5 is outside [0, 1)"),
        ("sparsify model.safetensors --levels half", 2, "'half' is not a level"),
        ("sparsify model.safetensors --levels 0.5,50%", 2, "level 0.5 is given twice"),
        ("sparsify model.safetensors", 2, "Missing option '--levels'"),
        ("sparsify model.safetensors --levels 0.9 --group 4", 2, "a level is a multiple of 1/4"),
        ("sparsify model.safetensors --levels 0.5 --group 1", 2, "--group 1 is not a group"),
        ("sparsify model.safetensors --levels 0.5 --include x*", 2, "--include 'x*' matches no"),
        ("sparsify model.safetensors --levels 0.5 --set p=1", 2, "magnitude has no option 'p'"),
        ("sparsify model.safetensors --levels 0.5 --set p", 2, "not NAME=VALUE"),
        ("sparsify model.safetensors --levels 0.5 --method magic", 2, "magic"),
        ("sparsify model.safetensors --levels 0.5 --threads 0", 2, "--threads"),
        ("sparsify a b --levels 0.5", 2, "unexpected extra argument"),
        ("extract --level 0.5,0.9 -o -", 2, "standard output takes one level"),
        ("extract --level 0.5 -o - --json", 2, "-o - and --json"),
        ("extract - --level 0.5", 2, "standard input is empty"),
        ("pack --unpack --levels 0.5", 2, "--unpack takes one packed checkpoint"),
        ("pack - model.safetensors", 2, "a bundle is made from files"),
        ("extract --lvel 0.9", 2, "--level"),
        ("extrct --level 0.9", 2, "No such command 'extrct'"),
    ],
)
def test_one_line_and_the_code(line: str, code: int, message: str, folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "there").write_bytes(b"old")
    (folder / "text").write_text("This is not a checkpoint, and it never was one.\n")
    (folder / "link").symlink_to(NESTED)
    before = {n: (folder / n).read_bytes() for n in names(folder) if n != "folder"}
    done = elsa(*line.split(), cwd=folder)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    shown = [s for s in done.stderr.decode().splitlines() if not s.startswith("using ")]
    assert message in one_line("\n".join(shown))
    assert {n: (folder / n).read_bytes() for n in names(folder) if n != "folder"} == before


def test_which_of_several_files(folder: Path) -> None:
    shutil.copy(folder / NESTED, folder / "other.elsa.safetensors")
    done = elsa("extract", "--level", "0.9", cwd=folder)
    assert done.returncode == 2
    assert f"this folder has 2: {NESTED}, other.elsa.safetensors" in one_line(done.stderr)
    for name in (NESTED, "other.elsa.safetensors"):
        (folder / name).unlink()
    done = elsa("extract", "--level", "0.9", cwd=folder)
    assert done.returncode == 2
    assert "no *.elsa.safetensors in this folder" in one_line(done.stderr)


def test_force_and_no_clobber(folder: Path, sparse: bytes) -> None:
    assert elsa("extract", "--level", "0.9", "--no-clobber", "-o", "x", cwd=folder).returncode == 0
    (folder / "x").write_bytes(b"old")
    (folder / "x").chmod(0o640)
    assert elsa("extract", "--level", "0.9", "-o", "x", cwd=folder).returncode == 0
    assert (folder / "x").read_bytes() == sparse
    assert (folder / "x").stat().st_mode & 0o777 == 0o640
    assert elsa("extract", NESTED, "--level", "0.9", "-o", NESTED, "--force", cwd=folder).stdout
    assert (folder / NESTED).read_bytes() == sparse


def test_dry_run_writes_nothing(folder: Path) -> None:
    before = names(folder)
    line = ["sparsify", "model.safetensors", "--levels", "0.5,0.7,0.9"]
    dry = elsa(*line, "--dry-run", cwd=folder)
    assert (dry.returncode, dry.stdout) == (0, b"")
    assert names(folder) == before
    real = elsa(*line, "-o", "x", cwd=folder)
    assert dry.stderr.replace(b"would become", b"became") == real.stderr


@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_verify(masks: str, folder: Path) -> None:
    options = ["--levels", "0.5,0.9", "-o", "n", "--masks", masks]
    assert elsa("sparsify", "model.safetensors", *options, cwd=folder).returncode == 0
    good = elsa("verify", "n", cwd=folder)
    assert (good.returncode, good.stdout) == (0, b"n\n")
    flip(folder / "n", place(folder / "n", "F32.fc.weight")[0])
    bad = elsa("verify", "n", cwd=folder)
    assert (bad.returncode, bad.stdout) == (1, b"")
    problem, error = bad.stderr.decode().splitlines()
    assert problem == "F32.fc.weight: its bytes do not have the digest in the manifest"
    assert error.startswith("Error: n: 1 problem found")
    shown = elsa("verify", "n", "--json", cwd=folder)
    assert shown.returncode == 1
    report = json.loads(shown.stdout)
    assert report["ok"] is False
    assert [p["where"] for p in report["problems"]] == ["F32.fc.weight"]
    quiet = elsa("verify", "n", "-q", cwd=folder)
    assert quiet.returncode == 1
    assert b"F32.fc.weight" in quiet.stderr


def test_debug_shows_a_traceback(folder: Path) -> None:
    line = ["extract", "model.safetensors", "--level", "0.9"]
    assert "Traceback" not in one_line(elsa(*line, cwd=folder).stderr)
    shown = elsa(*line, "--debug", cwd=folder)
    assert shown.returncode == 1
    assert b"Traceback" in shown.stderr
    assert b"NotNested" in shown.stderr


def test_a_file_that_may_not_be_read(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / NESTED).chmod(0)
    done = elsa("extract", "--level", "0.9", cwd=folder)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr.decode()


def waiting(folder: Path, ignored: int | None = None) -> subprocess.Popen[bytes]:
    """Start a run that waits for more input; it has taken some when this returns."""

    def ignore() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-m", "elsa_cli", "extract", "--level", "0.9", "-o", "x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
        preexec_fn=ignore,
    )
    assert process.stdin is not None
    # More than a pipe holds, so some of it was read, and that after the start was over.
    process.stdin.write(bytes([255, 0, 0, 0, 0, 0, 0, 0]) + bytes(1 << 21))
    process.stdin.flush()
    return process


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by a signal"),
        (signal.SIGHUP, 129, "stopped by a signal"),
    ],
)
def test_signals(number: signal.Signals, code: int, message: str, folder: Path) -> None:
    before = names(folder)
    process = waiting(folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, b"")
    assert one_line(err) == f"Error: {message}"
    assert names(folder) == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signals_that_the_caller_ignores(number: signal.Signals, folder: Path) -> None:
    """As under nohup, and in the background of a script."""
    process = waiting(folder, ignored=number)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "standard input: " in one_line(err)
