"""Whole runs in memory: what a stage ended with is what its level is, and every save goes on."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elsa_cli.errors import (
    FrozenChanged,
    InputError,
    Interrupted,
    NonFiniteLoss,
    RecipeError,
    UsageError,
)
from elsa_cli.training.events import PhaseReport, Tick, Watcher
from elsa_cli.training.freeze import FrozenMask
from elsa_cli.training.meter import Meter
from elsa_cli.training.options import TrainOptions
from elsa_cli.training.plan import Phase
from elsa_cli.training.resume import Saves
from elsa_cli.training.stepping import Setup
from elsa_cli.training.trainer import SAVE_SECONDS, Trainer
from tests.training.tiny import (
    DATA,
    EVALUATE,
    GENERATOR,
    LOSS,
    MODEL,
    PLAIN,
    SHUFFLED,
    TIED,
    WHOLE,
    assert_same,
    digest,
    load_recipe,
    magnitude_owners,
    make_ladder,
    make_setup,
    raw,
    same,
)

Options = dict[str, Any]
SGD: Options = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "lr": (0.1,)}
ADAMW: Options = {"optimizer": "adamw", "weight_decay": 0.1, "lr": (0.01,)}
JOINT: Options = {"joint_epochs": 1.0, "reselect": True}
NOISY = """
def loss(model, batch):  # as mixup does
    points, kinds = batch
    return F.cross_entropy(model(points * np.random.rand() + random.random()), kinds)
"""
OWN_OPTIMIZER = """
def optimizer(params):
    return torch.optim.SGD(params, lr=np.linspace(0.1, 0.2, 2)[1], momentum=0.9)


def schedule(optimizer, steps):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2])
"""
OWN_SCHEDULE: Options = {"optimizer": "recipe", "schedule": "recipe"}


class Keep(Watcher):
    """Keeps what it is told, and the model at the end of each phase."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.ends: dict[str, dict[str, Tensor]] = {}
        self.reports: list[PhaseReport] = []
        self.ticks: list[Tick] = []
        self.epochs: list[Tick] = []
        self.notes: list[str] = []
        self.rewound: list[int] = []

    def stepped(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def epoch_ended(self, tick: Tick) -> None:
        self.epochs.append(tick)

    def finished(self, report: PhaseReport) -> None:
        state = self.setup.ladder.network.model.state_dict()
        self.ends[report.phase] = {name: t.detach().clone() for name, t in state.items()}
        self.reports.append(report)

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def mark(self) -> int:
        return len(self.ticks) + len(self.epochs)

    def rewind(self, mark: int) -> None:
        self.rewound.append(mark)


class Copies(Saves):
    """Keeps a copy of every save."""

    def __init__(self, output: str, facts: Mapping[str, str]) -> None:
        super().__init__(output, facts)
        self.copies: list[str] = []

    def write(self, state: Mapping[str, Any]) -> None:
        super().write(state)
        self.copies.append(shutil.copy(self.path, f"{self.path}.{len(self.copies)}"))


def train(
    folder: Path,
    *parts: str,
    saves: Saves | None = None,
    watch: Callable[[Setup], Keep] = Keep,
    dtype: torch.dtype = torch.float32,
    levels: str = "0.8,0.5",
    **options: Any,
) -> tuple[Setup, Keep, list[PhaseReport]]:
    """Run a training of a new model."""
    recipe = load_recipe(folder, *(parts or WHOLE))
    length: Options = {} if "epochs" in options else {"steps": (3,)}
    chosen = TrainOptions(**({"joint_epochs": 0.0} | length | options))
    setup = make_setup(recipe, chosen, levels, dtype)
    keep = watch(setup)
    reports = Trainer(setup, saves, keep, lambda: magnitude_owners(setup.ladder.nested)).run()
    return setup, keep, reports


def result(setup: Setup) -> dict[str, Tensor]:
    """Return all that a run ends with."""
    nested = setup.ladder.nested
    found = {f"value {name}": tensor for name, tensor in nested.values.items()}
    found |= {f"owner {name}": tensor for name, tensor in nested.owner.items()}
    for level, own in nested.per_level.items():
        found |= {f"own {level} {name}": tensor for name, tensor in own.items()}
    return found


RUNS: dict[str, tuple[tuple[str, ...], Options]] = {
    "sgd": ((), SGD),
    "adamw": ((), ADAMW),
    "sgd-shared": ((), {**SGD, "norm": "shared"}),
    "adamw-shared": ((), {**ADAMW, "norm": "shared"}),
    "sgd-recalibrate": ((), {**SGD, "norm": "recalibrate"}),
    "adamw-recalibrate": ((), {**ADAMW, "norm": "recalibrate"}),
    "accumulate-clip": ((), {**SGD, "accumulate": 2, "clip_norm": 0.1}),
    "zero-bf16": ((), {**ADAMW, "init": "zero", "precision": "bf16"}),
    "joint-reselect": ((), {**SGD, **JOINT}),
    "joint-reselect-shared": ((), {**ADAMW, **JOINT, "norm": "shared", "accumulate": 2}),
    "joint-recalibrate": ((), {**SGD, "joint_epochs": 0.5, "norm": "recalibrate"}),
    "shuffled": ((MODEL, SHUFFLED, LOSS), SGD),
    "generator": ((MODEL, GENERATOR, LOSS), ADAMW),
    "tied": ((TIED, DATA, LOSS), SGD),
    "recipe": ((*WHOLE, OWN_OPTIMIZER), OWN_SCHEDULE),
}


@pytest.mark.parametrize("run", RUNS)
def test_each_level_is_what_its_stage_ended_with(run: str, tmp_path: Path) -> None:
    parts, options = RUNS[run]
    setup, keep, _ = train(tmp_path, *parts, **options)
    nested = setup.ladder.nested
    for stage, level in enumerate(setup.ladder.stages):
        assert_same(nested.state(level), keep.ends[str(level)])
        for name, owner in nested.owner.items():
            bits = raw(keep.ends[str(level)][name])
            assert not bits[owner > stage].any()
            assert float((bits[owner <= stage] != 0).double().mean()) > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e5m2])
