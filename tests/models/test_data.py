"""The order of batches is the same from any position on, and for any number of processes."""

from __future__ import annotations

import collections
import dataclasses
import random
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from elsa_cli.errors import RecipeError
from elsa_cli.models.data import Position, Stream, to_device
from elsa_cli.models.recipe import Recipe
from tests.training.tiny import CPU, DATA, GENERATOR, LOSS, MODEL, SHUFFLED, load_recipe

SEEN = """
class Squares(torch.utils.data.Dataset):
    def __init__(self, noise=None):
        self.noise = noise

    def __len__(self):
        return 14

    def __getitem__(self, at):
        noise = 0.0 if self.noise is None else self.noise()
        return torch.tensor([float(at), noise], dtype=torch.float64)

"""
LOADER = "torch.utils.data.DataLoader(Squares({}), batch_size=2, shuffle={})"
KINDS = {
    "list": "def train_data():\n    return [torch.tensor([float(i)]) for i in range(7)]\n",
    "tuple": "def train_data():\n    return tuple(torch.rand(3) for _ in range(7))\n",
    "loader": SEEN + f"def train_data():\n    return {LOADER.format('', False)}\n",
    "shuffled": SEEN + f"def train_data():\n    return {LOADER.format('', True)}\n",
    "shuffled-by-its-own-generator": SEEN
    + "def train_data():\n    generator = torch.Generator().manual_seed(3)\n"
    + "    return torch.utils.data.DataLoader(\n"
    + "        Squares(), batch_size=2, shuffle=True, generator=generator\n    )\n",
    "sampled-by-its-own-generator": SEEN
    + "def train_data():\n    generator = torch.Generator().manual_seed(3)\n"
    + "    sampler = torch.utils.data.RandomSampler(Squares(), generator=generator)\n"
    + "    return torch.utils.data.DataLoader(Squares(), batch_size=2, sampler=sampler)\n",
    "noise-of-torch": SEEN
    + f"def train_data():\n    return {LOADER.format('lambda: torch.rand(()).item()', True)}\n",
    "noise-of-numpy": SEEN
    + f"def train_data():\n    return {LOADER.format('np.random.rand', True)}\n",
    "noise-of-random": SEEN
    + f"def train_data():\n    return {LOADER.format('random.random', True)}\n",
    "generator": "def train_data():\n    for at in torch.randperm(7):\n"
    "        yield at + torch.randn(2)\n",
    "endless": "def train_data():\n    while True:\n        yield torch.randn(2)\n",
    "iterable": "class Walk(torch.utils.data.IterableDataset):\n    def __iter__(self):\n"
    "        order = list(range(7))\n        random.shuffle(order)\n"
    "        for at in order:\n            yield torch.tensor([at, np.random.rand()])\n\n"
    "def train_data():\n    return torch.utils.data.DataLoader(Walk(), batch_size=1)\n",
    "resetting": "class Walk:\n    def __iter__(self):\n        self.at = 0\n        return self\n"
    "    def __next__(self):\n        self.at += 1\n        if self.at > 7:\n"
    "            raise StopIteration\n        return torch.randn(2) + self.at\n\n"
    "def train_data():\n    return Walk()\n",
    "mine": SHUFFLED,
    "yours": GENERATOR,
}
START = Position()
TOTAL = 13
Walked = list[tuple[Position, list[Any]]]


def recipe_of(folder: Path, kind: str) -> Recipe:
    return load_recipe(folder, MODEL, KINDS.get(kind, kind), LOSS)


def walk(
    recipe: Recipe,
    position: Position = START,
    total: int = TOTAL,
    *,
    seed: int = 0,
    phase: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    disturb: bool = False,
) -> Walked:
    """Return a walk of a new stream, in which training may draw random numbers too."""
    found = []
    stream = Stream(recipe, seed, phase, rank, world, accumulate)
    for at, batches in stream.walk(position, total):
        found.append((at, batches))
        if disturb:
            torch.rand(at.step)
            np.random.rand(at.step)
            for _ in range(at.step):
                random.random()
    return found


