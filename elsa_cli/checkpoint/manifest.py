"""The manifest: canonical JSON under `__metadata__["elsa"]` of nested and packed checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from elsa_cli.checkpoint.deflate import is_coded_text
from elsa_cli.checkpoint.members import ladder
from elsa_cli.checkpoint.names import KEY, is_ours
from elsa_cli.core.dtypes import DTYPES, DType
from elsa_cli.core.level import DENSE, Level, parse_level
from elsa_cli.errors import BadManifest, ElsaError, LevelNotStored, UnknownVersion
from elsa_cli.storage.header import TensorSpec
from elsa_cli.text import plain

__all__ = ["VERSION", "Entry", "Manifest", "Packing", "decode", "find_manifest"]

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


def find_manifest(
    metadata: Mapping[str, str], tensors: Iterable[str], file: str
) -> Manifest | None:
    """Return the manifest of a nested or packed checkpoint; None for any other file.

    Other programs may use the key too. What they put there is no damaged manifest of ours: that is
    still a JSON object with `version` and `kind`, or stands beside masks.

    Args:
        metadata: That of the file.
        tensors: Names of its tensors.
        file: Its path, for messages.

    Raises:
        UnknownVersion: A later version of the format.
        BadManifest: It is damaged.
    """
    text = metadata.get(KEY)
    if text is None:
        return None
    try:
        return decode(text, file)
    except (BadManifest, UnknownVersion):
        if _says_what_it_is(text) or any(map(is_ours, tensors)):
            raise
        # A mask in the header has the name of a tensor, and a value that nobody writes by chance.
        if any(is_ours(key) and is_coded_text(value) for key, value in metadata.items()):
            raise
    return None


def _says_what_it_is(text: str) -> bool:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and {"version", "kind"} <= fields.keys()


def decode(text: str, file: str) -> Manifest:
    """Read a manifest.

    Raises:
        UnknownVersion: A later version of the format.
        BadManifest: It is damaged.
    """
    try:
        fields = json.loads(text)
        version = fields["version"]
        if version != VERSION:
            raise UnknownVersion(
                f"format version {version!r}, this program reads {VERSION}",
                file=file,
                hint="install a later elsa-cli",
            )
        return _from_fields(fields)
    except UnknownVersion:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ElsaError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadManifest(
            f"the manifest is damaged ({reason})", file=file, hint="make the file again"
        ) from error


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    value.encode()  # refuses lone surrogates, which JSON can spell and no file can hold
    return value


def _listed(values: Any, length: int) -> list[Any]:
    if not isinstance(values, list) or len(values) != length:
        raise ValueError(f"a list of {length} is needed")
    return values


def _from_fields(fields: Mapping[str, Any]) -> Manifest:
    levels = tuple(parse_level(_text(text)) for text in fields["levels"])
    if list(levels) != sorted(set(levels), reverse=True) or DENSE in levels or not levels:
        raise ValueError("levels are not sparsest first")
    kind = fields["kind"]
    if kind not in ("nested", "packed"):
        raise ValueError(f"kind is {kind!r}")
    packed = kind == "packed"
    if fields["masks"] not in ("header", "tensors", *(["auto"] if packed else [])):
        raise ValueError(f"masks are in {fields['masks']!r}")
    tensors = []
    for t in fields["tensors"]:
        kept = tuple(_count(k) for k in _listed(t["kept"], len(levels)))
        shape = tuple(_count(s) for s in t["shape"])
        dtype = DTYPES[t["dtype"]]
        if dtype.float_bits is None or list(kept) != sorted(kept) or kept[-1] > math.prod(shape):
            raise ValueError(f"{t['name']!r} has impossible counts or dtype")
        coded = tuple(_count(c) for c in _listed(t["coded"], len(levels))) if packed else ()
        tensors.append(Entry(_text(t["name"]), dtype, shape, kept, _text(t["digest"]), coded))
    if len({t.name for t in tensors}) != len(tensors):
        raise ValueError("a tensor is listed twice")
    names = {t.name for t in tensors}
    if names & set(fields["per_level"]) or any(map(is_ours, names)):
        raise ValueError("a prunable tensor has a name that is not its own")
    packing = None
    if packed:
        prefix = tuple(_count(p) for p in _listed(fields["prefix"], len(levels) + 1))
        digests = {_text(k): _text(v) for k, v in fields["section_digests"].items()}
        packing = Packing(prefix, digests)
    return Manifest(
        levels,
        tuple(tensors),
        dict(fields["method"]),
        _count(fields["seed"]),
        fields["masks"],
        tuple(_text(d) for d in _listed(fields["mask_digests"], len(levels))),
        tuple(_text(name) for name in fields["per_level"]),
        packing,
    )
