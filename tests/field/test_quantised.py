"""Quantised checkpoints: refused by name, or FP8 ranked by what the codes are worth (K2)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.field.tools import Field, normal, octets

GENERATOR = torch.Generator().manual_seed(0)
FC = {"fc1.weight": normal(64, 64)}
State = dict[str, Tensor]


def integers(dtype: torch.dtype, *shape: int) -> Tensor:
    """Return codes."""
    return torch.randint(0, 100, shape, generator=GENERATOR).to(dtype)


def uniform(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Return scales."""
    return (torch.rand(*shape, generator=GENERATOR) + 0.1).to(dtype)


def codes(*shape: int, dtype: torch.dtype = torch.float8_e4m3fn) -> Tensor:
    """Return FP8 codes that differ in size."""
    return (torch.randn(*shape, generator=GENERATOR) * 20).to(dtype)


# By the format's name: the tensors of a module, the codes first.
FORMATS: dict[str, State] = {
    "GPTQ": {  # A3
        "qweight": torch.zeros(16, 256, dtype=torch.int32),
        "scales": uniform(1, 256),
    },
    "GPTQ or AWQ": {"qweight": integers(torch.int32, 256, 16), "scales": uniform(1, 128)},
    "AWQ": {
        "qweight": integers(torch.int32, 64, 8),
        "qzeros": integers(torch.int32, 1, 8),
        "scales": uniform(1, 64),
    },
    "bitsandbytes, 4 bits": {
        "weight": integers(torch.uint8, 2048, 1),
        "weight.absmax": uniform(64, dtype=torch.float32),
        "weight.quant_map": uniform(16, dtype=torch.float32),
        "weight.quant_state.bitsandbytes__nf4": integers(torch.uint8, 90),
    },
    "bitsandbytes, 8 bits": {
        "weight": integers(torch.int8, 64, 64),
        "SCB": uniform(64, dtype=torch.float32),
        "weight_format": integers(torch.uint8, 1),
    },
    "MLX": {
        "weight": integers(torch.int32, 64, 8).view(torch.uint32),
        "scales": uniform(64, 1),
        "biases": uniform(64, 1),
    },
    "AQLM": {
        "codes": integers(torch.int16, 64, 8, 1),
        "codebooks": uniform(1, 256, 1, 8),
        "scales": uniform(64, 1, 1, 1),
    },
    "VPTQ": {
        "indices": integers(torch.int32, 1, 16, 64),
        "centroids.weight": uniform(1, 1024),
        "weight_scale": uniform(64),
        "weight_bias": uniform(64),
    },
    "compressed-tensors, packed": {
        "weight_packed": integers(torch.int32, 64, 8),
        "weight_scale": uniform(64, 1),
        "weight_shape": torch.tensor([64, 64]),
    },
    "NVFP4": {
        "weight": integers(torch.uint8, 64, 32),
        "weight_scale": uniform(64, 4, dtype=torch.float8_e4m3fn),
        "weight_scale_2": torch.tensor(0.1),
        "input_scale": torch.tensor(0.1),
    },
    "MXFP4": {
        "gate_up_proj_blocks": integers(torch.uint8, 4, 64, 2, 16),
        "gate_up_proj_scales": integers(torch.uint8, 4, 64, 2),
    },
    "8-bit integers": {
        "weight": integers(torch.int8, 64, 64),
        "weight_scale": uniform(64, 1),
    },
    "SVDQuant": {
        "qweight": integers(torch.int8, 64, 32),
        "wscales": uniform(1, 64),
        "smooth": uniform(64),
    },
    "HQQ": {
        "W_q": integers(torch.uint8, 32, 64),
        "scale": uniform(64, 1),
        "zero": uniform(64, 1),
    },
    "Quanto": {"weight._data": integers(torch.int8, 64, 64), "weight._scale": uniform(64, 1)},
    "FP8 with zero points": {
        "weight": codes(64, 64),
        "weight_scale": uniform(64, 1),
        "weight_zero_point": codes(64, 1),
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_refused_by_name(field: Field, name: str) -> None:
    """One line with the tensor and the format; around them, other weights can be chosen."""
    state = {f"l.q.{key}": tensor for key, tensor in FORMATS[name].items()} | FC
    first = next(iter(state))
    line = field.refused(state, code=1)
    assert line == (
        f"model.safetensors: {first}: is quantised ({name}): its codes cannot be ranked or zeroed; "
        "dequantise it first, or choose other weights with --include"
    )
    for options in (["--include", "fc1.*"], ["--exclude", "l.q.*"], ["--role", "l.q.*=codes"]):
        choice = field.sparsify(state, *options)
        assert choice.pruned == {"fc1.weight"}
        assert choice.dense[first] == "codes"
        assert choice.warned == []
    field.check_levels(state, choice)


E4, E5 = torch.float8_e4m3fn, torch.float8_e5m2
# By the way that scales lie: the codes, the scale's name and tensor, and that in the codes' shape.
GRIDS: dict[str, tuple[Tensor, str, Tensor, tuple[int, ...]]] = {
    "one": (codes(64, 64), "weight_scale", torch.tensor(0.01), (64, 64)),
    "one in a row": (codes(64, 64), "weight_scale", torch.tensor([0.01]), (64, 64)),
    "ComfyUI": (codes(64, 64), "scale_weight", torch.tensor(0.02), (64, 64)),
    "E5M2": (codes(64, 64, dtype=E5), "scale", torch.tensor(0.02), (64, 64)),
    "a row": (codes(64, 48), "weight_scale", uniform(64, 1, dtype=torch.float32), (1, 48)),
    "a row, flat": (codes(64, 48), "weight_scale", uniform(64, dtype=torch.bfloat16), (1, 48)),
    "a column": (codes(64, 48), "weight_scale", uniform(1, 48, dtype=torch.float32), (64, 1)),
    "blocks": (
        codes(256, 300),
        "weight_scale_inv",
        uniform(2, 3, dtype=torch.float32),
        (128, 128),
    ),
    "MXFP8": (
        codes(64, 64),
        "weight_scale",
        torch.randint(118, 124, (64, 2), dtype=torch.uint8, generator=GENERATOR),
        (1, 32),
    ),
    "a kernel": (codes(16, 8, 3, 3), "weight_scale", uniform(16, 1, 1, 1), (1, 8, 3, 3)),
}


def worth(weight: Tensor, scale: Tensor, block: tuple[int, ...]) -> np.ndarray:
    """Return |code · scale| in float64, each scale spread over its block."""
    factors = scale.double().numpy()
    if scale.dtype == torch.uint8:
        factors = np.exp2(factors - 127)
    factors = factors.reshape(factors.shape + (1,) * (weight.dim() - factors.ndim))
    if factors.size == 1:
        factors = factors.reshape((1,) * weight.dim())
    for axis, size in enumerate(block):
        factors = factors.repeat(size, axis=axis)
    factors = factors[tuple(slice(size) for size in weight.shape)]
    found: np.ndarray = np.abs(weight.double().numpy() * factors)
    assert found.shape == tuple(weight.shape)
    return found


@pytest.mark.parametrize("kind", GRIDS)
def test_fp8_is_ranked_by_code_times_scale(field: Field, kind: str) -> None:
    """Against weights of other dtypes, through sparsify, verify, pack and extract."""
    weight, name, scale, block = GRIDS[kind]
    size = worth(weight, scale, block)
    other = normal(96, 32).to(torch.bfloat16) * float(np.median(size) / 0.034)
    state = {
        "a.weight": weight,
        f"a.{name}": scale,
        "a.input_scale": torch.tensor(0.4),
        "b.weight": other,
        "c.weight": normal(40, 40) * float(np.median(size) / 0.034),
    }
    choice = field.sparsify(state, levels="0.9,0.5")
    assert choice.pruned == {"a.weight", "b.weight", "c.weight"}
    assert choice.dense == {f"a.{name}": "scale", "a.input_scale": "scale"}
    sizes = {
        "a.weight": size,
        "b.weight": other.double().abs().numpy(),
        "c.weight": state["c.weight"].double().abs().numpy(),
    }
    everything = np.concatenate([part.ravel() for part in sizes.values()])
    for at, part in enumerate((0.1, 0.5)):
        wanted = round(everything.size * part)
        assert choice.json["kept"][at] == wanted
        least = np.sort(everything)[-wanted]
        for tensor, own in sizes.items():
            above, tied = int((own > least).sum()), int((own == least).sum())
            assert above <= choice.kept(tensor)[at] <= above + tied, (kind, tensor)
    field.check_levels(state, choice)
    done = field.run("verify", "model.elsa.safetensors")
    assert done.code == 0, done.err
    packed = field.run("pack", "model.elsa.safetensors", "-o", "packed.elsa.safetensors")
    assert packed.code == 0, packed.err
    for at, level in enumerate(("0.9", "0.5")):
        first, second = field.extract(level), field.extract(level, "packed.elsa.safetensors")
        for tensor in state:
            assert torch.equal(octets(first[tensor]), octets(second[tensor]))
        # No weight that is zeroed is worth more than one that is kept.
        least = np.sort(everything)[-choice.json["kept"][at]]
        for tensor, own in sizes.items():
            zeroed = ~octets(second[tensor]).numpy().any(1).reshape(own.shape)
            assert own[zeroed].max() <= least <= own[~zeroed].min()


def test_fp8_beside_bf16_of_the_same_size(field: Field) -> None:
    """A4: both keep about half; by their bits it was 99.95 % and 0.05 %."""
    weight = normal(256, 256, scale=0.02)
    scale = weight.abs().max() / 448
    state = {
        "a.weight": (weight / scale).to(E4),
        "a.weight_scale": scale.view(1),
        "b.weight": normal(256, 256, seed=1, scale=0.02).bfloat16(),
    }
    choice = field.sparsify(state, levels="0.5")
    assert choice.json["kept"] == [65_536]
    assert all(0.45 < choice.kept(name)[0] / 65_536 < 0.55 for name in choice.pruned)
    assert choice.dense == {"a.weight_scale": "scale"}


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            uniform(5, 7),
            "a.weight: is FP8, and the shape of its scale a.weight_scale does not fit it; "
            "dequantise it first, or choose other weights with --include",
        ),
        (
            torch.tensor(float("nan")),
            "a.weight_scale: has NaN or infinity among the scales of a.weight; leave the weight "
            "out, or mend the file",
        ),
    ],
    ids=["shape", "nan"],
)
def test_a_scale_that_cannot_be_used(field: Field, scale: Tensor, message: str) -> None:
    line = field.refused({"a.weight": codes(64, 64), "a.weight_scale": scale, **FC}, code=1)
    assert line == f"model.safetensors: {message}"


def test_training_refuses_fp8_with_a_scale(field: Field) -> None:
    """It computes with the codes as they are, which are no weights."""
    recipe = field.write(
        "recipe.py",
        "import torch\n"
        "def build_model():\n    return torch.nn.Linear(8, 8, bias=False)\n"
        "def train_data():\n    return []\n"
        "def loss(model, batch):\n    return 0\n",
    )
    file = field.save({"weight": codes(8, 8), "weight_scale": torch.tensor([0.1])})
    done = field.run("freeze-train", file, "--levels", "0.5", "--recipe", recipe, "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "Error: model.safetensors: weight: is FP8 with a scale, which cannot be trained as it is; "
        "dequantise it first\n"
    )
    assert json.loads(field.run("inspect", file, "--json").out)
