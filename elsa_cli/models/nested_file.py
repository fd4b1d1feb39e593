"""From a nested source into memory, and from memory into a nested source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.names import without_hashes
from elsa_cli.checkpoint.source import NestedSource, Piece
from elsa_cli.core.batch import Batch, Integers, starts
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Scratch, chunk_of, no_progress, run
from elsa_cli.models.nested import Nested
from elsa_cli.models.tensors import dtype_of, from_bytes, to_bytes
from elsa_cli.storage.container import Container
from elsa_cli.storage.header import TensorSpec
from elsa_cli.storage.memory import MemoryBytes
from elsa_cli.storage.source import Extent

__all__ = ["NestedFile", "NestedInMemory", "digest_of", "from_nested", "owner_tensors", "specs_of"]

Octets = NDArray[np.uint8]


@dataclass
class NestedFile:
    """A nested network in memory, and the rest of what a nested checkpoint says.

    Attributes:
        nested: Weights and masks.
        metadata: Foreign metadata, as the file had it that was read.
        method: How the masks were chosen, for the manifest.
        seed: Seed of that choice.
        placement: Where a file has the masks: `header`, `tensors` or `auto`.
    """

    nested: Nested
    metadata: Mapping[str, str]
    method: Mapping[str, Any]
    seed: int
    placement: str

    def chosen_by_magnitude(self) -> None:
        """Let the manifest say that the masks were chosen by magnitude, under the same rule."""
        self.method = {**self.method, "name": "magnitude", "options": {}}


def specs_of(nested: Nested) -> dict[str, TensorSpec]:
    """Return name, dtype and shape of every tensor, by name.

    Raises:
        UsageError: Checkpoints have no such dtype.
    """
    return {
        name: TensorSpec(name, dtype_of(tensor), tuple(tensor.shape))
        for name, tensor in nested.values.items()
    }


def owner_tensors(owners: Mapping[str, Octets], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Return flat owners as tensors in the shapes of their weights, without a copy."""
    return {name: from_bytes(o, DTYPES["U8"], specs[name].shape) for name, o in owners.items()}


def from_nested(source: NestedSource, threads: int) -> NestedFile:
    """Read a nested source into memory, in one pass over its weights and masks.

    Args:
        source: An open nested or packed checkpoint, or any other nested source.
        threads: Number of threads.

    Raises:
        CutFile: A packed file that ends before the dense network does.
        BadManifest: It is damaged.
        UsageError: Torch lacks one of the dtypes.
    """
    source.require(DENSE)
    source.prepare(threads, no_progress)
    manifest, specs = source.manifest, source.tensors
    data: dict[str, Octets] = {t.name: np.empty(t.nbytes, np.uint8) for t in specs.values()}
    owners: dict[str, Octets] = {t.name: np.zeros(t.numel, np.uint8) for t in manifest.tensors}
    for spec, (stored, offset, _) in source.verbatim(DENSE):
        if spec.name not in owners:  # prunable tensors come with their masks
            stored.read_into(offset, data[spec.name].data)
    pruned_data = [data[name] for name in owners]
    pruned_owners = list(owners.values())

    def work(batch: Batch, scratch: Scratch) -> None:
        for piece, cells, masks in source.pieces(batch, scratch):
            owner = np.zeros(piece.count, np.uint8)
            for packed in masks:
                owner += ~piece.unpack_mask(packed)
            _deal(owner, piece.sizes, pruned_owners[piece.rows], piece.start)
            width = piece.dtypes[0].itemsize  # of several tensors each begins at 0
            octets = cells.view(np.uint8)
            _deal(octets, piece.byte_sizes, pruned_data[piece.rows], piece.start * width)

    run(source.jobs(), work, Scratch, threads)
    values = {t.name: from_bytes(data[t.name], t.dtype, t.shape) for t in specs.values()}
    per_level = {}
    for level in manifest.levels if manifest.per_level else ():
        per_level[level] = {
            name: from_bytes(
                np.frombuffer(raw, np.uint8).copy(), specs[name].dtype, specs[name].shape
            )
            for name, raw in source.per_level(level).items()
        }
    if per_level:
        per_level[DENSE] = {name: values[name] for name in manifest.per_level}
    nested = Nested(manifest.levels, values, owner_tensors(owners, specs), per_level)
    return NestedFile(nested, source.metadata, manifest.method, manifest.seed, manifest.masks)


def _deal(data: Octets, sizes: Integers, targets: Sequence[Octets], start: int) -> None:
    """Copy consecutive parts of `data`, `sizes` bytes each, to offset `start` of the targets."""
    for target, part in zip(targets, np.split(data, starts(sizes)[1:-1]), strict=True):
        target[start : start + part.size] = part


class NestedInMemory(NestedSource):
    """A nested network in memory as a nested source, so that the writers can write it.

    Hashes of the weights are left out of the metadata, because the weights were trained.

    Args:
        file: The network; it must not change while the source is used.
    """

    def __init__(self, file: NestedFile) -> None:
        """Lay the tensors out as the bytes of a file, without a copy."""
        nested, specs = file.nested, specs_of(file.nested)
        self.name = "the network in memory"
        data = {spec: to_bytes(nested.values[name]).data for name, spec in specs.items()}
        self._container = Container(MemoryBytes.of_tensors(self.name, data))
        infos = [t for t in self._container.tensors if t.name in nested.owner]
        self._begins = np.array([t.begin for t in infos], np.int64)
        self._owners = [nested.owner[t.name].contiguous().numpy().reshape(-1) for t in infos]
        self._per_level = nested.per_level
        self.tensors = {t.name: t.spec for t in self._container.tensors}
        self.metadata = without_hashes(file.metadata)
        self.manifest = Manifest(
            levels=nested.levels,
            tensors=tuple(Entry(t.name, t.dtype, t.shape, (), "") for t in infos),
            method=file.method,
            seed=file.seed,
            masks=file.placement,
            mask_digests=(),
            per_level=tuple(sorted({n for state in nested.per_level.values() for n in state})),
        )

    def pieces(self, batch: Batch, scratch: Scratch) -> Iterator[Piece]:
        """Yield weights and masks; see `NestedSource`."""
        stages = range(len(self.manifest.levels))
        for piece in batch.pieces(chunk_of):
            cells = scratch.array("weights", piece.cells, piece.cell)
            piece.read_into(self._container.read_into, self._begins, cells.view(np.uint8).data)
            span = slice(piece.start, None if piece.several else piece.start + piece.count)
            owner = np.concatenate([owner[span] for owner in self._owners[piece.rows]])
            yield Piece(piece, cells, [piece.pack_mask(owner <= stage) for stage in stages])

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of the per-level tensors of a stored level; none for dense."""
        state = {} if level == DENSE else self._per_level.get(level, {})
        return {name: to_bytes(tensor).tobytes() for name, tensor in state.items()}

    def verbatim(self, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        """Yield the tensors whose bytes in memory are those of the level."""
        return self.extents_in(self._container, level)

    def close(self) -> None:
        """Let go of the network."""
        self._container.close()


def digest_of(nested: Nested) -> str:
    """Return a digest of all weights and masks, 16 hexadecimal digits."""
    digest = hashlib.blake2b(",".join(map(str, nested.levels)).encode(), digest_size=8)
    per_level = {
        f"{level} {name}": tensor
        for level, state in nested.per_level.items()
        for name, tensor in state.items()
    }
    for state in (nested.values, nested.owner, per_level):
        for name in sorted(state):
            digest.update(name.encode())
            digest.update(to_bytes(state[name]).data)
    return digest.hexdigest()
