"""The options of a training, and their values for each level; this file needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elsa_cli.core.level import Level
from elsa_cli.errors import Param, UsageError, Words

__all__ = ["TrainOptions", "each_level"]

OPTIMIZERS = ("sgd", "adamw", "recipe")
SCHEDULES = ("cosine", "constant", "recipe")
INITS = ("keep", "zero")
NORMS = ("per-level", "shared", "recalibrate")
PRECISIONS = ("fp32", "bf16")
INF = float("inf")


@dataclass(frozen=True)
class TrainOptions:
    """How levels are trained.

    Attributes:
        epochs: Passes over the data: one value for all levels, or one for each, sparsest first and
            dense last.
        steps: Optimizer steps for each level, instead of `epochs`.
        lr: Learning rate at the beginning. One value is that of the joint phase, and the levels
            after a joint phase begin at a third of it. Several values give each level its rate.
            None is the optimizer's default.
        optimizer: `sgd`, `adamw` or `recipe`; None for the recipe's if it has one, else adamw.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of tensors with two or more dimensions; vectors have none.
        schedule: How the learning rate changes within each level: `cosine` (to zero at the end of
            the level), `constant` or `recipe`.
        init: What the weights that a level adds start from: `keep` for the checkpoint's values, or
            `zero`.
        norm: `per-level`: each level trains its biases and norms; `shared`: the first level trains
            them for all levels; `recalibrate`: shared, but each level estimates its running
            statistics.
        precision: `fp32`, or `bf16` for autocast; stored and master weights do not depend on it.
        seed: Seed for everything random.
        compile: Use `torch.compile`.
        accumulate: Batches whose gradients are added up for one step.
        clip_norm: Largest norm of the gradient, or None.
        joint_epochs: Passes before the first freeze in which each step trains one level, drawn at
            random. None: four fifths of the steps of every level are spent there instead.
        joint_lr: Learning rate of the joint phase; None for `lr`, or the largest value of it.
        reselect: Choose the masks again after the joint phase.
        save_every: Steps between saves; None: every ten minutes. Each level's end is saved too.
        freeze: Whether finished levels are frozen; only the benchmarks turn that off.
    """

    epochs: tuple[float, ...] | None = None
    steps: tuple[int, ...] | None = None
    lr: tuple[float, ...] | None = None
    optimizer: str | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    init: str = "keep"
    norm: str = "per-level"
    precision: str = "fp32"
    seed: int = 0
    compile: bool = False
    accumulate: int = 1
    clip_norm: float | None = None
    joint_epochs: float | None = None
    joint_lr: float | None = None
    reselect: bool = False
    save_every: int | None = None
    freeze: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: See the messages.
        """
        if self.epochs is not None and self.steps is not None:
            raise UsageError(
                Words("{} and {} both say how long", Param("epochs"), Param("steps")),
                hint="leave out one",
            )
        for name, allowed in (
            ("optimizer", (None, *OPTIMIZERS)),
            ("schedule", SCHEDULES),
            ("init", INITS),
            ("norm", NORMS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                words = ", ".join(word for word in allowed if word)
                raise UsageError(
                    Words("{} is unknown", Param(name, getattr(self, name))), hint=f"use {words}"
                )
        for name in ("epochs", "steps", "lr"):
            for value in getattr(self, name) or ():
                if not 0 <= value < INF:
                    raise UsageError(
                        Words("{} is negative or not finite", Param(name, value)),
                        hint="use 0 or a positive number",
                    )
        for name in ("momentum", "weight_decay", "joint_epochs", "joint_lr", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < INF:
                raise UsageError(
                    Words("{} is negative or not finite", Param(name, value)),
                    hint="use 0 or a positive number",
                )
        for name in ("accumulate", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(
                    Words("{} is less than 1", Param(name, value)), hint="use 1 or more"
                )
        if self.clip_norm is not None and not 0 < self.clip_norm < INF:
            raise UsageError(
                Words("{} is not a norm", Param("clip_norm", self.clip_norm)),
                hint="use a positive number",
            )
        if self.init == "zero" and self.joint_epochs != 0:
            raise UsageError(
                Words("{} throws away what the joint phase trains", Param("init", "zero")),
                hint=Words("add {}", Param("joint_epochs", 0)),
            )
        if self.reselect and self.joint_epochs == 0:
            raise UsageError(
                Words("{} chooses masks after the joint phase", Param("reselect", True)),
                hint=Words("leave out {}", Param("joint_epochs", 0)),
            )

    def as_fields(self) -> dict[str, Any]:
        """Return what decides the bits of the result, for comparison with a saved run."""
        return {k: v for k, v in vars(self).items() if k != "save_every"}


def each_level(values: Sequence[float], levels: Sequence[Level], option: str) -> list[float]:
    """Return a value for each level, from one for all or one for each.

    Args:
        values: The values.
        levels: The levels.
        option: The field of `TrainOptions` that has them, for the error.

    Raises:
        UsageError: The number of values is neither 1 nor that of the levels.
    """
    if len(values) == 1:
        return list(values) * len(levels)
    if len(values) != len(levels):
        names = ", ".join(map(str, levels))
        raise UsageError(
            Words("{} has {} values for {} levels", Param(option), len(values), len(levels)),
            hint=f"give one value, or one each for {names}",
        )
    return list(values)
