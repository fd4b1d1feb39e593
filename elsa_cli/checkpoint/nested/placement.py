"""Where a nested checkpoint has its masks, and where everything lies then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import KEY, level_name, mask_name, stored
from elsa_cli.core.bits import mask_bytes
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import Level
from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.storage.container import MAX_HEADER, encode_header, lay_out
from elsa_cli.storage.header import TensorInfo, TensorSpec

__all__ = ["HEADER_LIMIT", "MASKS_IN_MEMORY", "PLACEMENTS", "Layout", "Places", "mask_offsets"]

PLACEMENTS = ("auto", "header", "tensors")
HEADER_LIMIT = 16 << 20  # bytes of header that `auto` allows; readers on the web stop at 25 MB
MASKS_IN_MEMORY = 32 << 20  # bytes of raw masks up to which `auto` tries the header


def mask_offsets(manifest: Manifest) -> list[int]:
    """Return where the mask of each prunable tensor begins in that of a level, and the end."""
    offsets = [0]
    for entry in manifest.tensors:
        offsets.append(offsets[-1] + mask_bytes(entry.numel))
    return offsets


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the file being written.

    Attributes:
        masks: `header` or `tensors`.
        header_bytes: Bytes of the header, long enough for any counts.
        tensors: All tensors of the file, by name.
        metadata: That of the file, but for the manifest.
    """

    masks: str
    header_bytes: int
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.header_bytes + max((t.end for t in self.tensors.values()), default=0)

    def offset_of(self, name: str) -> int:
        """Return the offset of a tensor in the file, in bytes."""
        return self.header_bytes + self.tensors[name].begin

    def header(self, manifest: Manifest) -> bytes:
        """Return the header with the finished manifest, as long as was planned."""
        tensors = sorted(self.tensors.values(), key=lambda t: (t.begin, t.end))
        metadata = {**self.metadata, KEY: manifest.encode()}
        return encode_header(tensors, metadata, self.header_bytes)


@dataclass(frozen=True)
class Places:
    """What decides the layout of a nested checkpoint.

    Attributes:
        draft: The manifest; counts and digests may still be missing, `masks` may be `auto`.
        tensors: Those of the dense network.
        metadata: Foreign metadata, kept.
        per_level: Bytes of the per-level tensors, by level and name.
    """

    draft: Manifest
    tensors: Sequence[TensorSpec]
    metadata: Mapping[str, str]
    per_level: Mapping[tuple[Level, str], bytes]

    def __post_init__(self) -> None:
        """Refuse masks that no header can hold.

        Raises:
            UsageError: See the message.
        """
        # A Huffman code takes at least a bit for each byte of mask, base64 a third more.
        if self.draft.masks == "header" and self._mask_bytes // 8 * 4 // 3 > MAX_HEADER:
            raise UsageError(
                f"masks of {self._mask_bytes:,} bytes do not fit a header",
                hint=Words("use {}", Param("masks", "tensors")),
            )

    @property
    def _mask_bytes(self) -> int:
        return mask_offsets(self.draft)[-1] * len(self.draft.levels)

    @property
    def known(self) -> bool:
        """Whether the masks are tensors for sure, so that the layout does not depend on them."""
        masks = self.draft.masks
        return masks == "tensors" or (masks == "auto" and self._mask_bytes > MASKS_IN_MEMORY)

    def as_tensors(self) -> Layout:
        """Return the layout with the masks as tensors."""
        size = mask_offsets(self.draft)[-1]
        wanted = [TensorSpec(t.name, t.dtype, t.shape) for t in self.tensors]
        wanted += [TensorSpec(mask_name(k), DTYPES["U8"], (size,)) for k in self.draft.levels]
        specs = {t.name: t for t in self.tensors}
        for level, name in self.per_level:
            spec = specs[name]
            wanted.append(TensorSpec(level_name(level, name), spec.dtype, spec.shape))
        return self._lay_out("tensors", wanted, {})

    def in_header(self, texts: Mapping[str, str]) -> Layout | None:
        """Return the layout with masks and per-level tensors as texts in the header.

        None, if `auto` would not have so long a header.
        """
        layout = self._lay_out("header", self.tensors, texts)
        fits = self.draft.masks == "header" or layout.header_bytes <= HEADER_LIMIT
        return layout if fits else None

    def _lay_out(
        self, masks: str, wanted: Sequence[TensorSpec], texts: Mapping[str, str]
    ) -> Layout:
        tensors = lay_out(wanted)
        metadata = {**stored(self.metadata, same_tensors=masks == "header"), **texts}
        entries = tuple(replace(entry, coded=()) for entry in self.draft.tensors)
        draft = replace(self.draft, masks=masks, packing=None, tensors=entries)
        longest = draft.longest().encode()
        header = encode_header(tensors, {**metadata, KEY: longest})
        return Layout(masks, len(header), {t.name: t for t in tensors}, metadata)
