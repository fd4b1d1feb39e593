"""Levels go into a model one by one, and what is done stays as it is, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elsa_cli.core.level import DENSE, Level
from elsa_cli.errors import FrozenChanged, NonFiniteLoss, UsageError
from elsa_cli.models.network import Network
from elsa_cli.training.ladder import Ladder
from elsa_cli.training.options import TrainOptions
from tests.training.tiny import (
    CPU,
    LEVELS,
    TIED,
    WHOLE,
    assert_same,
    load_recipe,
    make_ladder,
    nested_of,
    raw,
    same,
)

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SMALL = [
    "1.bias",
    "1.num_batches_tracked",
    "1.running_mean",
    "1.running_var",
    "1.weight",
]


def net() -> nn.Module:
    """Return matrices, a norm, a shared tensor, and one bias."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Embedding(4, 3), nn.Conv2d(2, 4, 3)
    )


def ladder(
    options: TrainOptions | None = None,
    dtype: torch.dtype = torch.float32,
    levels: str = LEVELS,
    model: nn.Module | None = None,
) -> Ladder:
    """Return a ladder whose checkpoint has -0.0 in every shell."""
    network = Network(net() if model is None else model, CPU)
    nested = nested_of(network, levels, dtype, ("0.weight", "3.weight"))
    for name, owner in nested.owner.items():
        bits = raw(nested.values[name])
        for stage in range(len(nested.levels) + 1):
            at = (owner == stage).flatten().nonzero()[0, 0]
            bits.view(-1)[at] = raw(torch.tensor(-0.0).to(dtype)).item()
        nested.values[name] = bits.view(dtype)
    network.store_as(nested.values)
    return Ladder(nested, network, options or TrainOptions())


def write(ladder: Ladder, stage: int, seed: int = 0) -> None:
    """Train: write random numbers to all that a stage trains, and to buffers."""
    generator = torch.Generator().manual_seed(100 * seed + stage)
    with torch.no_grad():
        for name, slot in ladder.network.slots.items():
            noise = torch.randn(slot.shape, generator=generator)
            owner = ladder.nested.owner.get(name)
            if owner is not None:
                slot[owner == stage] = noise[owner == stage].to(slot.dtype)
            elif not isinstance(slot, nn.Parameter):
                slot.add_(1 if "num" in name else noise.square())
            elif ladder.trains(name, stage):
                slot.copy_(noise)


def climb(ladder: Ladder, seed: int = 0) -> dict[Level, dict[str, Tensor]]:
    """Train every level; return each as it was right after its stage."""
    done = {}
    for stage, level in enumerate(ladder.stages):
        ladder.enter(stage)
        write(ladder, stage, seed)
        ladder.leave(stage)
        done[level] = {n: t.clone() for n, t in ladder.nested.state(level).items()}
    return done


# How tensors take part.


def test_kinds_of_tensors() -> None:
    found = ladder()
    assert list(found.nested.owner) == ["0.weight", "3.weight"]
    assert found.vectors == ["1.bias", "1.weight", "3.bias"]
    assert found.small == [*SMALL, "3.bias"]
    assert found.shared == ["2.weight"]
    assert [str(level) for level in found.stages] == ["0.8", "0.5", "dense"]


@pytest.mark.parametrize("norm", ["per-level", "shared", "recalibrate"])
def test_what_is_trained(norm: str) -> None:
    found = ladder(TrainOptions(norm=norm))
    matrices, vectors = ["0.weight", "3.weight"], ["1.weight", "1.bias", "3.bias"]
    for stage in range(3):
        wanted = [*matrices]
        wanted += vectors if norm == "per-level" or not stage else []
        wanted += ["2.weight"] if not stage else []
        found.enter(stage)
        parameters = dict(found.network.model.named_parameters())
        assert {n for n, p in parameters.items() if p.requires_grad} == set(wanted)
        assert {id(p) for p in found.trainable(stage).values()} == {
            id(parameters[n]) for n in wanted
        }
        found.leave(stage)


