"""Damaged files give one of our errors or are read; nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa_cli.checkpoint.opening import open_any
from elsa_cli.errors import InputError, MalformedFile
from elsa_cli.storage.container import Container
from tests.networks import (
    edit,
    make,
    manifest_of,
    masks_of,
    read_level,
    widen,
    write_nested,
    write_pack,
)

NET = make(
    "fuzz",
    levels=("0.8", "0.4"),
    prunable=(("a.weight", "BF16", (3, 8)), ("b.weight", "F32", (2, 5))),
    shared=(("t", "U8", (3,)),),
    per_level=(("n", "F16", (2,)),),
)
KINDS = ("plain", "header", "tensors", "packed")


def read_everything(path: Path) -> None:
    opened = open_any(path)
    with opened:
        if isinstance(opened, Container):
            for t in opened.tensors:
                assert len(opened.read(t)) == t.nbytes
            return
        for level in opened.available:
            for _, shape, data in read_level(opened, level.text).values():
                assert data is not None
                assert shape is not None
        for at in range(len(opened.manifest.tensors)):
            for _ in masks_of(opened, at):
                pass


def refusal(path: Path) -> InputError | None:
    """Read everything; return the error of ours that it ended with."""
    try:
        read_everything(path)
    except InputError as error:
        return error
    return None


@pytest.fixture(scope="module", params=KINDS)
def legal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One legal file of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "plain":
        return NET.write(folder / "m")
    if request.param == "packed":
        return widen(write_pack(folder / "m", write_nested(folder / "n", NET)), 256)
    return widen(write_nested(folder / "m", NET, request.param), 256)


def test_the_legal_file_is_read(legal: Path) -> None:
    read_everything(legal)


@settings(max_examples=300)
@given(data=st.data())
def test_bytes_flipped_inserted_or_deleted(legal: Path, data: st.DataObject) -> None:
    raw = bytearray(legal.read_bytes())
    end = int.from_bytes(raw[:8], "little") + 8
    for _ in range(data.draw(st.integers(1, 3))):
        # half of them in the header, where there is more to break
        at = data.draw(st.integers(0, min(len(raw), end)) | st.integers(0, len(raw)))
        change = data.draw(st.sampled_from(["flip", "insert", "delete", "digit", "repeat"]))
        if change == "insert":
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif change == "delete":
            del raw[at : at + data.draw(st.integers(1, 20))]
        elif change == "repeat":
            raw[at:at] = raw[at : at + data.draw(st.integers(1, 60))]
        elif at < len(raw):
            if change == "digit":
                raw[at : at + 1] = b"%d" % data.draw(st.integers(0, 99))
            else:
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path = legal.with_suffix(".damaged")
    path.write_bytes(raw)
    error = refusal(path)
    assert error is None or (str(path) in str(error) and "\n" not in str(error))


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    for content in (raw, len(raw).to_bytes(8, "little") + raw):
        path.write_bytes(content)
        error = refusal(path)
        assert error is None or (isinstance(error, MalformedFile) and str(path) in str(error))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "U8", "F32", "a", "__metadata__", "dtype", "shape", "data_offsets"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "__metadata__", "dtype", "shape", "data_offsets", "elsa"]),
            inner,
            max_size=4,
        )
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["U8", "F32", "F4"]) | inner,
                "shape": st.lists(st.integers(0, 5), max_size=3) | inner,
                "data_offsets": st.lists(st.integers(0, 9), min_size=2, max_size=2) | inner,
            }
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "elsa.x"]), JSON))
def test_any_header(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "header"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    error = refusal(path)
    assert error is None or str(path) in str(error)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a tree of JSON."""
    if path:
        yield path
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(value, (*path, key))


OTHER: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 1 << 70, 1.5, "", "x", "0.5", "a.weight", "t", "elsa", "F32", "F4"),
    *("packed", "nested", "tensors", "header", [], {}, ["0.5"], [1, 2], [1 << 70, 0], {"a": 1}),
)


def test_every_value_of_a_manifest_replaced(legal: Path) -> None:
    """No replacement may end in anything but a level or one of our errors."""
    if legal.parent.name.startswith("plain"):
        return
    manifest = manifest_of(legal)
    path = legal.with_suffix(".damaged")
    refused = 0
    paths = list(places(manifest))
    for place in paths:
        for other in (*OTHER, KeyError):
            fields = json.loads(json.dumps(manifest))
            node = fields
            for key in place[:-1]:
                node = node[key]
            if other is KeyError:
                del node[place[-1]]
            else:
                node[place[-1]] = other
            path.write_bytes(legal.read_bytes())
            edit(path, fields)
            try:
                error = refusal(path)
            except Exception as odd:
                raise AssertionError(f"{place} = {other!r}: {odd!r}") from odd
            refused += error is not None
            assert error is None or str(path) in str(error), (place, other)
    assert refused > len(paths) * len(OTHER) * 0.7
