"""Held weights keep their bits under every optimizer, and all others train as without them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elsa_cli.errors import FrozenChanged, UsageError
from elsa_cli.training.freeze import FrozenMask
from tests.training.tiny import assert_same, raw, same

Optimizer = torch.optim.Optimizer
Make = Callable[..., Optimizer]
Masks = dict[str, Tensor]
KINDS: dict[str, tuple[Make, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "sgd-decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "sgd-momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "sgd-nesterov": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1}),
    "amsgrad": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "weight_decay": 0.1}),
    "rmsprop": (
        torch.optim.RMSprop,
        {"lr": 0.1, "momentum": 0.9, "centered": True, "weight_decay": 0.1},
    ),
    "nadam": (torch.optim.NAdam, {"lr": 0.1, "weight_decay": 0.1}),
}
FUSED = ("sgd", "adam", "amsgrad", "adagrad")  # and those whose name goes on behind these
WAYS: dict[str, dict[str, bool]] = {
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
    "fused": {"fused": True},
}
MATRIX = [
    pytest.param(kind, way, id=f"{kind}-{way}")
    for kind in KINDS
    for way in WAYS
    if way != "fused" or kind.startswith(FUSED)
]


class Net(nn.Module):
    """A convolution, a batch norm, and linear layers, two of them with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.conv(x))).flatten(1)
        found: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return found


def net(dtype: torch.dtype = torch.float32) -> Net:
    """Return the network, with -0.0 and +0.0 among the weights that get frozen."""
    torch.manual_seed(0)
    model = Net().to(dtype)
    _, frozen = masks_of(model)
    with torch.no_grad():
        for name, hold in frozen.items():
            held = hold.flatten().nonzero()[:, 0]
            flat = model.get_parameter(name).view(-1)
            flat[held[0]], flat[held[1]] = -0.0, 0.0
    return model


def masks_of(model: nn.Module) -> tuple[Masks, Masks]:
    """Return masks, and what is frozen: inside a mask, and in vectors that have none."""
    generator = torch.Generator().manual_seed(1)
    masks, frozen = {}, {}
    for name in ("conv.weight", "first.weight", "head.weight"):
        draw = torch.rand(model.get_parameter(name).shape, generator=generator)
        masks[name], frozen[name] = draw < 0.7, draw < 0.4
    for name in ("norm.bias", "head.bias"):
        frozen[name] = torch.arange(model.get_parameter(name).numel()) < 2
    return masks, frozen


