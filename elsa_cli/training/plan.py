"""The phases of a run: how long each is, and with which learning rate it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.training.optimizing import DEFAULT_LR, optimizer_name
from elsa_cli.training.options import each_level
from elsa_cli.training.stepping import Setup

__all__ = ["DEFAULT_EPOCHS", "JOINT_SHARE", "REFINE", "Phase", "plan"]

DEFAULT_EPOCHS = 5.0
JOINT_SHARE = 0.8  # of the steps, where `joint_epochs` does not say
REFINE = 1 / 3  # of the learning rate: with what levels begin that the joint phase has trained


@dataclass(frozen=True)
class Phase:
    """One phase: the joint one, or a level's stage.

    Attributes:
        name: `joint` or the level.
        stage: Which stage; None for the joint phase.
        steps: Steps of the optimizer.
        lr: Learning rate, None for the optimizer's default.
    """

    name: str
    stage: int | None
    steps: int
    lr: float | None


def plan(setup: Setup, per_epoch: Callable[[], int | None]) -> list[Phase]:
    """Return the phases of a run.

    Args:
        setup: The run.
        per_epoch: Gives the steps of an epoch, None for data without a length; asked at most once,
            and only if epochs are to be counted.

    Raises:
        UsageError: An option has the wrong number of values, or the data has no length.
    """
    known: list[int] = []

    def steps_of(epochs: float) -> int:
        if not epochs:
            return 0
        if not known:
            found = per_epoch()
            if found is None:
                raise UsageError(
                    "the recipe's train_data has no length, so an epoch cannot be counted",
                    file=setup.recipe.path,
                    hint=Words("use {}", Param("steps")),
                )
            known.append(found)
        return max(1, round(epochs * known[0]))

    options, stages = setup.options, setup.ladder.stages
    if options.steps is not None:
        steps = [int(n) for n in each_level(options.steps, stages, "steps")]
    else:
        epochs = each_level(options.epochs or (DEFAULT_EPOCHS,), stages, "epochs")
        steps = [steps_of(n) for n in epochs]
    if options.joint_epochs is None:
        shares = [round(JOINT_SHARE * n) for n in steps]
        joint, steps = sum(shares), [n - k for n, k in zip(steps, shares, strict=True)]
    else:
        joint = steps_of(options.joint_epochs)
    rate, rates = _rates(setup, joint=joint > 0)
    phases = [
        Phase(str(level), stage, steps[stage], rates[stage]) for stage, level in enumerate(stages)
    ]
    return [Phase("joint", None, joint, rate), *phases] if joint else phases


def _rates(setup: Setup, *, joint: bool) -> tuple[float | None, list[float | None]]:
    """Return the learning rates of the joint phase and of the levels."""
    options, stages = setup.options, setup.ladder.stages
    given = options.lr
    if given is None and optimizer_name(options, setup.recipe) != "recipe":
        given = (DEFAULT_LR[optimizer_name(options, setup.recipe)],)
    if given is None:  # the recipe's own
        return options.joint_lr, [None] * len(stages)
    rates: list[float | None] = list(each_level(given, stages, "lr"))
    rate = max(given) if options.joint_lr is None else options.joint_lr
    if joint and len(given) == 1:
        rates = [given[0] * REFINE] * len(stages)
    return rate, rates