def test_an_empty_shell_is_not_trained() -> None:
    found = ladder(TrainOptions(norm="shared"))
    owner = found.nested.owner["0.weight"]
    owner[owner == 1] = 0
    found.enter(1)
    assert not found.network.model.get_parameter("0.weight").requires_grad
    assert [p.shape for p in found.trainable(1).values()] == [(4, 2, 3, 3)]


def test_what_the_checkpoint_lacks_takes_no_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network = Network(model, CPU)
    nested = nested_of(network, prunable=("0.weight",))
    nested.values["carried"] = torch.ones(3)
    network.store_as(nested.values)
    found = Ladder(nested, network, TrainOptions())
    climb(found)
    assert nested.values["carried"].tolist() == [1, 1, 1]


# Entering and leaving.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, *FP8])
def test_entering_shows_the_level_bit_for_bit(dtype: torch.dtype) -> None:
    found = ladder(dtype=dtype)
    for stage, level in enumerate(found.stages):
        found.enter(stage)
        assert_same(found.network.read(found.nested.values), found.nested.state(level))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, *FP8])
def test_leaving_untrained_changes_nothing(dtype: torch.dtype) -> None:
    found = ladder(dtype=dtype)
    before = {n: t.clone() for n, t in found.nested.values.items()}
    for stage in range(3):
        found.enter(stage).check()
        found.leave(stage)
    assert_same(found.nested.values, before)
    assert found.nested.per_level == {level: {} for level in found.nested.levels}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, *FP8])
def test_what_is_stored_is_what_was_trained_rounded(dtype: torch.dtype) -> None:
    found = ladder(dtype=dtype)
    for stage, level in enumerate(found.stages):
        before = {n: t.clone() for n, t in found.nested.values.items()}
        found.enter(stage)
        write(found, stage)
        live = found.network.live(found.network.slots)
        found.leave(stage)
        state = found.nested.state(level)
        for name, tensor in live.items():
            kind = state[name].dtype
            assert same(state[name], tensor.to(kind)), (name, stage)
        for name, owner in found.nested.owner.items():
            rest = owner != stage
            assert torch.equal(raw(found.nested.values[name])[rest], raw(before[name])[rest])
            assert not torch.equal(raw(found.nested.values[name]), raw(before[name]))


def test_a_model_of_float64_keeps_all_bits() -> None:
    found = ladder(dtype=torch.float64, model=net().double())
    with torch.no_grad():
        found.nested.values["0.weight"].view(-1)[:9] += 1e-15
    done = climb(found)
    for level in found.stages:
        assert_same(found.nested.state(level), done[level])
    assert found.nested.values["0.weight"].dtype == torch.float64


@pytest.mark.parametrize("norm", ["per-level", "shared", "recalibrate"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, *FP8]
)
@pytest.mark.parametrize("levels", ["0.8,0.5", "0.5", "0.9,0.8,0.7,0.6"])
def test_sparser_levels_stay_as_they_were_done(norm: str, dtype: torch.dtype, levels: str) -> None:
    model = net().double() if dtype == torch.float64 else net()
    found = ladder(TrainOptions(norm=norm), dtype, levels, model)
    done: dict[Level, dict[str, Tensor]] = {}
    for stage, level in enumerate(found.stages):
        found.enter(stage)
        write(found, stage)
        found.leave(stage)
        done[level] = {n: t.clone() for n, t in found.nested.state(level).items()}
        for before in found.stages[:stage]:
            assert_same(found.nested.state(before), done[before])
    assert {t.dtype for t in found.nested.values.values() if t.is_floating_point()} == {dtype}


def test_per_level_tensors_are_those_that_differ() -> None:
    found = ladder()
    climb(found)
    for level in found.nested.levels:
        assert list(found.nested.per_level[level]) == [*SMALL, "3.bias"]

    found = ladder(TrainOptions(norm="recalibrate"))
    climb(found)
    for level in found.nested.levels:
        assert list(found.nested.per_level[level]) == [
            "1.num_batches_tracked",
            "1.running_mean",
            "1.running_var",
        ]
    assert DENSE not in found.nested.per_level


