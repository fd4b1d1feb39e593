"""The phases of a run: how long each is, and with which learning rate it begins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.training.optimizing import DEFAULT_LR, optimizer_name
from elsa_cli.training.options import each_level
from elsa_cli.training.stepping import Setup

__all__ = ["DEFAULT_EPOCHS", "JOINT_SHARE", "REFINE", "Phase", "plan", "steps_in"]

DEFAULT_EPOCHS = 5.0
JOINT_SHARE = 0.8  # of the steps, unless joint_epochs says otherwise
REFINE = 1 / 3  # of the learning rate, where levels begin that a joint phase has trained


@dataclass(frozen=True)
class Phase:
    """One phase: the joint one, or a level's stage.

    Attributes:
        name: `joint` or the level.
        stage: Index of the stage, sparsest first; None for the joint phase.
        steps: Steps of the optimizer.
        lr: Learning rate at the beginning, or None for the optimizer's default.
    """

    name: str
    stage: int | None
    steps: int
    lr: float | None

    @property
    def title(self) -> str:
        """The phase as a message calls it."""
        return "the joint phase" if self.stage is None else f"level {self.name}"


def steps_in(phases: Iterable[Phase]) -> int:
    """Return the steps of some phases together."""
    return sum(phase.steps for phase in phases)


def plan(setup: Setup, per_epoch: Callable[[], int | None]) -> list[Phase]:
    """Return the phases of a run.

    Args:
        setup: The run.
        per_epoch: Returns the steps of an epoch, or None for data without a length; called at most
            once, and only if epochs have to be counted.

    Raises:
        UsageError: An option has the wrong number of values, or the data has no length.
    """
    joint, steps = _steps(setup, per_epoch)
    joint_rate, rates = _rates(setup, joint=joint > 0)
    levels = [
        Phase(str(level), stage, steps[stage], rates[stage])
        for stage, level in enumerate(setup.ladder.stages)
    ]
    return [Phase("joint", None, joint, joint_rate), *levels] if joint else levels


def _steps(setup: Setup, per_epoch: Callable[[], int | None]) -> tuple[int, list[int]]:
    """Return the steps of the joint phase and of each level.

    With 100 steps for each of three levels, and nothing said of a joint phase, they are 240 and
    20, 20, 20.
    """
    in_an_epoch = functools.cache(per_epoch)

    def steps_of(epochs: float) -> int:
        if not epochs:
            return 0
        steps = in_an_epoch()
        if steps is None:
            raise UsageError(
                "the recipe's train_data has no length, so an epoch cannot be counted",
                file=setup.recipe.path,
                hint=Words("use {}", Param("steps")),
            )
        return max(1, round(epochs * steps))

    options, stages = setup.options, setup.ladder.stages
    if options.steps is not None:
        steps = [int(n) for n in each_level(options.steps, stages, "steps")]
    else:
        epochs = each_level(options.epochs or (DEFAULT_EPOCHS,), stages, "epochs")
        steps = [steps_of(n) for n in epochs]
    if options.joint_epochs is not None:
        return steps_of(options.joint_epochs), steps
    shares = [round(JOINT_SHARE * n) for n in steps]
    return sum(shares), [n - share for n, share in zip(steps, shares, strict=True)]


def _rates(setup: Setup, *, joint: bool) -> tuple[float | None, list[float | None]]:
    """Return the learning rates of the joint phase and of the levels."""
    options, stages = setup.options, setup.ladder.stages
    given = options.lr
    if given is None and optimizer_name(options, setup.recipe) != "recipe":
        given = (DEFAULT_LR[optimizer_name(options, setup.recipe)],)
    if given is None:  # the recipe's optimizer has its own rate
        return options.joint_lr, [None] * len(stages)
    rates: list[float | None] = list(each_level(given, stages, "lr"))
    rate = max(given) if options.joint_lr is None else options.joint_lr
    if joint and len(given) == 1:
        rates = [given[0] * REFINE] * len(stages)
    return rate, rates
