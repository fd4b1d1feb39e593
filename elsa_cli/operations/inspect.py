"""What is inside a checkpoint, nested, packed or plain."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.opening import open_any
from elsa_cli.checkpoint.packed.layout import shell_sizes
from elsa_cli.checkpoint.reader import Reader
from elsa_cli.core.batch import Batch, pieces
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import (
    Progress,
    Scratch,
    chunk_of,
    default_threads,
    no_progress,
    run,
)
from elsa_cli.selection.roles import tell
from elsa_cli.storage.container import Container

__all__ = ["InspectReport", "LevelInfo", "TensorDetail", "describe", "inspect"]


@dataclass(frozen=True)
class LevelInfo:
    """One level.

    Attributes:
        level: The level.
        kept: Prunable weights it keeps.
        nested_bytes: What it adds to a nested checkpoint: its mask, before any coding.
        packed_bytes: What it adds to a packed checkpoint: coded mask, values, per-level tensors.
        prefix: Bytes of the packed file that it needs; None unless the file is packed.
        available: Whether the file holds it; a packed file may be cut.
    """

    level: Level
    kept: int
    nested_bytes: int
    packed_bytes: int
    prefix: int | None
    available: bool


@dataclass(frozen=True)
class TensorDetail:
    """One tensor of the dense network.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        shape: Its shape.
        nbytes: Its bytes.
        part: `prunable`, `per-level` or `shared`; `plain` in a checkpoint without levels.
        role: What it is, a key of `elsa_cli.selection.rules.ROLES`.
        reason: What told the role. With levels, names and shapes tell it, and what was chosen.
        density: Kept fraction at each level, sparsest first; empty unless prunable.
        zeros: Elements that are zero; only counted in plain checkpoints, None where elements are
            not whole bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    part: str
    role: str
    reason: str
    density: tuple[float, ...]
    zeros: int | None


@dataclass(frozen=True)
class InspectReport:
    """What is inside.

    Attributes:
        path: The file.
        kind: `nested`, `packed` or `plain`.
        size: Bytes of the file.
        parameters: Elements of all tensors of the dense network.
        prunable: Weights that take part; 0 in a plain checkpoint.
        levels: Sparsest first, dense last; empty in a plain checkpoint.
        packed_exact: Whether packed_bytes are exact; otherwise estimated from the entropy.
        method: How the masks were chosen.
        seed: Seed of the method.
        masks: Where the masks are; None in a plain checkpoint.
        metadata: Foreign metadata.
        tensors: In the order of the file.
    """

    path: str
    kind: str
    size: int
    parameters: int
    prunable: int
    levels: tuple[LevelInfo, ...]
    packed_exact: bool
    method: dict[str, Any]
    seed: int | None
    masks: str | None
    metadata: dict[str, str]
    tensors: tuple[TensorDetail, ...]


def inspect(
    checkpoint: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> InspectReport:
    """Describe a checkpoint. Only a plain one is read beyond its header, to count zeros.

    Raises:
        InputError: It is damaged or cannot be read.
    """
    with open_any(checkpoint) as opened:
        if isinstance(opened, Container):
            return _plain(opened, threads or default_threads(), progress)
        return describe(opened)


def describe(reader: Reader) -> InspectReport:
    """Describe an open nested or packed checkpoint; see `inspect`. Only its header is read."""
    manifest = reader.manifest
    entries = {t.name: t for t in manifest.tensors}
    told = tell(tuple(reader.tensors.values())).told
    own = set(manifest.per_level)
    details = []
    for t in reader.tensors.values():
        entry = entries.get(t.name)
        part = "prunable" if entry else "per-level" if t.name in own else "shared"
        role, reason = told[t.name].role, told[t.name].reason
        if (role == "weight") != bool(entry):  # values, classes or options told more than the name
            reason = "chosen with the masks" if entry else "left out when masks were chosen"
        density = tuple(k / entry.numel for k in entry.kept) if entry else ()
        details.append(
            TensorDetail(t.name, t.dtype.name, t.shape, t.nbytes, part, role, reason, density, None)
        )
    return InspectReport(
        path=reader.name,
        kind=manifest.kind,
        size=reader.size,
        parameters=sum(t.numel for t in reader.tensors.values()),
        prunable=manifest.prunable,
        levels=tuple(_levels(reader)),
        packed_exact=manifest.packing is not None,
        method=dict(manifest.method),
        seed=manifest.seed,
        masks=manifest.masks,
        metadata=dict(reader.metadata),
        tensors=tuple(details),
    )


def _levels(reader: Reader) -> list[LevelInfo]:
    manifest = reader.manifest
    raw = sum(-(-t.numel // 8) for t in manifest.tensors)
    own = sum(reader.tensors[name].nbytes for name in manifest.per_level)
    packing = manifest.packing
    shells = shell_sizes(manifest.tensors, len(manifest.levels)).tolist()
    infos = []
    for k, level in enumerate(manifest.members):
        dense = level == DENSE
        if packing:
            before = packing.prefix[k - 1] if k else reader.before_levels
            packed = packing.prefix[k] - before
        else:
            packed = _estimate(manifest, shells, k) + (0 if dense else own)
        infos.append(
            LevelInfo(
                level=level,
                kept=manifest.kept(level),
                nested_bytes=0 if dense else raw + own,
                packed_bytes=packed,
                prefix=packing.prefix[k] if packing else None,
                available=level in reader.available,
            )
        )
    return infos


def _estimate(manifest: Manifest, shells: Sequence[Sequence[int]], shell: int) -> int:
    """Return the bytes of a shell: its values, and its mask at the entropy of its density.

    Args:
        manifest: Of a nested checkpoint.
        shells: The weights of each shell of each tensor.
        shell: Which shell.
    """
    total = 0.0
    for t, kept in zip(manifest.tensors, shells, strict=True):
        free = sum(kept[shell:])
        total += kept[shell] * t.dtype.itemsize
        if shell < len(manifest.levels) and 0 < kept[shell] < free:
            p = kept[shell] / free
            total -= free * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    return round(total)


def _plain(container: Container, threads: int, progress: Progress) -> InspectReport:
    progress(0, container.data_bytes)
    whole = [t for t in container.tensors if t.dtype.bits % 8 == 0]

    places = np.array([t.begin for t in whole], np.int64)
    zeros = np.zeros(len(whole), np.int64)
    lock = threading.Lock()

    def work(batch: Batch, scratch: Scratch) -> None:
        cells = scratch.array("cells", batch.cells, batch.cell)
        view = cells.view(np.uint8).data
        batch.read_into(container.read_into, places, view)
        found = batch.sizes - batch.nonzero(cells)
        with lock:
            zeros[batch.rows] += found
        progress(len(view))

    run(
        pieces([t.numel for t in whole], [t.dtype for t in whole], chunk_of), work, Scratch, threads
    )
    zeros_of = dict(zip([t.name for t in whole], zeros.tolist(), strict=True))

    told = tell(container.tensors, container).told
    return InspectReport(
        path=container.path,
        kind="plain",
        size=container.size,
        parameters=sum(t.numel for t in container.tensors),
        prunable=0,
        levels=(),
        packed_exact=False,
        method={},
        seed=None,
        masks=None,
        metadata=container.metadata,
        tensors=tuple(
            TensorDetail(
                t.name,
                t.dtype.name,
                t.shape,
                t.nbytes,
                "plain",
                told[t.name].role,
                told[t.name].reason,
                (),
                zeros_of.get(t.name),
            )
            for t in container.tensors
        ),
    )
