"""K5: which dimension of a weight is its input: layers of PyTorch and of transformers.

`expect` tells the dimension that is summed over; -1 that there is none to group along, or that the
tensor is no weight.
"""

import torch
from torch import nn

from tests.wild.k3 import drawn
from tests.wild.wildlib import Made, by, case, state, use

NOT: list[tuple[str, int]] = [(r"bias|norm|ln_", -1)]


@case(
    "K5",
    "hf_conv1d",
    "transformers",
    "transformers/models/openai/modeling_openai.py Block; transformers/pytorch_utils.py Conv1D",
    "Conv1D stores [in, out]: `c_attn`, `c_proj`, `c_fc`.",
)
def openai_gpt() -> Made:
    config = use("transformers:OpenAIGPTConfig")(n_embd=16, n_head=2, n_positions=8)
    made = use("transformers.models.openai.modeling_openai:Block")(8, config)
    found = {f"transformer.h.0.{n}": t for n, t in state(made, drop=r"attn\.bias$").items()}
    return by(found, [*NOT, ("", 0)])


@case(
    "K5",
    "decision_mixed",
    "transformers",
    "transformers/models/decision_transformer/modeling_decision_transformer.py",
    "Conv1D [in, out] in the blocks and Linear [out, in] in `embed_state`, in one checkpoint.",
)
def decision() -> Made:
    config = use("transformers:DecisionTransformerConfig")(
        hidden_size=12, n_layer=1, n_head=2, state_dim=5, act_dim=3, max_ep_len=6, n_positions=8
    )
    made = use("transformers:DecisionTransformerModel")(config)
    found = state(made, drop="wte|wpe|embed_timestep|mask")
    rules = [*NOT, (r"\.(attn|mlp)\.", 0), ("", 1)]
    return by(found, rules)


@case(
    "K5",
    "conv_transposes",
    "transformers",
    "transformers/models/speecht5/modeling_speecht5.py SpeechT5HifiGan; ConvTranspose1d",
    "[in, out/groups, k]: `upsampler.0.weight`.",
)
def transposes() -> Made:
    config = use("transformers:SpeechT5HifiGanConfig")(
        model_in_dim=8,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
    )
    made = use("transformers:SpeechT5HifiGan")(config)
    found = {f"vocoder.{n}": t for n, t in state(made, drop="mean|scale").items()}
    rules = [*NOT, ("upsampler", 0), ("conv|resblocks", 1)]
    return by(found, rules)


@case(
    "K5",
    "sam_mask_decoder",
    "segment-anything",
    "segment_anything/modeling/mask_decoder.py MaskDecoder.output_upscaling",
    "`output_upscaling.0` and `.3` are ConvTranspose2d, `.1` a norm; no name says so.",
)
def sam() -> Made:
    lib = use("segment_anything.modeling")
    transformer = lib.TwoWayTransformer(depth=1, embedding_dim=8, num_heads=2, mlp_dim=8)
    made = lib.MaskDecoder(transformer_dim=8, transformer=transformer, iou_head_hidden_dim=8)
    found = state(made, keep="upscaling|hypernetworks_mlps.0|iou_prediction")
    found = {f"mask_decoder.{n}": t for n, t in found.items()}
    rules = [*NOT, (r"upscaling\.1\.", -1), ("upscaling", 0), ("", 1)]
    return by(found, rules)


@case(
    "K5",
    "llama4_experts",
    "transformers",
    "transformers/models/llama4/modeling_llama4.py Llama4TextExperts (torch.bmm(x, gate_up_proj))",
    "[E, in, out]: dimension 1.",
)
def llama4() -> Made:
    config = use("transformers:Llama4TextConfig")(
        hidden_size=16, intermediate_size=12, num_local_experts=4
    )
    made = use("transformers.models.llama4.modeling_llama4:Llama4TextExperts")(config)
    found = {f"model.layers.1.feed_forward.experts.{n}": t for n, t in drawn(made).items()}
    return by(found, [("", 1)])


