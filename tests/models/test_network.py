"""A model and a checkpoint are matched by name, shape and dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elsa_cli.errors import Misfit, UsageError
from elsa_cli.models.network import Network
from elsa_cli.models.tensors import to_bytes
from tests.training.tiny import CPU, assert_same, same

FILE = "folder/model.safetensors"


class Net(nn.Module):
    """Two tied matrices, a norm, an embedding, and buffers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.body = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(6, dtype=torch.int16).view(2, 3))
        self.register_buffer("cache", torch.zeros(3), persistent=False)


NAMES = [
    "table",
    "embed.weight",
    "body.weight",
    "body.bias",
    "norm.weight",
    "norm.bias",
    "norm.running_mean",
    "norm.running_var",
    "norm.num_batches_tracked",
    "head.weight",
    "head.bias",
]
PRUNABLE = ("body.weight",)


def network() -> Network:
    torch.manual_seed(0)
    return Network(Net(), CPU)


def checkpoint(dtype: torch.dtype = torch.float32, *without: str) -> dict[str, Tensor]:
    """Return other values than those of the network."""
    torch.manual_seed(1)
    return {
        name: (torch.randn(slot.shape) if slot.is_floating_point() else slot + 1).to(
            dtype if slot.is_floating_point() else slot.dtype
        )
        for name, slot in network().slots.items()
        if name not in without
    }


def misfit(state: dict[str, Tensor], prunable: tuple[str, ...] = PRUNABLE) -> Misfit:
    with pytest.raises(Misfit) as caught:
        network().check(state, prunable, FILE)
    assert caught.value.exit_code == 1
    return caught.value


def test_slots_are_the_state_dict_itself() -> None:
    found = network()
    assert list(found.slots) == NAMES
    for name, slot in found.slots.items():
        assert slot.data_ptr() == found.model.state_dict()[name].data_ptr()
    assert [n for n in NAMES if n in found.parameters] == [
        n for n in NAMES if "running" not in n and "num_" not in n and n != "table"
    ]


def test_kinds_of_slots() -> None:
    found = network()
    assert found.vectors(()) == ["body.bias", "norm.weight", "norm.bias", "head.bias"]
    assert found.vectors(["body.bias"]) == ["norm.weight", "norm.bias", "head.bias"]
    assert sorted(found.buffers()) == [
        "norm.num_batches_tracked",
        "norm.running_mean",
        "norm.running_var",
        "table",
    ]
    assert list(found.norms()) == [found.model.norm]
    assert found.canonical() == {n: "embed.weight" if n == "head.weight" else n for n in NAMES}


def test_norms_without_statistics_are_none_of_ours() -> None:
    model = nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False))
    assert list(Network(model, CPU).norms()) == []


def test_a_checkpoint_that_fits() -> None:
    found, state = network(), checkpoint()
    assert found.check(state, PRUNABLE, FILE) == []
    found.store_as(state)
    found.load(state)
    assert found.model.get_parameter("body.weight").requires_grad
    read = found.read(NAMES)
    wanted = state | {"embed.weight": state["head.weight"]}  # the last of tied names stands
    assert_same(read, wanted)
    assert_same(found.live(NAMES), wanted)


def test_checking_changes_nothing_and_storing_changes_dtypes_alone() -> None:
    found, state = network(), checkpoint(torch.bfloat16)
    before, stored = found.live(NAMES), dict(found.stored)
    found.check(state, PRUNABLE, FILE)
    assert found.stored == stored
    found.store_as(state)
    assert found.stored == {name: tensor.dtype for name, tensor in state.items()}
    assert_same(found.live(NAMES), before)


@pytest.mark.parametrize("missing", ["embed.weight", "head.weight"])
def test_tied_tensors_may_be_there_once(missing: str) -> None:
    found, state = network(), checkpoint(torch.float32, missing)
    assert found.check(state, PRUNABLE, FILE) == []
    found.store_as(state)
    found.load(state)
    there = "head.weight" if missing == "embed.weight" else "embed.weight"
    for name in ("embed.weight", "head.weight"):
        assert same(found.read([name])[name], state[there])


def test_tied_tensors_that_are_both_missing() -> None:
    error = misfit(checkpoint(torch.float32, "embed.weight", "head.weight"))
    assert error.pairs == (("", "embed.weight [5, 4]"), ("", "head.weight [5, 4]"))


def test_missing_and_surplus_names_side_by_side() -> None:
    state = checkpoint(torch.float32, "body.weight", "body.bias", "norm.bias")
    state |= {"net.body.bias": torch.zeros(4), "net.body.weight": torch.zeros(4, 4)}
    error = misfit(state, ("net.body.weight",))
    assert error.pairs == (
        ("net.body.bias [4]", "body.bias [4]"),
        ("net.body.weight [4, 4]", "body.weight [4, 4]"),
        ("", "norm.bias [4]"),
    )
    assert str(error) == (
        f"{FILE}: does not fit the recipe's model: 2 tensors are only in the checkpoint, "
        "3 only in the model (net.body.bias [4] | body.bias [4]; net.body.weight [4, 4] | "
        "body.weight [4, 4]; - | norm.bias [4]); build_model() must give the tensors the "
        "checkpoint's names"
    )


