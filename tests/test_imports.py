"""Nothing is imported before it is needed, and torch never without training."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import elsa_cli
from elsa_cli.cli import cli
from elsa_cli.core.packages import require
from elsa_cli.errors import MissingPackage
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


def test_the_three_lists_of_public_names_agree() -> None:
    """`__all__`, the homes, and what type checkers read."""
    tree = ast.parse(Path(elsa_cli.__file__).read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module
        for node in checking.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == elsa_cli._HOME
    assert list(elsa_cli._HOME) == elsa_cli.__all__
    for name, home in elsa_cli._HOME.items():
        assert name in import_module(home).__all__, name


def test_dir_and_version() -> None:
    shown = dir(elsa_cli)
    assert {n for n in shown if not n.startswith("_")} == set(elsa_cli.__all__)
    assert {"__version__", "__doc__", "__all__"} <= set(shown)
    assert shown == sorted(shown)
    assert elsa_cli.__version__ == version("elsa-cli")


def mentioned(hint: Any) -> set[type]:
    """Return the classes of this package in a type hint."""
    if isinstance(hint, type) and hint.__module__.startswith("elsa_cli"):
        return {hint}
    return {found for part in get_args(hint) for found in mentioned(part)}


def hints(function: Any) -> set[type]:
    return {found for hint in get_type_hints(function).values() for found in mentioned(hint)}


def test_every_type_that_a_public_function_takes_or_returns_is_public() -> None:
    public = {value for n in elsa_cli.__all__ if isinstance(value := getattr(elsa_cli, n), type)}
    functions = [f for n in elsa_cli.__all__ if inspect.isfunction(f := getattr(elsa_cli, n))]
    todo, seen = {cls for f in functions for cls in hints(f)}, set()
    while todo:
        cls = todo.pop()
        seen.add(cls)
        assert cls in public, cls
        found = hints(cls)
        for name, member in vars(cls).items():
            if name.startswith("_"):
                continue
            if isinstance(member, property):
                found |= hints(member.fget)
            elif inspect.isfunction(member):
                found |= hints(member)
        todo |= found - seen
    assert {"SparsifyReport", "TensorRow", "NestedCheckpoint", "Level", "PhaseReport"} <= {
        cls.__name__ for cls in seen
    }


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import elsa_cli
from elsa_cli import ElsaError
for name in elsa_cli.__all__:
    try:
        value = getattr(elsa_cli, name)
    except ElsaError as error:
        assert isinstance(error, ImportError)
        print(name, error)
options = elsa_cli.TrainOptions(epochs=(1, 2), lr=(0.1,))
assert options.as_fields()["epochs"] == (1, 2)
try:
    elsa_cli.TrainOptions(optimizer="lion")
except ElsaError as error:
    print(error)
"""


def test_what_needs_torch_says_so() -> None:
    """Everything else is imported, and TrainOptions works, where torch is missing."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False
    )
    names = ["EvaluateReport", "EvaluateRow", "FreezeTrainReport", "FrozenMask", "LevelRow"]
    names += ["evaluate", "freeze_train"]
    missing = "this needs torch, which is not installed; pip install 'elsa-cli[train]'"
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *(f"{name} {missing}" for name in names),
        'optimizer="lion" is unknown; use sgd, adamw, recipe',
    ]


def test_an_import_that_fails_for_another_reason_is_not_hidden() -> None:
    code = "import sys; sys.modules['elsa_cli.models.tensors'] = None; import elsa_cli\n"
    code += "try: elsa_cli.FrozenMask\nexcept ImportError as error: print(type(error).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ModuleNotFoundError\n"


def test_require() -> None:
    require("json", "nothing")
    with pytest.raises(MissingPackage) as caught:
        require("nonsuch_package", "plot", who="plots need", instead="draw them yourself")
    assert str(caught.value) == (
        "plots need nonsuch_package, which is not installed; pip install 'elsa-cli[plot]', or "
        "draw them yourself"
    )
