"""Options that cannot be meant are refused; values are given to levels."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from elsa_cli.core.level import DENSE, parse_levels
from elsa_cli.errors import UsageError
from elsa_cli.training.options import TrainOptions, each_level

STAGES = (*parse_levels("0.9,0.5"), DENSE)
INF, NAN = float("inf"), float("nan")

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"epochs": (1.0,), "steps": (5,)}, "^epochs and steps both say how long; leave out one"),
    ({"optimizer": "lion"}, '^optimizer="lion" is unknown; use sgd, adamw, recipe$'),
    ({"schedule": "linear"}, '^schedule="linear" is unknown; use cosine, constant, recipe$'),
    ({"init": "random"}, '^init="random" is unknown; use keep, zero$'),
    ({"norm": "none"}, '^norm="none" is unknown; use per-level, shared, recalibrate$'),
    ({"precision": "fp16"}, '^precision="fp16" is unknown; use fp32, bf16$'),
    ({"schedule": None}, "^schedule=None is unknown; use cosine"),
    *[({"epochs": (1.0, v)}, f"^epochs={v} is negative or not") for v in (-1.0, INF, NAN)],
    ({"steps": (-1,)}, "^steps=-1 is negative or not finite; use 0 or a positive number$"),
    *[({"lr": (v, 0.1)}, f"^lr={v} is negative or not finite") for v in (-0.1, INF, NAN)],
    *[({"momentum": v}, f"^momentum={v} is negative") for v in (-0.1, INF, NAN)],
    *[({"weight_decay": v}, f"^weight_decay={v} is negative") for v in (-0.1, INF, NAN)],
    *[({"joint_epochs": v}, f"^joint_epochs={v} is negative") for v in (-1.0, INF, NAN)],
    *[({"joint_epochs": 1.0, "joint_lr": v}, f"^joint_lr={v} is") for v in (-0.1, INF, NAN)],
    *[({"clip_norm": v}, f"^clip_norm={v} is not a norm; use") for v in (-1.0, 0.0, NAN)],
    ({"seed": -1}, "^seed=-1 is negative or not finite; use 0 or a positive number$"),
    *[({"accumulate": v}, f"^accumulate={v} is less than 1; use 1 or more$") for v in (0, -1)],
    *[({"save_every": v}, f"^save_every={v} is less than 1; use 1 or more$") for v in (0, -3)],
    (
        {"init": "zero"},
        '^init="zero" throws away what the joint phase trains; add joint_epochs=0$',
    ),
    (
        {"reselect": True, "joint_epochs": 0},
        "^reselect=True chooses masks after the joint phase; leave out joint_epochs=0$",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        TrainOptions(**given)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"epochs": (0.0, 0.5)},
        {"steps": (0, 3)},
        {"lr": (0.0,)},
        {"optimizer": None},
        {"momentum": 0.0, "weight_decay": 0.0, "seed": 2**40},
        {"joint_epochs": 0.5, "joint_lr": 0.0, "reselect": True},
        {"joint_epochs": None, "reselect": True},
        {"save_every": 1, "accumulate": 1, "clip_norm": 1e-3},
    ],
)
def test_what_is_taken(given: dict[str, Any]) -> None:
    options = TrainOptions(**given)
    for name, value in given.items():
        assert getattr(options, name) == value


def test_the_fields_that_decide_the_bits() -> None:
    fields = TrainOptions(seed=3, lr=(0.1,)).as_fields()
    every = {field.name for field in dataclasses.fields(TrainOptions)}
    assert every - fields.keys() == {"save_every"}
    assert (fields["seed"], fields["lr"]) == (3, (0.1,))


def test_one_value_is_for_all_levels() -> None:
    assert each_level((0.5,), STAGES, "lr") == [0.5, 0.5, 0.5]
    assert each_level((1, 2, 3), STAGES, "steps") == [1, 2, 3]


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3, 4), ()])
def test_another_number_of_values(values: tuple[float, ...]) -> None:
    message = f"^lr has {len(values)} values for 3 levels; .* one each for 0.9, 0.5, dense$"
    with pytest.raises(UsageError, match=message):
        each_level(values, STAGES, "lr")