@case(
    "K5",
    "gpt_oss_experts",
    "transformers",
    "transformers/models/gpt_oss/modeling_gpt_oss.py GptOssExperts (x @ gate_up_proj[e])",
    "[E, in, out]: dimension 1, with 2-D biases.",
)
def gpt_oss() -> Made:
    config = use("transformers:GptOssConfig")(
        hidden_size=16, intermediate_size=12, num_local_experts=4
    )
    made = use("transformers.models.gpt_oss.modeling_gpt_oss:GptOssExperts")(config)
    found = {f"model.layers.0.mlp.experts.{n}": t for n, t in drawn(made).items()}
    return by(found, [*NOT, ("", 1)])


@case(
    "K5",
    "mixtral_experts",
    "transformers",
    "transformers/models/mixtral/modeling_mixtral.py MixtralExperts (nn.functional.linear)",
    "The same names the other way round, [E, out, in]: dimension 2.",
)
def mixtral() -> Made:
    config = use("transformers:MixtralConfig")(
        hidden_size=16, intermediate_size=12, num_local_experts=4
    )
    made = use("transformers.models.mixtral.modeling_mixtral:MixtralExperts")(config)
    found = {f"model.layers.0.mlp.experts.{n}": t for n, t in drawn(made).items()}
    return by(found, [("", 2)])


@case(
    "K5",
    "jetmoe_parallel",
    "transformers",
    "transformers/models/jetmoe/modeling_jetmoe.py JetMoeParallelExperts",
    "`input_linear.weight` and `output_linear.weight` [E, out, in]: dimension 2.",
)
def jetmoe() -> Made:
    config = use("transformers:JetMoeConfig")(
        hidden_size=16, intermediate_size=12, num_local_experts=4
    )
    made = use("transformers.models.jetmoe.modeling_jetmoe:JetMoeMoE")(config)
    found = {f"model.layers.0.mlp.{n}": t for n, t in drawn(made).items()}
    return by(found, [*NOT, ("router", 1), ("", 2)])


@case(
    "K5",
    "zamba_heads",
    "transformers",
    "transformers/models/zamba/modeling_zamba.py ZambaMambaMixer (x_proj_weight[n] @ x)",
    "`x_proj_weight` [heads, out, in]: dimension 2; `conv1d.weight` [C, 1, k] has one input.",
)
def zamba() -> Made:
    config = use("transformers:ZambaConfig")(
        hidden_size=16, mamba_d_state=4, mamba_dt_rank=4, n_mamba_heads=2, use_mamba_kernels=False
    )
    made = use("transformers.models.zamba.modeling_zamba:ZambaMambaMixer")(config, 0)
    torch.nn.init.normal_(made.x_proj_weight, std=0.1)
    found = {f"model.layers.0.mamba.{n}": t for n, t in state(made).items()}
    rules = [*NOT, (r"A_log|\.D$", -1), ("conv1d", -1), ("_proj_weight", 2), ("", 1)]
    return by(found, rules)


@case(
    "K5",
    "recurrent_gemma_gates",
    "transformers",
    "transformers/models/recurrent_gemma/modeling_recurrent_gemma.py RecurrentGemmaRglru (baddbmm)",
    "`input_gate_weight` [heads, in, out]: dimension 1, square, so that no shape tells.",
)
def rglru() -> Made:
    config = use("transformers:RecurrentGemmaConfig")(lru_width=16, num_attention_heads=2)
    module = "transformers.models.recurrent_gemma.modeling_recurrent_gemma"
    made = use(f"{module}:RecurrentGemmaRglru")(config)
    found = {f"model.layers.0.temporal_block.rg_lru.{n}": t for n, t in drawn(made).items()}
    return by(found, [*NOT, ("recurrent_param", -1), ("gate_weight", 1)])


