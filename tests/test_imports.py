"""Nothing is imported before it is needed, and torch never without training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import elsa_cli
from elsa_cli.cli import cli
from tests.operations.models import network, save

HEAVY = ["numpy", "torch", "safetensors", "rich"]
COMMANDS = cli.list_commands(None)  # type: ignore[arg-type]
HARNESS = """
import json, sys
from elsa_cli.cli import main
heavy = json.loads(sys.argv.pop(1))
lines = json.loads(sys.argv.pop(1))
for line in lines:
    sys.argv = ["elsa", *line]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
    loaded = sorted({m.split(".")[0] for m in sys.modules} & set(heavy))
    print("LOADED", json.dumps([line, loaded]))
"""


def loaded(lines: list[list[str]], cwd: Path | None = None) -> list[list[str]]:
    """Run lines in one process; return what was loaded after each of them."""
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, json.dumps(HEAVY), json.dumps(lines)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [
        json.loads(line.removeprefix("LOADED "))
        for line in done.stdout.splitlines()
        if line.startswith("LOADED ")
    ]
    assert [line for line, _ in found] == lines
    return [modules for _, modules in found]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_click_alone(command: str) -> None:
    (modules,) = loaded([[*command.split(), "--help"]])
    assert modules == []


def test_version_loads_nothing() -> None:
    assert loaded([["--version"]]) == [[]]


def test_five_commands_run_without_torch(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", network())
    lines = [
        ["sparsify", "model.safetensors", "--levels", "0.5,0.9"],
        ["inspect", "model.elsa.safetensors"],
        ["verify", "model.elsa.safetensors"],
        ["pack", "model.elsa.safetensors"],
        ["extract", "model.elsa.safetensors", "--level", "0.9"],
        ["pack", "model.safetensors", "model-0.9.safetensors", "-o", "bundle"],
        ["sparsify", "model.safetensors", "--levels", "0.5,0.9", "--method", "random"],
    ]
    for line, modules in zip(lines, loaded(lines, tmp_path), strict=True):
        assert "torch" not in modules, line
        assert "safetensors" not in modules, line
        assert "numpy" in modules, line


def test_quiet_runs_draw_nothing(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", network())
    (modules,) = loaded([["sparsify", "model.safetensors", "--levels", "0.5", "-q"]], tmp_path)
    assert "rich" not in modules


def test_the_package_itself_loads_nothing() -> None:
    code = "import sys, elsa_cli; print(sorted(m for m in sys.modules if m.startswith('elsa_cli')))"
    code += f"; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['elsa_cli']", "[]"]


def test_numpy_loads_no_torch() -> None:
    code = "import sys, elsa_cli; elsa_cli.load_level; elsa_cli.pack; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_public_names() -> None:
    for name in elsa_cli.__all__:
        assert callable(getattr(elsa_cli, name))
    wanted = {"sparsify", "pack", "extract", "load_level", "open_nested", "ElsaError"}
    assert wanted <= set(elsa_cli.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        elsa_cli.nonsense  # noqa: B018