def batches(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(8, 2, 4, 4, generator=generator).to(dtype),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def loss_of(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Any:
    return F.cross_entropy(model(batch[0]), batch[1])


def make(kind: str, model: nn.Module, **way: bool) -> Optimizer:
    function, options = KINDS[kind]
    return function(model.parameters(), **options, **way)


class Hold:
    """Which weights of a model are held, and their bits: told by plain indexing."""

    def __init__(self, model: nn.Module, masks: Masks, frozen: Masks) -> None:
        self.model = model
        self.free: Masks = {}
        self.bits: Masks = {}
        for name, parameter in model.named_parameters():
            hold = frozen.get(name, torch.zeros(parameter.shape, dtype=torch.bool))
            keep = masks.get(name, torch.ones(parameter.shape, dtype=torch.bool))
            self.free[name] = keep & ~hold
            bits = raw(parameter)
            bits[~keep] = 0
            self.bits[name] = bits

    def check(self) -> None:
        """Assert that held weights have their bits."""
        for name, parameter in self.model.named_parameters():
            held = ~self.free[name]
            assert torch.equal(raw(parameter)[held], self.bits[name][held]), name

    def moved(self) -> dict[str, float]:
        """Return which part of the free weights has changed."""
        return {
            name: float((raw(parameter) != self.bits[name])[self.free[name]].double().mean())
            for name, parameter in self.model.named_parameters()
        }

    def by_hand(self, parameter_grads: bool) -> None:
        """Do by hand what the package does: gradients, or weights."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if not parameter_grads:
                    was = self.bits[name].view(parameter.dtype)
                    parameter.copy_(torch.where(self.free[name], parameter, was))
                elif parameter.grad is not None:
                    parameter.grad[~self.free[name]] = 0.0


def frozen_net(dtype: torch.dtype = torch.float32) -> tuple[Net, FrozenMask, Hold]:
    model = net(dtype)
    masks, frozen = masks_of(model)
    hold = Hold(model, masks, frozen)
    held = FrozenMask(model, masks, frozen)
    hold.check()
    return model, held, hold


def train(
    model: nn.Module, optimizer: Optimizer, hold: Hold, steps: int = 4, *, to_none: bool = True
) -> None:
    """Take some steps, and look at the bits after each."""
    dtype = next(model.parameters()).dtype
    for batch in batches(steps, dtype):
        loss_of(model, batch).backward()
        optimizer.step()
        hold.check()
        optimizer.zero_grad(set_to_none=to_none)


def channels_last(model: Any) -> None:
    model.to(memory_format=torch.channels_last)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def without_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrozenMask, "restore", lambda self: None)


@pytest.fixture
def without_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elsa_cli.training.freeze._Held.clear", lambda self, parameter: None)


def test_building_it_zeroes_what_is_outside_and_nothing_else() -> None:
    model, held, hold = frozen_net()
    for name, parameter in model.named_parameters():
        assert torch.equal(raw(parameter), hold.bits[name]), name
    held.check()


def test_signs_of_zero_are_held() -> None:
    model, held, _ = frozen_net()
    frozen = masks_of(model)[1]["conv.weight"].flatten().nonzero()[:, 0]
    optimizer = make("adamw", model)
    with held.attach(optimizer):
        train(model, optimizer, Hold(model, {}, {"conv.weight": masks_of(model)[1]["conv.weight"]}))
    flat = model.conv.weight.detach().flatten()
    assert math.copysign(1, flat[frozen[0]].item()) == -1
    assert math.copysign(1, flat[frozen[1]].item()) == 1


@pytest.mark.parametrize(("kind", "way"), MATRIX)
def test_held_bits_stay_and_all_else_trains_as_by_hand(kind: str, way: str) -> None:
    model, held, hold = frozen_net()
    optimizer = make(kind, model, **WAYS[way])
    held.attach(optimizer)
    train(model, optimizer, hold)
    held.check()
    assert [n for n, part in hold.moved().items() if part < 1 and n != "conv.bias"] == []

    other = net()
    by_hand = Hold(other, *masks_of(other))
    by_hand.by_hand(parameter_grads=False)
    optimizer = make(kind, other, **WAYS[way])
    for batch in batches(4):
        loss_of(other, batch).backward()
        by_hand.by_hand(parameter_grads=True)
        optimizer.step()
        by_hand.by_hand(parameter_grads=False)
        optimizer.zero_grad()
    assert_same(state(model), state(other))


# Without torch's fused SGD of 16-bit parameters, which on a CPU makes no step at all (torch 2.13).
@pytest.mark.parametrize(
    ("kind", "way"), [("sgd-momentum", "foreach"), *[("adamw", w) for w in WAYS]]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_dtypes(kind: str, dtype: torch.dtype, way: str) -> None:
    model, held, hold = frozen_net(dtype)
    assert model.conv.weight.dtype == dtype
    optimizer = make(kind, model, **WAYS[way])
    held.attach(optimizer)
    train(model, optimizer, hold)
    held.check()
    assert min(part for name, part in hold.moved().items() if name != "conv.bias") > 0.5


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits(dtype: torch.dtype) -> None:
    """Nothing trains them yet, but they are held."""
    torch.manual_seed(0)
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(16, 16).to(dtype), requires_grad=False)
    mask, frozen = torch.rand(16, 16) < 0.7, torch.rand(16, 16) < 0.5
    bits = raw(model.weight)
    bits[~mask] = 0
    held = FrozenMask(model, {"weight": mask}, {"weight": mask & frozen})
    assert torch.equal(raw(model.weight), bits)
    model.weight.data.view(torch.uint8).bitwise_xor_(0xFF)
    with pytest.raises(FrozenChanged):
        held.check()
    held.restore()
    held.check()
    free = mask & ~frozen
    assert torch.equal(raw(model.weight), torch.where(free, ~bits, bits))


@pytest.mark.parametrize("kind", ["sgd-momentum", "adamw"])
@pytest.mark.parametrize("late", [False, True])
def test_channels_last(kind: str, late: bool) -> None:
    model = net()
    if not late:
        channels_last(model)
        assert model.conv.weight.stride() != net().conv.weight.stride()
    masks, frozen = masks_of(model)
    hold, held = Hold(model, masks, frozen), FrozenMask(model, masks, frozen)
    if late:  # laid out otherwise once the bits are known
        channels_last(model)
    optimizer = make(kind, model)
    held.attach(optimizer)
    train(model, optimizer, hold)
    held.check()
    assert hold.moved()["conv.weight"] == 1


@pytest.mark.filterwarnings("ignore:grad and param do not obey")
@pytest.mark.parametrize("kind", ["sgd-momentum", "adamw"])
def test_gradients_of_another_layout(kind: str) -> None:
    model, held, hold = frozen_net()
    optimizer = make(kind, model)
    held.attach(optimizer)
    last: Any = torch.channels_last
    model.conv.weight.grad = torch.zeros_like(model.conv.weight, memory_format=last)
    train(model, optimizer, hold, to_none=False)
    held.check()


def test_weights_of_the_second_of_tied_names_may_be_held() -> None:
    model = net()
    mask = torch.rand(16, 16) < 0.5
    hold = Hold(model, {"first.weight": mask}, {})
    held = FrozenMask(model, {"second.weight": mask}, {})
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer)
    train(model, optimizer, hold)
    both = FrozenMask(model, {"first.weight": mask, "second.weight": mask.clone()}, {})
    both.check()
    assert hold.moved()["first.weight"] == 1


@pytest.mark.parametrize("hold_all", ["masked", "frozen"])
def test_a_parameter_that_is_held_whole(hold_all: str) -> None:
    model = net()
    none, every = torch.zeros(3, 16, dtype=torch.bool), torch.ones(3, 16, dtype=torch.bool)
    masks = {"head.weight": none} if hold_all == "masked" else {}
    frozen = {"head.weight": every} if hold_all == "frozen" else {}
    hold = Hold(model, masks, frozen)
    held = FrozenMask(model, masks, frozen)
    optimizer = make("adamw", model)
    held.attach(optimizer)
    train(model, optimizer, hold)
    held.check()


def test_a_parameter_that_needs_no_gradient() -> None:
    model, held, hold = frozen_net()
    model.head.weight.requires_grad_(False)
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer)
    train(model, optimizer, hold)
    assert hold.moved()["head.weight"] == 0


def test_nothing_held_changes_nothing() -> None:
    model, other = net(), net()
    every = torch.ones(3, 16, dtype=torch.bool)
    held = FrozenMask(model, {"head.weight": every}, {"head.bias": torch.zeros(3).bool()})
    for m in (model, other):
        optimizer = make("adamw", m)
        if m is model:
            held.attach(optimizer)
        train(m, optimizer, Hold(m, {}, {}))
    held.check()
    assert_same(state(model), state(other))


def test_accumulated_gradients() -> None:
    model, held, hold = frozen_net()
    other = copy.deepcopy(model)
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer)
    for at, batch in enumerate(batches(6)):
        for m in (model, other):
            (loss_of(m, batch) / 3).backward()
        hold_other = Hold(other, *masks_of(other))
        grads = {n: p.grad.clone() for n, p in other.named_parameters() if p.grad is not None}
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            free = hold_other.free[name]
            assert torch.equal(raw(parameter.grad)[free], raw(grads[name])[free]), name
            assert not raw(parameter.grad)[~free].any(), name
        if at % 3 == 2:
            optimizer.step()
            hold.check()
            optimizer.zero_grad()
            other.load_state_dict(model.state_dict())
            other.zero_grad()


@pytest.mark.parametrize("to_none", [True, False])
def test_ways_to_clear_gradients(to_none: bool) -> None:
    model, held, hold = frozen_net()
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer)
    train(model, optimizer, hold, 6, to_none=to_none)
    held.check()


def test_held_gradients_do_not_count_in_the_norm() -> None:
    model, held, hold = frozen_net()
    other = copy.deepcopy(model)
    by_hand = Hold(other, *masks_of(other))
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer)
    (batch,) = batches(1)
    for m in (model, other):
        loss_of(m, batch).backward()
    unmasked = nn.utils.get_total_norm([p.grad for p in other.parameters() if p.grad is not None])
    by_hand.by_hand(parameter_grads=True)
    norms = [nn.utils.clip_grad_norm_(m.parameters(), 0.05) for m in (model, other)]
    assert same(*norms)
    assert norms[0] < unmasked
    assert norms[0] > 0.05
    assert_same(
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        {n: p.grad for n, p in other.named_parameters() if p.grad is not None},
    )
    optimizer.step()
    hold.check()


@pytest.mark.parametrize("kind", ["sgd-momentum", "adamw"])
def test_autocast(kind: str) -> None:
    model, held, hold = frozen_net()
    optimizer = make(kind, model)
    held.attach(optimizer)
    for batch in batches(4):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        hold.check()
        optimizer.zero_grad()
    held.check()
    assert min(hold.moved()[n] for n in ("conv.weight", "first.weight", "head.weight")) > 0.9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["sgd-momentum", "adamw"])
def test_a_scaler_and_a_step_that_it_skips(kind: str, way: str) -> None:
    model, held, hold = frozen_net()
    optimizer = make(kind, model, **WAYS[way])
    held.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scales = []
    for at, batch in enumerate(batches(5)):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        loss = loss_of(model, batch) * (float("inf") if at == 2 else 1.0)
        scaler.scale(loss).backward()
        if at == 3 and way != "fused":
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        hold.check()
        optimizer.zero_grad()
        scales.append(scaler.get_scale())
        unchanged = all(same(before[n], p) for n, p in model.named_parameters())
        assert unchanged == (at == 2)
    assert scales == [2.0**10] * 2 + [2.0**9] * 3
    assert hold.moved()["first.weight"] == 1


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("kind", ["sgd-momentum", "adamw"])
def test_gradients_at_held_places_may_be_anything(kind: str, value: float) -> None:
    """They reach neither the weights, nor clipping, nor the scaler's look for overflow."""
    states = []
    for poisoned in (True, False):
        model, held, hold = frozen_net()
        optimizer = make(kind, model)
        held.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        for batch in batches(3):
            scaler.scale(loss_of(model, batch)).backward()
            if poisoned:
                for name, parameter in model.named_parameters():
                    draw = torch.zeros(parameter.shape)
                    draw[~hold.free[name]] = value
                    torch.autograd.backward(parameter, draw)
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            hold.check()
            optimizer.zero_grad()
        assert scaler.get_scale() == 1.0
        assert hold.moved()["first.weight"] == 1
        states.append(state(model))
    assert_same(*states)


def test_every_weight_nan_but_those_held() -> None:
    model, held, hold = frozen_net()
    optimizer = make("adamw", model)
    held.attach(optimizer)
    (loss_of(model, batches(1)[0]) * math.nan).backward()
    optimizer.step()
    hold.check()
    assert bool(torch.isnan(model.first.weight[hold.free["first.weight"]]).all())


@pytest.fixture
def dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models(backend: str) -> None:
    states = []
    for compiles in (True, False):
        model, held, hold = frozen_net()
        optimizer = make("sgd-momentum", model)
        held.attach(optimizer)
        compiled: Any = torch.compile(model, backend=backend) if compiles else model
        for batch in batches(3):
            loss_of(compiled, batch).backward()
            optimizer.step()
            hold.check()
            optimizer.zero_grad()
        assert hold.moved()["first.weight"] == 1
        states.append(state(model))
    assert_same(*states)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["sgd-momentum", "adamw"])
def test_an_optimizer_with_momentum_from_before(kind: str, way: str) -> None:
    model = net()
    optimizer = make(kind, model, **WAYS[way])
    train(model, optimizer, Hold(model, {}, {}), 3)
    masks, frozen = masks_of(model)
    hold, held = Hold(model, masks, frozen), FrozenMask(model, masks, frozen)
    held.attach(optimizer)
    train(model, optimizer, hold)
    held.check()
    assert hold.moved()["first.weight"] == 1


def test_a_loaded_optimizer_state() -> None:
    model, held, hold = frozen_net()
    other = net()
    warm = make("sgd-momentum", other)
    train(other, warm, Hold(other, {}, {}), 3)
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer)
    optimizer.load_state_dict(warm.state_dict())
    (loss_of(model, batches(1)[0]) * 0).backward()
    optimizer.step()
    hold.check()
    held.check()
    assert hold.moved()["first.weight"] == 1  # by momentum alone


