"""Masks of networks in memory are chosen as sparsify chooses those of files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from elsa_cli import sparsify
from elsa_cli.core.level import parse_levels
from elsa_cli.errors import AlreadyNested, InputError, NonFinite, UsageError
from elsa_cli.selection.eligible import Wanted
from elsa_cli.training.masks import MAX_LEVELS, Chosen, choose_again, from_state
from tests.helpers import read_safetensors
from tests.models.nested_files import STAGES, TEXT, change_weights, choose, plain, read, store
from tests.operations.models import save
from tests.training.tiny import assert_same

RULES: list[dict[str, Any]] = [
    {},
    {"scope": "layer"},
    {"distribution": "uniform"},
    {"distribution": "erk"},
    {"group": 4},
]


def of_state(state: dict[str, torch.Tensor], levels: Any = STAGES, **metadata: str) -> Chosen:
    return from_state(state, metadata, levels, 2)


@pytest.mark.parametrize("kind", ["normal", "ties", "weird"])
@pytest.mark.parametrize(
    ("include", "exclude"), [((), ()), (("*fc*",), ()), ((), ("F32.*", "*conv*"))]
)
def test_a_plain_file_is_chosen_as_sparsify_does(
    include: Sequence[str], exclude: Sequence[str], kind: str, tmp_path: Path
) -> None:
    """The same bytes, manifest and all."""
    path = plain(tmp_path, kind)
    sparsify(path, TEXT, tmp_path / "wanted", include=include, exclude=exclude)
    for threads in (1, 3):
        chosen = choose(path, STAGES, Wanted(include, exclude), threads)
        store(chosen.file, tmp_path / "found", threads)
        assert (tmp_path / "found").read_bytes() == (tmp_path / "wanted").read_bytes()


def test_a_nested_file_has_its_masks(tmp_path: Path) -> None:
    sparsify(plain(tmp_path), TEXT, tmp_path / "nested")
    with pytest.raises(AlreadyNested):
        choose(tmp_path / "nested")


def test_a_state_is_chosen_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it is laid out otherwise in memory; without a file in any folder."""
    wanted = choose(plain(tmp_path)).file
    state = dict(wanted.nested.values)
    name = "F32.conv.weight"
    state[name] = state[name].to(memory_format=torch.channels_last)
    state["F32.fc.weight"] = state["F32.fc.weight"].t().contiguous().t()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a file is opened")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    found = of_state(state, tied="first").file
    monkeypatch.undo()
    assert_same(found.nested.owner, wanted.nested.owner)
    assert_same(found.nested.values, wanted.nested.values)
    assert found.metadata == {"format": "pt", "tied": "first"}
    assert (found.method, found.seed, found.placement) == (wanted.method, 0, "auto")


def test_a_state_is_copied() -> None:
    weight = torch.randn(8, 8)
    before = weight.clone()
    chosen = of_state({"w": weight}).file.nested
    chosen.values["w"].zero_()
    assert torch.equal(weight, before)


def test_nothing_to_choose_from() -> None:
    with pytest.raises(UsageError, match="prunable"):
        of_state({"bias": torch.ones(4)})


def test_weights_that_are_not_finite() -> None:
    state = {"good": torch.ones(8, 8), "bad": torch.full((8, 8), float("nan"))}
    with pytest.raises(NonFinite, match=r"^the recipe's new model: bad: "):
        of_state(state)


def test_a_reserved_name() -> None:
    with pytest.raises(InputError, match=r"^the recipe's new model: elsa.mask.0.5: the name is re"):
        of_state({"w": torch.randn(8, 8), "elsa.mask.0.5": torch.ones(3)})


def test_too_many_levels() -> None:
    levels = parse_levels([str(n / 1000) for n in range(1, 252)])
    with pytest.raises(UsageError, match=r"^251 levels are too many to train; use 250 at most"):
        of_state({"w": torch.randn(40, 40)}, levels)
    nested = of_state({"w": torch.randn(40, 40)}, levels[:MAX_LEVELS]).file.nested
    assert nested.owner["w"].max() == MAX_LEVELS


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_masks_are_chosen_again_under_their_rule(
    rule: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    levels = "0.5,0.75" if "group" in rule else TEXT
    sparsify(plain(tmp_path), levels, tmp_path / "nested", method="random", seed=5, **rule)
    file = read(tmp_path / "nested")
    if kind == "normal":
        change_weights(file)
    else:
        for name, owner in file.nested.owner.items():
            value = file.nested.values[name]
            few = torch.tensor([0.5, -0.5, 1.0, 2.0])[torch.arange(owner.numel()) % 4]
            file.nested.values[name] = few.view(owner.shape).to(value.dtype)
    before = {n: o.clone() for n, o in file.nested.owner.items()}
    method = dict(file.method)
    found = choose_again(file, 2)
    assert_same(file.nested.owner, before)
    assert file.method == method
    assert any(not torch.equal(found[name], owner) for name, owner in before.items())
    assert_same(choose_again(file, 1), found)

    file.placement = "header"  # so that no masks are among the tensors
    store(file, tmp_path / "written")
    values, _ = read_safetensors(tmp_path / "written")
    save(tmp_path / "new", [(n, d, s, data) for n, (d, s, data) in values.items()])
    sparsify(tmp_path / "new", levels, tmp_path / "again", **rule)
    wanted = read(tmp_path / "again")
    assert_same(found, wanted.nested.owner)
    file.chosen_by_magnitude()
    assert file.method == wanted.method


def test_an_error_in_choosing_again_says_which_weights() -> None:
    file = of_state({"w": torch.randn(16, 16)}).file
    file.nested.values["w"][3, 3] = float("inf")
    with pytest.raises(NonFinite, match=r"^the weights after the joint phase: w: "):
        choose_again(file, 2)