def test_a_tensor_that_one_level_alone_has_otherwise_is_stored_for_all() -> None:
    """Also where all that differs is the sign of a zero."""
    found = ladder()
    found.nested.values["3.bias"][0] = 0.0
    for stage, level in enumerate(found.stages):
        found.enter(stage)
        if stage == 1:
            with torch.no_grad():
                found.network.slots["3.bias"][0] = -0.0
        elif stage == 2:
            found.network.load({"3.bias": found.nested.values["3.bias"]})
        found.leave(stage)
        assert level in found.nested.per_level or level == DENSE
    zero, half = found.nested.levels
    assert list(found.nested.per_level[zero]) == list(found.nested.per_level[half]) == ["3.bias"]
    assert not same(found.nested.per_level[zero]["3.bias"], found.nested.per_level[half]["3.bias"])
    assert same(found.nested.per_level[zero]["3.bias"], found.nested.values["3.bias"])


def test_a_level_begins_with_the_small_tensors_of_the_last() -> None:
    found = ladder()
    found.enter(0)
    write(found, 0)
    trained = found.network.live(found.small)
    found.leave(0)
    found.enter(1)
    assert_same(found.network.live(found.small), trained)


def test_a_level_begins_with_its_own_small_tensors_if_it_has_some() -> None:
    found = ladder()
    sparse, half = found.nested.levels
    found.nested.per_level = {half: {"1.bias": torch.full((8,), 7.0)}}
    wanted = {n: found.nested.values[n] for n in found.small}
    assert_same(found.start_of(0), wanted)
    assert_same(found.start_of(1), wanted | found.nested.per_level[half])
    assert_same(found.start_of(2), wanted | found.nested.per_level[half])
    found.enter(1)
    assert found.network.live(["1.bias"])["1.bias"].tolist() == [7.0] * 8
    assert sparse not in found.nested.per_level


@pytest.mark.parametrize("norm", ["shared", "recalibrate"])
def test_shared_vectors_are_one_for_all_whatever_the_checkpoint_had(norm: str) -> None:
    """A checkpoint trained per level, trained again: the first level's vectors are for all."""
    found = ladder(TrainOptions(norm=norm))
    for at, level in enumerate(found.stages):
        found.nested.per_level[level] = {"3.bias": torch.full((4,), float(at))}
    climb(found)
    assert "3.bias" not in {name for own in found.nested.per_level.values() for name in own}


def test_shared_statistics_are_one_for_all_whatever_the_checkpoint_had() -> None:
    found = ladder(TrainOptions(norm="shared"))
    for at, level in enumerate(found.stages):
        found.nested.per_level[level] = {"1.running_mean": torch.full((8,), float(at))}
    for stage in range(3):
        found.enter(stage)
        if not stage:
            write(found, stage)  # later on, norms estimate nothing
        found.leave(stage)
    assert found.nested.per_level == {level: {} for level in found.nested.levels}


def test_shells_from_zero() -> None:
    found = ladder(TrainOptions(init="zero", joint_epochs=0))
    values = {n: t.clone() for n, t in found.nested.values.items()}
    for stage in range(3):
        found.enter(stage)
        for name, owner in found.nested.owner.items():
            bits = raw(found.network.slots[name])
            if stage:
                assert not bits[owner == stage].any()
            else:  # the first level has to begin with something
                assert torch.equal(bits[owner == 0], raw(values[name])[owner == 0])
            assert not bits[owner > stage].any()
        write(found, stage)
        found.leave(stage)


def test_shells_from_zero_leave_the_checkpoint_alone_until_they_are_done() -> None:
    found = ladder(TrainOptions(init="zero", joint_epochs=0))
    before = {n: t.clone() for n, t in found.nested.values.items()}
    found.enter(0)
    found.leave(0)
    found.enter(1)
    assert_same(found.nested.values, before)


# What must not happen.


