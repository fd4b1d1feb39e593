"""Names out of files: none of them steers a terminal, and every JSON is strict."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.forkserver import Server
from tests.commands.shell import one_line
from tests.commands.test_streams import on_a_terminal
from tests.helpers import Tensor, elsa, encode_floats, strict_json, write_safetensors
from tests.operations.models import flip, place

np = pytest.importorskip("numpy")

ODD = [
    "esc\x1b[2J\x1b]0;title\x07",
    "cr\roverwritten",
    "nul\x00",
    "c1\x9b2J\x85",
    "bidi\u202etxet\u2066",
    "separator\u2028\u2029",
    "zero\u200bwidth\ufeff",
    "tag\U000e0041",
    "del\x7f\x08",
    "é 模型 fine",
]
NAMES = [f"{name}.weight" for name in ODD]


def safe(text: bytes) -> str:
    """Return what is shown, checked to steer nothing."""
    shown = text.decode()
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    return shown


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with m.safetensors, of odd names and metadata, and what is made from it."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    tensors: list[Tensor] = [
        (name, "F32", (8, 8), encode_floats("F32", rng.standard_normal(64)).tobytes())
        for name in sorted(NAMES)
    ]
    metadata = {name: name for name in ODD}
    write_safetensors(folder / "m.safetensors", tensors, metadata)
    for line in (
        ["sparsify", "m.safetensors", "--levels", "0.5,0.9"],
        ["pack", "m.elsa.safetensors"],
    ):
        assert elsa(*line, cwd=folder).returncode == 0
    return folder


LINES: list[list[str]] = [
    ["sparsify", "m.safetensors", "--levels", "0.5", "-o", "a", "-v"],
    ["sparsify", "m.safetensors", "--levels", "0.5,0.75", "--group", "3", "-o", "a"],
    ["sparsify", "m.elsa.safetensors", "--levels", "0.5"],
    ["extract", "m.elsa.safetensors", "--level", "0.9", "-o", "b"],
    ["pack", "m.elsa.safetensors", "-o", "c"],
    ["pack", "--unpack", "m.packed.elsa.safetensors", "-o", "d"],
    ["inspect", "m.safetensors"],
    ["inspect", "m.elsa.safetensors", "-v"],
    ["inspect", "m.packed.elsa.safetensors"],
    ["verify", "m.elsa.safetensors"],
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command(line: list[str], odd: Path) -> None:
    done = elsa(*line, cwd=odd)
    shown = safe(done.stderr)
    safe(done.stdout)
    if line[0] == "inspect" or "-v" in line:
        for name in (r"esc\x1b[2J\x1b]0;title\x07.weight", r"bidi\u202etxet\u2066.weight"):
            assert name in shown
        assert "é 模型 fine.weight" in shown
    as_json = elsa(*line, "--json", cwd=odd)
    safe(as_json.stderr)
    safe(as_json.stdout)
    assert as_json.returncode == done.returncode
    if done.returncode == 0:
        assert as_json.stdout.count(b"\n") == 1
        report = strict_json(as_json.stdout)
        tensors = [t["name"] for t in report.get("tensors", []) if isinstance(t, dict)] if (
            isinstance(report.get("tensors"), list)
        ) else sorted(NAMES)  # fmt: skip
        assert sorted(tensors) == sorted(NAMES)  # JSON gives them back as they are
        for name in report.get("metadata", {}):
            assert name in [*ODD, "format"]


def test_a_terminal(odd: Path) -> None:
    _, shown = on_a_terminal("inspect", "m.elsa.safetensors", cwd=odd, TERM="dumb", COLUMNS="200")
    safe(shown.replace("\r\n", "\n").encode())
    assert r"c1\x9b2J\x85.weight" in shown


def test_problems_that_verify_finds(odd: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(odd / "m.elsa.safetensors", tmp_path))
    flip(path, place(path, NAMES[0])[0])
    done = elsa("verify", path.name, "-q", cwd=tmp_path)
    assert done.returncode == 1
    assert safe(done.stderr).startswith(r"esc\x1b[2J\x1b]0;title\x07.weight: its bytes")
    report = strict_json(elsa("verify", path.name, "--json", cwd=tmp_path).stdout)
    assert [p["where"] for p in report["problems"]] == [NAMES[0]]


@pytest.mark.parametrize("odd_text", [*ODD, os.fsdecode(b"\xff\xfe")])
def test_what_the_user_types_and_click_refuses(odd_text: str, tmp_path: Path) -> None:
    odd_text = odd_text.replace("\0", "")  # which no argument can hold
    for line in (
        [odd_text],
        ["extract", f"--{odd_text}"],
        ["extract", odd_text, "--level", "0.9"],
        ["sparsify", odd_text, "--levels", odd_text],
        ["sparsify", "x", "--levels", "0.5", "--method", odd_text],
        ["sparsify", "x", "--levels", "0.5", "--threads", odd_text],
        ["sparsify", "x", "y", odd_text, "--levels", "0.5"],
    ):
        done = elsa(*line, cwd=tmp_path)
        assert (done.returncode in (1, 2), done.stdout) == (True, b"")
        one_line(safe(done.stderr))


def test_tracebacks(odd: Path) -> None:
    done = elsa("extract", "a\x1b[2J", "--level", "0.9", "--debug", cwd=odd)
    assert done.returncode == 1
    shown = safe(done.stderr)
    assert shown.startswith("Traceback (most recent call last):\n  File ")
    assert shown.endswith("InputError: a\\x1b[2J: does not exist\n")


BYTES = b"m\xff\x1b[2J\xc3\xa9.safetensors"
NESTED = b"m\xff\x1b[2J\xc3\xa9.elsa.safetensors"
SHOWN = r"m\xff\x1b[2Jé.elsa.safetensors"


def run(folder: Path, *args: str | bytes, env: dict[str, str] | None = None) -> Any:
    if not env:
        return elsa(*map(os.fsdecode, args), cwd=folder)
    return subprocess.run(
        [sys.executable, "-m", "elsa_cli", *args],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False,
        env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.parametrize(
    "env",
    [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
     {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-8:strict"}],
    ids=["utf-8", "c", "latin-1", "strict"],
)  # fmt: skip
def test_paths_that_are_no_text(env: dict[str, str], odd: Path, tmp_path: Path) -> None:
    """In a pipe they keep their bytes; in JSON they are a text; errors say them as a text."""
    shutil.copy(odd / "m.safetensors", tmp_path / os.fsdecode(BYTES))
    first = run(tmp_path, "sparsify", BYTES, "--levels", "0.5", env=env)
    assert (first.returncode, first.stdout) == (0, NESTED + b"\n"), first.stderr
    again = run(tmp_path, "sparsify", BYTES, "--levels", "0.5", "--json", env=env)
    if "LC_ALL" not in env:
        assert strict_json(again.stdout)["output"] == SHOWN.replace(r"\x1b", "\x1b")
        found = run(tmp_path, "extract", "--level", "0.5", "-o", "x", "--json", env=env)
        assert strict_json(found.stdout)["output"] == "x"
        assert rb"using m\xff\x1b[2J" in found.stderr
    assert strict_json(again.stdout)
    refused = run(tmp_path, "extract", NESTED, "--level", "0.8", env=env)
    assert refused.returncode == 1
    assert b"\x1b" not in refused.stderr
    assert b"m\\xff\\x1b[2J" in refused.stderr
    piped = elsa("verify", cwd=tmp_path, stdin=first.stdout)
    assert (piped.returncode, piped.stdout) == (0, NESTED + b"\n"), piped.stderr


def test_a_path_on_a_terminal_is_text(odd: Path, tmp_path: Path) -> None:
    shutil.copy(odd / "m.elsa.safetensors", tmp_path / os.fsdecode(NESTED))
    code, shown = on_a_terminal("verify", "-q", cwd=tmp_path)
    assert (code, shown) == (0, f"{SHOWN}\r\n")


RECIPE = """
import torch
from torch import nn
from torch.nn import functional as F


