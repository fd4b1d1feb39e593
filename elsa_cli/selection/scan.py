"""Reading scores: pieces of the prunable tensors, each with its keys and positions.

A key is an unsigned integer that orders as the score does. A position counts the weights of all
prunable tensors one after the other, tensors sorted by name, so that it does not depend on how a
file is laid out. Ties are broken by a fixed hash of the position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import DTYPES, Bits, DType
from elsa_cli.core.floats import widen
from elsa_cli.core.work import Scratch, chunk_of, spans
from elsa_cli.errors import Call, NonFinite, Param, Words
from elsa_cli.selection.rows import Champions, make_room
from elsa_cli.selection.scaled import Factors
from elsa_cli.storage.container import Container, TensorInfo

__all__ = ["Chunk", "Hashes", "Piece", "Scan", "Scorer", "position_hash", "positions_of"]

Hashes = NDArray[np.uint64]


def position_hash(positions: Hashes) -> Hashes:
    """Return a hash of each position; distinct positions have distinct hashes.

    The finaliser of splitmix64 (Steele, Lea and Flood, 2014), a bijection of 64-bit integers.
    """
    z = positions + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def positions_of(tensors: Sequence[TensorInfo]) -> dict[str, int]:
    """Return the position of the first weight of each tensor."""
    at, first = 0, {}
    for t in sorted(tensors, key=lambda t: t.name):
        first[t.name] = at
        at += t.numel
    return first


@dataclass(frozen=True)
class Piece:
    """Weights start … start + count of a tensor."""

    tensor: TensorInfo
    start: int
    count: int


@dataclass
class Chunk:
    """What a sparsifier scores: some weights of one tensor.

    Attributes:
        name: The tensor's name.
        shape: The whole tensor's shape.
        start: First weight, in C order.
        bits: The weights as raw bits, (count,).
        dtype: The tensor's dtype.
        common: The dtype in which all tensors that are compared can be ranked.
        position: Position of the first weight among all prunable weights.
        scratch: Buffers to compute in.
        factors: The scales of FP8 codes, or None.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    bits: Bits
    dtype: DType
    common: DType
    position: int
    scratch: Scratch = field(repr=False)
    factors: Factors | None = None

    def positions(self) -> Hashes:
        """Return the position of each weight, (count,) uint64."""
        return np.arange(self.position, self.position + self.bits.size, dtype=np.uint64)

    def magnitude(self) -> Bits:
        """Return |w| as keys, (count,): the bits without sign, widened to the common dtype.

        Codes with a scale become |code · scale| in float64, which holds the product exactly.
        """
        own = self.scratch.array("magnitude", self.bits.size, self.bits.dtype)
        keys = self.dtype.magnitudes(self.bits, out=own)
        if self.dtype is not self.common:
            keys = widen(keys, self.dtype, self.common)
        if self.factors is not None:
            values = keys.view(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # infinite codes, where allowed
                values *= self.factors.take(self.start, self.bits.size)
        return keys


# A scorer returns keys (unsigned integers) or scores (non-negative float32 or float64), (count,).
Scorer = Callable[[Chunk], NDArray[Any]]


class Scan:
    """The scores of tensors that are compared with each other.

    Args:
        container: The file with the weights.
        tensors: The tensors to compare.
        first: Position of the first weight of each prunable tensor.
        scorer: The sparsifier.
        step: Weights a piece, a multiple of 8; by default what suits the dtype.
        factors: The scales of FP8 codes, by the tensor's name.
    """

    def __init__(
        self,
        container: Container,
        tensors: Sequence[TensorInfo],
        first: dict[str, int],
        scorer: Scorer,
        step: int | None = None,
        factors: Mapping[str, Factors] | None = None,
    ) -> None:
        """Find the dtype in which all can be compared."""
        self.container = container
        self.tensors = tensors
        self.numel = sum(t.numel for t in tensors)
        self._first = first
        self._scorer = scorer
        self._step = step
        self._factors = factors or {}
        self.champions: dict[str, Champions] = {}
        names = {"F64" if t.name in self._factors else t.dtype.name for t in tensors}
        wide = "F64" if "F64" in names else "F32"
        self._common = DTYPES[names.pop() if len(names) == 1 else wide]

    def pieces(self) -> Iterator[Piece]:
        """Yield every piece, tensors in order."""
        for t in self.tensors:
            for start, count in spans(t.numel, self._step or chunk_of(t.dtype.itemsize)):
                yield Piece(t, start, count)

    def position(self, piece: Piece) -> int:
        """Return the position of the first weight of a piece."""
        return self._first[piece.tensor.name] + piece.start

    def bits(self, piece: Piece, scratch: Scratch) -> Bits:
        """Read the raw bits of a piece."""
        dtype = piece.tensor.dtype
        bits: Bits = scratch.array("bits", piece.count, dtype.unsigned)
        offset = piece.tensor.begin + piece.start * dtype.itemsize
        scratch.read_ahead(self.container, offset, bits.view(np.uint8).data)
        return bits

    def keys(self, piece: Piece, scratch: Scratch) -> Bits:
        """Return the keys of a piece, (count,) unsigned; valid until the next call."""
        t = piece.tensor
        bits = self.bits(piece, scratch)
        chunk = Chunk(
            t.name,
            t.shape,
            piece.start,
            bits,
            t.dtype,
            self._common,
            self.position(piece),
            scratch,
            self._factors.get(t.name),
        )
        scores = self._scorer(chunk)
        if scores.dtype.kind == "f":
            # Non-negative floats order as their bits do; + 0 turns -0.0 into +0.0.
            scores = (scores + scores.dtype.type(0)).view(f"u{scores.itemsize}")
        if not self.champions:
            return scores
        champions = self.champions.get(t.name)
        return make_room(scores) if champions is None else champions.lift(piece.start, scores)

    def find_champions(self, rows: Mapping[str, int | None]) -> int:
        """Find the best weight of each row that has to keep one; return how many rows there are.

        From then on these weights come first.

        Args:
            rows: By the tensor's name the dimension of its rows, or None for one row.
        """
        scratch = Scratch()
        found: dict[str, Champions] = {}
        for t in self.tensors:
            if t.name not in rows:
                continue
            champions = found[t.name] = Champions(t.shape, rows[t.name])
            for start, count in spans(t.numel, chunk_of(t.dtype.itemsize)):
                piece = Piece(t, start, count)
                position = np.uint64(self.position(piece))
                champions.see(
                    start,
                    self.keys(piece, scratch),
                    lambda where, first=position: position_hash(where.astype(np.uint64) + first),
                )
            champions.done()
        self.champions = found
        return sum(champions.count for champions in found.values())

    def check_finite(self, piece: Piece, scratch: Scratch) -> None:
        """Raise NonFinite if the piece just read has NaN or infinity among its weights."""
        dtype = piece.tensor.dtype
        bits: Bits = scratch.array("bits", piece.count, dtype.unsigned)
        magnitudes = scratch.array("magnitude", piece.count, dtype.unsigned)
        if dtype.has_nonfinite(dtype.magnitudes(bits, out=magnitudes)):
            raise NonFinite(
                "has NaN or infinity among its weights",
                file=self.container.path,
                tensor=piece.tensor.name,
                hint=Words(
                    "leave it out with {}, or rank them highest with {}",
                    Param("exclude"),
                    Call("sparsify", Param("allow_nonfinite", True)),
                ),
            )