@pytest.mark.parametrize("bit", [0, 15, 31])
def test_a_frozen_weight_that_was_written_to(bit: int) -> None:
    found = ladder()
    found.enter(0)
    found.leave(0)
    found.enter(1)
    owner = found.nested.owner["3.weight"]
    at = (owner == 0).flatten().nonzero()[0, 0]  # a -0.0
    before = {n: t.clone() for n, t in found.nested.values.items()}
    word = found.network.slots["3.weight"].detach().view(-1).view(torch.int32)
    word[at] ^= torch.tensor(-(2**31) if bit == 31 else 1 << bit, dtype=torch.int32)
    with pytest.raises(FrozenChanged, match=r"^3.weight: frozen weights changed while level 0.5"):
        found.leave(1)
    assert_same(found.nested.values, before)
    assert found.nested.levels[1] not in found.nested.per_level


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, *FP8])
def test_stored_bits_are_what_is_frozen(dtype: torch.dtype) -> None:
    """A change too small for the stored dtype is none; one that shows is found."""
    for factor, changes in ((1 + 2**-20, False), (1.5, True)):
        found = ladder(dtype=dtype)
        climb_to_one(found)
        with torch.no_grad():
            owner = found.nested.owner["0.weight"]
            found.network.slots["0.weight"][owner == 0] *= factor
        if changes:
            with pytest.raises(FrozenChanged):
                found.leave(1)
        else:
            before = found.nested.state(found.nested.levels[0])
            found.leave(1)
            assert_same(found.nested.state(found.nested.levels[0]), before)


def climb_to_one(found: Ladder) -> None:
    found.enter(0)
    write(found, 0)
    found.leave(0)
    found.enter(1)


def test_a_shared_tensor_that_was_written_to() -> None:
    found = ladder()
    climb_to_one(found)
    with torch.no_grad():
        found.network.slots["2.weight"][0, 0] += 1
    with pytest.raises(FrozenChanged, match=r"^2.weight: a shared tensor changed while level 0.5"):
        found.leave(1)


@pytest.mark.parametrize("freeze", [True, False])
def test_without_freezing_nothing_is_compared(freeze: bool) -> None:
    found = ladder(TrainOptions(freeze=freeze))
    climb_to_one(found)
    assert found.trains("0.weight", 1)
    with torch.no_grad():
        found.network.slots["0.weight"][found.nested.owner["0.weight"] == 0] += 1
    if freeze:
        with pytest.raises(FrozenChanged):
            found.leave(1)
    else:
        live = found.network.live(["0.weight"])["0.weight"]
        found.leave(1)
        assert same(found.nested.state(found.stages[1])["0.weight"], live)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "2.weight", "1.bias", "1.running_var"])
def test_what_is_not_finite_is_not_stored(name: str, value: float) -> None:
    found = ladder()
    before = {n: t.clone() for n, t in found.nested.values.items()}
    found.enter(0)
    with torch.no_grad():
        found.network.slots[name].view(-1)[-1] = value
    with pytest.raises(NonFiniteLoss, match=rf"^{name}: has NaN or infinite .* after level 0.8"):
        found.leave(0)
    assert_same(found.nested.values, before)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float16, 7e4), (torch.float8_e5m2, 1e5)],
)
def test_what_is_too_large_for_the_stored_dtype(dtype: torch.dtype, value: float) -> None:
    found = ladder(dtype=dtype)
    found.enter(0)
    with torch.no_grad():
        owner = found.nested.owner["0.weight"]
        found.network.slots["0.weight"][owner == 0] = value
    with pytest.raises(NonFiniteLoss, match=f"in {dtype} after .*a wider dtype"):
        found.leave(0)


def test_what_float64_holds_and_float32_does_not() -> None:
    found = ladder(dtype=torch.float64, model=net().double())
    found.enter(0)
    with torch.no_grad():
        found.network.slots["0.weight"][found.nested.owner["0.weight"] == 0] = 1e300
    found.leave(0)
    assert found.nested.state(found.stages[0])["0.weight"].max() == 1e300


