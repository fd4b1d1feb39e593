"""Tasks that train in hundredths of a second, and bits to compare.

What is here does its own arithmetic on bits, so that a mistake in the package cannot hide itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from elsa_cli.core.level import parse_levels
from elsa_cli.models.distributed import Group
from elsa_cli.models.nested import Nested
from elsa_cli.models.network import Network
from elsa_cli.models.recipe import Recipe
from elsa_cli.training.ladder import Ladder
from elsa_cli.training.options import TrainOptions
from elsa_cli.training.stepping import Setup

CPU = torch.device("cpu")
LEVELS = "0.8,0.5"

IMPORTS = """
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
"""
MODEL = """
def build_model():
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3)
    )
"""
PLAIN = """
def build_model():
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))
"""
DATA = """
def train_data():
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(6)
    ]
"""
SHUFFLED = """
class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, at):  # with noise from the global generator
        return torch.full((6,), at / 10) + torch.randn(6), at % 3


def train_data():
    return torch.utils.data.DataLoader(Points(), batch_size=4, shuffle=True)
"""
GENERATOR = """
def train_data():
    order = torch.randperm(5)
    for at in order:
        yield torch.full((8, 6), at / 5.0) + torch.randn(8, 6), torch.arange(8) % 3
"""
LOSS = """
def loss(model, batch):
    points, kinds = batch
    return F.cross_entropy(model(points), kinds)
"""
EVALUATE = """
def evaluate(model):
    return {"sum": sum(float(p.double().sum()) for p in model.parameters())}
"""
TIED = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.norm(self.a(x))))))


def build_model():
    return Tied()
"""
WHOLE = (MODEL, DATA, LOSS)


@contextlib.contextmanager
def clean_imports() -> Iterator[None]:
    """Take back what loading a recipe leaves in the interpreter."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "pytest-" in file:  # a recipe, or a file beside it
            del sys.modules[name]


def write_recipe(folder: Path, *parts: str, name: str = "recipe.py") -> Path:
    """Write a recipe of some parts, with the imports that they need."""
    path = folder / name
    path.write_text("\n".join((IMPORTS, *parts)))
    return path


def load_recipe(
    folder: Path, *parts: str, settings: Mapping[str, str] | None = None, name: str = "recipe.py"
) -> Recipe:
    """Write a recipe, and load it."""
    return Recipe(write_recipe(folder, *parts, name=name), settings)


def raw(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor as integers, a copy in C order."""
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().cpu().contiguous().clone().view(kind[tensor.element_size()])


def same(a: Tensor, b: Tensor) -> bool:
    """Tell whether dtype, shape and all bits agree."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Assert that two states agree bit for bit."""
    assert sorted(a) == sorted(b)
    assert [name for name in a if not same(a[name], b[name])] == []


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names and bits."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        found.update(raw(tensors[name]).numpy().tobytes())
    return found.hexdigest()


def random_owner(shape: torch.Size, levels: str = LEVELS, seed: int = 0) -> Tensor:
    """Return the owning stage of each weight, drawn at random, with the exact counts."""
    numel = shape.numel()
    order = torch.randperm(numel, generator=torch.Generator().manual_seed(seed))
    owner = torch.zeros(numel, dtype=torch.uint8)
    for level in parse_levels(levels):
        owner[order[level.kept(numel) :]] += 1
    return owner.view(shape)


def magnitude_owners(nested: Nested) -> dict[str, Tensor]:
    """Return owners chosen by magnitude, tensor by tensor."""
    owners = {}
    for name, owner in nested.owner.items():
        order = nested.values[name].double().abs().flatten().argsort(descending=True, stable=True)
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(order.numel())
        counts = [level.kept(owner.numel()) for level in nested.levels]
        found = torch.stack([ranks >= count for count in counts]).sum(0)
        owners[name] = found.to(torch.uint8).view(owner.shape)
    return owners


def nested_of(
    network: Network,
    levels: str = LEVELS,
    dtype: torch.dtype = torch.float32,
    prunable: tuple[str, ...] | None = None,
) -> Nested:
    """Return a network's tensors in a stored dtype, with random nested masks of its matrices."""
    values = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in network.live(network.slots).items()
    }
    if prunable is None:
        prunable = tuple(n for n, p in network.parameters.items() if p.dim() > 1)
    canonical = network.canonical()
    seeds = {name: at for at, name in enumerate(canonical)}
    owner = {n: random_owner(values[n].shape, levels, seeds[canonical[n]]) for n in prunable}
    return Nested(parse_levels(levels), values, owner)


def make_ladder(
    recipe: Recipe,
    options: TrainOptions | None = None,
    levels: str = LEVELS,
    dtype: torch.dtype = torch.float32,
    without: tuple[str, ...] = (),
) -> Ladder:
    """Return the ladder of a new model; names in `without` are not in the checkpoint."""
    torch.manual_seed(1)
    network = Network(recipe.build_model(), CPU)
    nested = nested_of(network, levels, dtype)
    for name in without:
        del nested.values[name]
        nested.owner.pop(name, None)
    network.store_as(nested.values)
    return Ladder(nested, network, options or TrainOptions())


def make_setup(
    recipe: Recipe,
    options: TrainOptions | None = None,
    levels: str = LEVELS,
    dtype: torch.dtype = torch.float32,
) -> Setup:
    """Return the run of a new model."""
    options = options or TrainOptions()
    ladder = make_ladder(recipe, options, levels, dtype)
    return Setup(recipe, ladder, options, Group(CPU), CPU)
