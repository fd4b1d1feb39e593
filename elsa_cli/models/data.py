"""The recipe's batches in a fixed order, dealt out to the processes, from any position on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from elsa_cli.errors import Param, RecipeError, Words
from elsa_cli.models.recipe import Recipe
from elsa_cli.models.seeds import seed_everything, seed_of

__all__ = ["Position", "Stream", "to_device"]


@dataclass(frozen=True)
class Position:
    """How far a phase has come.

    Attributes:
        step: Steps done in the phase.
        epoch: The epoch, from 0.
        batch: Batches of the recipe that were taken in that epoch, by all processes together
            unless the recipe shares them out itself.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0


class Stream:
    """The batches of one phase.

    With two processes and two batches a step in each, a step takes four batches of the recipe:

        batch       0  1  2  3 | 4  5  6  7
        process     0  1  0  1 | 0  1  0  1
        step            1      |     2

    Args:
        recipe: Gives the data.
        seed: Seed of the run.
        phase: Index of the phase: each phase has another order.
        rank: Index of this process.
        world: Number of processes: batch i goes to process i mod world, unless the recipe's
            `train_data` takes `rank` and `world` and gives the share itself.
        accumulate: Batches of a step in each process.
    """

    def __init__(
        self, recipe: Recipe, seed: int, phase: int, rank: int, world: int, accumulate: int
    ) -> None:
        """Ask the recipe for its data."""
        self._recipe = recipe
        self._seed = (seed, phase)
        self._rank = rank
        self._world = world
        self._accumulate = accumulate
        seed_everything(seed_of(seed, "data", phase))
        self._data, self._shared = recipe.train_data(rank, world)
        self._spent_by_a_pass = isinstance(self._data, Iterator)  # a generator

    @property
    def stride(self) -> int:
        """Batches of the recipe that a step takes, as this process sees them."""
        return self._accumulate * (1 if self._shared else self._world)

    def steps(self) -> int | None:
        """Return the steps of an epoch, or None if the data has no length.

        Raises:
            RecipeError: It has too few batches for a step.
        """
        if not isinstance(self._data, Sized):
            return None
        try:
            batches = len(self._data)
        except TypeError:  # a DataLoader of data without a length
            return None
        if batches < self.stride:
            raise self._too_few(batches)
        return batches // self.stride

    def _too_few(self, batches: int) -> RecipeError:
        return RecipeError(
            f"train_data gave {batches} batches in an epoch, a step needs {self.stride}",
            file=self._recipe.path,
            hint=Words("use smaller batches, or a smaller {}", Param("accumulate")),
        )

    def moved(self, position: Position, world: int) -> Position:
        """Return where this run continues a run of another number of processes.

        No batch is trained on twice, except those of a step that is not whole with the new number.
        The step of the position stays as it is.

        Args:
            position: Where the other run stopped.
            world: Its number of processes.
        """
        if world == self._world:
            return position
        batch = position.batch * world // self._world if self._shared else position.batch
        return dataclasses.replace(position, batch=batch // self.stride * self.stride)

    def walk(self, start: Position, total: int) -> Iterator[tuple[Position, list[Any]]]:
        """Yield, for each step, the position after it and this process's batches.

        Args:
            start: Where to begin. The batches of its epoch that lie before it are fetched and
                dropped, because a recipe's data cannot skip.
            total: Steps of the phase.

        Raises:
            RecipeError: An epoch has too few batches for a step, or the data raised.
        """
        position = start
        while position.step < total:
            for taken, batches in self._epoch(position.epoch, skip=position.batch):
                position = Position(position.step + 1, position.epoch, taken)
                yield position, batches
                if position.step == total:
                    return
            position = Position(position.step, position.epoch + 1)

    def _epoch(self, epoch: int, skip: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield, for each step of an epoch, the batches taken so far and this process's batches."""
        self._prepare(epoch)
        taken = 0
        batches: list[Any] = []
        for batch in self._fetch(epoch):
            taken += 1
            if taken <= skip:
                continue
            if self._shared or (taken - 1) % self._world == self._rank:
                batches.append(batch)
            if taken % self.stride == 0:
                yield taken, batches
                batches = []
        if taken < self.stride:
            raise self._too_few(taken)

    def _prepare(self, epoch: int) -> None:
        """Seed what the order of an epoch is drawn from; ask for data again if it is spent."""
        seed = seed_of(*self._seed, "epoch", epoch)
        seed_everything(seed)
        if self._spent_by_a_pass and epoch:
            self._data, _ = self._recipe.train_data(self._rank, self._world)
        loader: Any = self._data
        batches = getattr(loader, "batch_sampler", None)
        inner = getattr(batches, "sampler", None)
        for part in (loader, getattr(loader, "sampler", None), batches, inner):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
            set_epoch = getattr(part, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)  # as a DistributedSampler needs it

    def _fetch(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch; a separate seed is set before each of them."""
        source: Iterator[Any] | None = None
        index = 0
        while True:
            seed_everything(seed_of(*self._seed, "batch", epoch, index))
            try:
                if source is None:
                    source = iter(self._data)
                batch = next(source)
            except StopIteration:
                return
            except Exception as error:
                raise self._recipe.blame("train_data", error) from error
            index += 1
            yield batch


def to_device(value: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device.

    Tensors are found in tuples, lists, dicts and dataclasses; whatever has a method `to` moves
    itself. Values of any other kind are returned as they are.
    """
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, PackedSequence):  # a tuple too, with lengths that stay on the CPU
        packed: Any = value
        return packed.to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(v, device) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(to_device(v, device) for v in value)
    if type(value) is dict:
        return {key: to_device(v, device) for key, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: to_device(getattr(value, f.name), device)
            for f in dataclasses.fields(value)
            if f.init
        }
        return dataclasses.replace(value, **fields)
    if callable(getattr(value, "to", None)):  # such as a BatchEncoding
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(v, device) for key, v in value.items()}
    return value
