"""A nested network in memory: one owner a weight stands for the masks of all levels."""

from __future__ import annotations

import pytest
import torch

from elsa_cli.core.level import DENSE, parse_levels
from elsa_cli.models.nested import Nested, owner_of
from tests.training.tiny import LEVELS, random_owner, raw, same


def nested(dtype: torch.dtype = torch.bfloat16) -> Nested:
    """Return two prunable matrices with -0.0 in every shell, a vector, and a per-level vector."""
    torch.manual_seed(0)
    values = {name: torch.randn(8, 6).to(dtype) for name in ("a.weight", "b.weight")}
    owner = {
        name: random_owner(t.shape, LEVELS, seed) for seed, (name, t) in enumerate(values.items())
    }
    for name, tensor in values.items():
        for stage in range(3):
            where = (owner[name] == stage).flatten().nonzero()[0, 0]
            tensor.view(-1)[where] = -0.0
    values |= {"norm.bias": torch.zeros(8, dtype=dtype), "table": torch.arange(4)}
    levels = parse_levels(LEVELS)
    return Nested(levels, values, owner, {levels[0]: {"norm.bias": torch.ones(8, dtype=dtype)}})


def test_owners_of_nested_masks() -> None:
    masks = [
        torch.tensor([[1, 0, 0, 0]]).bool(),
        torch.tensor([[1, 1, 0, 0]]).bool(),
        torch.tensor([[1, 1, 1, 0]]).bool(),
    ]
    owner = owner_of(masks)
    assert owner.dtype == torch.uint8
    assert owner.tolist() == [[0, 1, 2, 3]]
    for stage, mask in enumerate(masks):
        assert torch.equal(owner <= stage, mask)


def test_owners_of_random_masks() -> None:
    torch.manual_seed(0)
    draw = torch.rand(50, 7)
    masks = [draw < part for part in (0.0, 0.1, 0.3, 0.3, 1.0)]
    owner = owner_of(masks)
    for stage, mask in enumerate(masks):
        assert torch.equal(owner <= stage, mask)


def test_the_state_of_a_level_is_zero_outside_and_bits_inside() -> None:
    found = nested()
    assert found.stages == (*found.levels, DENSE)
    for stage, level in enumerate(found.stages):
        state = found.state(level)
        assert list(state) == list(found.values)
        for name, tensor in state.items():
            if name in found.owner:
                keep = found.owner[name] <= stage
                assert torch.equal(found.masks(stage)[name], keep)
                assert torch.equal(raw(tensor)[keep], raw(found.values[name])[keep])
                assert not raw(tensor)[~keep].any()
            elif name == "norm.bias" and not stage:
                assert same(tensor, found.per_level[level][name])
            else:
                assert same(tensor, found.values[name])


def test_counts_of_kept_weights() -> None:
    found = nested()
    numel = 48
    for name in found.owner:
        assert found.kept(name) == tuple(level.kept(numel) for level in found.levels)


def test_a_level_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"not in tuple"):
        nested().state(parse_levels("0.3")[0])
