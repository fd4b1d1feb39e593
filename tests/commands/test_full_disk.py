"""A disk that fills up, a limit on files: one line, the old output, nothing left behind."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands.shell import ELSA, names, one_line
from tests.helpers import Tensor, elsa, write_safetensors

LINES = {
    "sparsify": "sparsify model --levels 0.5,0.9",
    "sparsify into tensors": "sparsify model --levels 0.5,0.9 --masks tensors",
    "extract": "extract nested --level 0.9",
    "pack": "pack nested",
    "unpack": "pack --unpack packed",
    "bundle": "pack model sparse",
    "extract from packed": "extract packed --level 0.9",
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of some 3 MB."""
    folder = tmp_path_factory.mktemp("large")
    weights = np.random.default_rng(0).standard_normal((800, 1000)).astype("<f4")
    tensors: list[Tensor] = [("w", "F32", weights.shape, weights.tobytes())]
    write_safetensors(folder / "model", tensors)
    for line in (
        "sparsify model --levels 0.5,0.9 -o nested",
        "pack nested -o packed",
        "extract nested --level 0.9 -o sparse",
    ):
        done = elsa(*line.split(), cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))


@pytest.mark.parametrize("target", ["out/file", "-"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_files_may_not_grow(line: str, target: str, large: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(b"old")
    words = [str(large / w) if (large / w).exists() else w for w in line.split()]
    done = subprocess.run(
        [sys.executable, "-m", "elsa_cli", *words, "-o", target],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "out")},
        preexec_fn=limited,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert "no space is left in" in one_line(done.stderr)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file"]
    assert (tmp_path / "out" / "file").read_bytes() == b"old"


def test_standard_input_that_does_not_fit(large: Path, tmp_path: Path) -> None:
    with (large / "nested").open("rb") as source:
        done = subprocess.run(
            [sys.executable, "-m", "elsa_cli", "extract", "--level", "0.9", "-o", "x"],
            stdin=source,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            preexec_fn=limited,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, b"")
    assert "set TMPDIR to a folder with more room" in one_line(done.stderr)
    assert names(tmp_path) == []


SCRIPT = """
mount -t tmpfs -o size={size} tmpfs disk || exit 99
printf old > disk/file
cd disk
export TMPDIR="$PWD"
{elsa} {line} -o {target} | wc -c
test "$(cat file)" = old && echo intact
ls -A
"""


def on_a_small_disk(
    line: str, target: str, size: str, large: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run on a file system of its own, in a mount namespace that ends with the run."""
    (folder / "disk").mkdir()
    words = [str(large / w) if (large / w).exists() else w for w in line.split()]
    script = SCRIPT.format(elsa=ELSA, line=shlex.join(words), target=target, size=size)
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            done = subprocess.run(
                [*unshare, "sh", "-c", script],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            pytest.skip("there is no unshare here")
        if "Error: " in done.stderr or done.returncode == 0:
            return done
    pytest.skip(f"a file system cannot be mounted here: {done.stderr}")


@pytest.mark.parametrize("target", ["file", "-"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_full_disk(line: str, target: str, large: Path, tmp_path: Path) -> None:
    done = on_a_small_disk(line, target, "1m", large, tmp_path)
    message = one_line(done.stderr)
    assert "bytes, " in message or "no space is left in" in message
    assert done.stdout.split() == ["0", "intact", "file"]


@pytest.mark.parametrize("line", ["pack nested", "pack model sparse"])
def test_a_disk_that_fills_up_past_the_first_check(line: str, large: Path, tmp_path: Path) -> None:
    """Masks are spooled before the size of the output is known: it is the write that fails."""
    done = on_a_small_disk(line, "file", "64k", large, tmp_path)
    assert "no space is left in" in one_line(done.stderr)
    assert done.stdout.split() == ["0", "intact", "file"]
