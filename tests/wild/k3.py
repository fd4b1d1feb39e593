"""K3: parameters that are matrices by shape only: norms, scales, tokens, tables, state spaces."""

from typing import Any

import torch
from torch import nn

from tests.wild.wildlib import Made, by, case, state, use

WB: list[tuple[str, str]] = [(r"bias$", "bias"), (r"weight$", "weight")]


@case(
    "K3",
    "wavlm_pos_conv",
    "transformers",
    "transformers/models/wavlm/modeling_wavlm.py WavLMPositionalConvEmbedding",
    "Weight norm over the last dim: `original0` is [1, 1, kernel], `original1` the convolution. The"
    " module is called pos_conv_embed, and holds a real weight.",
)
def wavlm() -> Made:
    config = use("transformers:WavLMConfig")(
        hidden_size=16, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2
    )
    made = use("transformers.models.wavlm.modeling_wavlm:WavLMPositionalConvEmbedding")(config)
    found = {f"wavlm.encoder.pos_conv_embed.{n}": t for n, t in state(made).items()}
    return by(found, [("original0", "norm"), ("original1", "weight"), *WB])


@case(
    "K3",
    "encodec_spectral",
    "encodec",
    "encodec/modules/conv.py NormConv1d(norm='spectral_norm')",
    "The old spectral norm: `weight_orig`, and the vectors `weight_u` and `weight_v`: the latter is"
    " not weight norm's `weight_v`.",
)
def spectral() -> Made:
    made = use("encodec.modules.conv:NormConv1d")(8, 16, 3, norm="spectral_norm")
    found = {f"encoder.model.0.{n}": t for n, t in state(made).items()}
    return by(found, [("_orig", "weight"), ("_[uv]$", "constant"), *WB])


@case(
    "K3",
    "encodec_weight_norm",
    "encodec",
    "encodec/modules/conv.py NormConv1d and NormConvTranspose1d(norm='weight_norm')",
    "The old weight norm: `weight_g` [C, 1, 1] and `weight_v`.",
)
def weight_norm() -> Made:
    lib = use("encodec.modules.conv")
    found = {
        f"encoder.0.{n}": t for n, t in state(lib.NormConv1d(8, 16, 3, norm="weight_norm")).items()
    }
    made = lib.NormConvTranspose1d(16, 8, 4, norm="weight_norm")
    found |= {f"decoder.0.{n}": t for n, t in state(made).items()}
    return by(found, [("_g", "norm"), ("_v", "weight"), *WB])


@case(
    "K3",
    "parametrized_spectral",
    "torch",
    "torch/nn/utils/parametrizations.py spectral_norm and orthogonal",
    "`parametrizations.weight.original` with `.0._u`, `.0._v`; orthogonal's `.0.base` is a matrix"
    " of"
    " n by n that is fixed.",
)
def parametrized() -> Made:
    lib = use("torch.nn.utils.parametrizations")
    found = {f"a.{n}": t for n, t in state(lib.spectral_norm(nn.Linear(12, 8))).items()}
    found |= {f"b.{n}": t for n, t in state(lib.orthogonal(nn.Linear(8, 8))).items()}
    return by(found, [("original", "weight"), (r"_[uv]$|\.base$", "constant"), *WB])


@case(
    "K3",
    "convnextv2_grn",
    "transformers",
    "transformers/models/convnextv2/modeling_convnextv2.py ConvNextV2Layer",
    "`grn.weight` and `grn.bias` [1, 1, 1, C], and `pwconv1.weight`, a Linear.",
)
def convnextv2() -> Made:
    cls = use("transformers.models.convnextv2.modeling_convnextv2:ConvNextV2Layer")
    made = cls(use("transformers:ConvNextV2Config")(), 16)
    found = {f"convnextv2.encoder.stages.0.layers.0.{n}": t for n, t in state(made).items()}
    return by(found, [("grn|norm", "norm"), *WB])


@case(
    "K3",
    "layer_scale_2d",
    "timm",
    "timm/models/fastvit.py RepMixerBlock, LayerScale2d",
    "`layer_scale.gamma` [C, 1, 1]; `conv_scale.conv.weight` [C, 1, 1, 1] is a depthwise 1x1"
    " Conv2d:"
    " a weight by its class, a scale by what it does.",
)
def layer_scale() -> Made:
    made = use("timm.models.fastvit:RepMixerBlock")(dim=8, layer_scale_init_value=0.1)
    found = {f"stages.0.blocks.0.{n}": t for n, t in state(made, drop="batches|running").items()}
    rules = [("gamma", "other"), (r"\.bn|identity", "norm"), *WB]
    return by(found, rules)


@case(
    "K3",
    "jamba_mamba",
    "transformers",
    "transformers/models/jamba/modeling_jamba.py JambaMambaMixer",
    "`A_log` [2d, 16] and `D` [2d]; `conv1d.weight`, `in_proj`, `x_proj`, `dt_proj` are weights.",
)
def jamba() -> Made:
    config = use("transformers:JambaConfig")(
        hidden_size=16, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False
    )
    made = use("transformers.models.jamba.modeling_jamba:JambaMambaMixer")(config, 0)
    found = {f"model.layers.0.mamba.{n}": t for n, t in state(made).items()}
    return by(found, [(r"A_log|\.D$", "other"), ("norm", "norm"), *WB])


