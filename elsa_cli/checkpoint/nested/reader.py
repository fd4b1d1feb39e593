"""Reading a nested checkpoint: dense weights, a mask for every level, a manifest."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np

from elsa_cli.checkpoint.deflate import decode_text
from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import is_ours, level_name, mask_name
from elsa_cli.checkpoint.reader import Reader
from elsa_cli.checkpoint.source import Piece
from elsa_cli.core.batch import Batch, pieces
from elsa_cli.core.bits import Bytes, mask_bytes, zero_unkept
from elsa_cli.core.dtypes import DTYPES, Bits, DType
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Progress, Scratch, chunk_of
from elsa_cli.storage.container import Container
from elsa_cli.storage.digest import digest_memory, digest_ranges
from elsa_cli.storage.header import TensorInfo, TensorSpec
from elsa_cli.storage.source import Extent

__all__ = ["NestedReader"]


class NestedReader(Reader):
    """Reads a nested checkpoint, from any thread and at any place."""

    def __init__(self, container: Container, manifest: Manifest) -> None:
        """Check the manifest against the file.

        Raises:
            BadManifest: They contradict each other.
        """
        super().__init__(container, manifest)
        container.require_whole()
        self._dense = {t.name: t for t in container.tensors if not is_ours(t.name)}
        self.tensors: Mapping[str, TensorSpec] = {n: t.spec for n, t in self._dense.items()}
        manifest.check_against(self.tensors, self.name)
        self._ours = {t.name: t for t in container.tensors if is_ours(t.name)}
        self._offsets = [0]
        for entry in manifest.tensors:
            self._offsets.append(self._offsets[-1] + mask_bytes(entry.numel))
        self._places = self.by_entry({t.name: t.begin for t in self._dense.values()})
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
        base = self._dense.get(name)
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

    def _mask_of(self, level_index: int, piece: Batch) -> Bytes:
        """Return the packed bits of a piece at one level."""
        offset = self._offsets[piece.first] + piece.start // 8
        size = int(piece.mask_places()[-1])
        name = mask_name(self.manifest.levels[level_index])
        if self.manifest.masks == "header":
            return np.frombuffer(self._text(name, self._offsets[-1]), np.uint8, size, offset)
        bits = np.empty(size, np.uint8)
        self.container.read_into(self._ours[name].begin + offset, bits.data)
        return bits

    def _masks_of(self, piece: Batch) -> list[Bytes]:
        return [self._mask_of(k, piece) for k in range(len(self.manifest.levels))]

    def _cells_of(self, piece: Batch, scratch: Scratch) -> Bits:
        cells: Bits = scratch.array("weights", piece.cells, piece.cell)
        piece.read_into(self.container.read_into, self._places, cells.view(np.uint8).data)
        return cells

    def jobs(self) -> Iterator[Batch]:
        """Yield all prunable weights in pieces: they can be read from anywhere."""
        tensors = self.manifest.tensors
        yield from pieces([t.numel for t in tensors], [t.dtype for t in tensors], chunk_of)

    def pieces(self, batch: Batch, scratch: Scratch) -> Iterator[Piece]:
        """Yield weights and masks; see `NestedSource`."""
        for piece in batch.pieces(chunk_of):
            yield Piece(piece, self._cells_of(piece, scratch), self._masks_of(piece))

    def masks(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield masks alone; see `NestedSource`."""
        for piece in batch.pieces(chunk_of):
            yield piece, self._masks_of(piece)

    def network(
        self, batch: Batch, level: Level, scratch: Scratch
    ) -> Iterator[tuple[Batch, memoryview]]:
        """Yield the bytes of one network, read with its own mask alone; see `NestedSource`."""
        for piece in batch.pieces(chunk_of):
            cells = self._cells_of(piece, scratch)
            if level != DENSE:
                mask = self._mask_of(self.manifest.levels.index(level), piece)
                zero_unkept(cells, piece.cell_mask(mask), scratch)
            yield piece, cells.view(np.uint8).data

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of the per-level tensors of a stored level; none for dense."""
        if level == DENSE:
            return {}
        found = {}
        for name in self.manifest.per_level:
            key = level_name(level, name)
            if self.manifest.masks == "header":
                found[name] = self._text(key, self._dense[name].nbytes)
            else:
                found[name] = self.container.read(self._ours[key])
        return found

    def verbatim(self, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        """Yield the tensors whose bytes in the file are those of the level."""
        return self.extents_in(self.container, level)

    def wrong_digests(self, threads: int, progress: Progress) -> tuple[int, list[str]]:
        """Compare the digests of all prunable tensors and of all masks; see `Reader`."""
        manifest = self.manifest
        infos = [self._dense[t.name] for t in manifest.tensors]
        ranges = [(t.begin, t.nbytes) for t in infos]
        weights = digest_ranges(self.container.read_into, ranges, threads, progress)
        wrong = [
            entry.name
            for entry, found in zip(manifest.tensors, weights, strict=True)
            if entry.digest != found
        ]
        names = [mask_name(level) for level in manifest.levels]
        masks = self._mask_digests(names, threads)
        for name, digest, found in zip(names, manifest.mask_digests, masks, strict=True):
            if digest != found:
                wrong.append(name)
        return len(weights) + len(masks), wrong

    def _mask_digests(self, names: list[str], threads: int) -> list[str]:
        size = self._offsets[-1]
        if self.manifest.masks == "tensors":
            places = [(self._ours[name].begin, size) for name in names]
            return digest_ranges(self.container.read_into, places, threads)
        return digest_memory([self._text(name, size) for name in names], threads)