def test_a_buffer_may_hold_infinities() -> None:
    """An attention mask, as many models keep one."""
    model: Any = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("mask", torch.triu(torch.full((4, 4), -float("inf")), 1))
    network = Network(model, CPU)
    nested = nested_of(network, prunable=("0.weight",))
    network.store_as(nested.values)
    before = {n: t.clone() for n, t in nested.values.items()}
    found = Ladder(nested, network, TrainOptions())
    for stage in range(3):
        found.enter(stage)
        found.leave(stage)
    assert_same(nested.values, before)


# Tied weights, and parameters that the recipe has frozen itself.


@pytest.mark.parametrize("without", [(), ("a.weight",), ("b.weight",)])
def test_tied_weights_are_trained_once(without: tuple[str, ...], tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, TIED, *WHOLE[1:])
    found = make_ladder(recipe, without=without)
    for stage in range(3):
        found.enter(stage)
        weight = found.network.model.get_parameter("a.weight")
        assert weight.requires_grad, stage
        assert sum(p is weight for p in found.trainable(stage).values()) == 1
        with torch.no_grad():
            owner = next(o for n, o in found.nested.owner.items() if n in ("a.weight", "b.weight"))
            weight[owner == stage] += 1
        found.leave(stage)
    values = found.nested.values
    if not without:
        assert same(values["a.weight"], values["b.weight"])


@pytest.mark.parametrize("norm", ["per-level", "shared"])
def test_a_shared_tensor_that_is_tied_is_trained_in_the_first_stage(norm: str) -> None:
    model: Any = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    model[2].weight = model[0].weight
    network = Network(model, CPU)
    nested = nested_of(network, prunable=("1.weight",))
    del nested.values["2.weight"]
    network.store_as(nested.values)
    found = Ladder(nested, network, TrainOptions(norm=norm))
    for stage in range(3):
        found.enter(stage)
        assert model[0].weight.requires_grad == (stage == 0)
        found.leave(stage)


def test_tied_weights_with_one_mask_only(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, TIED, *WHOLE[1:])
    network = Network(recipe.build_model(), CPU)
    nested = nested_of(network)
    del nested.owner["b.weight"]
    message = r"^a.weight: is one tensor under the names a.weight, b.weight, but their masks differ"
    with pytest.raises(UsageError, match=message):
        Ladder(nested, network, TrainOptions())


def test_tied_weights_with_two_masks(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, TIED, *WHOLE[1:])
    network = Network(recipe.build_model(), CPU)
    nested = nested_of(network)
    nested.owner["b.weight"] = nested.owner["b.weight"].flip(0)
    with pytest.raises(UsageError, match=r"exclude for these names$"):
        Ladder(nested, network, TrainOptions())


def test_tied_weights_without_a_mask(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, TIED, *WHOLE[1:])
    network = Network(recipe.build_model(), CPU)
    nested = nested_of(network, prunable=("head.weight",))
    found = Ladder(nested, network, TrainOptions())
    assert found.shared == ["a.weight", "b.weight"]
    found.enter(0)
    assert network.model.get_parameter("a.weight").requires_grad


def test_what_the_recipe_froze_stays_frozen() -> None:
    model: Any = net()
    model[2].weight.requires_grad_(False)
    found = ladder(model=model)
    for stage in range(3):
        found.enter(stage)
        assert not model[2].weight.requires_grad
        assert model[0].weight.requires_grad
        found.leave(stage)


def test_a_parameter_of_integers() -> None:
    model: Any = net()
    model[2].weight = nn.Parameter(torch.arange(12).view(4, 3), requires_grad=False)
    found = ladder(model=model)
    climb(found)
    assert found.nested.values["2.weight"].tolist() == torch.arange(12).view(4, 3).tolist()


def test_nested_is_one_object_throughout() -> None:
    found = ladder()
    nested = found.nested
    climb(found)
    assert found.nested is nested
    assert sorted(nested.values) == sorted(found.network.slots)
