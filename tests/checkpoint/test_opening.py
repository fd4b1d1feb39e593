from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elsa_cli.checkpoint.nested.reader import NestedReader
from elsa_cli.checkpoint.opening import open_any, open_nested, open_plain
from elsa_cli.checkpoint.packed.reader import PackedReader
from elsa_cli.errors import AlreadyNested, BadManifest, InputError, NotNested, TruncatedFile
from elsa_cli.storage.container import Container
from tests.helpers import write_safetensors
from tests.networks import edit, make, write_nested, write_pack

NET = make()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind."""
    nested = write_nested(tmp_path / "nested", NET)
    return {
        "plain": NET.write(tmp_path / "plain"),
        "nested": nested,
        "packed": write_pack(tmp_path / "packed", nested),
    }


@pytest.mark.parametrize(
    ("kind", "cls"), [("plain", Container), ("nested", NestedReader), ("packed", PackedReader)]
)
def test_any_kind_is_known_by_its_content(files: dict[str, Path], kind: str, cls: type) -> None:
    opened = open_any(files[kind])
    with opened:
        assert type(opened) is cls
        name = opened.path if isinstance(opened, Container) else opened.name
        assert name == str(files[kind])


def test_a_plain_file_where_a_nested_one_is_needed(files: dict[str, Path]) -> None:
    with pytest.raises(NotNested, match=r"make them with sparsify\(\) first$") as caught:
        open_nested(files["plain"])
    assert str(files["plain"]) in str(caught.value)
    for kind in ("nested", "packed"):
        with open_nested(files[kind]) as reader:
            assert reader.manifest.kind == kind
            assert os.fspath(reader) == str(files[kind])


@pytest.mark.parametrize("kind", ["nested", "packed"])
def test_a_nested_file_where_a_plain_one_is_needed(files: dict[str, Path], kind: str) -> None:
    with pytest.raises(AlreadyNested, match=f"is a {kind} checkpoint already") as caught:
        open_plain(files[kind])
    assert str(files[kind]) in str(caught.value)
    with open_plain(files["plain"]) as container:
        assert len(container.tensors) == len(NET.tensors)


def test_a_plain_file_that_is_cut(files: dict[str, Path]) -> None:
    path = files["plain"]
    path.write_bytes(path.read_bytes()[:-1])
    for opener in (open_any, open_plain, open_nested):
        with pytest.raises(TruncatedFile, match="1 bytes early") as caught:
            opener(path)
        assert str(path) in str(caught.value)


def test_a_nested_file_that_is_cut(files: dict[str, Path]) -> None:
    path = files["nested"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TruncatedFile, match="1 bytes early"):
        open_nested(path)


def test_reserved_names_in_a_plain_file(tmp_path: Path) -> None:
    for name in (
        "elsa.mask.0.9",
        "elsa.level.0.5/w",
        "elsa.shell.0.25.mask",
        "elsa.shell.dense.values",
    ):
        path = write_safetensors(tmp_path / "m", [("w", "U8", (1,), b"a"), (name, "U8", (0,), b"")])
        with pytest.raises(InputError, match="reserved") as caught:
            open_plain(path)
        assert caught.value.tensor == name
    path = write_safetensors(tmp_path / "m", [("elsaw", "U8", (1,), b"a")])
    open_plain(path).close()
    for name in ("elsa", "elsa.weight", "elsa.mask.0", "elsa.mask.weight", "elsa.level.0.9.weight"):
        path = write_safetensors(tmp_path / "m", [(name, "U8", (1,), b"a")])
        open_plain(path).close()


def test_whoever_refuses_closes(files: dict[str, Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    broken = edit(files["nested"], {"version": 1})
    refusals: list[tuple[Callable[[Any], object], Path, type[InputError]]] = [
        (open_nested, files["plain"], NotNested),
        (open_plain, files["packed"], AlreadyNested),
        (open_any, broken, BadManifest),
    ]
    for opener, path, kind in refusals:
        with pytest.raises(kind):
            opener(path)
    assert len(os.listdir("/proc/self/fd")) == before
