"""A phase in which nothing gets a gradient is an error; what is not used is named in a note."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elsa_cli.errors import NoGradient
from elsa_cli.training.gradients import CHANCE, EARLY, GradientWatch
from elsa_cli.training.ladder import Ladder
from elsa_cli.training.options import TrainOptions
from elsa_cli.training.resume import Saves
from elsa_cli.training.stepping import Setup
from elsa_cli.training.trainer import Trainer
from tests.training.test_trainer import Copies, Keep, train
from tests.training.tiny import DATA, LOSS, PLAIN, load_recipe, make_setup

LANGUAGE = """
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self, reentrant, aux):
        super().__init__()
        self.reentrant = reentrant
        self.embed = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.lm_head = nn.Linear(16, 32)
        if aux:
            self.aux = nn.Linear(16, 4)

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = h + checkpoint(lambda t, b=block: torch.tanh(b(t)), h, use_reentrant=self.reentrant)
        return self.lm_head(h)


def build_model(*, reentrant: bool = True, aux: bool = False):
    return Net(reentrant, aux)


def train_data():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 32, (8, 5), generator=generator) for _ in range(10)]
    return [(x, (x + 1) % 32) for x in batches]


def loss(model, batch):
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())
"""
DROPPED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.steps = 0

    def forward(self, x):
        self.steps += 1
        for number, block in enumerate(self.blocks):
            if self.steps % 4 == number + 1:  # and in every fourth step none at all
                x = torch.tanh(block(x))
        return x


def build_model():
    return Net()
"""
CUT = """
def loss(model, batch):
    return F.cross_entropy(model(batch[0]).detach(), batch[1])
"""
WARMED = """
calls = 0


def loss(model, batch):  # for some steps the last layer alone
    global calls
    calls += 1
    h = model[1](model[0](batch[0]))
    return F.cross_entropy(model[3](h.detach() if calls <= 25 else h), batch[1])
"""
LEVELS = "0.5"
CUT_LINE = (
    "that level dense trains got a gradient in any of {steps} steps, so nothing was trained; "
    "something cuts it off from the loss: checkpoint(…, use_reentrant=True) does so if "
    "the layers below are frozen, as embeddings are after the sparsest level (use "
    "use_reentrant=False); detach() and no_grad() do so too"
)


def language(folder: Path, **options: Any) -> Any:
    """Train with embeddings and head left dense, as sparsify leaves them."""
    settings = options.pop("settings", {})
    recipe = load_recipe(folder, LANGUAGE, settings=settings)
    chosen = TrainOptions(**{"joint_epochs": 0.0, "steps": (EARLY + 5,), **options})
    setup = make_setup(recipe, chosen, LEVELS)
    for name in ("embed.weight", "lm_head.weight"):
        del setup.ladder.nested.owner[name]
    ladder = Ladder(setup.ladder.nested, setup.ladder.network, chosen)
    setup = Setup(recipe, ladder, chosen, setup.group, setup.device)
    keep = Keep(setup)
    return Trainer(setup, watcher=keep).run, keep


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_that_reentrant_checkpointing_cuts_off(accumulate: int, tmp_path: Path) -> None:
    """The bias of the head still gets a gradient: the level's weights do not."""
    run, keep = language(tmp_path, accumulate=accumulate)
    with pytest.raises(NoGradient) as caught:
        run()
    assert str(caught.value) == (
        f"{tmp_path}/recipe.py: no weight {CUT_LINE.format(steps=EARLY + 5)}"
    )
    assert caught.value.exit_code == 1
    assert [report.phase for report in keep.reports] == ["0.5"]
    assert keep.notes == [f"no weight of level dense got a gradient in any of {EARLY} steps yet"]


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_with_shared_norms_nothing_at_all_gets_a_gradient(tmp_path: Path) -> None:
    run, _ = language(tmp_path, norm="shared")
    with pytest.raises(NoGradient) as caught:
        run()
    assert f"no parameter {CUT_LINE.format(steps=EARLY)}" in str(caught.value)


def test_without_reentrance_it_is_trained(tmp_path: Path) -> None:
    run, keep = language(tmp_path, settings={"reentrant": "false"})
    assert [report.without_gradient for report in run()] == [(), ()]
    assert keep.notes == []


def test_a_head_that_is_not_used_is_named(tmp_path: Path) -> None:
    run, keep = language(tmp_path, settings={"reentrant": "false", "aux": "true"})
    first, second = run()
    assert first.without_gradient == second.without_gradient == ("aux.bias", "aux.weight")
    assert keep.notes == [
        f"level {level}: 2 parameters got no gradient in any of {EARLY + 5} steps: aux.bias, "
        "aux.weight"
        for level in ("0.5", "dense")
    ]


