"""Selection done the slow way: every value decoded, everything sorted, hashes in plain integers."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.bits import pack_bits, unpack_bits
from elsa_cli.core.level import parse_levels
from elsa_cli.core.work import Scratch
from elsa_cli.selection.cut import keep
from elsa_cli.selection.eligible import eligible_tensors
from elsa_cli.selection.masks import Rule, Traits, choose
from elsa_cli.selection.scan import Scan, positions_of
from elsa_cli.selection.scores import Chunk
from elsa_cli.selection.topk import DIRECT, ROOM, cuts
from elsa_cli.storage.container import Container
from tests.helpers import BITS, FLOATS, Tensor, raw_bits, write_safetensors

Mask = NDArray[np.bool_]
WORD = (1 << 64) - 1


def splitmix64(position: int) -> int:
    """Return the tie-breaking hash, after the published C code."""
    z = (position + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


@functools.cache
def hashes(numel: int) -> NDArray[np.uint64]:
    """Return the hashes of positions 0 … numel - 1."""
    return np.array([splitmix64(p) for p in range(numel)], np.uint64)


@functools.cache
def _table(dtype: str) -> NDArray[np.float64]:
    """Return |value| of every code of an 8- or 16-bit float that has no infinity among them."""
    mantissa, bias, largest = FLOATS[dtype]
    table = np.full(1 << BITS[dtype], np.nan)
    for code in range(largest + 1):
        exponent, fraction = code >> mantissa, code & ((1 << mantissa) - 1)
        unit = Fraction(2) ** (max(exponent, 1) - bias - mantissa)
        value = float((fraction + (1 << mantissa if exponent else 0)) * unit)
        table[code] = value
        if code or not dtype.endswith("FNUZ"):
            table[code | 1 << (BITS[dtype] - 1)] = value
    return table


def absolute(dtype: str, data: bytes) -> NDArray[np.float64]:
    """Return |w| exactly: every float dtype fits in float64. Only for finite values."""
    bits = raw_bits(dtype, data)
    if dtype in ("F64", "F32"):
        floats = bits.view(bits.dtype.str.replace("u", "f")).astype(np.float64)
        values: NDArray[np.float64] = np.abs(floats)
    else:
        values = _table(dtype)[bits]
    assert np.isfinite(values).all()
    return values


def half_even(numerator: int, denominator: int) -> int:
    """Return numerator / denominator rounded, halves to even, in integers alone."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


def ranked_masks(
    scores: Mapping[str, NDArray[np.float64]], counts: Sequence[int]
) -> list[dict[str, Mask]]:
    """Keep the first of all, sorted by score and then by hash, both descending."""
    names = sorted(scores)
    every = np.concatenate([scores[name] for name in names])
    order = np.lexsort((hashes(every.size), every))[::-1]
    result = []
    for count in counts:
        flat = np.zeros(every.size, np.bool_)
        flat[order[:count]] = True
        bounds = np.cumsum([scores[name].size for name in names])[:-1]
        result.append(dict(zip(names, np.split(flat, bounds), strict=True)))
    return result


def layer_masks(
    scores: Mapping[str, NDArray[np.float64]], counts: Mapping[str, int]
) -> dict[str, Mask]:
    """Keep the first of each tensor; ties by the hash of the position among all tensors."""
    at = 0
    every = hashes(sum(s.size for s in scores.values()))
    masks = {}
    for name in sorted(scores):
        size = scores[name].size
        order = np.lexsort((every[at : at + size], scores[name]))[::-1]
        masks[name] = np.zeros(size, np.bool_)
        masks[name][order[: counts[name]]] = True
        at += size
    return masks


def reference_masks(tensors: Sequence[Tensor], counts: Sequence[int]) -> list[dict[str, Mask]]:
    """Return the masks of global magnitude selection, one dict for each count."""
    return ranked_masks({name: absolute(dtype, data) for name, dtype, _, data in tensors}, counts)


def selected_masks(
    path: Path,
    tensors: Sequence[Tensor],
    counts: Sequence[int],
    threads: int = 1,
    step: int = 64,
    scorer: Any = Chunk.magnitude,
    direct: int = DIRECT,
    room: int = ROOM,
) -> list[dict[str, Mask]]:
    """Return what `cuts` and `keep` choose for the same tensors, by way of a file."""
    write_safetensors(path, tensors)
    result: list[dict[str, Mask]] = [
        {name: np.zeros(math.prod(shape), np.bool_) for name, _, shape, _ in tensors}
        for _ in counts
    ]
    with Container(path) as container:
        scan = Scan(container, container.tensors, positions_of(container.tensors), scorer, step)
        found = cuts(scan, counts, threads, direct=direct, room=room)
        assert len(found) == len(counts)
        scratch = Scratch()
        for piece in scan.pieces():
            bits, magnitude = scan.unsigned(piece, scratch)
            position = scan.position(piece)
            made, kept = keep(scan.kernels, bits, magnitude, found, position, scratch)
            for masks, packed, count in zip(result, made, kept, strict=True):
                part = unpack_bits(packed, piece.count)
                assert count == np.count_nonzero(part)
                masks[piece.tensor.name][piece.start : piece.start + piece.count] = part
    return result


def assert_same_masks(actual: list[dict[str, Mask]], expected: list[dict[str, Mask]]) -> None:
    """Compare masks, naming the level and the tensor that differ."""
    assert len(actual) == len(expected)
    for level, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{level}: {name}")


def chosen_masks(
    path: Path,
    tensors: Sequence[Tensor],
    levels: str,
    rule: Rule | None = None,
    *,
    dims: Sequence[tuple[str, int]] = (),
    metadata: Mapping[str, str] | None = None,
    scorer: Any = Chunk.magnitude,
    finite: bool = True,
    threads: int = 1,
    direct: int = DIRECT,
) -> list[dict[str, Mask]]:
    """Return what `choose` keeps of the prunable tensors of a file, one dict for each level."""
    write_safetensors(path, tensors)
    wanted = parse_levels(levels)
    with Container(path) as container:
        eligible = eligible_tensors(container)
        traits = Traits.of(eligible, (rule or Rule()).group, dims, metadata)
        rule = rule or Rule()
        choice = choose(
            container,
            eligible.tensors,
            wanted,
            scorer,
            rule,
            threads,
            traits=traits,
            direct=direct,
        )
        masks: list[dict[str, Mask]] = [
            {t.name: np.zeros(t.numel, np.bool_) for t in eligible.tensors} for _ in wanted
        ]
        for part, piece in choice.pieces():
            made, kept = choice.packed(part, piece, Scratch(), finite)
            for level, packed, count in zip(masks, made, kept, strict=True):
                mask = unpack_bits(packed, piece.count)
                assert packed.tobytes() == pack_bits(mask).tobytes()  # spare bits are 0
                assert count == np.count_nonzero(mask)
                level[piece.tensor.name][piece.start : piece.start + piece.count] = mask
    return masks


def assert_nested(masks: Sequence[Mapping[str, Mask]]) -> None:
    """Check that every mask lies in the next one."""
    for one, other in itertools.pairwise(masks):
        for name, mask in one.items():
            assert not (mask & ~other[name]).any(), name
