"""Optimizers, learning rates, and what a save needs of them."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elsa_cli.errors import RecipeError, TrainingError
from elsa_cli.models.recipe import Recipe
from elsa_cli.training.optimizing import DEFAULT_LR, Optimizing, optimizer_name
from elsa_cli.training.options import TrainOptions
from tests.training.tiny import WHOLE, assert_same, load_recipe

OPTIMIZER = """
def optimizer(params):
    return torch.optim.RMSprop(
        [{"params": params[:1], "lr": 0.2}, {"params": params[1:], "lr": 0.02}], momentum=0.5
    )
"""
SCHEDULE = """
def schedule(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps)
"""
BARE_SCHEDULE = """
class Halving:  # keeps no state
    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        for group in self.optimizer.param_groups:
            group["lr"] /= 2


def schedule(optimizer, steps):
    return Halving(optimizer)
"""
LBFGS = "def optimizer(params):\n    return torch.optim.LBFGS(params)\n"
STEPS = 6


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(tmp_path, *WHOLE, OPTIMIZER, SCHEDULE)


@pytest.fixture
def plain(tmp_path: Path) -> Recipe:
    return load_recipe(tmp_path, *WHOLE, name="plain.py")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 2, 2), nn.Linear(3, 2), nn.LayerNorm(2))


def made(
    recipe: Recipe, options: TrainOptions, lr: float | None = None, total: int = STEPS
) -> tuple[nn.Module, Optimizing]:
    model = net()
    return model, Optimizing(recipe, options, list(model.parameters()), lr, total)


def steps(model: nn.Module, optimizing: Optimizing, first: int, last: int) -> list[float]:
    """Take steps; return the learning rate of each."""
    rates = []
    for step in range(first, last):
        optimizing.before(step)
        rates.append(optimizing.lr)
        torch.manual_seed(step)
        model(torch.randn(2, 1, 4)).square().sum().backward()
        optimizing.step()
        optimizing.after()
    return rates


def test_which_optimizer(recipe: Recipe, plain: Recipe) -> None:
    assert optimizer_name(TrainOptions(), recipe) == "recipe"
    assert optimizer_name(TrainOptions(), plain) == "adamw"
    assert optimizer_name(TrainOptions(optimizer="sgd"), recipe) == "sgd"
    assert optimizer_name(TrainOptions(optimizer="recipe"), recipe) == "recipe"
    with pytest.raises(RecipeError, match=r"has no function optimizer; define optimizer\(params"):
        optimizer_name(TrainOptions(optimizer="recipe"), plain)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_vectors_have_no_decay(name: str, kind: type, plain: Recipe) -> None:
    options = TrainOptions(optimizer=name, momentum=0.7, weight_decay=0.3)
    model, optimizing = made(plain, options)
    assert type(optimizing.optimizer) is kind
    matrices, vectors = optimizing.optimizer.param_groups
    wanted = dict(model.named_parameters())
    assert [id(p) for p in matrices["params"]] == [id(wanted[n]) for n in ("0.weight", "1.weight")]
    assert [id(p) for p in vectors["params"]] == [
        id(wanted[n]) for n in ("0.bias", "1.bias", "2.weight", "2.bias")
    ]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert optimizing.lr == matrices["lr"] == vectors["lr"] == DEFAULT_LR[name]
    if name == "sgd":
        assert (matrices["momentum"], vectors["momentum"]) == (0.7, 0.7)


@pytest.mark.parametrize("part", [["2.weight"], ["1.weight"]])
def test_one_group_alone(part: list[str], plain: Recipe) -> None:
    parameters = [net().get_parameter(name) for name in part]
    optimizing = Optimizing(plain, TrainOptions(), parameters, 0.1, 1)
    assert [len(group["params"]) for group in optimizing.optimizer.param_groups] == [1]


def test_a_learning_rate_is_for_all_groups(recipe: Recipe) -> None:
    options = TrainOptions(schedule="constant")
    assert [g["lr"] for g in made(recipe, options)[1].optimizer.param_groups] == [0.2, 0.02]
    given = made(recipe, options, 0.5)[1]
    assert [g["lr"] for g in given.optimizer.param_groups] == [0.5, 0.5]
    assert made(recipe, TrainOptions(optimizer="sgd"), 0.25)[1].lr == 0.25


def test_cosine(recipe: Recipe) -> None:
    """From the whole rate towards zero, each group from its own, and in place of the recipe's."""
    model, optimizing = made(recipe, TrainOptions(schedule="cosine"))
    for step in range(STEPS):
        steps(model, optimizing, step, step + 1)
        factor = 0.5 * (1 + math.cos(math.pi * step / STEPS))
        assert [g["lr"] for g in optimizing.optimizer.param_groups] == [0.2 * factor, 0.02 * factor]
    assert 0 < optimizing.lr < 0.02
    optimizing.before(0)
    assert optimizing.lr == 0.2


