"""Optimizers and learning rates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from elsa_cli.errors import TrainingError
from elsa_cli.models.recipe import Recipe
from elsa_cli.training.options import TrainOptions

__all__ = ["DEFAULT_LR", "Optimizing", "optimizer_name"]

DEFAULT_LR = {"sgd": 0.05, "adamw": 1e-3}


def optimizer_name(options: TrainOptions, recipe: Recipe) -> str:
    """Return the name of the optimizer: `sgd`, `adamw` or `recipe`.

    Raises:
        RecipeError: The options name the recipe's optimizer, and it has none.
    """
    if options.optimizer == "recipe":
        recipe.require("optimizer")
    return options.optimizer or ("recipe" if recipe.has("optimizer") else "adamw")


class Optimizing:
    """An optimizer and its learning rate, for one phase.

    Args:
        recipe: Gives the optimizer or the schedule if the options say so.
        options: Of these, the optimizer, its settings and the schedule are used.
        parameters: The parameters to train, at least one.
        lr: Learning rate at the beginning; None for the optimizer's default.
        total: Steps of the phase.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: TrainOptions,
        parameters: Sequence[nn.Parameter],
        lr: float | None,
        total: int,
    ) -> None:
        """Make a fresh optimizer."""
        self._total = total
        self._options = options
        self.optimizer = _make(recipe, options, list(parameters), lr)
        self._base = [group["lr"] for group in self.optimizer.param_groups]
        self._done = 0
        self._schedule: Any = None
        if options.schedule == "recipe":
            recipe.require("schedule")
            self._schedule = recipe.schedule(self.optimizer, total)

    def before(self, step: int) -> None:
        """Set the learning rate of a step, counted from 0."""
        if self._options.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * step / self._total))
            for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
                group["lr"] = base * factor

    def step(self) -> None:
        """Make a step, and clear the gradients.

        Raises:
            TrainingError: The optimizer needs a closure.
        """
        try:
            self.optimizer.step()
        except TypeError as error:  # LBFGS and its like
            raise TrainingError(
                f"the optimizer cannot make a step by itself: {error}",
                hint="use one that needs no closure",
            ) from error
        self.optimizer.zero_grad(set_to_none=True)

    def after(self) -> None:
        """Move the recipe's schedule on by a step."""
        self._done += 1
        self._advance(1)

    def _advance(self, steps: int) -> None:
        """Move the recipe's schedule on by some steps."""
        if self._schedule is not None:
            with warnings.catch_warnings():  # in the joint phase some optimizers had no step yet
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                for _ in range(steps):
                    self._schedule.step()

    @property
    def lr(self) -> float:
        """Learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """Return what a save needs."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "done": self._done,
            "total": self._total,
        }
        if hasattr(self._schedule, "state_dict"):
            state["schedule"] = self._schedule.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a save; the saved run may have had more or fewer steps in this phase."""
        begins = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        self._done = state["done"] * self._total // state["total"]
        if state["total"] != self._total:  # the old schedule would end too early, or too late
            for group, lr in zip(self.optimizer.param_groups, begins, strict=True):
                group["lr"] = lr
            self._advance(self._done)
        elif "schedule" in state and self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])


def _make(
    recipe: Recipe, options: TrainOptions, parameters: list[nn.Parameter], lr: float | None
) -> torch.optim.Optimizer:
    name = optimizer_name(options, recipe)
    if name == "recipe":
        optimizer = recipe.optimizer(parameters)
        if lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = lr
        return optimizer
    rate = DEFAULT_LR[name] if lr is None else lr
    # Weight decay is for matrices: there is no use in pulling norms and biases to zero.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=rate)
