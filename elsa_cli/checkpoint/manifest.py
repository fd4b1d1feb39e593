"""The manifest: canonical JSON under `__metadata__["elsa"]` of nested and packed checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from elsa_cli.checkpoint.members import ladder
from elsa_cli.core.dtypes import DType
from elsa_cli.core.level import DENSE, Level
from elsa_cli.errors import BadManifest, LevelNotStored
from elsa_cli.storage.header import TensorSpec
from elsa_cli.text import plain

__all__ = ["DIGEST_DIGITS", "VERSION", "Entry", "Manifest", "Packing"]

VERSION = 1
DIGEST_DIGITS = 64


@dataclass(frozen=True)
class Entry:
    """One prunable tensor.

    Attributes:
        name: Its name in the dense network.
        dtype: Its dtype.
        shape: Its shape.
        kept: Kept weights at each level, in the order of the manifest's levels.
        digest: Digest of its dense bytes, 64 hexadecimal digits.
        coded: Bytes of its coded shell mask at each level; only in a packed checkpoint.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    kept: tuple[int, ...]
    digest: str
    coded: tuple[int, ...] = ()

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Packing:
    """What only a packed checkpoint has.

    Attributes:
        prefix: Bytes of the file that each level needs, then those of dense.
        digests: Digest of each section of the data, by name.
    """

    prefix: tuple[int, ...]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """What a nested or packed checkpoint says of itself.

    Attributes:
        levels: Stored levels, sparsest first, without dense.
        tensors: The prunable tensors, in the order of their data.
        method: How the masks were chosen: name, options, scope, distribution, group.
        seed: Seed of the methods that draw random numbers.
        masks: Where a nested checkpoint has its masks: `header` or `tensors`; `auto` in a packed
            one that was never nested.
        mask_digests: Digest of each level's mask.
        per_level: Names of the tensors that differ by level.
        packing: Only in a packed checkpoint.
    """

    levels: tuple[Level, ...]
    tensors: tuple[Entry, ...]
    method: Mapping[str, Any]
    seed: int
    masks: str
    mask_digests: tuple[str, ...]
    per_level: tuple[str, ...] = ()
    packing: Packing | None = None

    @property
    def kind(self) -> str:
        """`nested` or `packed`."""
        return "packed" if self.packing else "nested"

    @property
    def members(self) -> tuple[Level, ...]:
        """The networks: the levels, sparsest first, and dense last."""
        return ladder(self.levels)

    @property
    def prunable(self) -> int:
        """Weights in all prunable tensors."""
        return sum(t.numel for t in self.tensors)

    def kept(self, level: Level) -> int:
        """Return the prunable weights that a level keeps."""
        if level == DENSE:
            return self.prunable
        at = self.levels.index(level)
        return sum(t.kept[at] for t in self.tensors)

    def find(self, level: Level, file: str) -> Level:
        """Return the stored level that equals `level`.

        Raises:
            LevelNotStored: There is none; the message lists those there are.
        """
        if level in self.members:
            return level
        stored = ", ".join(map(str, self.members))
        raise LevelNotStored(f"level {level} is not stored", file=file, hint=f"stored are {stored}")

    def encode(self) -> str:
        """Return canonical JSON: sorted keys, no spaces."""
        tensors = []
        for t in self.tensors:
            fields: dict[str, Any] = {
                "name": t.name,
                "dtype": t.dtype.name,
                "shape": t.shape,
                "kept": t.kept,
                "digest": t.digest,
            }
            if self.packing:
                fields["coded"] = t.coded
            tensors.append(fields)
        manifest: dict[str, Any] = {
            "version": VERSION,
            "kind": self.kind,
            "levels": [level.text for level in self.levels],
            "masks": self.masks,
            "mask_digests": self.mask_digests,
            "method": plain(self.method),
            "seed": self.seed,
            "per_level": self.per_level,
            "tensors": tensors,
        }
        if self.packing:
            manifest["prefix"] = self.packing.prefix
            manifest["section_digests"] = dict(self.packing.digests)
        return json.dumps(
            manifest, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )

    def longest(self) -> Manifest:
        """Return this manifest with every count and digest at its longest.

        A header as long as this one's can be reserved before the masks are known.
        """
        tensors = tuple(
            Entry(
                t.name,
                t.dtype,
                t.shape,
                (t.numel,) * len(self.levels),
                "0" * DIGEST_DIGITS,
                t.coded,
            )
            for t in self.tensors
        )
        digests = ("0" * DIGEST_DIGITS,) * len(self.levels)
        return replace(self, tensors=tensors, mask_digests=digests)

    def check_against(self, tensors: Mapping[str, TensorSpec], file: str) -> None:
        """Raise BadManifest unless dense tensors match what is listed here."""
        for t in self.tensors:
            found = tensors.get(t.name)
            if found is None or (found.dtype, found.shape) != (t.dtype, t.shape):
                raise BadManifest(
                    f"the manifest lists {t.dtype.name} {list(t.shape)}, the file has "
                    + (f"{found.dtype.name} {list(found.shape)}" if found else "no such tensor"),
                    file=file,
                    tensor=t.name,
                    hint="the file was changed after it was made; sparsify it again",
                )
