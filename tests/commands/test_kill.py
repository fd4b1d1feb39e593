"""Killed at any moment, a run leaves the old output or the new one, and nothing else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.commands.forkserver import Running, shared
from tests.commands.shell import names
from tests.helpers import Tensor, write_safetensors

MOMENTS = 18  # a command
LINES = {
    "sparsify": ["model", "--levels", "0.3,0.5,0.7,0.8,0.9", "--masks", "tensors"],
    "pack": ["nested"],
    "extract": ["nested", "--level", "0.9"],
}


def finish(process: Running) -> None:
    """Wait for a run that nobody kills."""
    done = process.finish()
    assert done.returncode == 0, done.stderr


def start(command: str, folder: Path, output: str = "out/file") -> Running:
    """Start a process that has imported everything: all of its time is work on the file."""
    line = (command, *LINES[command], "-o", output, "-q")
    return shared("light").start(*line, cwd=folder, env={"TMPDIR": str(folder / "out")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill")
    (path / "out").mkdir()
    rng = np.random.default_rng(0)
    tensors: list[Tensor] = []
    for at in range(6):
        data = rng.standard_normal((500, 1000)).astype("<f4").tobytes()
        tensors.append((f"w{at}", "F32", (500, 1000), data))
    write_safetensors(path / "model", tensors)
    finish(start("sparsify", path, "nested"))
    return path


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize("command", LINES)
def test_killed_at_any_moment(command: str, there: bool, folder: Path) -> None:
    began = time.monotonic()
    finish(start(command, folder, "new"))
    whole = time.monotonic() - began
    new = (folder / "new").read_bytes()
    old = b"what was here before"
    out = folder / "out" / "file"
    moments = random.Random(f"{command} {there}")
    for _ in range(MOMENTS // 2):
        shutil.rmtree(folder / "out")
        (folder / "out").mkdir()
        if there:
            out.write_bytes(old)
        number = moments.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        # More often late, when there is something to leave behind.
        moment = whole * moments.uniform(0.3, 1.05)
        process = start(command, folder)
        if not process.wait(moment):
            os.kill(process.pid, number)
        done = process.finish()
        err = done.stderr
        left = names(folder / "out")
        if number == signal.SIGKILL and not hasattr(os, "O_TMPFILE"):
            # Nothing else can be done for a file that has a name from the start.
            left = [name for name in left if not name.startswith(".file.")]
        assert left in ([["file"]] if there else [[], ["file"]]), err
        if out.exists():
            assert out.read_bytes() in ([old, new] if there else [new]), err
        if done.returncode == 0:
            assert out.read_bytes() == new
