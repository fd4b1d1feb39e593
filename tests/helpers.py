"""What tests share: safetensors files read and written by hand, random bits, the command line.

Nothing here uses the package, so that a mistake in it cannot hide itself.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from tests.commands.forkserver import shared

# Bits an element, in the order of the library's enumeration; it writes files in descending order.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

# Floats that can be pruned: bits of mantissa, exponent bias, largest finite magnitude (raw bits).
FLOATS = {
    "F64": (52, 1023, 0x7FEF_FFFF_FFFF_FFFF),
    "F32": (23, 127, 0x7F7F_FFFF),
    "F16": (10, 15, 0x7BFF),
    "BF16": (7, 127, 0x7F7F),
    "F8_E5M2": (2, 15, 0x7B),
    "F8_E4M3": (3, 7, 0x7E),
    "F8_E5M2FNUZ": (2, 16, 0x7F),
    "F8_E4M3FNUZ": (3, 8, 0x7F),
}

Tensor = tuple[str, str, Sequence[int], bytes]  # name, dtype, shape, data
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]  # name -> dtype, shape, data
StrPath = str | os.PathLike[str]


def nbytes(dtype: str, shape: Sequence[int]) -> int:
    """Return the bytes of a tensor."""
    return math.prod(shape) * BITS[dtype] // 8


def write_raw(path: StrPath, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Write a file with any header: bytes as they are, else JSON; nothing is checked."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = Path(path)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def write_safetensors(
    path: StrPath, tensors: Iterable[Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a safetensors file: tensors in the order given, header padded to 8 bytes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    parts = []
    at = 0
    for name, dtype, shape, data in tensors:
        assert len(data) == nbytes(dtype, shape), name
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return write_raw(path, text + b" " * (-len(text) % 8), b"".join(parts))


def library_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return tensors as the stock library orders them: dtype descending, then name."""
    order = list(BITS)
    return sorted(tensors, key=lambda t: (-order.index(t[1]), t[0]))


def read_safetensors(path: StrPath) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of a file, in the order of their data, and its metadata."""
    raw = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    metadata = header.pop("__metadata__", {})
    tensors = {}
    at = 0
    for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = t["data_offsets"]
        assert begin == at, name
        assert end - begin == nbytes(t["dtype"], t["shape"]), name
        tensors[name] = (t["dtype"], tuple(t["shape"]), data[begin:end])
        at = end
    assert at == len(data)
    return tensors, metadata


def raw_bits(dtype: str, data: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the elements of a tensor of whole bytes as unsigned integers."""
    return np.frombuffer(data, f"<u{BITS[dtype] // 8}")


def random_bits(rng: np.random.Generator, dtype: str, shape: Sequence[int], kind: str) -> bytes:
    """Return the bytes of a tensor of finite values.

    Args:
        rng: Where they come from.
        dtype: Any name of `BITS`; those that are not in `FLOATS` get random bytes.
        shape: Its shape.
        kind: `normal` distributed, `ties` (three magnitudes), `constant`, or `weird`: zeros of
            both signs, subnormals, the largest values.
    """
    numel = math.prod(shape)
    if dtype not in FLOATS:
        if kind == "constant":
            return bytes(nbytes(dtype, shape))
        high = {"BOOL": 2, "F8_E8M0": 255}.get(dtype, 256)
        return rng.integers(0, high, nbytes(dtype, shape), np.uint8).tobytes()
    width = BITS[dtype]
    sign = 1 << (width - 1)
    mantissa, _, largest = FLOATS[dtype]
    one = encode_floats(dtype, np.ones(1))[0]
    if kind == "normal":
        return encode_floats(dtype, rng.standard_normal(numel) * 0.5).tobytes()
    if kind == "constant":
        values = [int(one)]
    elif kind == "ties":
        half, two = encode_floats(dtype, np.array([0.5, 2.0]))
        values = [int(v) | s for v in (half, one, two) for s in (0, sign)]
    elif kind == "weird":
        subnormals = [1, (1 << mantissa) - 1, 1 << mantissa]
        values = [v | s for v in (*subnormals, largest - 1, largest) for s in (0, sign)]
        values += [0] if dtype.endswith("FNUZ") else [0, sign]
    else:
        raise ValueError(kind)
    return rng.choice(np.array(values, f"<u{width // 8}"), numel).tobytes()


def encode_floats(
    dtype: str, values: np.ndarray[Any, np.dtype[np.float64]]
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the raw bits of moderate values in a dtype of `FLOATS`; BF16 and FP8 cut off."""
    if dtype in ("F64", "F32", "F16"):
        width = BITS[dtype] // 8
        return np.frombuffer(values.astype(f"<f{width}").tobytes(), f"<u{width}")
    if dtype == "BF16":
        return np.frombuffer(values.astype("<f4").tobytes(), "<u2")[1::2].copy()
    mantissa, bias, largest = FLOATS[dtype]
    ranks = np.arange(largest + 1)
    exponent, fraction = ranks >> mantissa, ranks & ((1 << mantissa) - 1)
    table = np.where(
        exponent > 0,
        (1 + fraction / (1 << mantissa)) * np.exp2(exponent - bias),
        fraction / (1 << mantissa) * 2.0 ** (1 - bias),
    )
    magnitude = np.searchsorted(table, np.abs(values), side="right") - 1
    negative = (values < 0) & (magnitude > 0)
    codes = np.where(negative, magnitude + 0x80, magnitude)
    return np.frombuffer(codes.astype("<u1").tobytes(), "<u1")


def strict_json(text: str | bytes) -> Any:
    """Read JSON as the standard has it: UTF-8, no NaN, no Infinity, no key twice."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(items)) == len(items), "a key stands twice"
        return dict(items)

    shown = text.decode() if isinstance(text, bytes) else text
    value = json.loads(shown, parse_constant=refuse, object_pairs_hook=pairs)
    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates, spelled as escapes
    return value


def elsa(
    *args: StrPath,
    stdin: bytes | int | IO[bytes] | None = None,
    cwd: StrPath | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own: a fork, if Python needs no variable to start.

    Args:
        args: Arguments.
        stdin: Bytes, an open file or its descriptor; by default /dev/null.
        cwd: Where it runs.
        env: Variables added to those of this process.
    """
    if not any(name.startswith("PYTHON") for name in env or {}):
        return shared("light").call(*args, cwd=cwd, env=env, stdin=stdin)
    source: dict[str, Any]
    source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    if stdin is None:
        source = {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [sys.executable, "-m", "elsa_cli", *(str(arg) for arg in args)],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=120,
        check=False,
        **source,
    )
