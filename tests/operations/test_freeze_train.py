"""Whole trainings by the public function: a checkpoint is opened once, a resumed run ends alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from elsa_cli import load_level, pack, sparsify, verify
from elsa_cli.models.recipe import Recipe
from elsa_cli.operations.evaluate import evaluate
from elsa_cli.operations.freeze_train import freeze_train
from elsa_cli.training.events import PhaseReport, Watcher
from elsa_cli.training.options import TrainOptions
from tests.models.nested_files import read
from tests.training.tiny import EVALUATE, WHOLE, assert_same, clean_imports, raw, write_recipe

OPENED: list[str] | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None and isinstance(arguments[0], str | Path):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_hear)  # hears of every kind of open, and cannot be taken back


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with clean_imports():
        yield


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths that are opened from now on, as they are given."""
    global OPENED
    OPENED = []
    yield OPENED
    OPENED = None


@pytest.mark.parametrize("kind", ["plain", "nested", "packed"])
def test_a_checkpoint_is_opened_once(kind: str, opened: list[str], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, *WHOLE, EVALUATE)
    path = tmp_path / "m.safetensors"
    save_file(Recipe(recipe).build_model().state_dict(), path)
    if kind != "plain":
        sparsify(path, "0.8,0.5", tmp_path / "nested")
        path = tmp_path / "nested"
    if kind == "packed":
        pack(path, tmp_path / "packed")
        path = tmp_path / "packed"
    opened.clear()
    levels = "0.8,0.5" if kind == "plain" else None
    options = TrainOptions(steps=(2,), reselect=True)
    out = tmp_path / "out"
    freeze_train(path, recipe, out, levels=levels, options=options, device="cpu")
    assert opened.count(str(path)) == 1
    if kind != "plain":
        opened.clear()
        evaluate(path, recipe, device="cpu")
        assert opened.count(str(path)) == 1


class StopAfter(Watcher):
    """Ends the run behind a phase, as a crash would."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def finished(self, report: PhaseReport) -> None:
        self.ended = report.phase

    def stepped(self, tick: Any) -> None:
        if tick.phase == self.phase:
            raise ZeroDivisionError


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_a_run_that_went_on_behind_its_joint_phase_writes_the_same_file(
    method: str, tmp_path: Path
) -> None:
    """Masks chosen again, and how they were chosen: the manifest is part of the bits."""
    recipe = write_recipe(tmp_path, *WHOLE)
    options = TrainOptions(steps=(2,), joint_epochs=1.0, reselect=True)
    model, nested = tmp_path / "m.safetensors", tmp_path / "m.elsa.safetensors"
    generator = torch.Generator().manual_seed(0)
    state = Recipe(recipe).build_model().state_dict()
    save_file(
        {
            n: torch.randn(t.shape, generator=generator).abs() if t.is_floating_point() else t
            for n, t in state.items()
        },
        model,
    )
    sparsify(model, "0.8,0.5", nested, method=method)
    outs = [tmp_path / "whole", tmp_path / "resumed"]
    freeze_train(nested, recipe, outs[0], options=options, device="cpu")
    with pytest.raises(ZeroDivisionError):
        freeze_train(
            nested, recipe, outs[1], options=options, device="cpu", watcher=StopAfter("0.5")
        )
    assert Path(f"{outs[1]}.resume").exists()
    freeze_train(nested, recipe, outs[1], options=options, device="cpu", resume=True)
    assert outs[1].read_bytes() == outs[0].read_bytes()
    assert verify(outs[0]).ok
    assert read(outs[0]).method["name"] == "magnitude"


def test_training_again_begins_with_what_each_level_has(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, *WHOLE)
    first, second = tmp_path / "first", tmp_path / "second"
    options = TrainOptions(steps=(3,))
    freeze_train(None, recipe, first, levels="0.8,0.5", options=options, device="cpu")
    freeze_train(first, recipe, second, options=TrainOptions(steps=(0,)), device="cpu")
    for level in ("0.8", "0.5", "dense"):
        assert_same(load_level(second, level), load_level(first, level))
    assert not torch.equal(
        raw(load_level(first, "0.8")["1.running_mean"]),
        raw(load_level(first, "dense")["1.running_mean"]),
    )