def build_model():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def train_data():
    return [(torch.ones(4, 6), torch.tensor([0, 1, 0, 1]))] * 2


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def evaluate(model):
    FAIL
    return {"auc": float("nan"), "x": float("inf"), "low\\x1b[2J\\ud800": -float("inf"), "[/b]": 1}
"""
METRICS = {"auc": None, "x": None, "low\x1b[2J\\ud800": None, "[/b]": 1.0}


def test_metrics_that_are_not_finite(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "recipe.py").write_text(RECIPE.replace("FAIL", ""))
    train = ("freeze-train", "--levels", "0.5", "--recipe", "recipe.py", "--steps", "2")
    done = server.run(*train, "-o", "n", "--json", "--log", "log", "--log-every", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    safe(done.err.encode())
    assert "auc nan  x inf  low\\x1b[2J\\ud800 -inf  [/b] 1.0000" in done.err
    assert done.out.count("\n") == 1
    report = strict_json(done.out)
    assert [row["metrics"] for row in report["levels"]] == [METRICS] * 2
    log = (tmp_path / "log").read_text()
    safe(log.encode())
    lines = [strict_json(line) for line in log.splitlines()]
    phases = [line for line in lines if line["kind"] == "phase"]
    assert phases
    assert all(line["metrics"] in ({}, METRICS) for line in phases)
    assert phases[-1]["metrics"] == METRICS
    done = server.run("evaluate", "n", "--recipe", "recipe.py", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    safe(done.err.encode())
    assert [row["metrics"] for row in strict_json(done.out)["levels"]] == [METRICS] * 2
    assert "nan" in done.err
    assert r"low\x1b[2J\ud800" in done.err
    pytest.importorskip("matplotlib")
    drawn = ("evaluate", "n", "--recipe", "recipe.py", "--plot", "p.svg")
    done = server.run(*drawn, cwd=tmp_path)
    assert done.code == 0, done.err
    safe(done.err.encode())
    safe((tmp_path / "p.svg").read_bytes())


def test_what_a_recipe_raises(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = RECIPE.replace("FAIL", "raise ValueError('a\\x1b[2J\\r\\nb\\u202e\\ud800')")
    (tmp_path / "recipe.py").write_text(text)
    train = ("freeze-train", "--levels", "0.5", "--recipe", "recipe.py", "--steps", "1", "-o", "n")
    done = server.run(*train, cwd=tmp_path)
    assert done.code == 1
    error = safe(done.err.encode()).splitlines()[-1]
    assert error.endswith(r"evaluate: ValueError: a\x1b[2J b\u202e\ud800"), error