def test_the_line_shows_the_first_pairs_alone() -> None:
    error = misfit(checkpoint(torch.float32, *NAMES[5:]))
    assert len(error.pairs) == 5  # head.weight is tied to one that is there
    assert "; and 2 more)" in str(error)
    assert str(error).count(" | ") == 3


def test_surplus_that_is_not_pruned_is_carried() -> None:
    found = network()
    state = checkpoint() | {"old.b": torch.zeros(2), "old.a": torch.zeros(3, 3)}
    assert found.check(state, PRUNABLE, FILE) == ["old.b", "old.a"]
    found.load(state)
    assert "old.a" not in found.slots


def test_surplus_that_is_pruned_is_not() -> None:
    state = checkpoint() | {"old.b": torch.zeros(2), "old.a": torch.zeros(3, 3)}
    error = misfit(state, ("old.a", "body.weight"))
    assert error.pairs == (("old.a [3, 3]", ""), ("old.b [2]", ""))
    assert "2 tensors are only in the checkpoint, 0 only in the model" in str(error)


def test_another_shape() -> None:
    state = checkpoint()
    state["body.weight"], state["table"] = torch.zeros(4, 3), torch.zeros(6, dtype=torch.int16)
    error = misfit(state)
    assert error.pairs == (
        ("table [6]", "table [2, 3]"),
        ("body.weight [4, 3]", "body.weight [4, 4]"),
    )
    assert str(error) == (
        f"{FILE}: does not fit the recipe's model: 2 tensors differ (table [6] | table [2, 3]; "
        "body.weight [4, 3] | body.weight [4, 4]); build_model() must give the tensors the "
        "checkpoint's shapes"
    )


@pytest.mark.parametrize("name", ["norm.running_mean", "table"])
def test_only_parameters_can_be_pruned(name: str) -> None:
    error = misfit(checkpoint(), ("body.weight", name))
    assert error.pairs == ((f"{name} (prunable)", f"{name} is no floating-point parameter"),)


def test_integers_do_not_fit_a_parameter_of_floats() -> None:
    """Quantized weights: read as floats, they would be other numbers than they stand for."""
    state = checkpoint() | {"body.weight": torch.ones(4, 4, dtype=torch.int8)}
    assert "body.weight" in str(misfit(state, ()))


STORED = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", STORED)
def test_narrow_dtypes_are_trained_in_float32(dtype: torch.dtype) -> None:
    found, state = network(), checkpoint(dtype)
    state["head.weight"] = state["embed.weight"]
    found.store_as(state)
    found.load(state)
    for name, slot in found.slots.items():
        assert slot.dtype == (torch.float32 if slot.is_floating_point() else state[name].dtype)
        assert found.stored[name] == state[name].dtype
    if dtype != torch.float64:
        assert_same(found.read(NAMES), state)
    with torch.no_grad():
        found.slots["body.weight"].add_(0.3)
    wanted = found.live(["body.weight"])["body.weight"].to(dtype)
    assert same(found.read(["body.weight"])["body.weight"], wanted)


def test_a_model_of_float64_is_trained_in_it() -> None:
    found = Network(Net().double(), CPU)
    state = checkpoint(torch.float64, "head.weight")
    found.store_as(state)
    found.load(state)
    assert found.slots["body.weight"].dtype == torch.float64
    assert_same(found.read(state), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_is_widened_in_place(dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    parameters = {name: id(p) for name, p in model.named_parameters()}
    before = {n: t.detach().clone() for n, t in model.state_dict().items()}
    found = Network(model, CPU)
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert model.body.weight.dtype == model.norm.running_mean.dtype == torch.float32  # type: ignore[union-attr]
    assert model.head.weight is model.embed.weight
    assert_same(found.read(NAMES), before)


def test_reading_gives_copies() -> None:
    found = network()
    names = ["body.weight", "table"]
    read, live = found.read(names), found.live(names)
    with torch.no_grad():
        found.slots["body.weight"].add_(1)
        found.slots["table"].add_(1)
    for copy in (read, live):
        assert not same(copy["body.weight"], found.live(names)["body.weight"])
        assert copy["table"].flatten().tolist() == [0, 1, 2, 3, 4, 5]
        assert not copy["body.weight"].requires_grad


def test_a_fresh_state_has_tied_tensors_once() -> None:
    found = network()
    state, tied = found.fresh_state()
    assert list(state) == [n for n in NAMES if n != "head.weight"]
    assert tied == {"head.weight": "embed.weight"}
    assert_same(state, {n: found.live([n])[n] for n in state})
    other = network()
    assert other.check(state, PRUNABLE, FILE) == []


def test_a_fresh_state_in_the_model_s_own_dtype() -> None:
    state, _ = Network(Net().to(torch.bfloat16), CPU).fresh_state()
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.bfloat16}


def test_a_fresh_state_that_no_checkpoint_can_hold() -> None:
    model: Any = nn.Linear(2, 2)
    model.register_buffer("phases", torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(UsageError, match=r"safetensors has no dtype for torch.complex128"):
        Network(model, CPU).fresh_state()


def test_a_channels_last_model_is_read_in_c_order() -> None:
    model: Any = nn.Conv2d(3, 4, 3)
    model.to(memory_format=torch.channels_last)
    wanted = model.weight.detach().contiguous().numpy().tobytes()
    found = Network(model, CPU)
    assert to_bytes(found.read(["weight"])["weight"]).tobytes() == wanted
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
