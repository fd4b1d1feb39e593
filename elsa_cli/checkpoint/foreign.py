"""What other tools wrote: a dense checkpoint and sparse copies of it, bundled into one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.bitmask import Bytes, mask_bytes, pack_bits, popcount
from elsa_cli.checkpoint.container import Container, TensorInfo
from elsa_cli.checkpoint.digest import digest_ranges
from elsa_cli.checkpoint.dtypes import Bits, DType
from elsa_cli.checkpoint.level import DENSE, Level, parse_level
from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.output import OutputFile
from elsa_cli.checkpoint.work import Scratch, run, spans
from elsa_cli.errors import NotABundle, UsageError

__all__ = ["Bundle"]

SPAN = 1 << 18  # weights compared at a time


def shortest_level(kept: int, numel: int, file: str) -> Level:
    """Return the level with the fewest decimals that keeps `kept` of `numel` weights."""
    for digits in range(1, 25):
        value = round(1 - Fraction(kept, numel), digits)
        if 0 < value < 1:
            level = parse_level(str(Decimal(value.numerator) / Decimal(value.denominator)))
            if level.kept(numel) == kept:
                return level
    raise NotABundle(f"keeps {kept:,} of {numel:,} weights, which no level describes", file=file)


@dataclass(frozen=True)
class _Compared:
    """How one tensor differs between dense and sparse, sparsest first.

    Attributes:
        kept: Weights that are not zeroed.
        changed: Of these, how many are not those of dense.
        strays: How many that one level keeps the next denser one does not.
    """

    kept: NDArray[np.int64]
    changed: NDArray[np.int64]
    strays: NDArray[np.int64]


class Bundle:
    """A dense checkpoint and sparse ones of the same network, as a source of nested masks.

    A weight is zeroed if it is zero in the sparse file, of either sign, unless dense has the same
    negative zero. Tensors of at most one dimension that differ (norms, biases, counters) become
    per-level tensors.

    Args:
        dense: The dense checkpoint.
        sparse: The sparse ones, in any order.
        levels: The level of each, or None to derive them from the kept counts.
        spool: A file for the masks; not committed.
        threads: Number of threads.
    """

    def __init__(
        self,
        dense: Container,
        sparse: Sequence[Container],
        levels: Sequence[Level] | None,
        spool: OutputFile,
        threads: int,
    ) -> None:
        """Compare all tensors.

        Raises:
            NotABundle: They are not levels of one network; the message names the first tensor.
            UsageError: The levels given do not fit the files.
        """
        self.container = dense
        self.metadata = dense.metadata
        self.dense = {t.name: t for t in dense.tensors}
        for s in sparse:
            _check_same(dense, s)
        self._sparse = sorted(sparse, key=lambda s: -_zeros(s, threads))
        differs = [t for t in dense.tensors if self._differs(t, threads)]
        self._own = [t.name for t in differs if len(t.shape) <= 1]
        pruned = [t for t in differs if len(t.shape) > 1]
        for t in pruned:
            if t.dtype.float_bits is None:
                raise NotABundle(f"{t.dtype.name} values differ", file=dense.path, tensor=t.name)
        if not pruned:
            raise NotABundle("no sparse checkpoint differs from it in its weights", file=dense.path)
        self._spool = spool
        self._place = [0]
        for t in pruned:
            self._place.append(self._place[-1] + mask_bytes(t.numel))
        compared = self._compare(pruned, threads)
        self._check(pruned, compared)
        kept = np.array([c.kept for c in compared])  # (tensors, levels)
        numel = sum(t.numel for t in pruned)
        named = self._name_levels(levels, [int(k) for k in kept.sum(axis=0)], numel)
        size = self._place[-1]
        weights = digest_ranges(dense.read_into, [(t.begin, t.nbytes) for t in pruned], threads)
        masks = digest_ranges(
            spool.read_into, [(k * size, size) for k in range(len(named))], threads
        )
        self.manifest = Manifest(
            levels=named,
            tensors=tuple(
                Entry(t.name, t.dtype, t.shape, tuple(map(int, row)), digest)
                for t, row, digest in zip(pruned, kept, weights, strict=True)
            ),
            method={"name": "bundle"},
            seed=0,
            masks="auto",
            mask_digests=tuple(masks),
            per_level=tuple(sorted(self._own)),
        )

    def masks(self, at: int) -> Iterator[tuple[int, int, list[Bytes]]]:
        """Yield start, count and the packed bits of every level of manifest tensor `at`."""
        for start, count in spans(self.manifest.tensors[at].numel):
            packed = []
            for k in range(len(self._sparse)):
                bits = np.empty(mask_bytes(count), np.uint8)
                offset = k * self._place[-1] + self._place[at] + start // 8
                self._spool.read_into(offset, bits.data)
                packed.append(bits)
            yield start, count, packed

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of a level's per-level tensors."""
        if level == DENSE:
            return {}
        file = self._sparse[self.manifest.levels.index(level)]
        infos = {t.name: t for t in file.tensors}
        return {name: file.read(infos[name]) for name in self.manifest.per_level}

    def _differs(self, tensor: TensorInfo, threads: int) -> bool:
        """Tell whether any sparse file has other bytes for a tensor."""
        found = threading.Event()
        others = [{t.name: t for t in s.tensors}[tensor.name] for s in self._sparse]

        def work(span: tuple[int, int], scratch: Scratch) -> None:
            if found.is_set():
                return
            start, count = span
            own = _read(self.container, tensor.begin + start, count, "dense", scratch)
            for file, other in zip(self._sparse, others, strict=True):
                theirs = _read(file, other.begin + start, count, "sparse", scratch)
                if not np.array_equal(own, theirs):
                    found.set()

        run(spans(tensor.nbytes, SPAN), work, Scratch, threads)
        return found.is_set()

    def _compare(self, pruned: Sequence[TensorInfo], threads: int) -> list[_Compared]:
        """Make the masks of all tensors, spool them, and count what differs."""
        size = self._place[-1]
        shape = (len(pruned), 3, len(self._sparse))

        def work(item: tuple[int, int, int], state: tuple[NDArray[np.int64], Scratch]) -> None:
            counts, scratch = state
            at, start, count = item
            t = pruned[at]
            offset = start * t.dtype.itemsize
            own = _read(self.container, t.begin + offset, count, "dense", scratch, t.dtype)
            sparser: Bytes | None = None
            for k, file in enumerate(self._sparse):
                begin = self._infos[k][t.name].begin
                theirs = _read(file, begin + offset, count, "sparse", scratch, t.dtype)
                zero = t.dtype.magnitudes(theirs) == 0
                same = theirs == own
                kept = ~zero | (same & (theirs != 0))
                packed = pack_bits(kept)
                counts[at, 0, k] += popcount(packed)
                counts[at, 1, k] += int(np.count_nonzero(kept & ~same))
                if sparser is not None:
                    counts[at, 2, k] += popcount(sparser & ~packed)
                sparser = packed
                self._spool.write_at(k * size + self._place[at] + start // 8, packed.data)

        items = (
            (at, start, count)
            for at, t in enumerate(pruned)
            for start, count in spans(t.numel, SPAN)
        )
        self._infos = [{t.name: t for t in s.tensors} for s in self._sparse]
        states = run(items, work, lambda: (np.zeros(shape, np.int64), Scratch()), threads)
        total = np.sum([counts for counts, _ in states], axis=0)
        return [_Compared(*total[at]) for at in range(len(pruned))]

    def _check(self, pruned: Sequence[TensorInfo], compared: Sequence[_Compared]) -> None:
        for t, c in zip(pruned, compared, strict=True):
            for k, file in enumerate(self._sparse):
                if c.changed[k]:
                    raise NotABundle(
                        f"{c.changed[k]:,} of {c.kept[k]:,} kept weights differ from the dense "
                        "checkpoint",
                        file=file.path,
                        tensor=t.name,
                        hint="only networks that were trained nested can be bundled",
                    )
                if c.strays[k]:
                    raise NotABundle(
                        f"{c.strays[k]:,} weights kept in {self._sparse[k - 1].path} are zero here",
                        file=file.path,
                        tensor=t.name,
                        hint="the masks must nest",
                    )

    def _name_levels(
        self, levels: Sequence[Level] | None, kept: Sequence[int], numel: int
    ) -> tuple[Level, ...]:
        if levels is None:
            named = [
                shortest_level(k, numel, s.path) for k, s in zip(kept, self._sparse, strict=True)
            ]
        elif len(levels) != len(self._sparse):
            raise UsageError(
                f"{len(levels)} levels for {len(self._sparse)} sparse checkpoints",
                hint="name one level for each",
            )
        else:
            named = sorted(levels, reverse=True)
        for k, level in enumerate(named):
            if level in named[:k]:
                raise NotABundle("has the level of another one", file=self._sparse[k].path)
        return tuple(named)


def _read(
    file: Container, begin: int, count: int, use: str, scratch: Scratch, dtype: DType | None = None
) -> Bits:
    """Read `count` elements from byte `begin` of the data; single bytes without a dtype."""
    bits: Bits = scratch.array(use, count, dtype.unsigned if dtype else np.uint8)
    file.read_into(begin, bits.view(np.uint8).data)
    return bits


def _zeros(file: Container, threads: int) -> int:
    """Return how many weights of floating-point matrices are zero."""
    tensors = [t for t in file.tensors if t.dtype.float_bits and len(t.shape) > 1]

    def work(item: tuple[TensorInfo, int, int], state: tuple[list[int], Scratch]) -> None:
        t, start, count = item
        bits = _read(file, t.begin + start * t.dtype.itemsize, count, "sparse", state[1], t.dtype)
        state[0].append(count - int(np.count_nonzero(t.dtype.magnitudes(bits))))

    items = ((t, start, count) for t in tensors for start, count in spans(t.numel, SPAN))
    empty: list[int] = []
    states = run(items, work, lambda: (empty.copy(), Scratch()), threads)
    return sum(sum(zeros) for zeros, _ in states)


def _check_same(dense: Container, sparse: Container) -> None:
    """Raise NotABundle unless both have the same names, dtypes and shapes."""
    ours = {t.name: (t.dtype.name, list(t.shape)) for t in dense.tensors}
    theirs = {t.name: (t.dtype.name, list(t.shape)) for t in sparse.tensors}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            a, b = ours.get(name, "missing"), theirs.get(name, "missing")
            raise NotABundle(f"{b}, in {dense.path} {a}", file=sparse.path, tensor=name)