@case(
    "K5",
    "xlnet_heads",
    "transformers",
    "transformers/models/xlnet/modeling_xlnet.py (einsum 'ibh,hnd->ibnd' and 'ibnd,hnd->ibh')",
    "`q`, `k`, `v`, `r` [in, heads, dim]: dimension 0; `o` [out, heads, dim]: its input is 1 and"
    " 2.",
)
def xlnet() -> Made:
    config = use("transformers:XLNetConfig")(d_model=16, n_head=2)
    made = use("transformers.models.xlnet.modeling_xlnet:XLNetRelativeAttention")(config)
    found = {f"transformer.layer.0.rel_attn.{n}": t for n, t in drawn(made).items()}
    return by(found, [(r"bias|norm|seg_embed", -1), (r"\.o$", 2), ("", 0)])


@case(
    "K5",
    "clip_projections",
    "open_clip_torch",
    "open_clip/transformer.py (pooled @ self.proj), open_clip/model.py (x @ self.text_projection)",
    "`visual.proj` and `text_projection` [in, out]: dimension 0.",
)
def clip() -> Made:
    text = use("open_clip.transformer:TextTransformer")(
        context_length=8, vocab_size=20, width=12, heads=2, layers=1, output_dim=6
    )
    seen = use("open_clip.transformer:VisionTransformer")(
        image_size=8, patch_size=4, width=12, layers=1, heads=2, mlp_ratio=2, output_dim=6
    )
    found = state(text, keep="projection|c_fc")
    found |= {f"visual.{n}": t for n, t in state(seen, keep=r"^proj$|conv1|in_proj_w").items()}
    return by(found, [*NOT, (r"projection|visual\.proj$", 0), ("", 1)])


@case(
    "K5",
    "recurrent",
    "torch",
    "torch/nn/modules/rnn.py LSTM(proj_size), GRUCell; torch/nn/modules/linear.py Bilinear",
    "`weight_ih_l0`, `weight_hh_l0_reverse`, `weight_hr_l0` [out, in]; Bilinear [out, in1, in2].",
)
def recurrent() -> Made:
    lstm = nn.LSTM(8, 8, proj_size=4, bidirectional=True)
    found = {f"rnn.{n}": t for n, t in state(lstm).items()}
    found |= {f"cell.{n}": t for n, t in state(nn.GRUCell(8, 4)).items()}
    found |= {f"pair.{n}": t for n, t in state(nn.Bilinear(8, 4, 3)).items()}
    found["mha.in_proj_weight"] = nn.MultiheadAttention(8, 2).in_proj_weight.detach()
    return by(found, [(r"\.bias", -1), ("pair", 2), ("", 1)])


@case(
    "K5",
    "grouped",
    "torchvision",
    "torchvision/models/resnet.py Bottleneck(groups), mobilenetv2.py",
    "A grouped convolution [out, in/groups, k, k] has its inputs at 1; a depthwise one has one.",
)
def grouped() -> Made:
    lib = use("torchvision.models")
    block = lib.resnet.Bottleneck(16, 4, groups=4, base_width=64)
    found = {f"layer1.0.{n}": t for n, t in state(block, keep=r"conv.\.weight").items()}
    mobile = lib.mobilenetv2.InvertedResidual(8, 8, 1, 2)
    found |= {f"features.2.{n}": t for n, t in state(mobile, keep="weight").items() if t.dim() == 4}
    shapes = {n: t.shape for n, t in found.items()}
    rules: list[tuple[str, int]] = [(f"^{n}$", -1) for n, s in shapes.items() if s[1] == 1]
    return by(found, [*rules, ("", 1)])


@case(
    "K5",
    "condconv",
    "timm",
    "timm/layers/cond_conv2d.py CondConv2d",
    "[experts, out * in * k * k]: a convolution in one row; its inputs lie in blocks of dim 1.",
)
def condconv() -> Made:
    made = use("timm.layers:CondConv2d")(8, 4, 3, num_experts=4)
    found = {f"blocks.5.0.conv_pw.{n}": t for n, t in state(made).items()}
    assert found["blocks.5.0.conv_pw.weight"].shape == torch.Size([4, 8 * 4 * 9])
    return by(found, [("", -1)])
