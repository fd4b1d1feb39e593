"""Names of outputs."""

from __future__ import annotations

import os

from elsa_cli.core.level import Level
from elsa_cli.errors import Param, UsageError, Words

__all__ = ["SUFFIX", "level_paths", "nested_path", "packed_path", "trained_path", "unpacked_path"]

SUFFIX = ".elsa.safetensors"
PLACE = "{level}"


def _stem(path: str | os.PathLike[str]) -> str:
    """Return the path without the endings of checkpoints."""
    text = os.fspath(path)
    for ending in (".packed" + SUFFIX, SUFFIX, ".safetensors"):
        if os.path.basename(text).removesuffix(ending) not in ("", os.path.basename(text)):
            return text.removesuffix(ending)
    return text


def nested_path(path: str | os.PathLike[str]) -> str:
    """Return NAME.elsa.safetensors beside NAME.safetensors."""
    return _stem(path) + SUFFIX


def packed_path(path: str | os.PathLike[str]) -> str:
    """Return NAME.packed.elsa.safetensors beside NAME.elsa.safetensors."""
    return _stem(path) + ".packed" + SUFFIX


def trained_path(path: str | os.PathLike[str]) -> str:
    """Return NAME.trained.elsa.safetensors beside NAME.elsa.safetensors."""
    return _stem(path) + ".trained" + SUFFIX


def unpacked_path(path: str | os.PathLike[str]) -> str:
    """Return NAME.elsa.safetensors beside NAME.packed.elsa.safetensors."""
    return _stem(path) + SUFFIX


def level_paths(
    path: str | os.PathLike[str], levels: tuple[Level, ...], output: str | None
) -> dict[Level, str]:
    """Return where each level goes: by default NAME-0.9.safetensors beside the input.

    Args:
        path: The nested or packed checkpoint.
        levels: Those wanted.
        output: A path; `{level}` in it stands for the level.

    Raises:
        UsageError: Several levels would go to one file.
    """
    template = _stem(path) + f"-{PLACE}.safetensors" if output is None else output
    if len(levels) > 1 and PLACE not in template:
        raise UsageError(
            f"{len(levels)} levels cannot all go to {template}",
            hint=Words(
                "put {level} into the name, such as {}", Param("output", "out-{level}.safetensors")
            ),
        )
    return {level: template.replace(PLACE, level.text) for level in levels}
