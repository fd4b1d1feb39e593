"""The options of a training, and their values for each level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elsa_cli.core.level import Level
from elsa_cli.errors import UsageError

__all__ = ["TrainOptions", "each_level"]

OPTIMIZERS = ("sgd", "adamw", "recipe")
SCHEDULES = ("cosine", "constant", "recipe")
INITS = ("keep", "zero")
NORMS = ("per-level", "shared", "recalibrate")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainOptions:
    """How levels are trained.

    Attributes:
        epochs: Passes over the data for each level: one value for all, or one a level, sparsest
            first and dense last.
        steps: Optimizer steps for each level, instead of `epochs`.
        lr: Learning rate at the beginning. With one value the joint phase begins at it, and the
            levels after a joint phase begin at a third of it. With one value a level, each level
            begins at its value. None for the optimizer's default.
        optimizer: `sgd`, `adamw` or `recipe`; None for the recipe's if it has one, else adamw.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of tensors of two or more dimensions; vectors have none.
        schedule: `cosine` (to zero at the end of each level), `constant` or `recipe`.
        init: Values that a shell begins with: `keep` the checkpoint's values, or `zero`.
        norm: `per-level`: each level trains its own biases and norms; `shared`: the first level
            trains them for all; `recalibrate`: shared, but running statistics are estimated again
            for each level.
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
            raise UsageError("--epochs and --steps both say how long", hint="leave out one")
        for name, allowed in (
            ("optimizer", (None, *OPTIMIZERS)),
            ("schedule", SCHEDULES),
            ("init", INITS),
            ("norm", NORMS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                words = ", ".join(word for word in allowed if word)
                raise UsageError(f"--{name} {getattr(self, name)}", hint=f"use {words}")
        for name in ("epochs", "steps", "lr"):
            for value in getattr(self, name) or ():
                if not 0 <= value < float("inf"):
                    raise UsageError(f"--{name} {value} is not a length or a rate")
        for name in ("momentum", "weight_decay", "joint_epochs", "joint_lr", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} is negative")
        if self.accumulate < 1 or (self.save_every is not None and self.save_every < 1):
            raise UsageError("--accumulate and --save-every count from 1")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise UsageError(
                f"--clip-norm {self.clip_norm} is not a norm", hint="use a number over 0"
            )
        if self.init == "zero" and self.joint_epochs != 0:
            raise UsageError(
                "--init zero throws away what the joint phase trains", hint="add --joint-epochs 0"
            )
        if self.reselect and self.joint_epochs == 0:
            raise UsageError(
                "--reselect chooses after the joint phase", hint="leave out --joint-epochs 0"
            )

    def as_fields(self) -> dict[str, Any]:
        """Return what decides the bits of the result, for comparison with a saved run."""
        return {k: v for k, v in vars(self).items() if k != "save_every"}


def each_level(values: Sequence[float], levels: Sequence[Level], option: str) -> list[float]:
    """Return a value for each level, from one for all or one for each.

    Raises:
        UsageError: There is another number of values.
    """
    if len(values) == 1:
        return list(values) * len(levels)
    if len(values) != len(levels):
        names = ", ".join(map(str, levels))
        raise UsageError(
            f"--{option} has {len(values)} values for {len(levels)} levels",
            hint=f"give one value, or one each for {names}",
        )
    return list(values)
