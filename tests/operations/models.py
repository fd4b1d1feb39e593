"""Checkpoints that the tests of the operations work on, and what must come out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from elsa_cli import open_nested
from tests.helpers import (
    BITS,
    FLOATS,
    Tensor,
    Tensors,
    random_bits,
    raw_bits,
    read_safetensors,
    write_safetensors,
)
from tests.selection.reference import Mask

LEVELS = ("0.9", "0.7", "0.5")


def network(
    dtypes: Sequence[str] = ("F32", "BF16", "F8_E5M2"), seed: int = 0, kind: str = "normal"
) -> list[Tensor]:
    """Return matrices and convolutions of each dtype, and what is not pruned."""
    rng = np.random.default_rng(seed)
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("conv.weight", (8, 4, 3, 3)),
        ("fc.weight", (24, 40)),
    ]
    tensors: list[Tensor] = [
        (f"{dtype}.{name}", dtype, shape, random_bits(rng, dtype, shape, kind))
        for dtype in dtypes
        for name, shape in shapes
    ]
    extra: list[tuple[str, str, tuple[int, ...]]] = [
        ("conv.bias", "F32", (8,)),
        ("embed.weight", "F32", (7, 5)),
        ("steps", "I64", ()),
        ("empty", "F32", (0, 3)),
    ]
    tensors += [(n, d, s, random_bits(rng, d, s, "normal")) for n, d, s in extra]
    return tensors


def every_dtype(seed: int = 0) -> list[Tensor]:
    """Return a matrix of every dtype of the format."""
    rng = np.random.default_rng(seed)
    shape = (16, 24)
    return [(f"{d}.weight", d, shape, random_bits(rng, d, shape, "normal")) for d in BITS]


def save(path: Path, tensors: Sequence[Tensor]) -> Path:
    """Write a checkpoint with metadata of its own."""
    return write_safetensors(path, tensors, {"format": "pt", "note": "kept"})


def prunable(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return those that are pruned by default."""
    return [
        t
        for t in tensors
        if t[1] in FLOATS and len(t[2]) > 1 and 0 not in t[2] and "embed" not in t[0]
    ]


def zeroed(tensors: Sequence[Tensor], masks: dict[str, Mask]) -> Tensors:
    """Return the network in which masked tensors have +0.0 outside their masks."""
    result: Tensors = {}
    for name, dtype, shape, data in tensors:
        if name in masks:
            bits = raw_bits(dtype, data).copy()
            bits[~masks[name]] = 0
            data = bits.tobytes()
        result[name] = (dtype, tuple(shape), data)
    return result


def assert_network(path: Path, expected: Tensors) -> None:
    """Check that a plain checkpoint holds just this network, and the foreign metadata."""
    actual, metadata = read_safetensors(path)
    assert metadata == {"format": "pt", "note": "kept"}
    assert actual == expected


def stored_masks(path: Path, level: str) -> dict[str, Mask]:
    """Return the masks of a level, flat."""
    with open_nested(path) as checkpoint:
        return {name: checkpoint.mask(level, name).reshape(-1) for name in checkpoint.prunable}


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1 << bit
    path.write_bytes(raw)


def place(path: Path, tensor: str) -> tuple[int, int]:
    """Return where the bytes of a tensor begin and end in a file."""
    import json

    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8 : 8 + length])[tensor]["data_offsets"]
    return 8 + length + begin, 8 + length + end
