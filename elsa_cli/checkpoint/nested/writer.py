"""Writing a nested checkpoint, wherever masks and weights come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import KEY, level_name, mask_name, stored
from elsa_cli.core.bits import (
    Bytes,
    encode_text,
    mask_bytes,
)
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import Level
from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.storage.container import (
    MAX_HEADER,
    Container,
    TensorInfo,
    encode_header,
    lay_out,
)
from elsa_cli.storage.digest import digest_memory, digest_ranges
from elsa_cli.storage.output import OutputFile, copy_steps

__all__ = ["HEADER_LIMIT", "MASKS_IN_MEMORY", "PLACEMENTS", "NestedWriter"]

PLACEMENTS = ("auto", "header", "tensors")
HEADER_LIMIT = 16 << 20  # bytes of header that `auto` allows; readers on the web stop at 25 MB
MASKS_IN_MEMORY = 32 << 20  # bytes of raw masks up to which `auto` tries the header


@dataclass(frozen=True)
class _Layout:
    """Where everything lies in the file being written."""

    masks: str
    header_bytes: int
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


class NestedWriter:
    """Writes a nested checkpoint: first all masks, then all data, then the header.

    Args:
        out: The file.
        dense: The tensors of the dense network.
        metadata: Foreign metadata, kept.
        draft: The manifest; counts and digests may still be missing, `masks` may be `auto`.
        per_level: Bytes of the per-level tensors, by level and name.
        dry_run: Find the size only; write nothing.
    """

    def __init__(
        self,
        out: OutputFile,
        dense: Sequence[TensorInfo],
        metadata: Mapping[str, str],
        draft: Manifest,
        per_level: Mapping[tuple[Level, str], bytes],
        dry_run: bool = False,
    ) -> None:
        """Choose where the masks go.

        Raises:
            UsageError: The header cannot hold them.
        """
        self._out = out
        self._dense = dense
        self._metadata = metadata
        self._draft = draft
        self._per_level = per_level
        self._dry_run = dry_run
        self._offsets = [0]
        for entry in draft.tensors:
            self._offsets.append(self._offsets[-1] + mask_bytes(entry.numel))
        raw = self._offsets[-1] * len(draft.levels)
        # A Huffman code takes at least a bit for each byte of mask, base64 a third more.
        if draft.masks == "header" and raw // 8 * 4 // 3 > MAX_HEADER:
            raise UsageError(
                f"masks of {raw:,} bytes do not fit a header",
                hint=Words("use {}", Param("masks", "tensors")),
            )
        self._memory: list[bytearray] | None = None
        if draft.masks == "header" or (draft.masks == "auto" and raw <= MASKS_IN_MEMORY):
            self._memory = [bytearray(self._offsets[-1]) for _ in draft.levels]
        self._layout: _Layout | None = None
        if self._memory is None:
            self._begin(self._lay_out("tensors", {}))

    def put_mask(self, level: int, entry: int, start: int, packed: Bytes) -> None:
        """Store packed bits of a tensor from weight `start`, a multiple of 8."""
        offset = self._offsets[entry] + start // 8
        if self._memory is not None:
            self._memory[level][offset : offset + packed.size] = packed.tobytes()
            return
        if self._dry_run:
            return
        assert self._layout is not None
        mask = self._layout.tensors[mask_name(self._draft.levels[level])]
        self._out.write_at(self._layout.header_bytes + mask.begin + offset, packed.data)

    def masks_done(self) -> None:
        """Fix the layout, once every mask is stored; data can be written from then on."""
        if self._memory is None:
            return
        if self._draft.masks != "tensors":
            texts = {
                mask_name(level): encode_text(raw)
                for level, raw in zip(self._draft.levels, self._memory, strict=True)
            }
            texts |= {level_name(*key): encode_text(raw) for key, raw in self._per_level.items()}
            layout = self._lay_out("header", texts)
            if self._draft.masks == "header" or layout.header_bytes <= HEADER_LIMIT:
                self._begin(layout)
                return
        memory, self._memory = self._memory, None
        self._begin(self._lay_out("tensors", {}))
        for level, raw in enumerate(memory):
            self.put_mask(level, 0, 0, np.frombuffer(raw, np.uint8))

    def _lay_out(self, masks: str, texts: Mapping[str, str]) -> _Layout:
        """Lay the file out, with a header long enough for any counts."""
        wanted = [(t.name, t.dtype, t.shape) for t in self._dense]
        if masks == "tensors":
            for level in self._draft.levels:
                wanted.append((mask_name(level), DTYPES["U8"], (self._offsets[-1],)))
            shapes = {t.name: (t.dtype, t.shape) for t in self._dense}
            for level, name in self._per_level:
                wanted.append((level_name(level, name), *shapes[name]))
        tensors = lay_out(wanted)
        metadata = {**stored(self._metadata, same_tensors=masks == "header"), **texts}
        longest = replace(self._draft, masks=masks).longest().encode()
        header = encode_header(tensors, {**metadata, KEY: longest})
        return _Layout(masks, len(header), {t.name: t for t in tensors}, metadata)

    def _begin(self, layout: _Layout) -> None:
        """Check for room and write what is at hand."""
        self._layout = layout
        if self._dry_run:
            return
        self._out.reserve(self.size)
        if layout.masks == "tensors":
            for key, raw in self._per_level.items():
                self.write(level_name(*key), 0, memoryview(raw))

    @property
    def placed(self) -> bool:
        """Whether the layout is fixed, so that data can be written."""
        return self._layout is not None

    @property
    def placement(self) -> str:
        """Where the masks are, once that is decided: `header` or `tensors`."""
        assert self._layout is not None
        return self._layout.masks

    @property
    def size(self) -> int:
        """Bytes of the whole file, once its layout is decided."""
        assert self._layout is not None
        data = max((t.end for t in self._layout.tensors.values()), default=0)
        return self._layout.header_bytes + data

    def write(self, name: str, offset: int, data: memoryview) -> None:
        """Write bytes of a dense tensor; a Sink."""
        at, _ = self.place_of(name)
        self._out.write_at(at + offset, data)

    def place_of(self, name: str) -> tuple[int, int]:
        """Return offset in the file and size of a tensor, in bytes."""
        assert self._layout is not None
        tensor = self._layout.tensors[name]
        return self._layout.header_bytes + tensor.begin, tensor.nbytes

    def copies(self, container: Container) -> Iterator[tuple[int, int, int]]:
        """Yield steps (source, offset, size) that copy the dense tensors of `container`."""
        begin = container.header_bytes
        return copy_steps(
            (begin + t.begin, self.place_of(t.name)[0], t.nbytes) for t in self._dense
        )

    def digest_masks(self, threads: int) -> tuple[str, ...]:
        """Return the digest of each level's mask, once all are stored and placed."""
        if self._memory is not None:
            return tuple(digest_memory(self._memory, threads))
        names = [mask_name(level) for level in self._draft.levels]
        places = [self.place_of(name) for name in names]
        return tuple(digest_ranges(self._out.read_into, places, threads))

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the header; return the manifest with the place of the masks filled in."""
        assert self._layout is not None
        final = replace(manifest, masks=self._layout.masks)
        tensors = sorted(self._layout.tensors.values(), key=lambda t: (t.begin, t.end))
        metadata = {**self._layout.metadata, KEY: final.encode()}
        self._out.write_at(0, encode_header(tensors, metadata, self._layout.header_bytes))
        return final