@pytest.mark.parametrize("share", [False, True])
def test_several_optimizers(share: bool) -> None:
    model, held, hold = frozen_net()
    parameters = list(model.parameters())
    parts = (parameters, parameters) if share else (parameters[:4], parameters[4:])
    first = torch.optim.SGD(parts[0], lr=0.1, momentum=0.9, weight_decay=0.1)
    second = torch.optim.AdamW(parts[1], lr=0.1)
    held.attach(first).attach(second)
    for batch in batches(4):
        loss_of(model, batch).backward()
        for optimizer in (first, second):
            optimizer.step()
            hold.check()
        model.zero_grad()
    held.check()
    assert hold.moved()["first.weight"] == hold.moved()["conv.weight"] == 1


def test_an_optimizer_that_needs_a_closure() -> None:
    model, held, hold = frozen_net()
    optimizer: Any = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, history_size=3)
    held.attach(optimizer)
    (batch,) = batches(1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        value: float = loss.item()
        return value

    for _ in range(2):
        optimizer.step(closure)
        hold.check()
    held.check()
    assert hold.moved()["first.weight"] == 1


def test_a_sparse_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True))
    frozen = {"0.weight": torch.rand(6, 4) < 0.5}
    hold, held = Hold(model, {}, frozen), FrozenMask(model, {}, frozen)
    optimizer: Any = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    held.attach(optimizer)
    for _ in range(3):
        model(torch.arange(6)).sum().backward()
        assert model.get_parameter("0.weight").grad is not None
        optimizer.step()
        hold.check()
        optimizer.zero_grad()
    held.check()
    assert hold.moved()["0.weight"] == 1


