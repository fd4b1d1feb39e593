"""The names that the format uses in a file, and how all others go beside them.

A tensor has a name of the format only if it has exactly such a form, so that a network may call its
modules whatever it likes. Metadata keys of such a form that somebody else wrote, and hashes that
do not hold for the file they are in, are stored under an escaped key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from elsa_cli.core.level import Level

__all__ = [
    "CONTENT_HASHES",
    "KEY",
    "content_hashes",
    "foreign",
    "is_ours",
    "level_name",
    "mask_name",
    "shell_name",
    "stored",
    "without_hashes",
]

KEY = "elsa"  # of the manifest
ESCAPE = "elsa.foreign/"
# What other tools compute over the tensors of a file and write into it: kohya-ss' sd-scripts and
# what came from them (the first two), ModelSpec and SwarmUI.
CONTENT_HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "hash_sha256")

_LEVEL = r"0\.[0-9]*[1-9]"  # as a level is spelled, but for `dense`
_OWN = rf"elsa\.mask\.{_LEVEL}|elsa\.level\.{_LEVEL}/.*"
_SHELL = rf"elsa\.shell\.(?:{_LEVEL}\.(?:mask|values)|dense\.values)"
_KEYS = re.compile(rf"{KEY}|{_OWN}|{re.escape(ESCAPE)}.*", re.DOTALL)
_TENSORS = re.compile(rf"{_OWN}|{_SHELL}", re.DOTALL)


def mask_name(level: Level) -> str:
    """Return the name of a level's mask in a nested checkpoint."""
    return f"elsa.mask.{level}"


def level_name(level: Level, name: str) -> str:
    """Return the name of a per-level tensor."""
    return f"elsa.level.{level}/{name}"


def shell_name(level: Level, part: str) -> str:
    """Return the name of the `mask` or the `values` of a shell in a packed checkpoint."""
    return f"elsa.shell.{level}.{part}"


def is_ours(tensor: str) -> bool:
    """Tell whether a tensor's name is one of those that the format uses."""
    return _TENSORS.fullmatch(tensor) is not None


def stored(metadata: Mapping[str, str], *, same_tensors: bool) -> dict[str, str]:
    """Return foreign metadata as a nested or packed checkpoint stores it.

    Args:
        metadata: As the dense checkpoint has it.
        same_tensors: Whether the file has the tensors of the dense checkpoint and no others; if
            not, hashes of its content do not hold, and are kept out of sight.
    """
    away = () if same_tensors else CONTENT_HASHES
    return {ESCAPE + k if _KEYS.fullmatch(k) or k in away else k: v for k, v in metadata.items()}


def foreign(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of the dense checkpoint from that of a nested or packed one."""
    plain = {k: v for k, v in metadata.items() if _KEYS.fullmatch(k) is None}
    escaped = {k.removeprefix(ESCAPE): v for k, v in metadata.items() if k.startswith(ESCAPE)}
    return dict(sorted({**plain, **escaped}.items()))


def content_hashes(metadata: Iterable[str]) -> tuple[str, ...]:
    """Return the keys that hold a hash of the dense checkpoint's tensors."""
    return tuple(sorted(k for k in metadata if k in CONTENT_HASHES))


def without_hashes(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that holds for a network with other weights too."""
    return {k: v for k, v in metadata.items() if k not in CONTENT_HASHES}
