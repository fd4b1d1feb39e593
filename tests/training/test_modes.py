"""Modules that the recipe leaves in evaluation mode stay in it; a whole model in it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elsa_cli.models.network import Network
from elsa_cli.training.stepping import Setup
from tests.training.test_trainer import Keep, train
from tests.training.tiny import CPU, DATA, EVALUATE, raw

BODY = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))
        self.mid = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.mid(torch.tanh(self.body(x * 3 + 5))))
"""
FROZEN = """
def build_model():
    model = Net()
    for parameter in model.body.parameters():
        parameter.requires_grad_(False)
    model.body.eval()
    return model
"""
RESTING = """
def build_model():
    model = Net()
    model.body.eval()
    return model
"""
ALL_BUT_MID = """
def build_model():
    model = Net().eval()
    model.mid.train()
    return model
"""
WHOLE = """
def build_model():
    return Net().eval()
"""
WHOLE_FROZEN = """
def build_model():
    model = Net()
    for parameter in model.body.parameters():
        parameter.requires_grad_(False)
    return model.eval()
"""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
WAYS: dict[str, dict[str, Any]] = {
    "stages": {},
    "joint": {"joint_epochs": 1.0},
    "joint-shared": {"joint_epochs": 1.0, "norm": "shared"},
    "shared": {"norm": "shared"},
    "recalibrate": {"norm": "recalibrate"},
}
MODES = """
seen = []


def loss(model, batch):
    seen.append(tuple(name for name, module in model.named_modules() if not module.training))
    return F.cross_entropy(model(batch[0]), batch[1])
"""


def run(folder: Path, model: str, **options: Any) -> tuple[Setup, Keep, list[tuple[str, ...]]]:
    setup, keep, _ = train(folder, BODY, model, DATA, MODES, EVALUATE, **options)
    seen: list[tuple[str, ...]] = setup.recipe._functions["loss"].__globals__["seen"]
    return setup, keep, seen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "model",
    [FROZEN, RESTING, ALL_BUT_MID, WHOLE_FROZEN],
    ids=["frozen", "resting", "all but mid", "whole frozen"],
)
def test_statistics_of_what_rests_stay_and_are_stored_once(
    model: str, way: str, tmp_path: Path
) -> None:
    setup, keep, _ = run(tmp_path, model, **WAYS[way])
    nested = setup.ladder.nested
    torch.manual_seed(1)
    begins = setup.recipe.build_model().state_dict()
    for name in STATISTICS:
        for level in setup.ladder.stages:
            state = nested.state(level)
            assert torch.equal(raw(state[f"body.1.{name}"]), raw(begins[f"body.1.{name}"]))
            if way != "recalibrate" or name != "num_batches_tracked":
                assert not torch.equal(state[f"mid.{name}"], begins[f"mid.{name}"])
    per_level = {name for own in nested.per_level.values() for name in own}
    assert not [n for n in per_level if n.startswith("body.1.") and n.endswith(STATISTICS)]
    assert ("mid.running_mean" in per_level) == (not way.endswith("shared"))
    assert len(keep.notes) == (2 if model is WHOLE_FROZEN else 1)


@pytest.mark.parametrize("way", ["stages", "joint", "shared"])
def test_modes_of_every_step(way: str, tmp_path: Path) -> None:
    _, keep, seen = run(tmp_path, RESTING, **WAYS[way])
    resting = ("body", "body.0", "body.1", "body.2")
    assert set(seen) == {resting} | ({(*resting, "mid")} if way == "shared" else set())
    assert keep.notes == [
        "body stays in evaluation mode, as build_model() left it: there dropout is off, and "
        "running statistics stand still"
    ]


def test_a_part_inside_of_what_rests_may_be_trained(tmp_path: Path) -> None:
    _, keep, seen = run(tmp_path, ALL_BUT_MID)
    assert set(seen) == {("", "body", "body.0", "body.1", "body.2", "head")}
    assert keep.notes[0].startswith("body, head stays in evaluation mode, as")


def test_a_model_that_is_in_evaluation_mode_as_a_whole_is_trained(tmp_path: Path) -> None:
    """As `from_pretrained` gives it: of no part is said that it should stay so."""
    _, keep, seen = run(tmp_path, WHOLE)
    assert set(seen) == {()}
    assert keep.notes == [
        "build_model() leaves the whole model in evaluation mode, which says of no part that it "
        "is to stay so: it is trained in training mode"
    ]


def test_a_model_in_training_mode_is_no_matter(tmp_path: Path) -> None:
    _, keep, seen = run(tmp_path, "def build_model():\n    return Net()\n")
    assert set(seen) == {()}
    assert keep.notes == []


def test_a_module_that_does_more_than_its_flag_is_called() -> None:
    """Some switch more than the flag when they are put into training mode."""

    class Own(nn.Module):
        switched = 0

        def train(self, mode: bool = True) -> Any:
            self.switched += 1
            return super().train(mode)

    model = nn.Sequential(Own(), nn.Dropout())
    model[1].eval()
    network = Network(model, CPU)
    network.train()
    assert model[0].switched == 1
    assert [module.training for module in model.modules()] == [True, True, False]
