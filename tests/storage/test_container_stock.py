"""Our files against the stock library's, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.errors import MalformedFile
from elsa_cli.storage.container import Container, TensorSpec, encode_header, lay_out
from tests.helpers import (
    BITS,
    Tensor,
    library_order,
    nbytes,
    random_bits,
    read_safetensors,
    write_raw,
    write_safetensors,
)


def ours(tensors: list[Tensor], metadata: dict[str, str]) -> bytes:
    data = {name: raw for name, _, _, raw in tensors}
    placed = lay_out(TensorSpec(name, DTYPES[d], tuple(shape)) for name, d, shape, _ in tensors)
    return encode_header(placed, metadata) + b"".join(data[t.name] for t in placed)


def every_dtype() -> list[Tensor]:
    rng = np.random.default_rng(1)
    return [
        (f"{prefix}.{dtype}", dtype, shape, random_bits(rng, dtype, shape, "weird"))
        for dtype in BITS
        for prefix, shape in (("w", (5, 16)), ("empty", (0, 8)), ("ключ", (8,)))
    ]


def test_the_bytes_are_those_of_numpy_save() -> None:
    from safetensors.numpy import save

    rng = np.random.default_rng(2)
    kinds = ("f8", "f4", "f2", "i8", "u8", "i4", "u4", "i2", "u2", "i1", "u1", "?", "c8")
    arrays: dict[str, Any] = {f"t.{k}": rng.random((3, 5)).astype(f"<{k}") for k in kinds}
    arrays |= {"b": np.array(1, "<f4"), "a": np.zeros((0, 3), "<f4")}
    arrays["é"] = rng.random((2, 3)).astype("<f4")
    names = {"f": "F", "i": "I", "u": "U", "b": "BOOL", "c": "C"}
    tensors: list[Tensor] = []
    for name, array in arrays.items():
        kind = names[array.dtype.kind]
        dtype = kind if kind == "BOOL" else f"{kind}{8 * array.dtype.itemsize}"
        tensors.append((name, dtype, array.shape, array.tobytes()))
    assert ours(tensors, {}) == save(arrays, {"format": "pt"})
    assert ours([], {}) == save({}, {"format": "pt"})


def test_the_bytes_are_those_of_torch_save_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    dtypes = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
        "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
        "F8_E8M0": torch.float8_e8m0fnu,
        "C64": torch.complex64,
        "BOOL": torch.bool,
        "I64": torch.int64,
        "U64": torch.uint64,
        "I8": torch.int8,
        "U8": torch.uint8,
    }
    tensors = [t for t in every_dtype() if t[1] in dtypes]
    state = {
        name: torch.frombuffer(bytearray(raw) or bytearray(8), dtype=torch.uint8)[: len(raw)]
        .view(dtypes[dtype])
        .reshape(shape)
        for name, dtype, shape, raw in tensors
    }
    save_file(state, tmp_path / "theirs", {"format": "pt"})
    assert ours(tensors, {}) == (tmp_path / "theirs").read_bytes()


def test_the_stock_library_reads_every_dtype(tmp_path: Path) -> None:
    path = tmp_path / "ours"
    tensors = every_dtype()
    path.write_bytes(ours(tensors, {"k": "ü"}))
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "k": "ü"}
        assert list(file.offset_keys()) == [t[0] for t in library_order(tensors)]
        for name, dtype, shape, _ in tensors:
            found = file.get_slice(name)
            assert (found.get_dtype(), found.get_shape()) == (dtype, list(shape))
    parsed, metadata = read_safetensors(path)
    assert parsed == {name: (dtype, tuple(shape), raw) for name, dtype, shape, raw in tensors}
    assert metadata == {"format": "pt", "k": "ü"}


def test_our_reader_reads_what_the_stock_library_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    array = np.arange(24, dtype="<i2").reshape(4, 6)
    save_file({"w": array}, tmp_path / "theirs", {"a": "1", "b": "2"})
    with Container(tmp_path / "theirs") as container:
        (tensor,) = container.tensors
        assert (tensor.dtype.name, tensor.shape) == ("I16", (4, 6))
        assert container.read(tensor) == array.tobytes()
        assert container.metadata == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}x',
        b'{"\\ud800":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        b'{"\xff":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"U8","shape":[7],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"U8","shape":[7],"data_offsets":[0,7]}}',
        b'{"a":{"dtype":"U8","shape":[7],"data_offsets":[1,8]}}',
        b'{"a":{"dtype":"F4","shape":[15],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"U8","shape":[0,1e99],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":[0,36893488147419103232],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":[true,8],"data_offsets":[0,8]}}',
        b'{"__metadata__":{"a":1},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
    ],
    ids=range(13),
)
def test_what_the_stock_library_refuses_we_refuse(tmp_path: Path, header: bytes) -> None:
    path = write_raw(tmp_path / "m", header, bytes(8))
    with pytest.raises(SafetensorError), safe_open(path, "np"):
        pass
    with pytest.raises(MalformedFile):
        Container(path)


def test_files_written_by_hand_are_those_of_the_library(tmp_path: Path) -> None:
    """The helpers of the tests themselves."""
    tensors = every_dtype()
    path = write_safetensors(tmp_path / "m", library_order(tensors), {"format": "pt"})
    assert path.read_bytes() == ours(tensors, {})
    assert all(len(raw) == nbytes(dtype, shape) for _, dtype, shape, raw in tensors)
