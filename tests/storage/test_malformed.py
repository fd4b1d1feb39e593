"""Each kind of malformed file has its own error."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from elsa_cli.errors import (
    DuplicateName,
    HeaderNotJson,
    HeaderTooLong,
    HoleInData,
    InputError,
    MalformedFile,
    OffsetOutOfRange,
    OverlappingTensors,
    ShapeMismatch,
    TrailingBytes,
    TruncatedFile,
    UnknownDtype,
)
from elsa_cli.storage.container import MAX_HEADER, Container
from tests.helpers import write_raw


def entry(begin: Any, end: Any, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def refused(path: Path, kind: type[MalformedFile], *words: str) -> str:
    """Open a file that must be refused; the message names it and has the words."""
    with pytest.raises(MalformedFile) as caught:
        Container(path)
    assert caught.type is kind
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_without_a_length_is_truncated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0"[:size])
    refused(path, TruncatedFile, "too short")


def test_a_header_that_ends_early_is_truncated(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", {"a": entry(0, 4)}, length=500)
    refused(path, TruncatedFile, "508", str(path.stat().st_size))


def test_data_that_ends_early_is_truncated(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", {"a": entry(0, 4), "b": entry(4, 8)}, bytes(5))
    with Container(path) as container:
        assert container.data_there == 5
        with pytest.raises(TruncatedFile, match="3 bytes early") as caught:
            container.require_whole()
        assert str(path) in str(caught.value)
        assert caught.value.tensor == "b"
        with pytest.raises(TruncatedFile):
            container.read(container.tensors[1])
        assert container.read(container.tensors[0]) == bytes(4)


def test_a_header_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", b"{}", length=MAX_HEADER + 1)
    refused(path, HeaderTooLong, "100,000,001")
    path = write_raw(tmp_path / "m", b"{}", length=(1 << 64) - 1)
    refused(path, HeaderTooLong)
    path = write_raw(tmp_path / "m", b"{}", length=MAX_HEADER)
    refused(path, TruncatedFile)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'"a"',
        b' {"a":1}',
        b"\xef\xbb\xbf{}",
        b"{",
        b"{}{}",
        b'{"a":}',
        b"{'a':1}",
        b'{"\xff":1}',
        b'{"a\\ud800":1}',
        b"{" * 5,
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 200_000,
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}',
    ],
    ids=range(16),
)
def test_what_is_not_json(tmp_path: Path, text: bytes) -> None:
    refused(write_raw(tmp_path / "m", text), HeaderNotJson)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        "U8",
        {},
        {"dtype": "U8", "shape": [0]},
        ["U8", [1]],
        ["U8", [1], [0, 1], 1],
        {**entry(0, 1), "dtype": {"U8": 0}},
        {**entry(0, 1), "dtype": {"U8": None, "I8": None}},
        {**entry(0, 1), "dtype": {}},
        entry(0, 0, dtype=None),
        entry(0, 0, dtype=["U8"]),
        entry(0, 0, shape="12"),
        entry(0, 0, shape={"0": 0}),
        entry(0, 0, shape=[0.0]),
        entry(0, 0, shape=[None]),
        entry(False, False, shape=[0]),
        entry(0, 1, shape=[True]),
        entry("0", "0", shape=[0]),
        entry(0.0, 0.0, shape=[0]),
        {"dtype": "U8", "shape": [0], "data_offsets": [0]},
        {"dtype": "U8", "shape": [0], "data_offsets": [0, 0, 0]},
        {"dtype": "U8", "shape": [0], "data_offsets": 0},
    ],
    ids=range(23),
)
def test_entries_of_the_wrong_form(tmp_path: Path, fields: Any) -> None:
    path = write_raw(tmp_path / "m", {"layer.weight": fields}, bytes(1))
    refused(path, HeaderNotJson, "layer.weight")


@pytest.mark.parametrize("metadata", [[], "pt", 1, {"a": 1}, {"a": None}, {"a": {}}, {"a": ["b"]}])
def test_metadata_that_is_not_strings(tmp_path: Path, metadata: Any) -> None:
    path = write_raw(tmp_path / "m", {"__metadata__": metadata})
    refused(path, HeaderNotJson, "__metadata__")


def test_a_name_that_stands_twice(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 1))
    path = write_raw(tmp_path / "m", f'{{"b":{one},"w":{one},"w":{one}}}'.encode(), bytes(1))
    refused(path, DuplicateName, ": w: ")
    # escapes do not hide it
    path = write_raw(tmp_path / "m", f'{{"w":{one},"\\u0077":{one}}}'.encode(), bytes(1))
    refused(path, DuplicateName, ": w: ")
    for field in ("dtype", "shape", "data_offsets"):
        text = one.replace("{", f'{{"{field}":{json.dumps(entry(0, 1)[field])},')
        path = write_raw(tmp_path / "m", f'{{"w":{text}}}'.encode(), bytes(1))
        refused(path, DuplicateName, f": w: '{field}' ")
    path = write_raw(tmp_path / "m", b'{"__metadata__":{"k":"1","k":"2"}}')
    refused(path, DuplicateName, ": k: ")


@pytest.mark.parametrize(
    ("header", "kind", "words"),
    [
        ({"a": entry(0, 4), "b": entry(6, 8)}, HoleInData, ("b", "2 bytes")),
        ({"a": entry(3, 8)}, HoleInData, ("a", "3 bytes")),
        ({"b": entry(0, 5), "a": entry(4, 8)}, OverlappingTensors, ("a", "1 bytes")),
        ({"b": entry(0, 8), "a": entry(0, 8)}, OverlappingTensors, ("8 bytes",)),
        ({"b": entry(0, 8), "a": entry(4, 4, [0])}, OverlappingTensors, ("a",)),
        ({"a": entry(-1, 7)}, OffsetOutOfRange, ("a", "[-1, 7]")),
        ({"a": entry(4, 2, [2])}, OffsetOutOfRange, ("a", "[4, 2]")),
        ({"a": entry(0, 1 << 63)}, OffsetOutOfRange, ("a",)),
        ({"a": entry(0, 8, [9])}, ShapeMismatch, ("a", "U8 of shape [9]", "8 bytes")),
        ({"a": entry(0, 8, [1], "F32")}, ShapeMismatch, ("a", "F32")),
        ({"a": entry(0, 8, [-2, -4])}, ShapeMismatch, ("a",)),
        ({"a": entry(0, 8, [])}, ShapeMismatch, ("a",)),
        ({"a": entry(0, 8, [0])}, ShapeMismatch, ("a",)),
        ({"a": entry(0, 8, [1 << 32, 1 << 32])}, ShapeMismatch, ("a",)),
        ({"a": entry(0, 0, [0, 1 << 64])}, ShapeMismatch, ("a",)),
        ({"a": entry(0, 8, [17], "F4")}, ShapeMismatch, ("a",)),
        ({"a": entry(0, 8, [15], "F4")}, ShapeMismatch, ("a",)),
        ({"a": entry(0, 8, [8], "F7")}, UnknownDtype, ("a", "'F7'")),
        ({"a": entry(0, 8, [8], "u8")}, UnknownDtype, ("a", "'u8'")),
        ({"a": entry(0, 8, [8], "")}, UnknownDtype, ("a",)),
        ({"a": entry(0, 5)}, TrailingBytes, ("3 bytes",)),
        ({}, TrailingBytes, ("8 bytes",)),
    ],
    ids=range(22),
)
def test_each_contradiction_has_its_own_error(
    tmp_path: Path, header: Any, kind: type[MalformedFile], words: tuple[str, ...]
) -> None:
    refused(write_raw(tmp_path / "m", header, bytes(8)), kind, *words)


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", b"[]")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(HeaderNotJson):
            Container(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Container(tmp_path / "absent")
    with pytest.raises(InputError, match="is a folder"):
        Container(tmp_path)


def test_odd_names_stay_on_one_line(tmp_path: Path) -> None:
    for name in ("a\nb", "a\r\nb", "a\x85b", "a\u2028b", "\x1b[2Ka"):
        message = refused(write_raw(tmp_path / "m", {name: entry(0, 8, [9])}), ShapeMismatch)
        assert re.search("[\x00-\x1f\x7f-\x9f]", message) is None
