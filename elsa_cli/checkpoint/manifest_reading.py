"""Reading a manifest: is there one, which version is it, and does it say what is possible."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from elsa_cli.checkpoint.deflate import is_coded_text
from elsa_cli.checkpoint.manifest import VERSION, Entry, Manifest, Packing
from elsa_cli.checkpoint.names import KEY, is_ours
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import DENSE, parse_level
from elsa_cli.errors import BadManifest, ElsaError, UnknownVersion

__all__ = ["decode", "find_manifest"]


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
        # A mask in the header has the name of a tensor, and a value that is not written by chance.
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