def test_attached_twice_and_detached() -> None:
    model, held, hold = frozen_net()
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer).attach(optimizer)
    train(model, optimizer, hold)
    held.detach()
    held.detach()
    assert not optimizer._optimizer_step_post_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    train(model, optimizer, Hold(model, {}, {}))
    with pytest.raises(FrozenChanged):
        held.check()
    held.restore()
    held.check()
    hold.check()
    with held.attach(optimizer) as entered:
        assert entered is held
        train(model, optimizer, hold)
        held.check()
    assert not optimizer._optimizer_step_post_hooks


def test_leaving_the_block_by_an_error_detaches() -> None:
    model, held, _ = frozen_net()
    optimizer = make("sgd", model)
    with pytest.raises(ZeroDivisionError), held.attach(optimizer):
        raise ZeroDivisionError
    assert not optimizer._optimizer_step_post_hooks


def test_weights_stay_plain_parameters() -> None:
    model = net()
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    keys, modules = list(model.state_dict()), list(model.named_modules())
    held = FrozenMask(model, *masks_of(model)).attach(make("adamw", model))
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert list(model.state_dict()) == keys
    assert list(model.named_modules()) == modules
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not module._backward_pre_hooks
        assert not nn.utils.parametrize.is_parametrized(module)
    for parameter in model.parameters():
        assert type(parameter) is nn.Parameter
        assert not parameter._backward_hooks
    copied = copy.deepcopy(model)
    held.detach()
    assert_same(state(copied), state(model))


