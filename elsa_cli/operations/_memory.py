"""Nested checkpoints in memory, as a training needs them: read, chosen, written."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.names import without_hashes
from elsa_cli.checkpoint.nested.writer import NestedWriter
from elsa_cli.checkpoint.opening import open_nested, open_plain
from elsa_cli.core.bits import pack_bits, unpack_bits
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Scratch, default_threads, run
from elsa_cli.errors import ElsaError, Quantised, UsageError
from elsa_cli.models.nested import Nested
from elsa_cli.models.tensors import State, dtype_of, from_bytes, to_bytes
from elsa_cli.operations.chosen import method_of
from elsa_cli.operations.load import NestedCheckpoint
from elsa_cli.selection.eligible import Eligible, Wanted, eligible_tensors
from elsa_cli.selection.masks import Rule, Traits, choose
from elsa_cli.selection.naming import Siblings
from elsa_cli.selection.roles import Classes
from elsa_cli.selection.rows import normed_dims
from elsa_cli.sparsifiers import bind
from elsa_cli.storage.container import Container, TensorInfo, lay_out
from elsa_cli.storage.digest import digest_ranges
from elsa_cli.storage.output import OutputFile

__all__ = [
    "Source",
    "choose_again",
    "digest_of",
    "from_nested",
    "from_plain",
    "from_state",
    "write",
]

Owners = dict[str, NDArray[np.uint8]]


@dataclass
class Source:
    """A nested checkpoint in memory, and what is kept of the file it came from.

    Attributes:
        nested: Weights and masks.
        metadata: Foreign metadata; hashes of the weights, which change, are not written.
        method: How the masks were chosen, for the manifest.
        seed: Seed of that choice.
        masks: Where the masks go: `header`, `tensors` or `auto`.
        traits: What is known of the prunable tensors, should masks be chosen again.
        chosen: How the prunable tensors were chosen, and all tensors; None if they had masks.
    """

    nested: Nested
    metadata: Mapping[str, str]
    method: Mapping[str, Any]
    seed: int
    masks: str
    traits: Traits
    chosen: tuple[Eligible, Sequence[TensorInfo]] | None = None

    def chosen_by_magnitude(self) -> None:
        """Say in the manifest that the masks were chosen again, under the same rule."""
        self.method = {**self.method, "name": "magnitude", "options": {}}


def from_nested(path: str | os.PathLike[str]) -> Source:
    """Read a nested or packed checkpoint.

    Raises:
        InputError: It cannot be used, or is cut.
    """
    with NestedCheckpoint(path) as checkpoint:
        values = checkpoint.load("dense", threads=default_threads())
    with open_nested(path) as reader:
        manifest = reader.manifest
        owners: Owners = {}
        for at, entry in enumerate(manifest.tensors):
            owner = owners[entry.name] = np.zeros(entry.numel, np.uint8)
            for start, count, levels in reader.masks(at):
                for packed in levels:
                    owner[start : start + count] += ~unpack_bits(packed, count)
        own = {}
        for level in manifest.levels if manifest.per_level else ():
            own[level] = {
                name: from_bytes(
                    np.frombuffer(data, np.uint8).copy(),
                    reader.dense[name].dtype,
                    reader.dense[name].shape,
                )
                for name, data in reader.per_level(level).items()
            }
        if own:
            own[DENSE] = {name: values[name] for name in manifest.per_level}
        nested = Nested(manifest.levels, values, _shaped(owners, values), own)
        pruned = [reader.dense[entry.name] for entry in manifest.tensors]
        dims = {t.name: 1 for t in pruned} | dict(manifest.method.get("group_dims", {}))
        traits = Traits(dims, normed_dims(pruned, Siblings(reader.dense.values())))
        return Source(
            nested, reader.metadata, manifest.method, manifest.seed, manifest.masks, traits
        )


def from_plain(
    path: str | os.PathLike[str],
    levels: Sequence[Level],
    wanted: Wanted | None = None,
    classes: Classes | None = None,
) -> Source:
    """Read a plain checkpoint and choose nested masks by magnitude.

    Args:
        path: The file.
        levels: Sparsest first.
        wanted: What the user says of the choice.
        classes: What the classes of the recipe's model tell of its tensors.

    Raises:
        Quantised: Its weights are codes with scales, which cannot be trained as they are.
        InputError: It cannot be used.
        UsageError: Nothing in it is prunable.
    """
    with open_plain(path) as container:
        eligible = eligible_tensors(container, wanted, classes)
        rule, traits = Rule(), Traits.of(eligible)
        for name in traits.scales:
            raise Quantised(
                "is FP8 with a scale, which cannot be trained as it is",
                file=container.path,
                tensor=name,
                hint="dequantise it first",
            )
        owners = _owners(container, eligible.tensors, levels, rule, traits)
        values = {
            t.name: from_bytes(np.frombuffer(container.read(t), np.uint8).copy(), t.dtype, t.shape)
            for t in container.tensors
        }
        method = method_of("magnitude", {}, rule, eligible, traits)
        nested = Nested(tuple(levels), values, _shaped(owners, values))
        chosen = (eligible, container.tensors)
        return Source(nested, container.metadata, method, 0, "auto", traits, chosen)


def from_state(
    state: State,
    metadata: Mapping[str, str],
    levels: Sequence[Level],
    wanted: Wanted | None = None,
    classes: Classes | None = None,
) -> Source:
    """Choose nested masks of tensors in memory by magnitude; see `from_plain`."""
    with tempfile.TemporaryDirectory(prefix="elsa-") as folder:
        path = os.path.join(folder, "model.safetensors")
        save_file({n: t.contiguous() for n, t in state.items()}, path, dict(metadata))
        return from_plain(path, levels, wanted, classes)


def choose_again(source: Source) -> dict[str, Any]:
    """Return new owners, chosen by magnitude under the rule of the old ones."""
    method, nested = source.method, source.nested
    group = method.get("group")
    rule = Rule.of(None if group else method.get("scope"), method.get("distribution"), group)
    prunable = {name: nested.values[name].contiguous() for name in nested.owner}
    with tempfile.TemporaryDirectory(prefix="elsa-") as folder:
        path = os.path.join(folder, "model.safetensors")
        save_file(prunable, path)
        try:
            with open_plain(path) as container:
                owners = _owners(container, container.tensors, nested.levels, rule, source.traits)
        except ElsaError as error:
            raise error.renamed("the weights after the joint phase") from error
    source.chosen_by_magnitude()
    return _shaped(owners, nested.values)


def _owners(
    container: Container,
    tensors: Sequence[TensorInfo],
    levels: Sequence[Level],
    rule: Rule,
    traits: Traits,
) -> Owners:
    """Choose nested masks by magnitude; return the owning stage of each weight, flat."""
    if len(levels) > 250:
        raise UsageError(f"{len(levels)} levels are too many to train", hint="use 250 at most")
    scorer, _ = bind("magnitude", {}, 0)
    threads = default_threads()
    choice = choose(container, tensors, levels, scorer, rule, threads, traits=traits)
    owners = {t.name: np.zeros(t.numel, np.uint8) for t in tensors}

    def work(item: Any, scratch: Scratch) -> None:
        part, piece = item
        owner = owners[piece.tensor.name][piece.start : piece.start + piece.count]
        for mask in choice.masks(part, piece, scratch):
            owner += ~mask

    run(choice.pieces(), work, Scratch, threads)
    return owners


def _shaped(owners: Owners, values: State) -> dict[str, Any]:
    return {
        name: from_bytes(owner, DTYPES["U8"], tuple(values[name].shape))
        for name, owner in owners.items()
    }


def digest_of(nested: Nested) -> str:
    """Return a short digest of all weights and masks."""
    found = hashlib.blake2b(",".join(map(str, nested.levels)).encode(), digest_size=8)
    own = {f"{level} {n}": t for level, state in nested.per_level.items() for n, t in state.items()}
    for state in (nested.values, nested.owner, own):
        for name in sorted(state):
            found.update(name.encode())
            found.update(to_bytes(state[name]).data)
    return found.hexdigest()


def write(source: Source, out: OutputFile) -> int:
    """Write a nested checkpoint; return its size in bytes. The file is not committed."""
    nested, threads = source.nested, default_threads()
    infos = lay_out((n, dtype_of(t), tuple(t.shape)) for n, t in nested.values.items())
    stages = range(len(nested.levels))
    owners = {
        info: nested.owner[info.name].numpy().reshape(-1)
        for info in infos
        if info.name in nested.owner
    }
    per_level = {
        (level, name): to_bytes(tensor).tobytes()
        for level, own in nested.per_level.items()
        for name, tensor in own.items()
    }
    manifest = Manifest(
        levels=nested.levels,
        tensors=tuple(
            Entry(t.name, t.dtype, t.shape, tuple(int((owner <= k).sum()) for k in stages), "")
            for t, owner in owners.items()
        ),
        method=source.method,
        seed=source.seed,
        masks=source.masks,
        mask_digests=(),
        per_level=tuple(sorted({name for _, name in per_level})),
    )
    writer = NestedWriter(out, infos, without_hashes(source.metadata), manifest, per_level)
    for at, owner in enumerate(owners.values()):
        for k in stages:
            writer.put_mask(k, at, 0, pack_bits(owner <= k))
    writer.masks_done()
    for info in infos:
        writer.write(info.name, 0, to_bytes(nested.values[info.name]).data)
    places = [writer.place_of(t.name) for t in owners]
    digests = digest_ranges(out.read_into, places, threads)
    tensors = zip(manifest.tensors, digests, strict=True)
    manifest = replace(
        manifest,
        tensors=tuple(replace(entry, digest=digest) for entry, digest in tensors),
        mask_digests=writer.digest_masks(threads),
    )
    writer.finish(manifest)
    return writer.size
