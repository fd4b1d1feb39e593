"""Losses are told in order, with the mean of their epoch; saves go on in the middle of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elsa_cli.models.data import Position
from elsa_cli.models.distributed import Group
from elsa_cli.training.meter import Meter
from tests.training.tiny import CPU

POSITIONS = [
    Position(1, 0, 1),
    Position(2, 0, 2),
    Position(3, 0, 3),
    Position(4, 1, 1),
    Position(5, 1, 2),
]
LOSSES = [1.0, 2.5, 4.0, 8.0, 0.5]
TOLD = [
    (POSITIONS[0], 1.0, 1.0, 0.1 * 1, False),
    (POSITIONS[1], 2.5, 1.75, 0.1 * 2, False),
    (POSITIONS[2], 4.0, 2.5, 0.1 * 3, False),
    (POSITIONS[2], 4.0, 2.5, 0.1 * 3, True),
    (POSITIONS[3], 8.0, 8.0, 0.1 * 4, False),
    (POSITIONS[4], 0.5, 4.25, 0.1 * 5, False),
    (POSITIONS[4], 0.5, 4.25, 0.1 * 5, True),
]


class Two(Group):
    """A group of two, the other of which has twice the losses, and may ask for things."""

    def __init__(self, *asks: float) -> None:
        super().__init__(CPU)
        self.size = 2
        self.asks = asks

    def reduce(self, values: torch.Tensor) -> torch.Tensor:
        assert values.dtype == torch.float64
        return torch.cat([values[:-2] * 3, values[-2:] + torch.tensor(self.asks)])


class Told(list[Any]):
    """A list to tell."""

    def __call__(self, *told: Any) -> None:
        self.append(told)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_losses_are_told_in_order(every: int) -> None:
    told = Told()
    meter = Meter(Group(CPU), told)
    for at, (position, loss) in enumerate(zip(POSITIONS, LOSSES, strict=True), 1):
        meter.add(position, torch.tensor(loss), 0.1 * position.step)
        if at % every == 0 or at == len(POSITIONS):
            assert meter.fetch(False, False) == (False, False)
    assert meter.mean == 4.25
    meter.close()
    assert told == TOLD


def test_without_a_step() -> None:
    told = Told()
    meter = Meter(Group(CPU), told)
    meter.close()
    assert meter.mean is None
    assert meter.state() == {"sum": 0.0, "count": 0, "last": None}
    other = Meter(Group(CPU), told)
    other.load(meter.state(), Position())
    other.close()
    assert told == []


@pytest.mark.parametrize("at", range(len(POSITIONS) + 1))
def test_going_on_from_a_state(at: int) -> None:
    told = Told()
    meter = Meter(Group(CPU), told)
    for number, (position, loss) in enumerate(zip(POSITIONS, LOSSES, strict=True)):
        if number == at:
            state = meter.state()
            meter = Meter(Group(CPU), told)
            meter.load(state, POSITIONS[at - 1])
        meter.add(position, torch.tensor(loss), 0.1 * position.step)
        meter.fetch(False, False)
    if at == len(POSITIONS):
        state = meter.state()
        meter = Meter(Group(CPU), told)
        meter.load(state, POSITIONS[-1])
    assert meter.mean == 4.25
    meter.close()
    assert told == TOLD


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_losses_of_any_dtype(dtype: torch.dtype) -> None:
    told = Told()
    meter = Meter(Group(CPU), told)
    meter.add(POSITIONS[0], torch.tensor(1.5, dtype=dtype), 0.1)
    meter.add(POSITIONS[1], torch.tensor(2.25, dtype=torch.float32), 0.1)
    meter.fetch(False, False)
    assert [t[1:3] for t in told] == [(1.5, 1.5), (2.25, 1.875)]


def test_the_mean_is_over_the_processes() -> None:
    told = Told()
    meter = Meter(Two(0, 0), told)
    meter.add(POSITIONS[0], torch.tensor(2.0), 0.1)
    meter.fetch(False, False)
    assert told == [(POSITIONS[0], 3.0, 3.0, 0.1, False)]


@pytest.mark.parametrize("asks", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("mine", [(False, False), (True, False), (False, True)])
def test_any_process_may_ask(asks: tuple[int, int], mine: tuple[bool, bool]) -> None:
    meter = Meter(Two(*asks), Told())
    meter.add(POSITIONS[0], torch.tensor(2.0), 0.1)
    assert meter.fetch(*mine) == (bool(asks[0]) or mine[0], bool(asks[1]) or mine[1])


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_what_is_told_may_be_no_number(loss: float) -> None:
    told = Told()
    meter = Meter(Group(CPU), told)
    meter.add(POSITIONS[0], torch.tensor(loss), 0.1)
    meter.fetch(False, False)
    assert str(told[0][1]) == str(loss)
