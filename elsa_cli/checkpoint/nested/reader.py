"""The nested checkpoint: dense weights, a mask for every level, a manifest."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np

from elsa_cli.checkpoint.deflate import decode_text
from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import is_ours, level_name, mask_name
from elsa_cli.checkpoint.source import Reader, Sink
from elsa_cli.core.batch import Batch, batches, pieces
from elsa_cli.core.bits import (
    Bytes,
    mask_bytes,
    zero_unkept,
)
from elsa_cli.core.dtypes import DTYPES, DType
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Scratch, chunk_of
from elsa_cli.storage.container import (
    Container,
    TensorInfo,
)
from elsa_cli.storage.digest import digest_memory, digest_ranges

__all__ = ["NestedReader"]


class NestedReader(Reader):
    """Reads the masks and the levels of a nested checkpoint, from any thread."""

    def __init__(self, container: Container, manifest: Manifest) -> None:
        """Check the manifest against the file.

        Raises:
            BadManifest: They contradict each other.
        """
        super().__init__(container, manifest)
        container.require_whole()
        self.available = (*manifest.levels, DENSE)
        self.dense = {t.name: t for t in container.tensors if not is_ours(t.name)}
        manifest.check_against(self.dense, container.path)
        self._ours = {t.name: t for t in container.tensors if is_ours(t.name)}
        self._offsets = [0]
        for entry in manifest.tensors:
            self._offsets.append(self._offsets[-1] + mask_bytes(entry.numel))
        self._places = self.by_entry({t.name: t.begin for t in self.dense.values()})
        self._decoded: dict[str, bytes] = {}
        self._lock = threading.Lock()
        for level in manifest.levels:
            if manifest.masks == "tensors":
                self._stored(mask_name(level), DTYPES["U8"], (self._offsets[-1],))
            for name in manifest.per_level:
                self._check_per_level(level, name)

    def _stored(self, name: str, dtype: DType, shape: tuple[int, ...]) -> TensorInfo:
        found = self._ours.get(name)
        if found is None or (found.dtype, found.shape) != (dtype, shape):
            raise self.damaged(name, "is missing" if found is None else "has the wrong size")
        return found

    def _check_per_level(self, level: Level, name: str) -> None:
        base = self.dense.get(name)
        if base is None:
            raise self.damaged(name, "differs by level but is not among the dense tensors")
        if self.manifest.masks == "tensors":
            self._stored(level_name(level, name), base.dtype, base.shape)

    def _text(self, key: str, size: int) -> bytes:
        """Return the bytes coded in a metadata value, decoded once."""
        with self._lock:
            if key not in self._decoded:
                try:
                    self._decoded[key] = decode_text(self.container.metadata[key], size)
                except KeyError:
                    raise self.damaged(key, "is missing from the header") from None
                except ValueError as error:
                    raise self.damaged(key, f"is damaged: {error}") from error
            return self._decoded[key]

    def mask(self, level: int, entry: int, start: int, count: int) -> Bytes:
        """Return the packed bits of `count` weights from `start`, a multiple of 8.

        Args:
            level: Position in the manifest's levels.
            entry: Position in the manifest's tensors.
            start: First weight, in C order.
            count: Number of weights.
        """
        return self._mask(level, self._offsets[entry] + start // 8, mask_bytes(count))

    def _mask(self, level: int, offset: int, size: int) -> Bytes:
        """Return `size` bytes of a level's mask."""
        name = mask_name(self.manifest.levels[level])
        if self.manifest.masks == "header":
            return np.frombuffer(self._text(name, self._offsets[-1]), np.uint8, size, offset)
        bits = np.empty(size, np.uint8)
        self.container.read_into(self._ours[name].begin + offset, bits.data)
        return bits

    def wholes(self) -> Iterator[Batch]:
        """Yield whole tensors, in the order of the manifest: several small ones at a time."""
        tensors = self.manifest.tensors
        return batches([t.numel for t in tensors], [t.dtype for t in tensors], chunk_of)

    def masks_of(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield pieces of whole tensors and the packed bits of every level, in order."""
        for piece in batch.pieces(chunk_of):
            yield piece, [self._mask_of(k, piece) for k in range(len(self.manifest.levels))]

    def _mask_of(self, level: int, piece: Batch) -> Bytes:
        offset = self._offsets[piece.first] + piece.start // 8
        return self._mask(level, offset, int(piece.mask_places()[-1]))

    def mask_digests(self, threads: int) -> list[str]:
        """Return the digest of each level's mask as it is in the file."""
        size = self._offsets[-1]
        names = [mask_name(level) for level in self.manifest.levels]
        if self.manifest.masks == "tensors":
            places = [(self._ours[name].begin, size) for name in names]
            return digest_ranges(self.container.read_into, places, threads)
        return digest_memory([self._text(name, size) for name in names], threads)

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of the per-level tensors of a stored level; none for dense."""
        if level == DENSE:
            return {}
        found = {}
        for name in self.manifest.per_level:
            key = level_name(level, name)
            if self.manifest.masks == "header":
                found[name] = self._text(key, self.dense[name].nbytes)
            else:
                found[name] = self.container.read(self._ours[key])
        return found

    def verbatim(self, level: Level) -> Iterator[TensorInfo]:
        """Yield the tensors whose bytes in the file are those of the level."""
        pruned = set() if level == DENSE else {t.name for t in self.manifest.tensors}
        own = set() if level == DENSE else set(self.manifest.per_level)
        return (t for t in self.dense.values() if t.name not in pruned and t.name not in own)

    def jobs(self, level: Level) -> Iterator[Batch]:
        """Yield independent batches of the tensors that `verbatim` leaves out."""
        if level != DENSE:
            tensors = self.manifest.tensors
            yield from pieces([t.numel for t in tensors], [t.dtype for t in tensors], chunk_of)

    def produce(self, batch: Batch, level: Level, scratch: Scratch, sink: Sink) -> None:
        """Compute one batch and hand its bytes to `sink`."""
        bits = scratch.array("weights", batch.cells, batch.cell)
        view = bits.view(np.uint8).data
        batch.read_into(self.container.read_into, self._places, view)
        mask = self._mask_of(self.manifest.levels.index(level), batch)
        zero_unkept(bits, batch.cell_mask(mask), scratch)
        sink(batch, view)
