"""Choosing the masks of a network in memory, by magnitude: before a training, and again in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elsa_cli.checkpoint.opening import open_plain
from elsa_cli.core.bits import unpack_bits
from elsa_cli.core.level import Level
from elsa_cli.core.work import Scratch, run
from elsa_cli.errors import Quantised, UsageError
from elsa_cli.models.nested import Nested
from elsa_cli.models.nested_file import NestedFile, owner_tensors, specs_of
from elsa_cli.models.tensors import State, dtype_of, from_bytes, to_bytes
from elsa_cli.selection.eligible import Eligible, Wanted, eligible_tensors
from elsa_cli.selection.masks import Rule, Traits, choose
from elsa_cli.selection.method import method_of
from elsa_cli.selection.naming import Siblings
from elsa_cli.selection.roles import Classes
from elsa_cli.selection.rows import normed_dims
from elsa_cli.sparsifiers import bind
from elsa_cli.storage.container import Container
from elsa_cli.storage.header import TensorInfo, TensorSpec
from elsa_cli.storage.memory import MemoryBytes

__all__ = ["MAX_LEVELS", "Chosen", "choose_again", "from_plain", "from_state", "rows_of"]

MAX_LEVELS = 250  # an owner is one byte: a stage for each level, and one for dense

Owners = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Chosen:
    """A network whose masks were chosen here.

    Attributes:
        file: The network and its masks.
        eligible: The prunable tensors, and why the others are not.
        tensors: All tensors of the network.
    """

    file: NestedFile
    eligible: Eligible
    tensors: Sequence[TensorSpec]


def from_plain(
    container: Container,
    levels: Sequence[Level],
    threads: int,
    wanted: Wanted | None = None,
    classes: Classes | None = None,
) -> Chosen:
    """Read a plain checkpoint and choose nested masks by magnitude.

    Args:
        container: The open checkpoint.
        levels: Sparsest first, without dense.
        threads: Number of threads; the masks do not depend on it.
        wanted: The tensors to prune, as the user names them.
        classes: What the classes of the recipe's model say about its tensors.

    Raises:
        Quantised: Its weights are codes with scales, which cannot be trained as they are.
        NonFinite: There is NaN or infinity among the weights to prune.
        UsageError: Nothing in it is prunable, or there are too many levels.
    """
    eligible = eligible_tensors(container, wanted, classes)
    rule, traits = Rule(), Traits.of(eligible)
    for name in traits.scales:
        raise Quantised(
            "is FP8 with a scale, which cannot be trained as it is",
            file=container.path,
            tensor=name,
            hint="dequantise it first",
        )
    owners = _owners(container, eligible.tensors, levels, rule, traits, threads)
    values = {}
    for t in container.tensors:
        data = np.empty(t.nbytes, np.uint8)
        container.read_into(t.begin, data.data)
        values[t.name] = from_bytes(data, t.dtype, t.shape)
    nested = Nested(tuple(levels), values, owner_tensors(owners, container.named))
    method = method_of("magnitude", {}, rule, eligible, traits)
    file = NestedFile(nested, container.metadata, method, seed=0, placement="auto")
    return Chosen(file, eligible, container.tensors)


def from_state(
    state: State,
    metadata: Mapping[str, str],
    levels: Sequence[Level],
    threads: int,
    wanted: Wanted | None = None,
    classes: Classes | None = None,
) -> Chosen:
    """Choose nested masks of a new model's tensors by magnitude; see `from_plain`.

    Args:
        state: The tensors by name, of any memory layout; they are copied.
        metadata: Foreign metadata of the checkpoint that they become.
        levels: Sparsest first, without dense.
        threads: Number of threads; the masks do not depend on it.
        wanted: The tensors to prune, as the user names them.
        classes: What the classes of the recipe's model say about its tensors.
    """
    with open_plain(_as_file("the recipe's new model", state, metadata)) as container:
        return from_plain(container, levels, threads, wanted, classes)


def choose_again(file: NestedFile, threads: int) -> dict[str, Tensor]:
    """Return new owners, chosen by magnitude under the rule of the old masks.

    Args:
        file: The network; its weights are ranked as they are now. Nothing in it is changed.
        threads: Number of threads; the owners do not depend on it.

    Returns:
        The owners by name, uint8 in the shapes of their weights.

    Raises:
        NonFinite: There is NaN or infinity among the prunable weights.
    """
    method, nested, specs = file.method, file.nested, specs_of(file.nested)
    group = method.get("group")
    rule = Rule.of(None if group else method.get("scope"), method.get("distribution"), group)
    prunable = {name: nested.values[name] for name in nested.owner}
    dims = dict.fromkeys(prunable, 1) | dict(method.get("group_dims", {}))
    with Container(_as_file("the weights after the joint phase", prunable)) as container:
        tensors, traits = container.tensors, Traits(dims, rows_of(nested))
        owners = _owners(container, tensors, nested.levels, rule, traits, threads)
    return owner_tensors(owners, specs)


def rows_of(nested: Nested) -> dict[str, int | None]:
    """Return the prunable tensors that a weight norm divides by the norms of their rows, by name.

    The value is the dimension of the rows; None if the whole tensor is one row.
    """
    specs = specs_of(nested)
    return normed_dims([specs[name] for name in nested.owner], Siblings(specs.values()))


def _as_file(name: str, state: State, metadata: Mapping[str, str] | None = None) -> MemoryBytes:
    """Return tensors as the bytes of a safetensors file."""
    data = {
        TensorSpec(key, dtype_of(tensor), tuple(tensor.shape)): to_bytes(tensor).data
        for key, tensor in state.items()
    }
    return MemoryBytes.of_tensors(name, data, metadata)


def _owners(
    container: Container,
    tensors: Sequence[TensorInfo],
    levels: Sequence[Level],
    rule: Rule,
    traits: Traits,
    threads: int,
) -> Owners:
    """Choose nested masks by magnitude; return the owning stage of each weight, flat."""
    if len(levels) > MAX_LEVELS:
        raise UsageError(
            f"{len(levels)} levels are too many to train", hint=f"use {MAX_LEVELS} at most"
        )
    scorer, _ = bind("magnitude", {}, 0)
    choice = choose(container, tensors, levels, scorer, rule, threads, traits=traits)
    owners = {t.name: np.zeros(t.numel, np.uint8) for t in tensors}

    def work(item: Any, scratch: Scratch) -> None:
        part, piece = item
        owner = owners[piece.tensor.name][piece.start : piece.start + piece.count]
        masks, _ = choice.packed(part, piece, scratch)
        for packed in masks:
            owner += ~unpack_bits(packed, piece.count)

    run(choice.pieces(), work, Scratch, threads)
    return owners
