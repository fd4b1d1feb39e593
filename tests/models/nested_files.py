"""Nested checkpoints of every dtype that torch has, and their way into memory and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from elsa_cli.checkpoint.nested.writer import write_nested
from elsa_cli.checkpoint.opening import open_nested, open_plain
from elsa_cli.core.level import Level, parse_levels
from elsa_cli.models.nested_file import NestedFile, NestedInMemory, from_nested
from elsa_cli.selection.eligible import Wanted
from elsa_cli.storage.output import OutputFile
from elsa_cli.training.masks import Chosen, from_plain
from tests.helpers import FLOATS, Tensor, library_order
from tests.operations.models import LEVELS, every_dtype, network, save

STAGES = parse_levels(LEVELS)
TEXT = ",".join(LEVELS)
NOT_IN_TORCH = ("F4", "F6_E2M3", "F6_E3M2")
THREADS = 2


def tensors(kind: str = "normal") -> list[Tensor]:
    """Return matrices of all floats, and other tensors of every dtype that torch has."""
    rest = [t for t in every_dtype() if t[1] not in (*NOT_IN_TORCH, *FLOATS)]
    return [*network(list(FLOATS), kind=kind), *rest]


def plain(folder: Path, kind: str = "normal") -> Path:
    """Write a plain checkpoint of them."""
    return save(folder / "m.safetensors", library_order(tensors(kind)))


def read(path: Path, threads: int = THREADS) -> NestedFile:
    """Read a nested or packed checkpoint into memory."""
    with open_nested(path) as reader:
        return from_nested(reader, threads)


def choose(
    path: Path,
    levels: Sequence[Level] = STAGES,
    wanted: Wanted | None = None,
    threads: int = THREADS,
) -> Chosen:
    """Choose the masks of a plain checkpoint."""
    with open_plain(path) as container:
        return from_plain(container, levels, threads, wanted)


def store(file: NestedFile, path: Path, threads: int = THREADS) -> None:
    """Write a nested network to a file."""
    with OutputFile(path) as out, NestedInMemory(file) as source:
        size = write_nested(out, source, threads).size
        out.commit()
    assert size == path.stat().st_size


def change_weights(file: NestedFile, seed: int = 0) -> None:
    """Give the prunable tensors other values of the same dtypes."""
    generator = torch.Generator().manual_seed(seed)
    for name, owner in file.nested.owner.items():
        value = file.nested.values[name]
        drawn = torch.randn(owner.shape, generator=generator)
        file.nested.values[name] = drawn.to(value.dtype)


def give_per_level(file: NestedFile) -> None:
    """Give each level tensors that differ from those of the others."""
    for stage, level in enumerate(file.nested.levels):
        file.nested.per_level[level] = {
            "conv.bias": torch.full((8,), float(stage)),
            "steps": torch.tensor(stage),
        }
