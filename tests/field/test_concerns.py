"""Choices that look wrong are named, by level and tensor, and others are not (A15, K12)."""

from __future__ import annotations

import json

import pytest
from torch import Tensor

from tests.field.tools import Field, normal

State = dict[str, Tensor]
DEAD = {  # A15
    "conv.weight": normal(32, 3, 7, 7, scale=0.3),
    "fc.weight": normal(10, 128, scale=0.001),
}
SMALL = {f"s{i}.weight": normal(8, 8, seed=i, scale=1e-6) for i in range(5)}
LARGE = {"large.weight": normal(32, 32, scale=10.0), "rest.weight": normal(128, 128)}
NAMELESS = {"a.foo": normal(32, 32), "b.foo": normal(64, 64), "c.bar.2": normal(8, 16)}

CASES: dict[str, tuple[State, str, list[str], list[str]]] = {
    "nothing of one tensor": (
        DEAD,
        "0.9",
        [],
        ["level 0.9 keeps nothing of 1 tensor: fc.weight; --scope layer gives each its share"],
    ),
    "its share": (DEAD, "0.9", ["--scope", "layer"], []),
    "nothing of several, at each level": (
        {**SMALL, "b.weight": normal(64, 64)},
        "0.9,0.5",
        [],
        [
            f"level {level} keeps nothing of 5 tensors: s0.weight, s1.weight, s2.weight and 2 "
            "more; --scope layer gives each its share"
            for level in ("0.9", "0.5")
        ],
    ),
    "nothing at all": (
        {"a.weight": normal(4, 4)},
        "0.99",
        [],
        ["level 0.99 keeps nothing of any tensor"],
    ),
    "nothing at all, by layer": (
        {"a.weight": normal(4, 4), "b.weight": normal(2, 8)},
        "0.99,0.5",
        ["--scope", "layer"],
        ["level 0.99 keeps nothing of any tensor"],
    ),
    "far more than its share": (
        LARGE,
        "0.8",
        [],
        [
            "level 0.8 keeps far more than its share of 1 tensor: large.weight (29 % of what is "
            "kept, 6 % of all); --exclude leaves a tensor dense"
        ],
    ),
    "a share that is no wonder": (LARGE, "0.2", [], []),
    "one tensor": ({"a.weight": normal(32, 32)}, "0.99,0.5", [], []),
    "names that no rule knows": (
        NAMELESS,
        "0.5",
        [],
        [
            "no rule knows the name of 3 tensors taken for weights: a.foo, b.foo, c.bar.2; "
            "--exclude leaves a tensor dense"
        ],
    ),
    "such a name, excluded": (
        {**NAMELESS, "d.weight": normal(8, 8)},
        "0.5",
        ["--exclude", "[abc].*"],
        [],
    ),
    "such a name, given a role": (
        NAMELESS,
        "0.5",
        ["--role", "*=weight"],
        [],
    ),
    "an embedding is included": (
        {"emb.weight": normal(50, 32), "fc1.weight": normal(32, 32)},
        "0.5",
        ["--include", "*"],
        ["--include takes 1 tensor of other roles than weight: emb.weight (embedding)"],
    ),
    "n:m": (LARGE, "0.5", ["--group", "4"], []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(field: Field, case: str) -> None:
    """On standard error, a line each; the same in --json; the exit code is 0 all the same."""
    tensors, levels, options, lines = CASES[case]
    choice = field.sparsify(tensors, *options, levels=levels)
    assert choice.warned == lines
    dry = field.run("sparsify", "model.safetensors", "--levels", levels, "--dry-run", *options)
    assert [line for line in dry.err.splitlines() if line.startswith("Warning")] == [
        f"Warning: {line}" for line in lines
    ]
    quiet = field.run("sparsify", "model.safetensors", "--levels", levels, "-q", *options)
    assert (quiet.code, quiet.err) == (0, "")


RECIPE = """
import torch
from torch import nn


def build_model():
    return nn.ModuleDict({"conv": nn.Conv2d(3, 32, 7, bias=False), "fc": nn.Linear(128, 10, False)})


def train_data():
    return [torch.zeros(1)]


def loss(model, batch):
    return sum(p.square().sum() for p in model.parameters())
"""


def test_training_says_the_same(field: Field) -> None:
    file, recipe = field.save(DEAD), field.write("recipe.py", RECIPE)
    line = (file, "--levels", "0.9", "--recipe", recipe, "--epochs", "0", "--joint-epochs", "0")
    done = field.run("freeze-train", *line, "--json")
    assert done.code == 0, done.err
    said = (
        "level 0.9 keeps nothing of 1 tensor: fc.weight; `elsa sparsify --scope layer` gives each "
        "its share"
    )
    assert json.loads(done.out)["warnings"] == [said]
    assert f"Warning: {said}" in done.err.splitlines()


@pytest.mark.parametrize("levels", ["0.5", "0.5,0.7,0.9", "0.97"])
def test_layers_of_one_size_are_not_warned_of(field: Field, levels: str) -> None:
    """Weights that are spread alike, in tensors from 150 to 40,000 of them."""
    tensors = {
        f"{width}.weight": normal(width, width, 3, 3, seed=width, scale=0.1)
        for width in (4, 8, 16, 32, 64)
    }
    assert field.sparsify(tensors, levels=levels).warned == []
