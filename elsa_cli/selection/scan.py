"""Reading scores: pieces of the prunable tensors, each with its keys and positions.

A key is an unsigned integer that orders as the score does. A position counts the weights of all
prunable tensors one after the other, tensors sorted by name, so that it does not depend on how a
file is laid out. Ties are broken by a fixed hash of the position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import DTYPES, Bits
from elsa_cli.core.hashing import position_hash
from elsa_cli.core.kernels.selecting import Selecting, selecting
from elsa_cli.core.work import Scratch, chunk_of, spans
from elsa_cli.errors import Call, NonFinite, Param, Words
from elsa_cli.selection.rows import Champions, make_room
from elsa_cli.selection.scaled import Factors
from elsa_cli.selection.scores import Chunk, Scorer, is_magnitude
from elsa_cli.storage.container import Container, TensorInfo

__all__ = ["Piece", "Scan", "positions_of"]


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


class Scan:
    """The scores of tensors that are compared with each other.

    Args:
        container: The file with the weights.
        tensors: The tensors to compare.
        first: Position of the first weight of each prunable tensor.
        scorer: The sparsifier.
        step: Weights a piece, a multiple of 8; by default what suits the dtype.
        factors: The scales of FP8 codes, by the tensor's name.
        kernels: What counts keys and makes masks; by default what suits the tensors' size.
    """

    def __init__(
        self,
        container: Container,
        tensors: Sequence[TensorInfo],
        first: dict[str, int],
        scorer: Scorer,
        step: int | None = None,
        factors: Mapping[str, Factors] | None = None,
        kernels: Selecting | None = None,
    ) -> None:
        """Find the dtype in which all can be compared."""
        self.container = container
        self.tensors = tensors
        self.numel = sum(t.numel for t in tensors)
        self._first = first
        self._scorer = scorer
        self._step = step
        self._factors = factors or {}
        self.kernels = kernels or selecting(sum(t.nbytes for t in tensors))
        self.champions: dict[str, Champions] = {}
        names = {"F64" if t.name in self._factors else t.dtype.name for t in tensors}
        wide = "F64" if "F64" in names else "F32"
        self._common = DTYPES[names.pop() if len(names) == 1 else wide]
        layout = self._common.float_bits
        assert layout is not None
        # Raw bits without their sign are the keys, unless they have to be widened or multiplied,
        # or a NaN looks like a negative zero.
        alike = all(t.dtype is self._common for t in tensors) and not self._factors
        self._raw = alike and layout.nan is None and is_magnitude(scorer)
        self._magnitude = np.uint64(layout.magnitude)
        self._nonfinite = layout.nonfinite  # a key that is as large, or larger, is no number
        self._finite = False  # whether it is known that there is none

    def see_counts(self, counts: NDArray[np.uint64], shift: int) -> None:
        """Learn from the counts of all keys whether NaN or infinity is among the weights.

        Args:
            counts: How many keys have which highest bits, (bins,).
            shift: How many lower bits were left out.
        """
        if self._raw and not self.champions:
            self._finite = not counts[self._nonfinite >> shift :].any()

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

    def last_bits(self, piece: Piece, scratch: Scratch) -> Bits:
        """Return the raw bits of the piece that was read last."""
        bits: Bits = scratch.array("bits", piece.count, piece.tensor.dtype.unsigned)
        return bits

    def unsigned(self, piece: Piece, scratch: Scratch) -> tuple[Bits, np.uint64]:
        """Return (bits, mask), such that `bits & mask` are the keys of a piece, (count,) unsigned.

        They are valid until the next call. Weights ranked by magnitude are only read.
        """
        if self._raw and not self.champions:
            return self.bits(piece, scratch), self._magnitude
        keys = np.ascontiguousarray(self.keys(piece, scratch))
        return keys, np.uint64(np.iinfo(keys.dtype).max)

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
        if self._finite:
            return
        dtype = piece.tensor.dtype
        layout = dtype.float_bits
        assert layout is not None
        bits = self.last_bits(piece, scratch)
        magnitude = layout.magnitude
        if layout.nan is not None:
            bits = dtype.magnitudes(bits, out=scratch.array("magnitude", bits.size, bits.dtype))
            magnitude = np.iinfo(bits.dtype).max
        if self.kernels.any_at_least(bits, np.uint64(magnitude), np.uint64(layout.nonfinite)):
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
