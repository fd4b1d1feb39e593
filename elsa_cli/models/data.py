"""Batches: the recipe's, in a fixed order, shared out to the processes, from any point on."""

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

__all__ = ["Place", "Stream", "to_device"]


@dataclass(frozen=True)
class Place:
    """Where a phase is: steps done in all, the epoch, and batches taken in that epoch."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


class Stream:
    """The batches of one phase.

    Args:
        recipe: Gives the data.
        seed: Of the run.
        phase: Number of the phase, so that each has an order of its own.
        rank: Number of this process.
        world: Number of processes: batch i goes to process i mod world, unless the recipe's
            `train_data` takes `rank` and `world` and gives the share itself.
        accumulate: Batches a step takes in each process.
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
        self._once = isinstance(self._data, Iterator)  # a generator, spent after one pass

    @property
    def stride(self) -> int:
        """Batches of the recipe for one step of this process."""
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

    def moved(self, place: Place, world: int) -> Place:
        """Return the place for a run that was on another number of processes.

        What was trained on is not trained on again, but for the rest of a step.
        """
        if world == self._world:
            return place
        batch = place.batch * world // self._world if self._shared else place.batch
        return dataclasses.replace(place, batch=batch // self.stride * self.stride)

    def walk(self, place: Place, total: int) -> Iterator[tuple[Place, list[Any]]]:
        """Yield the place after a step and the step's batches, from a place on.

        Args:
            place: Where to begin; what lies before it is fetched and dropped.
            total: Steps of the phase.
        """
        while place.step < total:
            self._begin(place.epoch)
            taken = 0
            group: list[Any] = []
            for batch in self._fetch(place.epoch):
                taken += 1
                if taken <= place.batch:
                    continue
                if self._shared or (taken - 1) % self._world == self._rank:
                    group.append(batch)
                if taken % self.stride == 0:
                    place = Place(place.step + 1, place.epoch, taken)
                    yield place, group
                    group = []
                    if place.step == total:
                        return
            if taken < self.stride:
                raise self._too_few(taken)
            place = Place(place.step, place.epoch + 1)

    def _begin(self, epoch: int) -> None:
        """Seed what an epoch draws from; ask for data again where it is spent."""
        seed = seed_of(*self._seed, "epoch", epoch)
        seed_everything(seed)
        if self._once and epoch:
            self._data, _ = self._recipe.train_data(self._rank, self._world)
        loader: Any = self._data
        batches = getattr(loader, "batch_sampler", None)
        inner = getattr(batches, "sampler", None)
        for part in (loader, getattr(loader, "sampler", None), batches, inner):
            own = getattr(part, "generator", None)
            if isinstance(own, torch.Generator):
                own.manual_seed(seed)
            set_epoch = getattr(part, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)  # as a DistributedSampler wants it

    def _fetch(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch, each from a seed of its own."""
        source: Iterator[Any] | None = None
        number = 0
        while True:
            seed_everything(seed_of(*self._seed, "batch", epoch, number))
            try:
                if source is None:
                    source = iter(self._data)
                batch = next(source)
            except StopIteration:
                return
            except Exception as error:
                raise self._recipe.blame("train_data", error) from error
            number += 1
            yield batch


def to_device(value: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device: tuples, lists, dicts, dataclasses, `.to()`."""
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
