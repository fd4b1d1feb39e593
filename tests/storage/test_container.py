from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.errors import (
    HeaderTooLong,
    InputError,
    TruncatedFile,
)
from elsa_cli.storage.container import MAX_HEADER, Container, TensorSpec, encode_header, lay_out
from tests.helpers import BITS, nbytes, write_raw, write_safetensors


def entry(begin: Any, end: Any, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


ODD: dict[str, dict[str, Any]] = {
    "no tensors": {},
    "no metadata": {"a": entry(0, 4)},
    "null data": {"__metadata__": {}, "a": entry(0, 0)},
    "0-d": {"a": entry(0, 4, [], "F32")},
    "empty first and last": {"z": entry(0, 0), "a": entry(0, 4), "y": entry(4, 4, [3, 0], "F32")},
    "unicode": {"слой.0.重み": entry(0, 4), "": entry(4, 6), "a b/c\\d": entry(6, 9)},
    "not in order": {"b": entry(4, 9), "a": entry(1, 4), "c": entry(0, 1)},
    "unaligned": {"a": entry(0, 3), "b": entry(3, 11, [1], "F64")},
    "metadata": {"__metadata__": {"é": "ü", "": "", "format": "np"}, "a": entry(0, 1)},
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("padding", [0, 1, 3, 8])
def test_legal_oddities(tmp_path: Path, case: str, padding: int) -> None:
    header = ODD[case]
    tensors = {k: v for k, v in header.items() if k != "__metadata__"}
    size = max((t["data_offsets"][1] for t in tensors.values()), default=0)
    data = bytes(range(1, size + 1))
    for ascii_only in (True, False):
        text = json.dumps(header, ensure_ascii=ascii_only).encode() + b" " * padding
        path = write_raw(tmp_path / "m", text, data)
        with Container(path) as container:
            container.require_whole()
            assert container.metadata == header.get("__metadata__", {})
            assert container.header_bytes == 8 + len(text)
            assert container.data_bytes == container.available == size
            assert {t.name for t in container.tensors} == tensors.keys()
            begins = [t.begin for t in container.tensors]
            assert begins == sorted(begins)
            for t in container.tensors:
                begin, end = tensors[t.name]["data_offsets"]
                assert container.read(t) == data[begin:end]
                assert t.shape == tuple(tensors[t.name]["shape"])
                assert t.numel * t.dtype.bits // 8 == t.nbytes == end - begin


def test_every_dtype_is_read(tmp_path: Path) -> None:
    tensors = [(f"t.{d}", d, (4, 2), bytes(nbytes(d, (4, 2)))) for d in BITS]
    with Container(write_safetensors(tmp_path / "m", tensors)) as container:
        found = {t.name: (t.dtype.name, t.shape, t.nbytes) for t in container.tensors}
    assert found == {name: (dtype, (4, 2), len(data)) for name, dtype, _, data in tensors}


def test_read_into_reads_any_range(tmp_path: Path) -> None:
    data = bytes(range(200))
    path = write_raw(tmp_path / "m", {"a": entry(0, 200)}, data)
    with Container(path) as container:
        for begin, count in ((0, 200), (0, 0), (7, 11), (199, 1)):
            buffer = bytearray(count)
            container.read_into(begin, memoryview(buffer))
            assert bytes(buffer) == data[begin : begin + count]
        with pytest.raises(TruncatedFile, match="1 bytes early"):
            container.read_into(190, memoryview(bytearray(11)))


def test_read_into_goes_on_after_a_short_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(200))
    path = write_raw(tmp_path / "m", {"a": entry(0, 200)}, data)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, b, at: preadv(fd, [b[0][:7]], at))
    with Container(path) as container:
        assert container.read(container.tensors[0]) == data


def test_a_read_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    path = write_raw(tmp_path / "m", {"a": entry(0, 1)}, b"a")
    with Container(path) as container:
        for call in ("preadv", "pread"):
            monkeypatch.setattr(os, call, broken)
        with pytest.raises(InputError, match="Input/output error") as caught:
            container.read(container.tensors[0])
    assert str(path) in str(caught.value)


def test_lay_out_places_tensors_in_the_order_of_the_library() -> None:
    shape = (3, 8)
    placed = lay_out(
        [TensorSpec(f"{n}.{d}", DTYPES[d], shape) for d in BITS for n in "ba"], start=16
    )
    names = [f"{n}.{d}" for d in reversed(BITS) for n in "ab"]
    assert [t.name for t in placed] == names
    at = 16
    for t in placed:
        assert (t.begin, t.end) == (at, at + nbytes(t.dtype.name, shape))
        at = t.end


def test_encode_header_can_be_longer_than_needed() -> None:
    tensors = lay_out([TensorSpec("a", DTYPES["U8"], (3,))])
    short = encode_header(tensors, {"b": "1", "a": "2"})
    longer = encode_header(tensors, {"a": "2", "b": "1"}, len(short) + 24)
    assert longer == struct.pack("<Q", len(short) + 16) + short[8:] + b" " * 24
    assert len(short) % 8 == 0
    assert json.loads(short[8:])["__metadata__"] == {"a": "2", "b": "1", "format": "pt"}
    assert short[8:].startswith(b'{"__metadata__":{"a":"2","b":"1","format":"pt"},"a":')
    with pytest.raises(HeaderTooLong):
        encode_header(tensors, {}, MAX_HEADER + 16)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a regular file; pipe it in"):
        Container(tmp_path / "pipe")