@pytest.mark.parametrize("norm", ["per-level", "recalibrate"])
def test_each_level_of_a_narrow_checkpoint(norm: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """With evaluate the model shows what is stored, rounded."""
    setup, keep, reports = train(tmp_path, *WHOLE, EVALUATE, dtype=dtype, norm=norm, **SGD)
    for level in setup.ladder.stages:
        state = setup.ladder.nested.state(level)
        assert {t.dtype for t in state.values() if t.is_floating_point()} == {dtype}
        end = keep.ends[str(level)]
        assert_same({n: end[n].to(t.dtype) for n, t in state.items()}, state)
        wanted = {n: t.to(end[n].dtype) for n, t in state.items()}
        assert_same(end, wanted)
    assert all(list(report.metrics) == ["sum"] for report in reports)


def test_a_stage_moves_its_shell_alone(tmp_path: Path) -> None:
    setup, keep, _ = train(tmp_path, **SGD)
    nested = setup.ladder.nested
    for stage, (sparse, dense) in enumerate([("0.8", "0.5"), ("0.5", "dense")]):
        for name, owner in nested.owner.items():
            before, after = raw(keep.ends[sparse][name]), raw(keep.ends[dense][name])
            assert torch.equal(before[owner <= stage], after[owner <= stage])
            assert not before[owner == stage + 1].any()
            assert after[owner == stage + 1].all()
    assert not same(keep.ends["0.8"]["1.weight"], keep.ends["0.5"]["1.weight"])


@pytest.mark.parametrize("norm", ["shared", "recalibrate"])
def test_shared_norms_are_those_of_the_first_level(norm: str, tmp_path: Path) -> None:
    setup, keep, _ = train(tmp_path, norm=norm, **SGD)
    statistics = ["1.running_mean", "1.running_var"] if norm == "recalibrate" else []
    for level in setup.ladder.nested.levels:
        assert list(setup.ladder.nested.per_level[level]) == statistics
    for name in setup.ladder.small:
        equal = same(keep.ends["0.8"][name], keep.ends["dense"][name])
        assert equal == (name not in statistics), name


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_without_the_restore_the_run_fails(
    optimizer: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenMask, "restore", lambda self: None)
    with pytest.raises(FrozenChanged, match="frozen or masked weights changed"):
        train(tmp_path, **optimizer)


def test_what_is_written_to_a_frozen_weight_is_found(tmp_path: Path) -> None:
    class Writing(Keep):
        def stepped(self, tick: Tick) -> None:
            if (tick.phase, tick.step) == ("0.5", 3):
                weight = self.setup.ladder.network.slots["4.weight"].detach()
                at = (self.setup.ladder.nested.owner["4.weight"] == 0).nonzero()[0]
                weight[at[0], at[1]] = -weight[at[0], at[1]]

    with pytest.raises(FrozenChanged, match=r"^4.weight: 1 frozen or masked weights changed"):
        train(tmp_path, watch=Writing, **SGD)


def test_without_freezing_sparser_levels_are_lost(tmp_path: Path) -> None:
    """What the benchmarks measure, and what the tests above would see."""
    setup, keep, _ = train(tmp_path, freeze=False, **SGD)
    level = setup.ladder.stages[0]
    assert not same(setup.ladder.nested.state(level)["0.weight"], keep.ends["0.8"]["0.weight"])


def test_two_runs_are_one(tmp_path: Path) -> None:
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(random.randrange(2**31))
        results.append(result(train(tmp_path, **SGD, seed=seed)[0]))
    assert_same(results[0], results[1])
    assert not same(results[0]["value 0.weight"], results[2]["value 0.weight"])


@pytest.mark.parametrize("norm", ["per-level", "shared"])
def test_a_compiled_model_has_the_same_levels(
    norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that leaves the arithmetic as it is."""
    options: Options = {**SGD, "norm": norm, "joint_epochs": 0.5}
    plain, _, _ = train(tmp_path, PLAIN, DATA, LOSS, **options)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    setup, keep, _ = train(tmp_path, PLAIN, DATA, LOSS, compile=True, **options)
    torch._dynamo.reset()
    assert_same(result(setup), result(plain))
    for level in setup.ladder.stages:
        assert_same(setup.ladder.nested.state(level), keep.ends[str(level)])


def test_weights_that_are_tied_are_trained(tmp_path: Path) -> None:
    """The checkpoint of a new model has them once, under the first name."""
    recipe = load_recipe(tmp_path, TIED, *WHOLE[1:])
    options = TrainOptions(steps=(3,), **SGD)
    ladder = make_ladder(recipe, options, without=("b.weight",))
    before = ladder.nested.values["a.weight"].clone()
    whole = make_setup(recipe, options)
    setup = Setup(recipe, ladder, options, whole.group, whole.device)
    Trainer(setup).run()
    assert (raw(ladder.nested.values["a.weight"]) != raw(before)).double().mean() > 0.9


# Saves.

SAVED = [
    "sgd",
    "adamw-recalibrate",
    "accumulate-clip",
    "joint-reselect",
    "shuffled",
    "generator",
    "recipe",
    "numpy",
]
RUNS["numpy"] = ((MODEL, SHUFFLED, NOISY), SGD)


@pytest.mark.parametrize("run", SAVED)
def test_from_every_save_it_ends_with_the_same_bits(run: str, tmp_path: Path) -> None:
    parts, options = RUNS[run]
    parts = (*(parts or WHOLE), EVALUATE)
    more: Options = {"save_every": 1, "levels": "0.6", **options}
    saves = Copies(str(tmp_path / "out"), {})
    whole, kept, reports = train(tmp_path, *parts, saves=saves, **more)
    joint = kept.reports[0].steps if kept.reports[0].phase == "joint" else 0
    # Each step, each phase, and each level before it is measured.
    assert len(saves.copies) == joint + 2 * 3 + len(reports) + 2
    assert len(kept.ticks) == joint + 2 * 3
    for number, copy in enumerate(saves.copies):
        os.replace(copy, saves.path)
        again, keep, found = train(tmp_path, *parts, saves=Saves(str(tmp_path / "out"), {}), **more)
        assert_same(result(again), result(whole))
        without = [{**vars(report), "seconds": 0} for report in found]
        assert without == [{**vars(report), "seconds": 0} for report in reports]
        told = kept.ticks + kept.epochs
        assert keep.ticks == kept.ticks[len(kept.ticks) - len(keep.ticks) :], number
        assert keep.epochs == kept.epochs[len(kept.epochs) - len(keep.epochs) :], number
        assert keep.rewound == [len(told) - len(keep.ticks) - len(keep.epochs)]
        done = len(kept.ticks) - len(keep.ticks)
        total = len(kept.ticks)
        assert keep.notes == [f"continuing from the save at step {done} of {total}"]


def test_a_save_is_written_at_the_end_of_each_level_too(tmp_path: Path) -> None:
    saves = Copies(str(tmp_path / "out"), {})
    train(tmp_path, saves=saves, **SGD)
    assert len(saves.copies) == 3
    states = [torch.load(copy, weights_only=True) for copy in saves.copies]
    assert [(s["phase"], s["position"], s["live"]) for s in states] == [
        (n, [0, 0, 0], None) for n in (1, 2, 3)
    ]


def test_a_save_after_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("elsa_cli.training.trainer.time.monotonic", lambda: now[0])

    class Slow(Keep):
        def stepped(self, tick: Tick) -> None:
            now[0] += SAVE_SECONDS / 2

    saves = Copies(str(tmp_path / "out"), {})
    train(tmp_path, saves=saves, watch=Slow, levels="0.6", steps=(7, 0), **SGD)
    states = [torch.load(copy, weights_only=True) for copy in saves.copies]
    assert [(s["phase"], s["position"][0]) for s in states] == [(0, 4), (1, 0), (2, 0)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 4])
def test_a_signal_ends_the_step_saves_and_goes_on(number: int, at: int, tmp_path: Path) -> None:
    class Interrupting(Keep):
        def stepped(self, tick: Tick) -> None:
            if tick.done == at:
                signal.raise_signal(number)

    whole, _, _ = train(tmp_path, **SGD)
    before = signal.getsignal(number)
    saves = Saves(str(tmp_path / "out"), {})
    with pytest.raises(Interrupted) as caught:
        train(tmp_path, saves=saves, watch=Interrupting, **SGD)
    assert caught.value.exit_code == 128 + number
    assert str(caught.value) == (
        f"interrupted after {at + 1} of 9 steps, which are saved in {saves.path}; "
        "start it again with resume=True to continue from there"
    )
    assert signal.getsignal(number) is before
    again, _, _ = train(tmp_path, saves=saves, **SGD)
    assert_same(result(again), result(whole))


def test_a_signal_that_another_process_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one stops too, and says by its exit code that a signal was the reason."""
    fetch = Meter.fetch
    monkeypatch.setattr(Meter, "fetch", lambda *args: (True, fetch(*args)[1]))
    with pytest.raises(Interrupted, match=r"^interrupted after 1 of 9 steps$") as caught:
        train(tmp_path, **SGD)
    assert caught.value.exit_code in (130, 143)


def test_a_signal_without_a_place_for_saves(tmp_path: Path) -> None:
    class Interrupting(Keep):
        def stepped(self, tick: Tick) -> None:
            if tick.done == 1:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"^interrupted after 2 of 9 steps$"):
        train(tmp_path, watch=Interrupting, **SGD)


def test_losses_that_are_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the bits, what is told, and its order are the same."""
    whole, kept, _ = train(tmp_path, steps=(13,), **SGD)
    monkeypatch.setattr(Trainer, "_looks", lambda self, position: position.step % 10 == 0)
    again, keep, _ = train(tmp_path, steps=(13,), **SGD)
    assert_same(result(again), result(whole))
    assert [tick.loss for tick in keep.ticks] == [tick.loss for tick in kept.ticks]
    assert keep.ticks == kept.ticks
    assert keep.epochs == kept.epochs


def test_a_recipe_that_changed_since_the_save_is_noted(tmp_path: Path) -> None:
    saves = Copies(str(tmp_path / "out"), {})
    train(tmp_path, saves=saves, **SGD)
    os.replace(saves.copies[0], saves.path)
    _, keep, _ = train(tmp_path, *WHOLE, "# another\n", saves=saves, **SGD)
    assert keep.notes == [
        "the recipe has changed since the save",
        "continuing from the save at step 3 of 9",
    ]


# What goes wrong.

NAN_AT = """
def loss(model, batch):
    COUNT.append(0)
    factor = float("nan") if len(COUNT) == {} else 1.0
    return F.cross_entropy(model(batch[0]), batch[1]) * factor


COUNT = []
"""


def test_a_loss_that_is_nan_keeps_the_last_save(tmp_path: Path) -> None:
    saves = Copies(str(tmp_path / "out"), {})
    with pytest.raises(NonFiniteLoss) as caught:
        train(tmp_path, MODEL, DATA, NAN_AT.format(5), saves=saves, save_every=1, **SGD)
    assert str(caught.value) == (
        f"{tmp_path}/recipe.py: the loss is nan at step 2 of level 0.5; lower lr, or use "
        f"clip_norm; what was saved before is in {saves.path}"
    )
    state = saves.read()
    assert state is not None
    assert (state["phase"], state["position"][0]) == (1, 1)
    assert Path(saves.path).read_bytes() == Path(saves.copies[-1]).read_bytes()
    whole, _, _ = train(tmp_path, **SGD)
    again, keep, _ = train(tmp_path, saves=saves, **SGD)  # with a loss that is mended
    assert_same(result(again), result(whole))
    assert "continuing from the save at step 4 of 9" in keep.notes


def test_a_loss_that_is_nan_without_a_save(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteLoss, match=r"nan at step 1 of level 0.8; no step .* learning rate is not"
    ):
        train(tmp_path, MODEL, DATA, NAN_AT.format(1), **SGD)
    with pytest.raises(NonFiniteLoss, match=r"inf at step 1 of the joint phase"):
        train(tmp_path, MODEL, DATA, NAN_AT.format(1).replace("nan", "inf"), joint_epochs=1.0)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """A finite loss whose gradient is none: the step before is what is kept."""
    text = (
        "def loss(model, batch):\n    COUNT.append(0)\n"
        "    zero = (model[0].weight * (0.0 if len(COUNT) == 3 else 1.0)).sum()\n"
        "    return F.cross_entropy(model(batch[0]), batch[1]) + zero.abs().sqrt()\n\n"
        "COUNT = []\n"
    )
    saves = Copies(str(tmp_path / "out"), {})
    with pytest.raises(NonFiniteLoss, match=r"^0.weight: has NaN or infinite values"):
        train(tmp_path, MODEL, DATA, text, saves=saves, save_every=1, **SGD)
    state = saves.read()
    assert state is not None
    assert (state["phase"], state["position"][0]) == (0, 2)
    assert torch.isfinite(state["live"]["stepper"]["model"]["0.weight"]).all()


def test_an_error_in_the_backward_pass_is_the_recipe_s(tmp_path: Path) -> None:
    text = """
class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("no way back")


def loss(model, batch):
    return Wrong.apply(model(batch[0]))
"""
    with pytest.raises(RecipeError, match=r"recipe.py:\d+: loss, backward: ValueError: no way"):
        train(tmp_path, MODEL, DATA, text, **SGD)


def test_a_level_is_saved_before_it_is_measured(tmp_path: Path) -> None:
    """What evaluate raises costs no training: the level is measured again, not trained again."""
    broken = "def evaluate(model):\n    raise ValueError('no data to measure on')\n"
    saves = Saves(str(tmp_path / "out"), {})
    with pytest.raises(RecipeError, match="no data to measure on"):
        train(tmp_path, *WHOLE, broken, saves=saves, **SGD)
    again, keep, reports = train(tmp_path, *WHOLE, EVALUATE, saves=saves, **SGD)
    whole, kept, wanted = train(tmp_path, *WHOLE, EVALUATE, **SGD)
    assert_same(result(again), result(whole))
    assert [t.phase for t in keep.ticks] == ["0.5"] * 3 + ["dense"] * 3
    assert [{**vars(r), "seconds": 0} for r in reports] == [
        {**vars(r), "seconds": 0} for r in wanted
    ]
    assert [r.phase for r in keep.reports] == [r.phase for r in kept.reports]
    assert keep.notes == [
        "the recipe has changed since the save",
        "continuing from the save at step 3 of 9",
    ]


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_between_levels_is_heard(last: bool, tmp_path: Path) -> None:
    """Where a level has no steps, and where one is measured; only at the very end it is done."""
    calls = 3 if last else 1
    measuring = f"""
measured = 0


def evaluate(model):
    global measured
    measured += 1
    if measured == {calls}:
        import signal
        signal.raise_signal(signal.SIGUSR1)
    return 1.0
"""
    saves = Saves(str(tmp_path / "out"), {})
    if last:
        _, _, reports = train(tmp_path, *WHOLE, measuring, saves=saves, steps=(0,))
        assert len(reports) == 3
        return
    with pytest.raises(Interrupted) as caught:
        train(tmp_path, *WHOLE, measuring, saves=saves, steps=(0,))
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    state = saves.read()
    assert state is not None
    assert (state["phase"], state["measured"], len(state["reports"])) == (1, True, 1)


def test_a_damaged_save_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    saves = Saves(str(tmp_path / "out"), {})
    Path(saves.path).write_bytes(b"nonsense")
    with pytest.raises(InputError, match="delete it to start from"):
        train(tmp_path, saves=saves, **SGD)
    assert Path(saves.path).read_bytes() == b"nonsense"


# Plans, and what is told.


def phases(folder: Path, *parts: str, levels: str = "0.8,0.5", **options: Any) -> list[Phase]:
    recipe = load_recipe(folder, *(parts or WHOLE))
    chosen = TrainOptions(**({"joint_epochs": 0.0} | options))
    return Trainer(make_setup(recipe, chosen, levels)).phases


def test_plans(tmp_path: Path) -> None:
    assert phases(tmp_path) == [
        Phase("0.8", 0, 30, 1e-3),
        Phase("0.5", 1, 30, 1e-3),
        Phase("dense", 2, 30, 1e-3),
    ]
    assert [p.steps for p in phases(tmp_path, epochs=(1.0, 0.0, 0.5))] == [6, 0, 3]
    assert [p.steps for p in phases(tmp_path, epochs=(0.01,))] == [1, 1, 1]
    assert [p.steps for p in phases(tmp_path, epochs=(1.0,), accumulate=4)] == [1, 1, 1]
    assert [p.steps for p in phases(tmp_path, steps=(7, 0, 2))] == [7, 0, 2]
    assert [p.lr for p in phases(tmp_path, lr=(0.3, 0.2, 0.1))] == [0.3, 0.2, 0.1]
    assert [p.lr for p in phases(tmp_path, optimizer="sgd")] == [0.05] * 3
    assert [p.lr for p in phases(tmp_path, *WHOLE, OWN_OPTIMIZER)] == [None] * 3


def test_plans_with_a_joint_phase(tmp_path: Path) -> None:
    """Of one learning rate, levels begin with a third."""
    planned = phases(tmp_path, joint_epochs=1.5, lr=(0.3,), steps=(2,))
    assert planned[0] == Phase("joint", None, 9, 0.3)
    assert planned[1:] == [Phase(n, k, 2, 0.3 / 3) for k, n in enumerate(("0.8", "0.5", "dense"))]
    planned = phases(tmp_path, joint_epochs=1.0, lr=(0.1, 0.3, 0.2), steps=(2,))
    assert [p.lr for p in planned] == [0.3, 0.1, 0.3, 0.2]
    planned = phases(tmp_path, joint_epochs=1.0, lr=(0.3,), joint_lr=0.7, steps=(2,))
    assert [p.lr for p in planned] == [0.7] + [0.3 / 3] * 3
    planned = phases(tmp_path, *WHOLE, OWN_OPTIMIZER, joint_epochs=1.0, steps=(2,))
    assert [p.lr for p in planned] == [None] * 4


def test_four_fifths_are_spent_together_where_nothing_is_said(tmp_path: Path) -> None:
    planned = phases(tmp_path, joint_epochs=None, steps=(10, 0, 6), lr=(0.3,))
    assert [(p.name, p.steps) for p in planned] == [
        ("joint", 13),
        ("0.8", 2),
        ("0.5", 0),
        ("dense", 1),
    ]
    planned = phases(tmp_path, joint_epochs=None, epochs=(1.0,), lr=(0.3,))
    assert [p.steps for p in planned] == [15, 1, 1, 1]
    assert [p.steps for p in phases(tmp_path, joint_epochs=None, steps=(0,))] == [0, 0, 0]
    assert sum(p.steps for p in phases(tmp_path, joint_epochs=None)) == 90


def test_data_without_a_length_needs_steps(tmp_path: Path) -> None:
    parts = (MODEL, GENERATOR, LOSS)
    message = r"recipe.py: the recipe's train_data has no length, .*; use steps$"
    with pytest.raises(UsageError, match=message):
        phases(tmp_path, *parts)
    with pytest.raises(UsageError, match=message):
        phases(tmp_path, *parts, steps=(3,), joint_epochs=1.0)
    assert [p.steps for p in phases(tmp_path, *parts, steps=(3,))] == [3, 3, 3]
    assert [p.steps for p in phases(tmp_path, *parts, epochs=(0.0,))] == [0, 0, 0]


@pytest.mark.parametrize("name", ["epochs", "steps", "lr"])
def test_another_number_of_values_than_levels(name: str, tmp_path: Path) -> None:
    options: Options = {name: (1, 2)}
    with pytest.raises(UsageError, match=rf"^--{name} has 2 values for 3 levels"):
        phases(tmp_path, **options)


def test_what_is_told(tmp_path: Path) -> None:
    _, keep, reports = train(tmp_path, epochs=(1.5,), joint_epochs=1.0, **SGD)
    names = ["joint", "0.8", "0.5", "dense"]
    assert [report.phase for report in reports] == names
    assert reports == keep.reports
    assert [report.steps for report in reports] == [6, 9, 9, 9]
    assert [tick.done for tick in keep.ticks] == list(range(1, 34))
    assert {tick.total for tick in keep.ticks} == {33}
    assert {(tick.phase, tick.number, tick.phases) for tick in keep.ticks} == {
        (name, number, 4) for number, name in enumerate(names, 1)
    }
    assert [(t.phase, t.epoch, t.step) for t in keep.epochs] == [
        ("joint", 1, 6),
        *[(name, *end) for name in names[1:] for end in ((1, 6), (2, 9))],
    ]
    last = [tick for tick in keep.ticks if tick.phase == "0.5"][-3:]
    assert last[2].mean_loss == sum(tick.loss for tick in last) / 3
    assert reports[2].loss == last[2].mean_loss
    assert (keep.ticks[0].lr, keep.ticks[6].lr) == (0.1, 0.1 / 3)
    assert keep.ticks[14].lr < 0.01


def test_no_steps_leave_all_as_it_was(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, *WHOLE)
    before = make_setup(recipe).ladder.nested.values
    setup, keep, reports = train(tmp_path, steps=(0,), **SGD)
    assert_same(setup.ladder.nested.values, before)
    assert [(report.steps, report.loss) for report in reports] == [(0, None)] * 3
    assert keep.ticks == []
    assert setup.ladder.nested.per_level == {level: {} for level in setup.ladder.nested.levels}


def test_an_empty_shell_with_shared_norms(tmp_path: Path) -> None:
    """There is nothing to train, and the run goes on."""
    recipe = load_recipe(tmp_path, *WHOLE)
    setup = make_setup(recipe, TrainOptions(steps=(2,), joint_epochs=0.0, norm="shared", **SGD))
    for owner in setup.ladder.nested.owner.values():
        owner[owner == 1] = 2
    keep = Keep(setup)
    reports = Trainer(setup, watcher=keep).run()
    assert [report.loss for report in reports][1] == 0.0
    sparse, half, _ = (setup.ladder.nested.state(level) for level in setup.ladder.stages)
    assert_same(sparse, half)


def test_evaluation_sees_each_level_and_disturbs_nothing(tmp_path: Path) -> None:
    drawing = EVALUATE.replace("return", "torch.rand(7)\n    model.extra = 3\n    return")
    plain, _, _ = train(tmp_path, **SGD)
    setup, _, reports = train(tmp_path, *WHOLE, drawing, **SGD)
    assert_same(result(setup), result(plain))
    for report, level in zip(reports, setup.ladder.stages, strict=True):
        state = setup.ladder.nested.state(level)
        parameters = dict(setup.ladder.network.model.named_parameters())
        assert report.metrics["sum"] == sum(float(state[n].double().sum()) for n in parameters)


def test_evaluation_is_repeatable(tmp_path: Path) -> None:
    text = "def evaluate(model):\n    return float(torch.rand(())) + np.random.rand()\n"
    _, _, reports = train(tmp_path, *WHOLE, text, **SGD)
    assert len({report.metrics["metric"] for report in reports}) == 1


@pytest.mark.parametrize("choice", [True, False])
def test_masks_chosen_again_are_of_the_joint_weights(choice: bool, tmp_path: Path) -> None:
    setup, keep, _ = train(tmp_path, joint_epochs=1.0, reselect=choice, **SGD)
    fresh = make_setup(load_recipe(tmp_path, *WHOLE)).ladder.nested
    nested = setup.ladder.nested
    joint = {name: keep.ends["joint"][name] for name in nested.owner}
    fresh.values |= joint
    for name, owner in (magnitude_owners(fresh) if choice else fresh.owner).items():
        assert torch.equal(nested.owner[name], owner)


def test_two_batches_a_step_are_as_two_processes(
    pair: list[dict[str, Any]], tmp_path: Path
) -> None:
    setup, _, _ = train(tmp_path, PLAIN, DATA, LOSS, steps=(3,), accumulate=2, clip_norm=0.1)
    ends = {str(level): digest(setup.ladder.nested.state(level)) for level in setup.ladder.stages}
    assert pair[0]["training"]["as one"]["ends"] == ends


def test_the_hint_of_a_nan_has_no_place_of_a_save_that_is_not(tmp_path: Path) -> None:
    saves = Saves(str(tmp_path / "out"), {})
    with pytest.raises(NonFiniteLoss) as caught:
        train(tmp_path, MODEL, DATA, NAN_AT.format(1), saves=saves, **SGD)
    assert "saved" not in str(caught.value)
    assert not saves.exists
