"""The sampler gives CPU time to functions of elsa and leaves the command as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.sample import IMPORTS, OUTSIDE, label

ROOT = Path(__file__).resolve().parents[2]


def sample(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    target = folder / "samples.json"
    argv = [sys.executable, "-m", "benchmarks.speed.sample", str(target), *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True), target


def test_a_sampled_command_writes_the_same_bytes(tmp_path: Path) -> None:
    model, plain = tmp_path / "model.safetensors", tmp_path / "plain.elsa.safetensors"
    shutil.copy(ROOT / "examples/digits/model.safetensors", model)
    options = ["sparsify", str(model), "--levels", "0.5,0.9", "-o"]
    subprocess.run([sys.executable, "-m", "elsa_cli", *options, str(plain)], cwd=ROOT, check=True)
    sampled = tmp_path / "sampled.elsa.safetensors"
    done, target = sample(tmp_path, *options, str(sampled))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sampled}\n"
    assert sampled.read_bytes() == plain.read_bytes()
    shares = json.loads(target.read_text())
    times = [user + system for _, user, system in shares]
    assert times == sorted(times, reverse=True)
    assert len({name for name, _, _ in shares}) == len(shares)


def test_a_sampled_command_keeps_its_exit_code(tmp_path: Path) -> None:
    done, target = sample(tmp_path, "sparsify", "--no-such-option")
    assert done.returncode == 2
    assert target.exists()


def test_a_frame_outside_elsa_is_the_interpreter() -> None:
    assert label(sys._getframe()) == OUTSIDE


def test_a_frame_is_called_by_the_innermost_function_of_elsa() -> None:
    code = "def outer():\n    return inner()\ndef inner():\n    return grab()\n"
    space: dict[str, object] = {"grab": lambda: label(sys._getframe())}
    exec(compile(code, "/x/elsa_cli/core/work.py", "exec"), space)
    outer = space["outer"]
    assert callable(outer)
    assert outer() == "core/work.py: inner"
    exec(compile("found = grab()", "/x/elsa_cli/core/work.py", "exec"), space)
    assert space["found"] == IMPORTS