def test_constant(plain: Recipe) -> None:
    model, optimizing = made(plain, TrainOptions(schedule="constant"), 0.1)
    assert steps(model, optimizing, 0, STEPS) == [0.1] * STEPS


def test_the_recipe_s_schedule(recipe: Recipe) -> None:
    model, optimizing = made(recipe, TrainOptions(schedule="recipe"))
    other = net()
    optimizer = recipe.optimizer(list(other.parameters()))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=STEPS)
    wanted = []
    for _ in range(STEPS):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert steps(model, optimizing, 0, STEPS) == wanted
    assert len(set(wanted)) == STEPS


def test_no_schedule_in_the_recipe(plain: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"has no function schedule; define schedule\(optimizer"):
        made(plain, TrainOptions(schedule="recipe"))


def test_a_step_clears_the_gradients(plain: Recipe) -> None:
    model, optimizing = made(plain, TrainOptions())
    steps(model, optimizing, 0, 1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_optimizer_that_needs_a_closure(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, *WHOLE, LBFGS)
    model, optimizing = made(recipe, TrainOptions())
    with pytest.raises(
        TrainingError, match=r"cannot make a step by itself: .*; use one that needs"
    ):
        steps(model, optimizing, 0, 1)


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ((), {"optimizer": "sgd"}),
        ((), {"optimizer": "adamw", "schedule": "constant"}),
        ((OPTIMIZER,), {"schedule": "cosine"}),
        ((OPTIMIZER, SCHEDULE), {"schedule": "recipe"}),
        ((SCHEDULE,), {"optimizer": "sgd", "schedule": "recipe"}),
        ((OPTIMIZER, BARE_SCHEDULE), {"schedule": "recipe"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("at", range(STEPS + 1))
def test_going_on_from_a_state(
    parts: tuple[str, ...], options: dict[str, Any], at: int, tmp_path: Path
) -> None:
    recipe = load_recipe(tmp_path, *WHOLE, *parts)
    whole, optimizing = made(recipe, TrainOptions(**options))
    rates = steps(whole, optimizing, 0, STEPS)

    first, optimizing = made(recipe, TrainOptions(**options))
    assert steps(first, optimizing, 0, at) == rates[:at]
    state, weights = copy.deepcopy(optimizing.state()), copy.deepcopy(first.state_dict())
    steps(first, optimizing, at, STEPS)  # changes nothing in the copies

    second, optimizing = made(recipe, TrainOptions(**options))
    second.load_state_dict(weights)
    optimizing.load(state)
    assert steps(second, optimizing, at, STEPS) == rates[at:]
    assert_same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("total", [4, 8, 16])
def test_a_schedule_of_more_or_fewer_steps_goes_on_at_its_place(total: int, tmp_path: Path) -> None:
    """As with another number of processes; one that went on as it was would end too early."""
    own = """
def optimizer(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def schedule(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps + 1)
"""
    recipe = load_recipe(tmp_path, *WHOLE, own)
    options = TrainOptions(optimizer="recipe", schedule="recipe")

    def optimizing(steps: int) -> Optimizing:
        return Optimizing(recipe, options, [nn.Parameter(torch.ones(2))], None, steps)

    first = optimizing(8)
    for _ in range(4):
        first.after()
    second = optimizing(total)
    second.load(first.state())
    wanted = optimizing(total)
    for _ in range(total // 2):
        wanted.after()
    assert second.lr == wanted.lr
    for _ in range(total - total // 2):
        second.after()
        wanted.after()
        assert second.lr == wanted.lr
