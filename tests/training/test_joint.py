"""A step of the joint phase trains one level, and nothing that this level does not keep."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elsa_cli.core.level import DENSE
from elsa_cli.models.data import Position, Stream
from elsa_cli.training.joint import JointStepper
from elsa_cli.training.options import TrainOptions
from elsa_cli.training.stepping import Setup
from tests.training.tiny import (
    DATA,
    LOSS,
    MODEL,
    TIED,
    WHOLE,
    assert_same,
    load_recipe,
    make_setup,
    raw,
    same,
)

SEEING = """
SEEN = []


def loss(model, batch):
    SEEN.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return F.cross_entropy(model(batch[0]), batch[1])
"""
PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "joint_epochs": 1.0,
}
TOTAL = 6
State = dict[str, Tensor]


def stepper_of(
    folder: Path, *parts: str, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[JointStepper, Setup]:
    recipe = load_recipe(folder, *(parts or WHOLE))
    setup = make_setup(recipe, TrainOptions(**{**PLAIN, **options}), dtype=dtype)
    return JointStepper(setup, 0, 0.1, TOTAL), setup


def batches(setup: Setup, first: int = 0, last: int = TOTAL) -> list[tuple[int, list[Any]]]:
    stream = Stream(setup.recipe, 0, 0, 0, 1, 1)
    walk = stream.walk(Position(), TOTAL)
    return [(place.step - 1, found) for place, found in walk][first:last]


def copies(state: dict[str, Tensor]) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def draw(stepper: JointStepper, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepper, "_draw", lambda step: stage)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("parts", [WHOLE, (TIED, *WHOLE[1:])], ids=["plain", "tied"])
def test_a_step_changes_what_its_level_keeps(
    parts: tuple[str, ...], stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, setup = stepper_of(tmp_path, *parts)
    draw(stepper, stage, monkeypatch)
    nested, slots = setup.ladder.nested, setup.ladder.network.slots
    before = copies(slots)
    for step, found in batches(setup):
        stepper.step(found, step)
    for name, owner in nested.owner.items():
        changed = raw(slots[name]) != raw(before[name])
        assert not changed[owner > stage].any(), name
        assert changed[owner <= stage].any(), name
    assert all(parameter.grad is None for parameter in setup.ladder.network.model.parameters())


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_step_changes_the_small_tensors_of_its_level(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, setup = stepper_of(tmp_path)
    draw(stepper, stage, monkeypatch)
    before = [copies(own) for own in stepper._sets]
    assert [sorted(own) for own in before] == [setup.ladder.small] * 3
    for step, found in batches(setup):
        stepper.step(found, step)
    for number, own in enumerate(stepper._sets):
        if number != stage:
            assert_same(own, before[number])
        else:
            # A bias before a batch norm has no gradient but rounding errors.
            unchanged = [n for n in own if same(own[n], before[number][n])]
            assert [n for n in unchanged if n != "0.bias"] == []


def test_each_level_has_momentum_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, setup = stepper_of(tmp_path, momentum=0.9)
    draw(stepper, 1, monkeypatch)
    for step, found in batches(setup):
        stepper.step(found, step)
    assert [len(vectors.optimizer.state) for vectors in stepper._vectors] == [0, 4, 0]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_model_runs_masked_with_its_own_small_tensors(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(tmp_path, MODEL, DATA, SEEING)
    setup = make_setup(recipe, TrainOptions(**PLAIN))
    nested = setup.ladder.nested
    weight = nested.values["0.weight"]
    weight[nested.owner["0.weight"] == 0] = -0.0
    for at, level in enumerate(setup.ladder.stages):
        nested.per_level[level] = {"4.bias": torch.full((3,), at + 1.0)}
    stepper = JointStepper(setup, 0, 0.1, TOTAL)
    draw(stepper, stage, monkeypatch)
    ((step, found), *_) = batches(setup)
    stepper.step(found, step)
    (seen,) = sys.modules["recipe"].SEEN
    for name, owner in nested.owner.items():
        bits, wanted = raw(seen[name]), raw(nested.values[name])
        assert torch.equal(bits[owner <= stage], wanted[owner <= stage])
        assert not bits[owner > stage].any()
    assert seen["4.bias"].tolist() == [stage + 1.0] * 3


def test_held_back_gradients_do_not_count_in_the_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, setup = stepper_of(tmp_path, clip_norm=1e-3)
    draw(stepper, 0, monkeypatch)
    nested, slots = setup.ladder.nested, setup.ladder.network.slots
    norms: list[Tensor] = []
    clip = nn.utils.clip_grad_norm_

    def clip_and_look(parameters: Any, most: float) -> None:
        for name, owner in nested.owner.items():
            grad = slots[name].grad
            assert grad is not None
            assert not raw(grad)[owner > 0].any()
        norms.append(clip(parameters, most))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip_and_look)
    ((step, found), *_) = batches(setup)
    before = copies(slots)
    stepper.step(found, step)
    assert len(norms) == 1
    assert norms[0] > 1e-3
    moved = [(slots[name] - before[name]).norm() for name in nested.owner]
    assert 0 < max(moved) < 1.01e-4  # the rate times the norm that is left


def test_every_level_is_drawn(tmp_path: Path) -> None:
    stepper, setup = stepper_of(tmp_path)
    drawn = [stepper._draw(step) for step in range(300)]
    assert {drawn.count(stage) > 70 for stage in range(3)} == {True}
    assert drawn == [JointStepper(setup, 0, 0.1, TOTAL)._draw(step) for step in range(300)]
    assert drawn != [JointStepper(setup, 1, 0.1, TOTAL)._draw(step) for step in range(300)]


@pytest.mark.parametrize("norm", ["shared", "recalibrate"])
def test_shared_norms_are_one_set(norm: str, tmp_path: Path) -> None:
    stepper, setup = stepper_of(tmp_path, norm=norm)
    before = copies(setup.ladder.network.slots)
    for step, found in batches(setup):
        stepper.step(found, step)
    assert len(stepper._sets) == 1
    assert not any(same(t, before[n]) for n, t in stepper._sets[0].items())
    stepper.finish()
    for stage in range(3):
        assert_same(setup.ladder.start_of(stage), copies(stepper._sets[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finishing_stores_each_level_in_the_stored_dtype(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    stepper, setup = stepper_of(tmp_path, dtype=dtype)
    nested, slots = setup.ladder.nested, setup.ladder.network.slots
    for step, found in batches(setup):
        stepper.step(found, step)
    small = [copies(own) for own in stepper._sets]
    weights = {n: slots[n].detach().clone() for n in nested.owner}
    stepper.finish()
    assert sorted(nested.per_level) == [DENSE, *reversed(nested.levels)]
    for level, own in zip(setup.ladder.stages, small, strict=True):
        wanted = {n: t.to(dtype) if t.is_floating_point() else t for n, t in own.items()}
        assert_same(nested.per_level[level], wanted)
    assert not same(nested.per_level[DENSE]["4.bias"], nested.per_level[nested.levels[0]]["4.bias"])
    for name, weight in weights.items():
        assert same(nested.values[name], weight.to(dtype))


def test_the_stages_begin_with_what_the_joint_phase_gave(tmp_path: Path) -> None:
    stepper, setup = stepper_of(tmp_path)
    for step, found in batches(setup):
        stepper.step(found, step)
    small = [copies(own) for own in stepper._sets]
    stepper.finish()
    for stage in range(3):
        assert_same(setup.ladder.start_of(stage), small[stage])
        setup.ladder.enter(stage)
        assert_same(setup.ladder.network.live(setup.ladder.small), small[stage])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.1, "clip_norm": 0.5, "schedule": "cosine"},
        {"optimizer": "adamw", "norm": "shared"},
        {"optimizer": "adamw", "norm": "recalibrate", "precision": "bf16"},
    ],
    ids=lambda o: "-".join(map(str, o.values())) or "plain",
)
@pytest.mark.parametrize("at", [1, 3, 5, 6])
def test_going_on_from_a_state(options: dict[str, Any], at: int, tmp_path: Path) -> None:
    whole, setup = stepper_of(tmp_path, **options)
    for step, found in batches(setup):
        whole.step(found, step)
        if step == at - 1:
            state = copy.deepcopy(whole.state())
    whole.finish()
    second, other = stepper_of(tmp_path, **options)
    second.load(state)
    for step, found in batches(other, at):
        second.step(found, step)
    second.finish()
    assert second.lr == whole.lr
    assert_same(other.ladder.nested.values, setup.ladder.nested.values)
    for level, own in setup.ladder.nested.per_level.items():
        assert_same(other.ladder.nested.per_level[level], own)


def test_a_schedule_of_the_recipe_goes_on_for_levels_that_are_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a warning of torch's that the scheduler came first."""
    schedule = (
        "def schedule(optimizer, steps):\n"
        "    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, steps)\n"
    )
    stepper, setup = stepper_of(tmp_path, *WHOLE, schedule, schedule="recipe")
    draw(stepper, 0, monkeypatch)
    for step, found in batches(setup):
        stepper.step(found, step)
    assert [o.lr for o in (stepper._weights, *stepper._vectors)] == [stepper.lr] * 4
    assert stepper.lr < 0.06


def test_what_the_recipe_froze_stays_frozen(tmp_path: Path) -> None:
    model = MODEL.replace("return nn", "model = nn") + (
        "    model[4].bias.requires_grad_(False)\n    return model\n"
    )
    stepper, setup = stepper_of(tmp_path, model, DATA, LOSS)
    before = copies(setup.ladder.network.slots)
    for step, found in batches(setup):
        stepper.step(found, step)
    stepper.finish()
    for own in setup.ladder.nested.per_level.values():
        assert same(own["4.bias"], before["4.bias"])
