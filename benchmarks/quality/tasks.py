"""What is trained, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elsa_cli.models.recipe import Recipe

__all__ = ["ALL_LEVELS", "DENSE", "LEVELS", "TASKS", "Task", "quick"]

LEVELS = ("0.95", "0.9", "0.7", "0.5")
DENSE = "dense"
ALL_LEVELS = (*LEVELS, DENSE)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Task:
    """One of the tasks.

    Attributes:
        name: On the command line.
        title: For the page.
        recipe: A file of examples/.
        metric: Which metric of the recipe's evaluate.
        unit: Of the metric, for the page.
        item: What the metric counts or averages, for the page.
        higher: Whether more of it is better.
        goals: Whether the goals are meant for it.
        seeds: How many seeds.
        start: Epochs of the dense checkpoint that everything begins with.
        epochs: Epochs of each level after it.
        lr: Learning rate of everything.
        start_lr: Learning rate of the dense checkpoint.
        weight_decay: Decay of everything.
        settings: Settings of the recipe.
    """

    name: str
    title: str
    recipe: str
    metric: str
    unit: str
    item: str
    higher: bool
    goals: bool
    seeds: int
    start: float
    epochs: float
    lr: float
    start_lr: float
    weight_decay: float = 1e-4
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_epochs(self) -> float:
        """Epochs of all levels together."""
        return len(ALL_LEVELS) * self.epochs

    @property
    def joint_epochs(self) -> float:
        """Epochs that a nested run spends in its joint phase, by the tool's default."""
        from elsa_cli.training.plan import JOINT_SHARE

        return JOINT_SHARE * self.all_epochs

    @property
    def stage_epochs(self) -> float:
        """Epochs that are left for each level's own stage."""
        return self.epochs - self.joint_epochs / len(ALL_LEVELS)

    @property
    def path(self) -> Path:
        """The recipe's file."""
        return EXAMPLES / self.recipe

    def load(self) -> Recipe:
        """Return the recipe."""
        from elsa_cli.models.recipe import Recipe

        return Recipe(self.path, self.settings)

    def plan(self) -> dict[str, Any]:
        """Return what decides the figures; the same in every file that is merged."""
        skipped = ("name", "title", "unit", "item", "goals", "seeds")
        derived = {"stage_epochs": self.stage_epochs, "joint_epochs": self.joint_epochs}
        return {k: v for k, v in vars(self).items() if k not in skipped} | derived


TASKS = {
    task.name: task
    for task in (
        Task(
            name="digits",
            title="Digits",
            recipe="digits.py",
            metric="accuracy",
            unit="accuracy, %",
            item="test images",
            higher=True,
            goals=True,
            seeds=5,
            start=20,
            epochs=20,
            lr=5e-3,
            start_lr=5e-3,
        ),
        Task(
            name="fashion",
            title="Fashion-MNIST",
            recipe="fashion_mnist.py",
            metric="accuracy",
            unit="accuracy, %",
            item="test images",
            higher=True,
            goals=True,
            seeds=3,
            start=4,
            epochs=3,
            lr=5e-3,
            start_lr=5e-3,
            weight_decay=0.02,
        ),
        Task(
            name="gpt",
            title="Tiny GPT",
            recipe="tiny_gpt.py",
            metric="bits",
            unit="bits a byte",
            item="bytes of the held-out text",
            higher=False,
            goals=False,
            seeds=2,
            start=2,
            epochs=1,
            lr=2e-3,
            start_lr=2e-3,
            settings={"steps": "200"},
        ),
    )
}


def quick(task: Task) -> Task:
    """Return a task that is over in seconds."""
    return replace(task, seeds=1, start=4, epochs=4)
