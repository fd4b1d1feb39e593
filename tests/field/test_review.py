"""Names and values that a reading of the rules found: each was told wrongly once."""

from __future__ import annotations

import torch

from tests.field.tools import Field, normal

HEADS = {
    **{f"blocks.0.attn.W_{letter}": normal(4, 32, 8, seed=at) for at, letter in enumerate("QKV")},
    "blocks.0.attn.W_O": normal(4, 8, 32, seed=3),
    **{f"blocks.0.attn.b_{letter}": normal(4, 8, seed=at) for at, letter in enumerate("QKV")},
}


def test_a_projection_called_w_q_is_not_quantised(field: Field) -> None:
    """The names of TransformerLens: W_Q is HQQ's name for codes, too."""
    choice = field.sparsify(HEADS, "--group", "4", levels="0.5")
    assert choice.pruned == {f"blocks.0.attn.W_{letter}" for letter in "QKVO"}
    assert set(choice.dense.values()) == {"bias"}
    assert {t["group_dim"] for t in choice.json["tensors"]} == {1}


def test_a_matrix_called_g_is_no_norm(field: Field) -> None:
    state = {"att.g1": normal(64, 8), "att.w1": normal(64, 8), "glu.v": normal(16, 16, seed=1)}
    choice = field.sparsify({**state, "glu.g": normal(16, 16, seed=2)}, levels="0.99")
    assert choice.pruned == {"att.g1", "att.w1", "glu.v", "glu.g"}


def test_a_colon_in_a_path_hides_no_weight_norm(field: Field) -> None:
    state = {"x:y/c.v": normal(16, 16), "x:y/c.g": torch.ones(16, 1)}
    state["x:y/c.v"][1:] *= 1e-3
    choice = field.sparsify(state, levels="0.9")
    assert choice.dense == {"x:y/c.g": "norm"}


def test_infinite_codes_with_a_scale_of_zero_say_nothing(field: Field) -> None:
    codes = torch.full((16, 16), 2.0).to(torch.float8_e5m2)
    codes.view(torch.uint8)[0, 0] = 0x7C
    state = {"c.weight": codes, "c.weight_scale": torch.zeros(1), "d.weight": normal(16, 16)}
    choice = field.sparsify(state, "--allow-nonfinite", levels="0.5")
    assert "RuntimeWarning" not in choice.err
    assert choice.json["kept"] == [256]
