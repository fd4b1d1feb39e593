"""Imports go down: the table of rooms and floors, held over every file of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import elsa_cli

ROOT = Path(elsa_cli.__file__).parent
FLOOR = {
    "text": 0,
    "errors": 0,
    "core": 1,
    "storage": 2,
    "checkpoint": 3,
    "selection": 3,
    "sparsifiers": 4,
    "foreign": 4,
    "models": 4,
    "training": 5,
    "operations": 6,
    "ui": 7,
    "commands": 7,
    "cli": 8,
    "__main__": 9,
    "__init__": 9,  # the public names; nothing inside the package may need them
}
# Rooms on one floor that may use each other, in this direction only.
BESIDE = {("errors", "text"), ("commands", "ui")}
# Who may import torch at the top of a file, and who inside a function, with the reason.
TORCH_ROOMS = {"models", "training"}
TORCH_INSIDE: dict[str, str] = {}

FILES = sorted(ROOT.rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Yield every module that a file imports, wherever the statement stands."""
    package = ("elsa_cli", *file.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{module}.{alias.name}", node


def rooms_used(file: Path) -> Iterator[tuple[str, int]]:
    for name, node in imports(file):
        parts = tuple(name.split("."))
        if parts[0] == "elsa_cli":
            inner = parts[1:] if parts[1:] and parts[1] in FLOOR else ("__init__",)
            yield room(inner), node.lineno


def test_every_file_is_in_a_room() -> None:
    assert len(FILES) > 30
    for file in FILES:
        assert room(file.relative_to(ROOT).parts) in FLOOR, file


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down(file: Path) -> None:
    own = room(file.relative_to(ROOT).parts)
    for other, line in rooms_used(file):
        allowed = own == other or (own, other) in BESIDE or FLOOR[other] < FLOOR[own]
        assert allowed, f"{file}:{line}: {own} (floor {FLOOR[own]}) imports {other}"


def test_every_room_is_used_from_above() -> None:
    """The walk does see imports: a mistake in it would make the test above empty."""
    seen = {(room(f.relative_to(ROOT).parts), other) for f in FILES for other, _ in rooms_used(f)}
    assert {
        ("core", "errors"),
        ("storage", "core"),
        ("checkpoint", "storage"),
        ("selection", "storage"),
        ("training", "models"),
        ("sparsifiers", "selection"),
        ("operations", "sparsifiers"),
        ("commands", "operations"),
        ("cli", "commands"),
        ("__main__", "cli"),
    } <= seen


def test_ui_is_the_only_importer_of_rich() -> None:
    users = {
        room(f.relative_to(ROOT).parts)
        for f in FILES
        for n, _ in imports(f)
        if n.split(".")[0] == "rich"
    }
    assert users == {"ui"}


def test_who_imports_torch() -> None:
    found = set()
    for file in FILES:
        name = str(file.relative_to(ROOT))
        inside = {
            node
            for function in ast.walk(ast.parse(file.read_text()))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in (n.lineno for n in ast.walk(function) if isinstance(n, ast.stmt))
        }
        for module, node in imports(file):
            if module.split(".")[0] not in ("torch", "torchvision"):
                continue
            found.add(name)
            if room(file.relative_to(ROOT).parts) in TORCH_ROOMS:
                continue
            assert name in TORCH_INSIDE, f"{file}:{node.lineno} imports torch"
            assert node.lineno in inside, f"{file}:{node.lineno} imports torch at the top"
    assert set(TORCH_INSIDE) <= found, "an exception that nobody needs any more"


def test_star_and_relative_imports() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno}: a relative import"
                assert node.names[0].name != "*", f"{file}:{node.lineno}: a star import"


def test_all_lists_what_is_public() -> None:
    """`__all__` is there, sorted as ruff sorts, and every name in it exists."""
    for file in FILES:
        tree = ast.parse(file.read_text())
        lists = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        ]
        defined = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }
        if defined and file.name != "__init__.py":
            assert lists, f"{file} has no __all__"
        for names in lists:
            if file == ROOT / "__init__.py":
                assert all(hasattr(elsa_cli, name) for name in names)