@case(
    "K3",
    "zamba_heads",
    "transformers",
    "transformers/models/zamba/modeling_zamba.py ZambaMambaMixer",
    "`x_proj_weight` and `dt_proj_weight` [heads, out, in] are weights without a dot;"
    " `dt_proj_bias`,"
    " `A_log`, `D` of two and three dims are not.",
)
def zamba() -> Made:
    config = use("transformers:ZambaConfig")(
        hidden_size=16, mamba_d_state=4, mamba_dt_rank=4, n_mamba_heads=2, use_mamba_kernels=False
    )
    made = use("transformers.models.zamba.modeling_zamba:ZambaMambaMixer")(config, 0)
    torch.nn.init.normal_(made.x_proj_weight, std=0.1)
    found = {f"model.layers.0.mamba.{n}": t for n, t in state(made).items()}
    return by(found, [(r"A_log|\.D$", "other"), *WB])


@case(
    "K3",
    "rwkv_times",
    "transformers",
    "transformers/models/rwkv/modeling_rwkv.py RwkvSelfAttention and RwkvFeedForward",
    "`time_mix_key` [1, 1, C], `time_decay`, `time_first`; `key`, `value`, `receptance`, `output`.",
)
def rwkv() -> Made:
    config = use("transformers:RwkvConfig")(
        hidden_size=16, attention_hidden_size=16, num_hidden_layers=2, vocab_size=10
    )
    made = use("transformers:RwkvModel")(config)
    found = {f"rwkv.{n}": t for n, t in state(made, keep=r"blocks\.1\.", drop=r"ln\d").items()}
    return by(found, [("time_", "other"), *WB])


@case(
    "K3",
    "pixart_table",
    "diffusers",
    "diffusers/models/attention.py BasicTransformerBlock(norm_type='ada_norm_single')",
    "`scale_shift_table` [6, C], random values of a weight's size.",
)
def pixart() -> Made:
    made = use("diffusers.models.attention:BasicTransformerBlock")(
        16, 2, 8, cross_attention_dim=16, norm_type="ada_norm_single"
    )
    found = {f"transformer_blocks.0.{n}": t for n, t in state(made).items()}
    return by(found, [("_table", "other"), ("norm", "norm"), *WB])


@case(
    "K3",
    "gpt_oss_bias",
    "transformers",
    "transformers/models/gpt_oss/modeling_gpt_oss.py GptOssMLP and GptOssAttention",
    "`gate_up_proj_bias` [E, 2f] and `down_proj_bias`; `sinks` [heads]; `router.bias`.",
)
def gpt_oss() -> Made:
    config = use("transformers:GptOssConfig")(
        hidden_size=16,
        intermediate_size=12,
        num_local_experts=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    lib = use("transformers.models.gpt_oss.modeling_gpt_oss")
    found = {f"model.layers.0.mlp.{n}": t for n, t in drawn(lib.GptOssMLP(config)).items()}
    made = drawn(lib.GptOssAttention(config, 0))
    found |= {f"model.layers.0.self_attn.{n}": t for n, t in made.items()}
    rules = [("bias$", "bias"), ("sinks", "other"), (r"router\.weight", "router"), ("", "weight")]
    return by(found, rules)


def drawn(module: Any) -> dict[str, torch.Tensor]:
    """A module's tensors after drawing those that the class only allocates."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    return state(module)


@case(
    "K3",
    "xlnet_parts",
    "transformers",
    "transformers/models/xlnet/modeling_xlnet.py XLNetRelativeAttention",
    "`q`, `k`, `v`, `o`, `r` [d, heads, dim] are weights called by a letter; `r_w_bias`,"
    " `r_r_bias`,"
    " `r_s_bias` [heads, dim] and `seg_embed` [2, heads, dim] are not.",
)
def xlnet() -> Made:
    config = use("transformers:XLNetConfig")(d_model=16, n_head=2)
    made = use("transformers.models.xlnet.modeling_xlnet:XLNetRelativeAttention")(config)
    found = {f"transformer.layer.0.rel_attn.{n}": t for n, t in drawn(made).items()}
    rules = [("bias", "bias"), ("seg_embed", "position"), ("norm", "norm"), ("", "weight")]
    return by(found, rules)


@case(
    "K3",
    "funnel_kernel",
    "transformers",
    "transformers/models/funnel/modeling_funnel.py FunnelRelMultiheadAttention",
    "`r_kernel` [d, heads, dim] is a weight; `r_w_bias`, `r_r_bias`, `r_s_bias`, `seg_embed` not.",
)
def funnel() -> Made:
    config = use("transformers:FunnelConfig")(d_model=16, n_head=2, d_head=8)
    made = use("transformers.models.funnel.modeling_funnel:FunnelRelMultiheadAttention")(config, 0)
    found = {f"funnel.encoder.blocks.0.0.attention.{n}": t for n, t in drawn(made).items()}
    rules = [("bias", "bias"), ("seg_embed", "position"), ("norm", "norm"), ("", "weight")]
    return by(found, rules)