# What would happen without one half of it.


@pytest.mark.usefixtures("without_restore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["sgd-momentum", "adamw"])
def test_decay_moves_frozen_weights_without_the_restore(kind: str, way: str) -> None:
    model, held, _ = frozen_net()
    optimizer = make(kind, model, **WAYS[way])
    held.attach(optimizer)
    loss_of(model, batches(1)[0]).backward()
    optimizer.step()
    with pytest.raises(FrozenChanged, match="frozen or masked weights changed"):
        held.check()


@pytest.mark.usefixtures("without_restore")
@pytest.mark.parametrize(
    "make_it",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    ],
    ids=["sgd", "adam", "rmsprop"],
)
def test_a_mask_on_the_gradient_alone_is_not_enough(make_it: Make) -> None:
    """Without any decay: what moves the weights is momentum of earlier steps."""
    model = net()
    optimizer = make_it(model.parameters())
    train(model, optimizer, Hold(model, {}, {}), 2)
    held = FrozenMask(model, *masks_of(model)).attach(optimizer)
    loss_of(model, batches(1)[0]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert not parameter.grad[~Hold(model, *masks_of(model)).free[name]].any()
    optimizer.step()
    with pytest.raises(FrozenChanged):
        held.check()


@pytest.mark.usefixtures("without_restore")
def test_a_mask_on_the_gradient_holds_plain_sgd() -> None:
    model, held, hold = frozen_net()
    optimizer = make("sgd", model)
    held.attach(optimizer)
    train(model, optimizer, hold)
    held.check()
    assert hold.moved()["first.weight"] == 1


@pytest.mark.usefixtures("without_clearing")
def test_the_restore_alone_lets_held_gradients_into_the_norm() -> None:
    model, held, hold = frozen_net()
    other, by_mask, _ = frozen_net()
    held.attach(make("sgd", model))
    by_mask.attach(make("sgd", other))
    (batch,) = batches(1)
    for m in (model, other):
        loss_of(m, batch).backward()
    Hold(other, *masks_of(other)).by_hand(parameter_grads=True)
    assert not same(*[nn.utils.clip_grad_norm_(m.parameters(), 0.05) for m in (model, other)])
    hold.check()


@pytest.mark.parametrize("count", [1, 3, 1234])
def test_check_counts_what_changed(count: int) -> None:
    model = nn.Sequential(nn.Linear(50, 50))
    held = FrozenMask(model, {}, {"0.weight": torch.ones(50, 50, dtype=torch.bool)})
    with torch.no_grad():
        model.get_parameter("0.weight").view(-1)[:count] += 1
    with pytest.raises(FrozenChanged, match=f"^0.weight: {count:,} frozen or masked weights") as e:
        held.check()
    assert (e.value.tensor, e.value.exit_code) == ("0.weight", 1)


@pytest.mark.parametrize(("was", "now"), [(-0.0, 0.0), (0.0, -0.0), (1.0, 1.0 + 2**-23)])
def test_check_sees_a_single_bit(was: float, now: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    weight = model.get_parameter("0.weight")
    with torch.no_grad():
        weight[1, 2] = was
        held = FrozenMask(model, {}, {"0.weight": torch.ones(4, 4, dtype=torch.bool)})
        weight[1, 2] = now
    with pytest.raises(FrozenChanged, match="1 frozen"):
        held.check()


def test_check_sees_a_masked_weight_that_is_minus_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    held = FrozenMask(model, {"0.weight": torch.zeros(4, 4, dtype=torch.bool)}, {})
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = -0.0
    with pytest.raises(FrozenChanged, match="1 frozen"):
        held.check()


def test_nan_payloads_are_held() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    weight = model.get_parameter("0.weight")
    payload = torch.tensor([0x7FC0_1234, 0x7F80_0001, -0x003F_FFFF], dtype=torch.int32)
    weight.data.view(-1)[:3] = payload.view(torch.float32)
    every = {"0.weight": torch.ones(4, 4, dtype=torch.bool)}
    held = FrozenMask(model, {}, every)
    assert torch.equal(raw(weight).flatten()[:3], payload)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    held.attach(optimizer)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(raw(weight).flatten()[:3], payload)
    held.check()


# What becomes of a model after its weights were frozen.


def linear() -> tuple[nn.Linear, Optimizer, FrozenMask, Tensor]:
    """Return a layer of which every other weight is frozen, and those bits."""
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    every_other = (torch.arange(24) % 2 == 0).view(4, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = FrozenMask(model, {}, {"weight": every_other}).attach(optimizer)
    return model, optimizer, held, raw(model.weight)[every_other]


CONVERSIONS: dict[str, Callable[[nn.Module], object]] = {
    "double": lambda model: model.double(),
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.to(torch.bfloat16),
}


@pytest.mark.parametrize("way", CONVERSIONS)
def test_a_model_that_is_converted_is_refused_at_the_next_step(way: str) -> None:
    model, optimizer, held, _ = linear()
    CONVERSIONS[way](model)
    now = str(model.weight.dtype).removeprefix("torch.")
    message = (
        rf"^weight: was float32 \[4, 6\] when its weights were frozen and is {now} \[4, 6\] now; "
        "convert the model first, then make the FrozenMask$"
    )
    before = model.weight.detach().clone()
    with pytest.raises(FrozenChanged, match=message):
        held.check()
    with pytest.raises(FrozenChanged, match=message):
        model(torch.ones(2, 6, dtype=model.weight.dtype)).sum().backward()
    assert same(model.weight, before)
    with pytest.raises(FrozenChanged, match=message):
        optimizer.step()


def test_another_shape_is_refused() -> None:
    model, _, held, _ = linear()
    model.weight.data = torch.ones(2, 6)
    with pytest.raises(
        FrozenChanged, match=r"^weight: was float32 \[4, 6\] .* is float32 \[2, 6\]"
    ):
        held.check()


REPLACEMENTS: dict[str, Callable[[nn.Module], object]] = {
    "assign": lambda model: model.load_state_dict(
        {n: t.clone() for n, t in model.state_dict().items()}, assign=True
    ),
    "parameter": lambda model: setattr(model, "weight", nn.Parameter(torch.ones(4, 6))),
    "parametrization": lambda model: nn.utils.parametrizations.weight_norm(model),
}


@pytest.mark.parametrize("way", REPLACEMENTS)
def test_a_parameter_that_is_replaced_is_refused_at_the_next_step(way: str) -> None:
    model, optimizer, held, _ = linear()
    REPLACEMENTS[way](model)
    message = "^weight: the model has another parameter in place of the one that was frozen; make"
    with pytest.raises(FrozenChanged, match=message):
        held.check()
    model(torch.ones(2, 6)).sum().backward()
    with pytest.raises(FrozenChanged, match=message):
        optimizer.step()


def test_a_state_that_is_loaded_into_the_same_parameters_is_held() -> None:
    """The next step puts the frozen bits back."""
    model, optimizer, held, bits = linear()
    model.load_state_dict({"weight": torch.ones(4, 6), "bias": torch.ones(4)})
    with pytest.raises(FrozenChanged, match=r"^weight: 12 frozen or masked weights changed"):
        held.check()
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    held.check()
    assert torch.equal(raw(model.weight).flatten()[::2], bits)


def test_a_model_that_goes_to_another_device_is_followed() -> None:
    """The meta device stands for one: it has no values, but tells whether the masks are there."""
    _, _, held, _ = linear()
    parameter = nn.Parameter(torch.ones(4, 6, device="meta"))
    parameter.grad = torch.ones_like(parameter)
    for one in held._held:
        one.clear(parameter)
        assert {one.free.device.type, one.bits.device.type} == {"meta"}


@pytest.mark.parametrize("kind", ["plain", "read-only", "backwards", "fortran"])
def test_masks_of_numpy(kind: str) -> None:
    mask = np.arange(24).reshape(4, 6) % 3 == 0
    given = {
        "plain": mask,
        "read-only": np.frombuffer(mask.tobytes(), bool).reshape(4, 6),
        "backwards": mask[::-1].copy()[::-1],
        "fortran": np.asfortranarray(mask),
    }[kind]
    model = nn.Linear(6, 4)
    before = raw(model.weight)
    FrozenMask(model, {"weight": given}, {"weight": given}).check()
    assert torch.equal(raw(model.weight), before * torch.from_numpy(mask))


# What is refused.

WRONG: list[tuple[str, Mapping[str, Any], Mapping[str, Any], str]] = [
    ("name", {"nix": torch.ones(1).bool()}, {}, "^nix: the model has no such parameter"),
    ("frozen-name", {}, {"nix": torch.ones(1).bool()}, "^nix: the model has no such parameter"),
    ("buffer", {}, {"norm.running_mean": torch.ones(4).bool()}, "no such parameter"),
    (
        "shape",
        {"head.weight": torch.ones(16, 3).bool()},
        {},
        r"^head.weight: a mask of torch.bool \[16, 3\] does not fit the parameter's \[3, 16\]",
    ),
    ("flat", {}, {"head.weight": torch.ones(48).bool()}, r"\[48\] does not fit .*\[3, 16\]"),
    (
        "dtype",
        {"head.weight": torch.ones(3, 16)},
        {},
        r"^head.weight: a mask of torch.float32 \[3, 16\] does not fit .*masks are bool",
    ),
    ("integers", {}, {"head.bias": torch.ones(3, dtype=torch.uint8)}, "a mask of torch.uint8"),
    ("numpy", {"head.bias": np.ones(3, np.int8)}, {}, r"^head.bias: a mask of torch.int8 \[3\]"),
    (
        "numpy-shape",
        {"head.bias": np.ones((3, 1), bool)},
        {},
        r"a mask of torch.bool \[3, 1\] does",
    ),
    (
        "objects",
        {"head.bias": [True, None, "x"]},
        {},
        "^head.bias: a mask cannot be a list of that",
    ),
    (
        "ragged",
        {"head.bias": [[True], []]},
        {},
        "^head.bias: a mask cannot be a list of that kind;",
    ),
    (
        "outside",
        {"head.bias": torch.tensor([True, False, True])},
        {"head.bias": torch.tensor([True, True, False])},
        "^head.bias: frozen weights lie outside the mask",
    ),
    (
        "tied-masks",
        {"first.weight": torch.ones(16, 16).bool(), "second.weight": torch.eye(16).bool()},
        {},
        "^second.weight: is tied to first.weight, and their masks differ; give one of them only",
    ),
    (
        "tied-frozen",
        {},
        {"first.weight": torch.ones(16, 16).bool(), "second.weight": torch.eye(16).bool()},
        "^second.weight: is tied to first.weight, and their masks differ",
    ),
]


@pytest.mark.parametrize(
    ("masks", "frozen", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_is_refused_leaves_the_model_as_it_was(
    masks: Mapping[str, Any], frozen: Mapping[str, Any], message: str
) -> None:
    model = net()
    before = state(model)
    with pytest.raises(UsageError, match=message) as caught:
        FrozenMask(model, {"conv.weight": torch.zeros(4, 2, 3, 3).bool(), **masks}, frozen)
    assert caught.value.exit_code == 2
    assert_same(state(model), before)


# Two processes; see pair.py.


def test_in_two_processes_held_bits_stay_and_free_weights_agree(pair: list[dict[str, Any]]) -> None:
    for rank in pair:
        assert rank["held"] == "held in every step"
        assert rank["held gradients"] == 0
        assert rank["moved"] == 1
    assert pair[0]["weights"] == pair[1]["weights"]
    assert pair[0]["own gradient"] != pair[1]["own gradient"]
