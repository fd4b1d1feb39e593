"""Where the inputs of a weight lie, layer by layer as the libraries write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from elsa_cli.errors import UsageError
from elsa_cli.selection.masks import Rule
from elsa_cli.selection.orientation import input_dims, parse_dims
from elsa_cli.selection.roles import Classes, Told, tell
from elsa_cli.storage.container import Container
from tests.helpers import Tensor, random_bits, write_safetensors
from tests.selection.reference import chosen_masks

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def dims_of(
    folder: Path,
    shapes: Shapes,
    given: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    classes: Classes | None = None,
) -> dict[str, int]:
    """Return the input dimensions of the weights of a file."""
    tensors: list[Tensor] = [
        (name, "F32", shape, bytes(4 * _numel(shape))) for name, shape in shapes.items()
    ]
    write_safetensors(folder / "m", tensors, metadata)
    with Container(folder / "m") as container:
        roles = tell(container.tensors, classes=classes)
        pruned = [t for t in container.tensors if roles.told[t.name].role == "weight"]
        return input_dims(pruned, roles, parse_dims(given or []), metadata)


def _numel(shape: Shape) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


CASES: dict[str, tuple[Shapes, dict[str, int]]] = {
    "linear": ({"fc.weight": (8, 16), "fc.bias": (8,)}, {"fc.weight": 1}),
    "linear, no bias": ({"fc.weight": (16, 8)}, {"fc.weight": 1}),
    "square linear": ({"fc.weight": (8, 8), "fc.bias": (8,)}, {"fc.weight": 1}),
    "convolutions": (
        {
            "a.weight": (8, 4, 3),
            "b.weight": (8, 4, 3, 3),
            "b.bias": (8,),
            "c.weight": (8, 4, 3, 3, 3),
            "d.weight": (8, 1, 5),
        },
        {"a.weight": 1, "b.weight": 1, "c.weight": 1, "d.weight": 1},
    ),
    "GPT-2": (
        {
            "h.0.attn.c_attn.weight": (16, 48),
            "h.0.attn.c_attn.bias": (48,),
            "h.0.attn.c_proj.weight": (16, 16),
            "h.0.attn.c_proj.bias": (16,),
            "h.0.mlp.c_fc.weight": (16, 64),
            "h.0.mlp.c_fc.bias": (64,),
            "h.0.mlp.c_proj.weight": (64, 16),
            "h.0.mlp.c_proj.bias": (16,),
            "h.0.crossattention.q_attn.weight": (16, 16),
            "h.0.crossattention.q_attn.bias": (16,),
        },
        {
            "h.0.attn.c_attn.weight": 0,
            "h.0.attn.c_proj.weight": 0,
            "h.0.mlp.c_fc.weight": 0,
            "h.0.mlp.c_proj.weight": 0,
            "h.0.crossattention.q_attn.weight": 0,
        },
    ),
    "GPT-2 without biases": (
        {
            "h.0.attn.c_attn.weight": (16, 48),
            "h.0.attn.c_proj.weight": (16, 16),
            "h.0.mlp.c_fc.weight": (16, 64),
            "h.0.mlp.c_proj.weight": (64, 16),
        },
        {
            "h.0.attn.c_attn.weight": 0,
            "h.0.attn.c_proj.weight": 0,
            "h.0.mlp.c_fc.weight": 0,
            "h.0.mlp.c_proj.weight": 0,
        },
    ),
    "one matrix of GPT-2": ({"h.0.mlp.c_fc.weight": (16, 64)}, {"h.0.mlp.c_fc.weight": 0}),
    "nanoGPT": (
        {
            "h.0.attn.c_attn.weight": (48, 16),
            "h.0.attn.c_attn.bias": (48,),
            "h.0.attn.c_proj.weight": (16, 16),
            "h.0.mlp.c_fc.weight": (64, 16),
            "h.0.mlp.c_proj.weight": (16, 64),
        },
        {
            "h.0.attn.c_attn.weight": 1,
            "h.0.attn.c_proj.weight": 1,
            "h.0.mlp.c_fc.weight": 1,
            "h.0.mlp.c_proj.weight": 1,
        },
    ),
    "in and out by the bias": (
        {"x.mix.weight": (16, 24), "x.mix.bias": (24,)},
        {"x.mix.weight": 0},
    ),
    "transposed by name": (
        {
            "deconv1.weight": (8, 16, 3, 3),
            "conv_transpose.weight": (8, 16, 4),
            "convTranspose2d_3.weight": (8, 16, 4, 4),
            "net.tconv.weight": (8, 16, 4, 4),
            "mask.output_upscaling.0.weight": (8, 4, 2, 2),
        },
        {
            "deconv1.weight": 0,
            "conv_transpose.weight": 0,
            "convTranspose2d_3.weight": 0,
            "net.tconv.weight": 0,
            "mask.output_upscaling.0.weight": 0,
        },
    ),
    "transposed by the bias": (
        {
            "a.layer.weight": (16, 8, 3, 3),
            "a.layer.bias": (8,),
            "ups.0.weight_v": (64, 32, 16),
            "ups.0.weight_g": (64, 1, 1),
            "ups.0.bias": (32,),
            "b.parametrizations.weight.original1": (64, 32, 16),
            "b.parametrizations.weight.original0": (64, 1, 1),
            "b.bias": (32,),
        },
        {"a.layer.weight": 0, "ups.0.weight_v": 0, "b.parametrizations.weight.original1": 0},
    ),
    "upsampling by the size of the kernel": (
        {
            "up.weight": (8, 16, 4, 4),
            "dec.upsample.weight": (8, 16, 2, 2),
            "upsampler.0.weight": (8, 16, 3, 3),
            "up_conv.weight": (8, 16, 3, 3),
            "upsample.2.weight": (8, 16, 5),
        },
        {
            "up.weight": 0,
            "dec.upsample.weight": 0,
            "upsampler.0.weight": 1,
            "up_conv.weight": 1,
            "upsample.2.weight": 1,
        },
    ),
    "a bias against the name": (
        {
            "up.weight": (16, 8, 2, 2),
            "up.bias": (16,),
            "deconv.weight": (16, 8, 4),
            "deconv.bias": (16,),
        },
        {"up.weight": 1, "deconv.weight": 1},
    ),
    "Flax": (
        {
            "params/Dense_0/kernel": (16, 8),
            "params/Dense_0/bias": (8,),
            "params/Conv_0/kernel": (3, 3, 16, 8),
            "encoder.dense.kernel": (16, 16),
            "block/conv/kernel:0": (3, 16, 8),
        },
        {
            "params/Dense_0/kernel": 0,
            "params/Conv_0/kernel": 2,
            "encoder.dense.kernel": 0,
            "block/conv/kernel:0": 1,
        },
    ),
    "experts, (experts, out, in)": (
        {"mlp.experts.gate_up_proj": (4, 48, 16), "mlp.experts.down_proj": (4, 16, 24)},
        {"mlp.experts.gate_up_proj": 2, "mlp.experts.down_proj": 2},
    ),
    "experts, (experts, in, out)": (
        {"mlp.experts.gate_up_proj": (4, 16, 48), "mlp.experts.down_proj": (4, 24, 16)},
        {"mlp.experts.gate_up_proj": 1, "mlp.experts.down_proj": 1},
    ),
    "experts with biases": (
        {
            "mlp.experts.gate_up_proj": (4, 16, 48),
            "mlp.experts.gate_up_proj_bias": (4, 48),
            "mlp.experts.down_proj": (4, 24, 16),
            "mlp.experts.down_proj_bias": (4, 16),
        },
        {"mlp.experts.gate_up_proj": 1, "mlp.experts.down_proj": 1},
    ),
    "experts with biases, (experts, out, in)": (
        {
            "mlp.experts.gate_up_proj": (4, 48, 16),
            "mlp.experts.gate_up_proj_bias": (4, 48),
            "mlp.experts.down_proj": (4, 16, 24),
            "mlp.experts.down_proj_bias": (4, 16),
        },
        {"mlp.experts.gate_up_proj": 2, "mlp.experts.down_proj": 2},
    ),
    # Alone, w1 and w2 fit both ways; what goes into the router goes into the experts, too.
    "w1, w2, w3, (experts, out, in)": (
        {
            "moe.experts.w1": (4, 24, 16),
            "moe.experts.w2": (4, 16, 24),
            "moe.experts.w3": (4, 24, 16),
            "moe.router.gate.weight": (4, 16),
        },
        {"moe.experts.w1": 2, "moe.experts.w2": 2, "moe.experts.w3": 2},
    ),
    "w1, w2, w3, (experts, in, out)": (
        {
            "moe.experts.w1": (4, 16, 24),
            "moe.experts.w2": (4, 24, 16),
            "moe.experts.w3": (4, 16, 24),
            "moe.router.gate.weight": (4, 16),
        },
        {"moe.experts.w1": 1, "moe.experts.w2": 1, "moe.experts.w3": 1},
    ),
    "experts narrower than what they are given": (
        {
            "mlp.experts.gate_proj": (4, 32, 8),
            "mlp.experts.up_proj": (4, 32, 8),
            "mlp.experts.down_proj": (4, 8, 32),
            "mlp.gate.weight": (4, 32),
        },
        {"mlp.experts.gate_proj": 1, "mlp.experts.up_proj": 1, "mlp.experts.down_proj": 1},
    ),
    "experts without a router": (
        {"moe.experts.w1": (4, 24, 16), "moe.experts.w2": (4, 16, 24)},
        {"moe.experts.w1": 2, "moe.experts.w2": 2},
    ),
    "layers of experts": (
        {
            "block_sparse_moe.input_linear.weight": (4, 48, 16),
            "block_sparse_moe.output_linear.weight": (4, 16, 24),
            "block_sparse_moe.router.layer.weight": (4, 16),
        },
        {
            "block_sparse_moe.input_linear.weight": 2,
            "block_sparse_moe.output_linear.weight": 2,
        },
    ),
    "a convolution beside experts": (
        {"mlp.experts.gate_up_proj": (4, 48, 16), "mamba.conv1d.weight": (32, 1, 4)},
        {"mlp.experts.gate_up_proj": 2, "mamba.conv1d.weight": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_by_names_and_shapes(case: str, tmp_path: Path) -> None:
    shapes, expected = CASES[case]
    assert dims_of(tmp_path, shapes) == expected


def test_mlx(tmp_path: Path) -> None:
    shapes: Shapes = {
        "conv.weight": (8, 3, 3, 4),
        "conv1d.weight": (8, 3, 4),
        "fc.weight": (8, 16),
        "experts.gate_up_proj": (4, 48, 16),
    }
    found = dims_of(tmp_path, shapes, metadata={"format": "mlx"})
    assert found == {
        "conv.weight": 3,
        "conv1d.weight": 2,
        "fc.weight": 1,
        "experts.gate_up_proj": 2,
    }
    assert dims_of(tmp_path, shapes, metadata={"format": "pt"})["conv.weight"] == 1


THREE: Shapes = {"a.weight": (8, 16), "b.weight": (8, 4, 3, 3), "c[0].weight": (8, 8)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"a.weight": 1, "b.weight": 1, "c[0].weight": 1}),
        (["0"], {"a.weight": 0, "b.weight": 0, "c[0].weight": 0}),
        (["-1"], {"a.weight": 1, "b.weight": 3, "c[0].weight": 1}),
        (["-2"], {"a.weight": 0, "b.weight": 2, "c[0].weight": 0}),
        (["b.*=-4"], {"a.weight": 1, "b.weight": 0, "c[0].weight": 1}),
        (["0", "b.weight=2"], {"a.weight": 0, "b.weight": 2, "c[0].weight": 0}),
        (["b.weight=2", "0"], {"a.weight": 0, "b.weight": 0, "c[0].weight": 0}),
        (["c[0].weight=0"], {"a.weight": 1, "b.weight": 1, "c[0].weight": 0}),
    ],
)
def test_given(given: list[str], expected: dict[str, int], tmp_path: Path) -> None:
    assert dims_of(tmp_path, THREE, given) == expected


def test_a_name_with_an_equals_sign() -> None:
    assert parse_dims(["a=b.weight=1", "*=-2", "3"]) == [("a=b.weight", 1), ("*", -2), ("*", 3)]


@pytest.mark.parametrize("text", ["", "a", "a=", "a=b", "=", "1.5", "a=1.0", "0x1"])
def test_what_is_no_dimension(text: str) -> None:
    with pytest.raises(UsageError, match="neither a dimension nor NAME=DIMENSION"):
        parse_dims([text])


@pytest.mark.parametrize("dim", [2, -3, 9])
def test_a_dimension_that_is_not_there(dim: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"no dimension {dim}, its shape is \[8, 16\]") as caught:
        dims_of(tmp_path, THREE, [f"a.weight={dim}"])
    assert caught.value.tensor == "a.weight"


@pytest.mark.parametrize("pattern", ["d.*", "c[1].weight", "A.weight", "norm.weight"])
def test_a_pattern_that_matches_no_weight(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="matches no prunable tensor"):
        dims_of(tmp_path, {**THREE, "norm.weight": (8,)}, [f"{pattern}=0"])


def test_classes_know_better_than_names(tmp_path: Path) -> None:
    shapes: Shapes = {"c_fc.weight": (16, 64), "deconv.weight": (8, 4, 4, 4), "fc.weight": (8, 8)}
    classes = Classes(
        "a model",
        {
            "c_fc.weight": Told("weight", "Linear", input_dim=1),
            "deconv.weight": Told("weight", "Conv2d", input_dim=1),
            "fc.weight": Told("weight", "Something"),
        },
    )
    found = dims_of(tmp_path, shapes, classes=classes)
    assert found == {"c_fc.weight": 1, "deconv.weight": 1, "fc.weight": 1}
    # And the user better than classes.
    found = dims_of(tmp_path, shapes, ["c_fc.weight=0"], classes=classes)
    assert found["c_fc.weight"] == 0
    assert dims_of(tmp_path, shapes)["deconv.weight"] == 0


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ({"h.0.mlp.c_fc.weight": (16, 64)}, 0),
        ({"up.weight": (8, 16, 4, 4)}, 0),
        ({"fc.weight": (16, 64)}, 1),
        ({"experts.gate_up_proj": (4, 16, 48), "experts.down_proj": (4, 24, 16)}, 1),
    ],
)
def test_groups_run_along_the_inputs(shapes: Shapes, axis: int, tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    tensors: list[Tensor] = [
        (name, "F32", shape, random_bits(rng, "F32", shape, "normal"))
        for name, shape in shapes.items()
    ]
    (mask,) = chosen_masks(tmp_path / "m", tensors, "0.5", Rule.of(None, None, 4))
    for name, shape in shapes.items():
        groups = np.moveaxis(mask[name].reshape(shape), axis, -1).reshape(-1, 4)
        assert (groups.sum(axis=1) == 2).all()
