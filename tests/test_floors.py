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
    "completion": 5,
    "operations": 6,
    "ui": 7,
    "commands": 7,
    "cli": 8,
    "__main__": 9,
    "__init__": 9,  # the public names; nothing inside the package may need them
}
# Rooms on one floor that may use each other, in this direction only.
BESIDE = {("errors", "text"), ("commands", "ui")}
# Rooms of the table in which nothing is built yet.
PLANNED = {"completion"}
# Who may import torch at the top of a file, and who elsewhere, with the reason.
TORCH_ROOMS = {"models", "training"}
TORCH = ("torch", "torchvision")
TORCH_BESIDE = {
    "operations/_memory.py": "writes state dicts for the scans; belongs to models/nested_file.py",
}
# Faults of `__all__` in files that are being rewritten.
UNLISTED = {"foreign/bundle.py": ["shortest_level is missing"]}
# Files of those rooms that have to be importable without torch.
WITHOUT_TORCH = {"training/__init__.py", "training/events.py", "training/options.py"}

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


def test_every_room_of_the_table_is_there() -> None:
    rooms = {room(f.relative_to(ROOT).parts) for f in FILES}
    assert rooms == FLOOR.keys() - PLANNED


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


def needs_torch(module: str) -> bool:
    """Look at every component: `safetensors.torch` imports torch as well."""
    return any(part in TORCH for part in module.split("."))


def test_who_imports_torch() -> None:
    found = set()
    for file in FILES:
        name = str(file.relative_to(ROOT))
        for module, node in imports(file):
            if not needs_torch(module):
                continue
            found.add(name)
            own = room(file.relative_to(ROOT).parts)
            allowed = own in TORCH_ROOMS or name in TORCH_BESIDE
            assert allowed, f"{file}:{node.lineno} imports torch"
            assert name not in WITHOUT_TORCH, f"{file}:{node.lineno} imports torch"
    assert set(TORCH_BESIDE) <= found, "an exception that no file needs any more"
    assert len(found) > 10


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("torch", True),
        ("torch.nn", True),
        ("torchvision.ops.nms", True),
        ("safetensors.torch.save_file", True),
        ("safetensors.numpy.save_file", False),
        ("elsa_cli.core.packages.require", False),
    ],
)
def test_torch_is_seen_in_every_component(module: str, needs: bool) -> None:
    assert needs_torch(module) is needs


def test_star_and_relative_imports() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno}: a relative import"
                assert node.names[0].name != "*", f"{file}:{node.lineno}: a star import"


def published(tree: ast.Module) -> list[str] | None:
    """Return what `__all__` lists; None if a file has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return list(ast.literal_eval(node.value))
    return None


def bound(tree: ast.Module) -> set[str]:
    """Return the names that a file binds at its top, imports included."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for part in (n for target in targets for n in ast.walk(target)):
                if isinstance(part, ast.Name):
                    names.add(part.id)
    return names


def faults(tree: ast.Module, *, package: bool = False) -> list[str]:
    """Return what is wrong with the `__all__` of a file.

    Args:
        tree: The file.
        package: Whether it is an `__init__.py`, which may publish nothing.
    """
    names = published(tree)
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    if names is None:
        return ["there is none"] if defined and not package else []
    # As ruff sorts (RUF022): constants, classes, the rest.
    ordered = sorted(names, key=lambda n: (not n.isupper(), not n[:1].isupper(), n))
    found = [] if names == ordered else ["not sorted"]
    found += [f"{name} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    found += [f"{name} does not exist" for name in sorted(set(names) - bound(tree))]
    found += [f"{name} is private" for name in names if name.startswith("_")]
    return found + [f"{name} is missing" for name in sorted(defined - set(names))]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_all_lists_what_is_public(file: Path) -> None:
    """`__all__` is there, sorted as ruff sorts, complete, and every name in it exists."""
    tree = ast.parse(file.read_text())
    if file == ROOT / "__init__.py":
        (checking,) = (node for node in tree.body if isinstance(node, ast.If))
        tree.body += checking.body
        tree.body = [
            n for n in tree.body if getattr(n, "name", "") not in ("__getattr__", "__dir__")
        ]
    unlisted = UNLISTED.get(str(file.relative_to(ROOT)), [])
    assert [f for f in faults(tree, package=file.name == "__init__.py") if f not in unlisted] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def f(): ...", "there is none"),
        ("__all__ = ['b', 'a']\na = b = 1", "not sorted"),
        ("__all__ = ['b', 'B']\nclass B: ...\ndef b(): ...", "not sorted"),
        ("__all__ = ['a', 'a']\na = 1", "a twice"),
        ("__all__ = ['a', 'b']\na: int = 1", "b does not exist"),
        ("__all__ = ['_a']\n_a = 1", "_a is private"),
        ("__all__ = ['a']\na = 1\nclass B: ...", "B is missing"),
    ],
)
def test_each_fault_of_all_is_seen(text: str, fault: str) -> None:
    assert faults(ast.parse(text)) == [fault]


def test_all_without_a_fault() -> None:
    text = "__all__ = ['ONE', 'Two', 'c', 'd']\nfrom x import c, y as d\n"
    text += "ONE, _n = 1, 2\nclass Two: ..."
    assert faults(ast.parse(text)) == []
    assert faults(ast.parse("from x import y"), package=True) == []