def plain(value: Any) -> Any:
    """Return a batch as something that can be compared: bits, not values."""
    if isinstance(value, Tensor):
        return value.shape, value.numpy().tobytes()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def test_places_count_steps_epochs_and_batches(tmp_path: Path) -> None:
    found = [position for position, _ in walk(recipe_of(tmp_path, "list"), accumulate=2, total=7)]
    assert found == [
        Position(1, 0, 2),
        Position(2, 0, 4),
        Position(3, 0, 6),  # the seventh is left over
        Position(4, 1, 2),
        Position(5, 1, 4),
        Position(6, 1, 6),
        Position(7, 2, 2),
    ]


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_from_any_place_on_it_is_the_same(kind: str, accumulate: int, tmp_path: Path) -> None:
    """Also where the training draws random numbers between, as a resumed one does not."""
    recipe = recipe_of(tmp_path, kind)
    whole = walk(recipe, accumulate=accumulate)
    assert [position.step for position, _ in whole] == list(range(1, TOTAL + 1))
    for done, (position, _) in enumerate(whole, 1):
        assert plain(walk(recipe, position, accumulate=accumulate)) == plain(whole[done:])
    for done in (1, TOTAL // 2):
        position = whole[done - 1][0]
        assert plain(walk(recipe, position, accumulate=accumulate, disturb=True)) == plain(
            whole[done:]
        )


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "list"])
def test_seeds_epochs_and_phases_have_orders_of_their_own(kind: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, kind)
    if kind != "loader":
        whole = plain([b for _, b in walk(recipe, total=7)])
        assert whole == plain([b for _, b in walk(recipe, total=7)])
        assert whole != plain([b for _, b in walk(recipe, total=7, seed=1)]) or "own" in kind
        assert whole != plain([b for _, b in walk(recipe, total=7, phase=1)]) or "own" in kind
    if kind not in ("loader", "tuple"):
        per_epoch = 5 if kind in ("mine", "yours") else 7
        both = plain([b for _, b in walk(recipe, total=2 * per_epoch)])
        assert both[:per_epoch] != both[per_epoch:]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_shares_make_up_the_whole(kind: str, world: int, accumulate: int, tmp_path: Path) -> None:
    """Batch for batch: what several processes take in a step is what one takes with more."""
    if world * accumulate > 5:
        accumulate = 1
    recipe = recipe_of(tmp_path, kind)
    whole = walk(recipe, accumulate=world * accumulate, total=6)
    shares = [
        walk(recipe, accumulate=accumulate, total=6, rank=rank, world=world)
        for rank in range(world)
    ]
    for step, (position, batches) in enumerate(whole):
        assert [share[step][0] for share in shares] == [position] * world
        for at, batch in enumerate(batches):
            assert plain(shares[at % world][step][1][at // world]) == plain(batch)
        assert sum(len(share[step][1]) for share in shares) == len(batches)


def test_data_that_the_recipe_shares_out_itself(tmp_path: Path) -> None:
    text = (
        "def train_data(*, rank: int = 0, world: int = 1):\n"
        "    return [torch.tensor([i]) for i in range(rank, 10, world)]\n"
    )
    recipe = recipe_of(tmp_path, text)
    found = walk(recipe, total=3, rank=1, world=2, accumulate=2)
    assert [[b.item() for b in batches] for _, batches in found] == [[1, 3], [5, 7], [1, 3]]
    assert Stream(recipe, 0, 0, 1, 2, 2).stride == 2
    assert Stream(recipe, 0, 0, 1, 2, 2).steps() == 2


def test_a_sampler_that_shares_out_is_told_of_the_epoch(tmp_path: Path) -> None:
    """Or it would draw one order for all of them."""
    text = SEEN + (
        "def train_data(*, rank: int = 0, world: int = 1):\n"
        "    sampler = torch.utils.data.DistributedSampler(Squares(), world, rank, seed=3)\n"
        "    return torch.utils.data.DataLoader(Squares(), batch_size=1, sampler=sampler)\n"
    )
    recipe = recipe_of(tmp_path, text)
    whole = [walk(recipe, total=21, rank=rank, world=2) for rank in (0, 1)]
    orders = [[int(batches[0][0, 0]) for _, batches in share] for share in whole]
    for epoch in range(3):
        part = [order[7 * epoch : 7 * epoch + 7] for order in orders]
        assert sorted([*part[0], *part[1]]) == list(range(14))
    assert len({tuple(orders[0][7 * epoch : 7 * epoch + 7]) for epoch in range(3)}) == 3
    for done, (position, _) in enumerate(whole[1], 1):
        again = walk(recipe, position, total=21, rank=1, world=2)
        assert plain(again) == plain(whole[1][done:])


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("list", 7),
        ("shuffled", 7),
        ("mine", 5),
        ("generator", None),
        ("endless", None),
        ("iterable", None),
        ("resetting", None),
    ],
)
def test_steps_of_an_epoch(kind: str, steps: int | None, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, kind)
    assert Stream(recipe, 0, 0, 0, 1, 1).steps() == steps
    assert Stream(recipe, 0, 0, 0, 1, 2).steps() == (steps and steps // 2)
    assert Stream(recipe, 0, 0, 1, 3, 1).steps() == (steps and steps // 3)


@pytest.mark.parametrize("kind", ["list", "shuffled"])
def test_too_few_batches(kind: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, kind)
    stream = Stream(recipe, 0, 0, 0, 2, 4)
    message = r"recipe.py: train_data gave 7 batches in an epoch, a step needs 8; use smaller batch"
    with pytest.raises(RecipeError, match=message):
        stream.steps()
    with pytest.raises(RecipeError, match=message):
        list(stream.walk(Position(), 3))


@pytest.mark.parametrize("kind", ["generator", "def train_data():\n    return []\n"])
def test_too_few_batches_are_found_on_the_way(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train_data gave [07] batches in an epoch, a step need"):
        walk(recipe_of(tmp_path, kind), accumulate=8)


def test_no_steps_ask_for_no_batches(tmp_path: Path) -> None:
    assert walk(recipe_of(tmp_path, "list"), total=0) == []
    assert walk(recipe_of(tmp_path, "list"), Position(5, 1, 1), total=5) == []


def test_an_error_while_batches_are_made_names_the_line(tmp_path: Path) -> None:
    text = "def train_data():\n    yield torch.ones(1)\n    raise KeyError('oh')\n"
    recipe = recipe_of(tmp_path, text)
    line = (tmp_path / "recipe.py").read_text().split("\n").index("    raise KeyError('oh')") + 1
    with pytest.raises(RecipeError, match=rf"recipe.py:{line}: train_data: KeyError: 'oh'"):
        walk(recipe)


def test_data_is_asked_for_once_a_phase_and_walked_once_an_epoch(tmp_path: Path) -> None:
    """A walk may start processes that fetch: none is begun to be thrown away."""
    text = (
        "class Walk:\n    def __iter__(self):\n        COUNT.append('walk')\n"
        "        return iter([torch.ones(1)] * 3)\n\n"
        "COUNT = []\n\ndef train_data():\n    COUNT.append('data')\n    return Walk()\n"
    )
    recipe = recipe_of(tmp_path, text)
    walk(recipe, total=6)
    assert sys.modules["recipe"].COUNT == ["data", "walk", "walk"]


# Batches on their way to a device; `meta` stands for another one.


class Pair(collections.namedtuple("Pair", "a b")):
    """A tuple with names."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A batch as a dataclass."""

    x: Tensor
    name: str
    more: tuple[Tensor, ...] = ()


@dataclasses.dataclass
class Counted:
    """A batch with a field that is no argument."""

    x: Tensor
    size: int = dataclasses.field(init=False, default=3)


class Encoding(dict[str, Tensor]):
    """A dict that moves itself."""

    def to(self, device: torch.device) -> Encoding:
        return Encoding({k: v.to(device) for k, v in self.items()})


META = torch.device("meta")
X = torch.ones(2)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, collections.abc.Mapping):
        value = list(value.values())
    return [t for v in value for t in tensors(v)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, X),
        [X, (X, {"a": [X]})],
        {"a": X, "b": {"c": (X, 3, "text", None)}},
        OrderedDict(a=X),
        types.MappingProxyType({"a": X}),
        Pair(X, [X]),
        Record(X, "n", (X, X)),
        Counted(X),
        Encoding(a=X),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nested_batches_reach_the_device(batch: Any) -> None:
    before = tensors(batch)
    moved = to_device(batch, META)
    assert len(tensors(moved)) == len(before) > 0
    assert {t.device.type for t in tensors(moved)} == {"meta"}
    assert all(t.device.type == "cpu" for t in before)
    if isinstance(batch, list | tuple | Record | Counted | Encoding):
        assert type(moved) is type(batch)
    here = to_device(batch, CPU)
    assert all(a is b for a, b in zip(tensors(here), before, strict=True))


def test_what_has_no_tensors_is_left_alone() -> None:
    for value in (3, "text", None, b"x", Record):
        assert to_device(value, META) is value
    assert to_device({"a": 1, "b": [None, "x"]}, META) == {"a": 1, "b": [None, "x"]}
    assert to_device(Record(X, "n"), CPU).name == "n"
    assert to_device(torch.Size([2, 3]), META) == torch.Size([2, 3])


def test_packed_sequences_keep_their_lengths_on_the_cpu() -> None:
    moved = to_device(pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]), META)
    assert moved.data.device.type == "meta"
    assert moved.batch_sizes.tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("before", "now", "position", "expected"),
    [
        (2, 2, Position(3, 1, 6), Position(3, 1, 6)),
        (2, 1, Position(3, 1, 6), Position(3, 1, 6)),
        (1, 2, Position(3, 1, 5), Position(3, 1, 4)),
        (4, 3, Position(3, 0, 8), Position(3, 0, 6)),
    ],
)
def test_a_position_of_another_number_of_processes(
    before: int, now: int, position: Position, expected: Position, tmp_path: Path
) -> None:
    """A batch of a step that is not whole comes again."""
    stream = Stream(load_recipe(tmp_path, MODEL, DATA, LOSS), 0, 0, 0, now, 1)
    assert stream.moved(position, before) == expected


def test_a_position_in_a_share_of_another_number_of_processes(tmp_path: Path) -> None:
    share = """
def train_data(*, rank: int = 0, world: int = 1):
    return [torch.zeros(1)] * (12 // world)
"""
    recipe = load_recipe(tmp_path, MODEL, share, LOSS)
    assert Stream(recipe, 0, 0, 0, 1, 2).moved(Position(2, 0, 4), 2) == Position(2, 0, 8)
    assert Stream(recipe, 0, 0, 0, 4, 1).moved(Position(5, 0, 5), 2) == Position(5, 0, 2)
