"""Which tensors of real kinds of networks are pruned, and what the others are (K1, K3, K4)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.field.tools import Field, normal, sinusoids

FC = {"fc1.weight": normal(64, 64)}


def causal(size: int, *, beyond: float) -> Tensor:
    """Return what is added to scores: 0 up to the diagonal, a large negative value beyond."""
    return torch.full((size, size), beyond).triu(1)


# By the name: the tensor, and its role. What is no weight has to be dense, bit for bit.
BUFFERS: dict[str, tuple[Tensor, str]] = {
    # A1, A2, and others whose values are large: under global scope they would win.
    "pos_encoder.pe": (torch.arange(100_000.0).sin().view(500, 1, 200), "constant"),
    "h.0.attn.bias": (torch.ones(96, 96).tril()[None, None], "constant"),
    "h.0.attn.masked_bias": (torch.tensor(-1e9), "constant"),
    "enc.P": (sinusoids(200, 64), "constant"),
    "dec.table": (sinusoids(512, 64), "constant"),
    "dec.buffer": (sinusoids(300, 32)[:, None], "constant"),
    "asr.embed_positions.weight": (sinusoids(1500, 64), "position"),
    "m.inf": (causal(64, beyond=float("-inf")), "constant"),
    "m.large": (causal(64, beyond=-1e9), "constant"),
    "m.local": (causal(64, beyond=-100.0).tril(20), "constant"),
    "swin.attn_mask": ((normal(4, 49, 49) > 0) * -100.0, "constant"),
    "m.sums": (torch.ones(64, 64).tril() / torch.arange(1.0, 65)[:, None], "constant"),
    "m.one": (torch.eye(10).repeat(10, 1), "constant"),
    "fe.mel_filters": (normal(80, 201).abs(), "constant"),
    "fe.window": (torch.hann_window(400)[None, None], "constant"),
    "stft.forward_basis": (normal(514, 1, 512), "constant"),
    "model.22.dfl.conv.weight": (torch.arange(16.0).view(1, 16, 1, 1), "constant"),
    "swin.relative_coords_table": (normal(1, 15, 15, 2), "constant"),
    "grid.places": (torch.arange(1024.0).view(512, 2), "constant"),
    "det.anchors": (normal(3, 3, 2, scale=100.0), "constant"),
    "rope.inv_freq": (10_000 ** -(torch.arange(32.0) / 32), "constant"),
    "rope.cos_cached": (sinusoids(64, 64), "constant"),
}

SHAPES: dict[str, tuple[Tensor, str]] = {
    "conv.weight_g": (normal(16, 1, 1).abs(), "norm"),
    "n.norm.weight": (normal(1, 1, 1, 64), "norm"),
    "n.ln.weight": (normal(64, 1), "norm"),
    "n.gamma": (normal(64, 1, 1), "norm"),
    "l.layer_scale.gamma": (normal(64, 1, 1), "norm"),
    "cls_token": (normal(1, 1, 64), "position"),
    "q.query_tokens": (normal(1, 32, 64), "position"),
    "v.pos_embed": (normal(1, 197, 64), "position"),
    "swin.relative_position_bias_table": (normal(169, 4), "position"),
    "ssm.A_log": (normal(64, 16), "other"),
    "ssm.D": (normal(64), "other"),
    "rwkv.time_faaaa": (normal(8, 8), "other"),
    "rwkv.time_mix_k": (normal(1, 1, 64), "other"),
    "vq.codebook": (normal(128, 64), "embedding"),
    # A6
    "model.layers.0.mlp.experts.gate_up_proj_bias": (normal(8, 256), "bias"),
    "model.layers.0.mlp.experts.gate_up_proj": (normal(8, 64, 256), "weight"),
    "act.prelu.weight": (normal(64, 1, 1), "scale"),
    "ssm.dt_proj.weight": (normal(64, 4), "weight"),
    "lora.lora_A.weight": (normal(8, 64), "weight"),
    "depthwise.weight": (normal(64, 1, 7), "weight"),
    "conv.weight_v": (normal(16, 4, 3), "weight"),
    "attn.in_proj_weight": (normal(192, 64), "weight"),
    "lstm.weight_ih_l0": (normal(64, 16), "weight"),
    "lstm.bias_ih_l0": (normal(64), "bias"),
}

LANGUAGE: dict[str, tuple[Tensor, str]] = {
    # A7, and other spellings of embeddings, heads and routers.
    "model.shared.weight": (normal(100, 64), "embedding"),
    "transformer.wte.weight": (normal(100, 64), "embedding"),
    "emb.weight": (normal(100, 64), "embedding"),
    "tok_emb.weight": (normal(100, 64), "embedding"),
    "output.weight": (normal(100, 64), "head"),
    "head.weight": (normal(100, 64), "head"),
    "lm_head.weight": (normal(100, 64), "head"),
    "embed_out.weight": (normal(100, 64), "head"),
    "cls.predictions.decoder.weight": (normal(100, 64), "head"),
    "cls.predictions.transform.dense.weight": (normal(64, 64), "weight"),
    "model.layers.0.block_sparse_moe.gate.weight": (normal(8, 64), "router"),
    "model.layers.0.block_sparse_moe.experts.0.w1.weight": (normal(128, 64), "weight"),
    "model.layers.1.mlp.gate.weight": (normal(8, 64), "router"),
    "model.layers.1.mlp.experts.0.gate_proj.weight": (normal(64, 64), "weight"),
    "model.layers.1.mlp.router.weight": (normal(8, 64), "router"),
}

# Modules whose names have the words above in them, and are layers all the same.
LAYERS: dict[str, tuple[Tensor, str]] = {
    "embedding_net.conv1.weight": (normal(32, 1, 5, 5), "weight"),
    "embedding_net.fc.weight": (normal(32, 64), "weight"),
    "wte_net.fc.weight": (normal(64, 64), "weight"),
    "patch_embed.proj.weight": (normal(64, 3, 4, 4), "weight"),
    "visual_embed.layers.0.fc.weight": (normal(64, 64), "weight"),
    "embedding_projection.weight": (normal(64, 64), "weight"),
    "embeddings.layer.0.attention.query.weight": (normal(64, 64), "weight"),
    "time_embed.0.weight": (normal(64, 64), "weight"),
    "time_embed.0.bias": (normal(64), "bias"),
    "layers.0.mlp.gate_proj.weight": (normal(64, 64), "weight"),
    "layers.0.gate.weight": (normal(64, 64), "weight"),
    "classifier.weight": (normal(10, 64), "weight"),
    "head.0.weight": (normal(10, 64), "weight"),
    "decoder.layers.0.fc1.weight": (normal(64, 64), "weight"),
    "output_embed_net.dense.weight": (normal(64, 64), "weight"),
    "head_norm.weight": (normal(64), "norm"),
}

# A weight by its name, whose values could be a buffer's: binary, triangular, sparse, constant.
ODD: dict[str, tuple[Tensor, str]] = {
    "binary.weight": (normal(96, 96).sign(), "weight"),
    "ternary.weight": (normal(96, 96).mul(20).round().clamp(-1, 1), "weight"),
    "constant.weight": (torch.full((96, 96), 0.02), "weight"),
    "zero.weight": (torch.zeros(96, 96), "weight"),
    "triangular.weight": (normal(96, 96).tril(), "weight"),
    "one.weight": (torch.eye(96), "weight"),
    "thin.weight": (normal(96, 1) @ normal(1, 96, seed=1), "weight"),
    "smooth.weight": (normal(96, 96).cumsum(0), "weight"),
    "blocks.weight": (normal(96, 96) * torch.eye(6).kron(torch.ones(16, 16)), "weight"),
}


@pytest.mark.parametrize(
    "table", [BUFFERS, SHAPES, LANGUAGE, LAYERS, ODD], ids=["K1", "K3", "K4", "K4-not", "K1-not"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_role_of_each_tensor(
    field: Field, table: dict[str, tuple[Tensor, str]], dtype: torch.dtype
) -> None:
    """Every tensor has the role that is written beside it, and only weights lose values."""
    tensors = {name: tensor.to(dtype) for name, (tensor, _) in table.items()} | FC
    roles = {name: role for name, (_, role) in table.items()} | {"fc1.weight": "weight"}
    choice = field.sparsify(tensors, "--scope", "layer", levels="0.5")
    assert choice.roles == roles
    assert choice.pruned == {name for name, role in roles.items() if role == "weight"}
    assert all(choice.reasons.values())
    assert not [line for line in choice.warned if "no rule knows" in line]
    field.check_levels(tensors, choice)


def test_a_table_of_positions_takes_nothing_of_the_budget(field: Field) -> None:
    """A1: its values are larger than those of the matrices, which keep what they have to."""
    tensors = {
        "pos_encoder.pe": torch.arange(1_000_000.0).sin().view(5000, 1, 200),
        "layers.0.linear1.weight": normal(200, 200, scale=0.07),
        "layers.0.linear2.weight": normal(200, 200, seed=1, scale=0.07),
    }
    choice = field.sparsify(tensors)
    assert choice.pruned == {"layers.0.linear1.weight", "layers.0.linear2.weight"}
    assert choice.dense == {"pos_encoder.pe": "constant"}
    assert choice.json["kept"] == [8000]
    together = torch.cat([tensors[name].abs().flatten() for name in sorted(choice.pruned)])
    least = together.sort(descending=True).values[7999]
    for name in choice.pruned:
        assert choice.kept(name) == [int((tensors[name].abs() >= least).sum())]
    assert choice.warned == []


def test_a_causal_mask_takes_nothing_of_the_budget(field: Field) -> None:
    """A2: GPT-2's mask is called bias, and is no bias."""
    tensors = {
        "h.0.attn.bias": torch.ones(200, 200).tril()[None, None],
        "h.0.mlp.c_fc.weight": normal(192, 768, scale=0.1),
    }
    choice = field.sparsify(tensors)
    assert choice.dense == {"h.0.attn.bias": "constant"}
    assert choice.kept("h.0.mlp.c_fc.weight") == [14_746]
    assert choice.json["roles"] == [
        {"role": "constant", "tensors": 1, "parameters": 40_000, "example": "h.0.attn.bias"}
    ]
    assert choice.warned == []
    field.check_levels(tensors, choice)


def test_a_network_called_embedding_is_pruned(field: Field) -> None:
    """A7: its one tensor is a kernel, so that there is something to do."""
    choice = field.sparsify({"embedding_net.conv1.weight": normal(32, 1, 5, 5)})
    assert choice.pruned == {"embedding_net.conv1.weight"}
    assert choice.json["kept"] == [80]


def test_nothing_prunable_says_what_there_is(field: Field) -> None:
    line = field.refused({"fc.bias": normal(64, 64), "ln.weight": normal(64)}, code=2)
    assert line == (
        "model.safetensors: no tensor is prunable; by their roles the tensors are: 1 bias, 1 norm; "
        "name some with --include, or give them a role with --role NAME=weight; `elsa inspect` "
        "lists names and roles"
    )
