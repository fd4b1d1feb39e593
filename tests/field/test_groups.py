"""n:m groups run along the inputs of a weight, wherever these lie in its shape (A8, K5)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.field.tools import Field, normal

State = dict[str, Tensor]

# By the kind of network: its tensors, and the input dimension of those that are pruned.
KINDS: dict[str, tuple[State, dict[str, int], dict[str, str]]] = {
    "linear and convolution": (
        {"fc.weight": normal(16, 64), "conv.weight": normal(8, 16, 3, 3), "conv.bias": normal(8)},
        {"fc.weight": 1, "conv.weight": 1},
        {},
    ),
    "Conv1D of GPT-2, one layer (A8)": (
        {"h.0.mlp.c_fc.weight": normal(16, 64)},
        {"h.0.mlp.c_fc.weight": 0},
        {},
    ),
    "Conv1D of GPT-2": (
        {
            "h.0.attn.c_attn.weight": normal(16, 48),
            "h.0.attn.c_attn.bias": normal(48),
            "h.0.attn.c_proj.weight": normal(16, 16),
            "h.0.attn.c_proj.bias": normal(16),
            "h.0.mlp.c_fc.weight": normal(16, 64),
            "h.0.mlp.c_fc.bias": normal(64),
            "h.0.mlp.c_proj.weight": normal(64, 16),
            "h.0.mlp.c_proj.bias": normal(16),
        },
        {
            "h.0.attn.c_attn.weight": 0,
            "h.0.attn.c_proj.weight": 0,
            "h.0.mlp.c_fc.weight": 0,
            "h.0.mlp.c_proj.weight": 0,
        },
        {},
    ),
    "the same names as linear layers (nanoGPT)": (
        {
            "h.0.attn.c_attn.weight": normal(48, 16),
            "h.0.attn.c_proj.weight": normal(16, 16),
            "h.0.mlp.c_fc.weight": normal(64, 16),
            "h.0.mlp.c_proj.weight": normal(16, 64),
        },
        {
            "h.0.attn.c_attn.weight": 1,
            "h.0.attn.c_proj.weight": 1,
            "h.0.mlp.c_fc.weight": 1,
            "h.0.mlp.c_proj.weight": 1,
        },
        {},
    ),
    "transposed convolution by its name (A8)": (
        {"up.weight": normal(8, 16, 4, 4)},
        {"up.weight": 0},
        {},
    ),
    "transposed convolution by its bias": (
        {"block.weight": normal(8, 16, 3, 3), "block.bias": normal(16)},
        {"block.weight": 0},
        {},
    ),
    "a convolution that is called up": (
        {"up.weight": normal(8, 16, 3, 3), "up.bias": normal(8)},
        {"up.weight": 1},
        {},
    ),
    "fused experts, (experts, in, out)": (
        {
            "l.0.mlp.experts.gate_up_proj": normal(4, 16, 48),
            "l.0.mlp.experts.down_proj": normal(4, 24, 16),
        },
        {"l.0.mlp.experts.gate_up_proj": 1, "l.0.mlp.experts.down_proj": 1},
        {},
    ),
    "fused experts, (experts, out, in)": (
        {
            "l.0.mlp.experts.gate_up_proj": normal(4, 48, 16),
            "l.0.mlp.experts.down_proj": normal(4, 16, 24),
        },
        {"l.0.mlp.experts.gate_up_proj": 2, "l.0.mlp.experts.down_proj": 2},
        {},
    ),
    "fused experts by their bias": (
        {
            "l.0.mlp.experts.gate_up_proj": normal(4, 16, 48),
            "l.0.mlp.experts.gate_up_proj_bias": normal(4, 48),
        },
        {"l.0.mlp.experts.gate_up_proj": 1},
        {},
    ),
    "Flax": (
        {"params/dense/kernel": normal(16, 24), "params/conv/kernel": normal(3, 3, 8, 16)},
        {"params/dense/kernel": 0, "params/conv/kernel": 2},
        {},
    ),
    "MLX": (
        {"fc.weight": normal(16, 64), "conv.weight": normal(16, 3, 3, 8)},
        {"fc.weight": 1, "conv.weight": 3},
        {"format": "mlx"},
    ),
}


def group_of_four(tensor: Tensor, dim: int) -> Tensor:
    """Return how many of each four neighbours along a dimension are kept."""
    moved = (tensor != 0).movedim(dim, -1)
    return moved.reshape(*moved.shape[:-1], -1, 4).sum(-1)


def best_of_four(tensor: Tensor, keep: int, dim: int) -> Tensor:
    """Return the tensor with the `keep` largest of each four neighbours alone."""
    moved = tensor.movedim(dim, -1)
    fours = moved.reshape(*moved.shape[:-1], -1, 4)
    order = fours.abs().argsort(-1, descending=True)
    kept = torch.zeros_like(fours).scatter(-1, order[..., :keep], 1.0)
    return (fours * kept).reshape(moved.shape).movedim(-1, dim)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_run_along_the_inputs(field: Field, kind: str) -> None:
    """The best 1 and 2 of each four are kept, and the report and the file say along what."""
    tensors, dims, metadata = KINDS[kind]
    choice = field.sparsify(tensors, "--group", "4", levels="0.75,0.5", metadata=metadata)
    assert choice.dims == dims
    assert choice.warned == []
    others = {name: dim for name, dim in dims.items() if dim != 1}
    assert field.manifest()["method"]["group_dims"] == others
    for level, keep in (("0.75", 1), ("0.5", 2)):
        found = field.extract(level)
        for name, dim in dims.items():
            assert (group_of_four(found[name], dim) == keep).all(), (level, name)
            assert torch.equal(found[name], best_of_four(tensors[name], keep, dim)), (level, name)
    field.check_levels(tensors, choice)


@pytest.mark.parametrize(
    ("options", "dims"),
    [
        (["--group-dim", "0"], {"a.weight": 0, "b.weight": 0}),
        (["--group-dim", "-1"], {"a.weight": 1, "b.weight": 3}),
        (["--group-dim", "b.weight=3"], {"a.weight": 1, "b.weight": 3}),
        (["--group-dim", "1", "--group-dim", "a.*=0"], {"a.weight": 0, "b.weight": 1}),
    ],
    ids=str,
)
def test_the_user_says_along_what(field: Field, options: list[str], dims: dict[str, int]) -> None:
    tensors = {"a.weight": normal(16, 8), "b.weight": normal(8, 4, 3, 4)}
    choice = field.sparsify(tensors, "--group", "4", *options, levels="0.5")
    assert choice.dims == dims
    found = field.extract("0.5")
    for name, dim in dims.items():
        assert torch.equal(found[name], best_of_four(tensors[name], 2, dim))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--group-dim", "a.weight=2"],
            2,
            "a.weight: has no dimension 2, its shape is [16, 8]",
        ),
        (
            ["--group-dim", "c.*=0"],
            2,
            "the group dimension of 'c.*' is given, which matches no prunable tensor; "
            "`elsa inspect` lists the names",
        ),
        (
            ["--group-dim", "a.weight=x"],
            2,
            "'a.weight=x' is neither a dimension nor NAME=DIMENSION; such as 0, or 'h.*.mlp.*=0'",
        ),
    ],
    ids=str,
)
def test_a_dimension_that_is_not_there(
    field: Field, options: list[str], code: int, message: str
) -> None:
    tensors = {"a.weight": normal(16, 8)}
    assert field.refused(tensors, "--group", "4", *options, levels="0.5", code=code) == message


def test_what_groups_do_not_fit_stays_dense_and_is_named(field: Field) -> None:
    tensors = {"a.weight": normal(16, 8), "first.weight": normal(8, 3, 3, 3)}
    choice = field.sparsify(tensors, "--group", "4", levels="0.5")
    assert choice.json["skipped"] == ["first.weight"]
    assert choice.dense == {"first.weight": "weight"}
    assert choice.reasons["first.weight"] == "the groups do not fit its input dimension"
    line = "the groups do not fit the input dimension of 1 tensor, left dense: first.weight"
    assert f"Warning: {line}" in choice.err.splitlines()
    field.check_levels(tensors, choice)