@pytest.mark.parametrize("options", [{}, {"joint_epochs": 2.0}, {"accumulate": 2}])
def test_layers_that_are_left_out_now_and_then_are_no_matter(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Even where a step trains nothing."""
    _, keep, reports = train(tmp_path, DROPPED, DATA, LOSS, steps=(8,), norm="shared", **options)
    assert {report.without_gradient for report in reports} == {()}
    assert keep.notes == []


@pytest.mark.parametrize("options", [{}, {"joint_epochs": 1.0}])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_loss_that_is_cut_off(options: dict[str, Any], steps: int, tmp_path: Path) -> None:
    name = "the joint phase" if options else "level 0.8"
    made = 6 if options else steps
    of = f"in any of {made} steps" if made > 1 else "in its one step"
    with pytest.raises(NoGradient, match=f"no parameter that {name} trains got a gradient {of},"):
        train(tmp_path, PLAIN, DATA, CUT, steps=(steps,), **options)


def test_a_loss_that_is_cut_off_ends_a_long_phase_early(tmp_path: Path) -> None:
    with pytest.raises(NoGradient, match=f"in any of {EARLY} steps"):
        train(tmp_path, PLAIN, DATA, CUT, steps=(1000,))


def test_a_warm_up_is_no_error(tmp_path: Path) -> None:
    _, keep, reports = train(tmp_path, PLAIN, DATA, WARMED, steps=(30, 3, 3))
    assert {report.without_gradient for report in reports} == {()}
    assert keep.notes == []


def test_levels_without_steps_are_no_error(tmp_path: Path) -> None:
    _, keep, reports = train(tmp_path, PLAIN, DATA, CUT, steps=(0,))
    assert [report.without_gradient for report in reports] == [()] * 3
    assert keep.notes == []


def test_a_shell_that_is_empty_is_no_error(tmp_path: Path) -> None:
    """At levels so near to each other that no weight lies between, only norms are trained."""
    _, keep, reports = train(tmp_path, PLAIN, DATA, LOSS, levels="0.5001,0.5", norm="shared")
    assert {report.without_gradient for report in reports} == {()}
    assert keep.notes == []


def test_what_was_seen_before_a_save_counts_after_it(tmp_path: Path) -> None:
    """A layer that had its gradient before the save and none later."""
    once = """
calls = 0


def loss(model, batch):
    global calls
    calls += 1
    h = model[1](model[0](batch[0]))
    return F.cross_entropy(model[3](h if calls == 1 else h.detach()), batch[1])
"""
    saves = Copies(str(tmp_path / "out"), {})
    more: dict[str, Any] = {"steps": (4, 0, 0), "save_every": 1}
    whole = train(tmp_path, PLAIN, DATA, once, saves=saves, **more)
    assert whole[2][0].without_gradient == ()
    (tmp_path / "out.resume").write_bytes(Path(saves.copies[1]).read_bytes())
    later = once.replace("calls = 0", "calls = 2")
    again = train(tmp_path, PLAIN, DATA, later, saves=Saves(str(tmp_path / "out"), {}), **more)
    assert again[2][0].without_gradient == ()


def watch(*names: str) -> tuple[GradientWatch, dict[str, nn.Parameter]]:
    parameters = {name: nn.Parameter(torch.ones(2)) for name in names}
    return GradientWatch(parameters, {"w", "v"}), parameters


def test_each_is_looked_at_until_it_is_seen() -> None:
    found, parameters = watch("w", "v", "b")
    for name, left in (("v", ["b", "w"]), ("w", ["b"]), ("b", [])):
        parameters[name].grad = torch.zeros(2)
        found.look()
        parameters[name].grad = None
        assert found.missing == left
    assert found._waiting == {}
    assert found.judge("level 0.5", 3, "recipe.py", ended=True) is None


def test_in_a_few_steps_weights_may_all_be_left_out() -> None:
    found, parameters = watch("w", "b")
    parameters["b"].grad = torch.zeros(2)
    found.look()
    for steps in range(1, CHANCE):
        note = found.judge("level 0.5", steps, "recipe.py", ended=True)
        assert note is not None
        assert note.startswith("level 0.5: a parameter got no gradient in")
    with pytest.raises(NoGradient):
        found.judge("level 0.5", CHANCE, "recipe.py", ended=True)
