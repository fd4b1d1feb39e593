"""Running statistics, estimated anew: plain averages, and nothing else is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elsa_cli.errors import RecipeError
from elsa_cli.models.network import Network
from elsa_cli.models.norms import BATCHES, recalibrate
from elsa_cli.models.recipe import Recipe
from tests.training.tiny import CPU, DATA, GENERATOR, IMPORTS, LOSS, MODEL, assert_same, load_recipe

DROPPING = """
def build_model():
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.5)), nn.BatchNorm1d(12), nn.Linear(12, 3)
    )
"""
MANY = """
def train_data():
    return [(torch.full((4, 6), i / 9) + torch.arange(4)[:, None], torch.arange(4) % 3)
            for i in range(150)]
"""
FAILING = """
def loss(model, batch):
    model(batch[0])
    raise KeyError("oh")
"""
SUMMING = """
def loss(model, batch):
    assert not torch.is_grad_enabled()
    return model(batch).sum()
"""


def network(recipe: Recipe, stored: torch.dtype = torch.float32) -> Network:
    torch.manual_seed(1)
    found = Network(recipe.build_model(), CPU)
    for name, slot in found.slots.items():
        if slot.is_floating_point():
            found.stored[name] = stored
    with torch.no_grad():
        found.slots["1.running_mean"].fill_(5.0)
        found.slots["1.num_batches_tracked"].fill_(77)
    return found


def averages(model: nn.Module, batches: list[Any], at: int = 1) -> dict[str, Tensor]:
    """Return what a norm of torch's own averages over the inputs that it gets in evaluation."""
    reference = nn.BatchNorm1d(12, momentum=None)
    inputs: list[Tensor] = []
    layer = model[at]  # type: ignore[index]
    handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    training = {module: module.training for module in model.modules()}
    with torch.no_grad():
        model.eval()
        for batch in batches:
            model(batch[0])
        for given in inputs:
            reference(given)
    for module, was in training.items():
        module.training = was
    handle.remove()
    found = reference.state_dict()
    return {name: found[name] for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("data", "count"), [(DATA, 6), (MANY, BATCHES)])
def test_statistics_are_plain_averages(
    data: str, count: int, stored: torch.dtype, tmp_path: Path
) -> None:
    """Of the weights as they are stored; dropout and all else is as in evaluation."""
    recipe = load_recipe(tmp_path, DROPPING, data, LOSS)
    found = network(recipe, stored)
    wanted = found.read(found.parameters)
    recalibrate(recipe, found, CPU)
    assert_same(found.live(found.parameters), {n: t.float() for n, t in wanted.items()})
    batches = list(recipe.train_data(0, 1)[0])[:count]
    expected = averages(found.model, batches)
    live = found.live(found.buffers())
    assert_same(live, {f"1.{name}": tensor for name, tensor in expected.items()})
    assert live["1.num_batches_tracked"] == count


def test_a_mean_by_hand(tmp_path: Path) -> None:
    text = "def build_model():\n    return nn.Sequential(nn.Identity(), nn.BatchNorm1d(2))\n"
    data = (
        "def train_data():\n"
        "    return [torch.tensor([[0., 1.], [4., 1.]]), torch.tensor([[2., 8.], [6., 16.]])]\n"
    )
    recipe = load_recipe(tmp_path, text, data, SUMMING)
    found = network(recipe)
    recalibrate(recipe, found, CPU)
    assert found.slots["1.running_mean"].tolist() == [3.0, 6.5]
    assert found.slots["1.running_var"].tolist() == [8.0, 16.0]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_but_statistics_is_changed(fails: bool, tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, MODEL, DATA, FAILING if fails else LOSS)
    found = network(recipe)
    model: Any = found.model
    model.train()
    model[3].eval()
    model[1].momentum = 0.25
    before = found.live(found.parameters)
    if fails:
        with pytest.raises(RecipeError, match="KeyError"):
            recalibrate(recipe, found, CPU)
    else:
        recalibrate(recipe, found, CPU)
    assert_same(found.live(found.parameters), before)
    assert [m.training for m in model.modules()] == [True, True, True, True, False, True]
    assert model[1].momentum == 0.25
    assert torch.is_grad_enabled()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, MODEL, GENERATOR, LOSS)
    states = []
    for seed in (0, 1):
        found = network(recipe)
        torch.manual_seed(seed)
        recalibrate(recipe, found, CPU)
        states.append(found.live(found.buffers()))
    assert_same(*states)
    assert states[0]["1.num_batches_tracked"] == BATCHES


def test_without_norms_nothing_is_asked_of_the_recipe(tmp_path: Path) -> None:
    text = "def build_model():\n    return nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))\n"
    recipe = load_recipe(tmp_path, text, "def train_data():\n    raise KeyError\n", LOSS)
    found = Network(recipe.build_model(), CPU)
    before = found.live(found.slots)
    recalibrate(recipe, found, CPU)
    assert_same(found.live(found.slots), before)


def test_statistics_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    """A module of the recipe's own may call a buffer so."""
    text = """
class Whiten(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.full((6,), 0.5))

    def forward(self, x):
        return x - self.running_mean


def build_model():
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 6), Whiten())
"""
    recipe = load_recipe(tmp_path, IMPORTS, text, DATA, LOSS)
    found = network(recipe)
    recalibrate(recipe, found, CPU)
    assert found.slots["3.running_mean"].tolist() == [0.5] * 6
    assert found.slots["1.num_batches_tracked"] == 6
