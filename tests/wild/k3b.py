"""K3: parameters that are matrices by shape only: tokens, positions, codebooks, adaptive norms."""

from torch import Tensor

from tests.wild.k3 import WB, drawn
from tests.wild.wildlib import Made, by, case, state, use


@case(
    "K3",
    "swin_bias_table",
    "timm",
    "timm/models/swin_transformer.py WindowAttention",
    "`relative_position_bias_table` [(2w-1)^2, heads].",
)
def swin() -> Made:
    made = use("timm.models.swin_transformer:WindowAttention")(16, 2, window_size=4)
    found = {f"layers.0.blocks.0.attn.{n}": t for n, t in state(made, drop="index").items()}
    return by(found, [("bias_table", "position"), *WB])


@case(
    "K3",
    "levit_biases",
    "timm",
    "timm/models/levit.py Attention",
    "`attention_biases` [heads, offsets]; `qkv.linear.weight` with `qkv.bn.weight` beside it.",
)
def levit() -> Made:
    made = use("timm.models.levit:Attention")(16, 8, 2, resolution=(4, 4))
    found = {f"stages.0.blocks.0.attn.{n}": t for n, t in state(made, drop="idxs|batches").items()}
    return by(found, [("attention_biases", "position"), (r"\.bn\.", "norm"), *WB])


@case(
    "K3",
    "sam_rel_pos",
    "segment-anything",
    "segment_anything/modeling/image_encoder.py Attention",
    "`rel_pos_h` and `rel_pos_w` [2w-1, dim].",
)
def sam() -> Made:
    made = use("segment_anything.modeling.image_encoder:Attention")(
        16, 2, use_rel_pos=True, input_size=(4, 4)
    )
    found = {f"image_encoder.blocks.0.attn.{n}": t for n, t in state(made).items()}
    return by(found, [("rel_pos", "position"), *WB])


@case(
    "K3",
    "conformer_pos_bias",
    "transformers",
    "transformers/models/wav2vec2_conformer/modeling_wav2vec2_conformer.py self-attention",
    "`pos_bias_u` and `pos_bias_v` [heads, dim]; `linear_pos.weight` is a weight.",
)
def conformer() -> Made:
    config = use("transformers:Wav2Vec2ConformerConfig")(
        hidden_size=16, num_attention_heads=2, position_embeddings_type="relative"
    )
    module = "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer"
    made = use(f"{module}:Wav2Vec2ConformerSelfAttention")(config)
    path = "wav2vec2_conformer.encoder.layers.0.self_attn"
    return by({f"{path}.{n}": t for n, t in state(made).items()}, [("pos_bias", "bias"), *WB])


@case(
    "K3",
    "tokens",
    "timm",
    "timm/models/vision_transformer.py VisionTransformer(reg_tokens, pos_embed)",
    "`cls_token`, `reg_token`, `pos_embed`, `attn_pool.latent`; `patch_embed.proj.weight` is a"
    " weight, and so are `attn_pool.q`, `kv`.",
)
def tokens() -> Made:
    made = use("timm.models.vision_transformer:VisionTransformer")(
        img_size=16,
        patch_size=8,
        embed_dim=12,
        depth=1,
        num_heads=2,
        num_classes=3,
        reg_tokens=2,
        global_pool="map",
        init_values=0.1,
    )
    rules = [("token|pos_embed$|latent", "position"), ("norm", "norm"), ("gamma", "other"), *WB]
    return by(state(made), rules)


@case(
    "K3",
    "aria_query",
    "transformers",
    "transformers/models/aria/modeling_aria.py AriaProjector",
    "`query` [n, C] beside `q_proj.weight` and `multihead_attn.in_proj_weight`.",
)
def aria() -> Made:
    config = use("transformers:AriaConfig")(
        vision_config={
            "model_type": "idefics3_vision",
            "hidden_size": 16,
            "num_attention_heads": 2,
        },
        text_config={"model_type": "aria_text", "hidden_size": 16, "num_attention_heads": 2},
        projector_patch_to_query_dict={4: 8},
    )
    made = use("transformers.models.aria.modeling_aria:AriaProjector")(config)
    found = {f"model.multi_modal_projector.{n}": t for n, t in drawn(made).items()}
    rules = [("query", "position"), ("norm|layer_norm|ln", "norm"), *WB]
    return by(found, [*rules, ("in_proj_weight", "weight")])


@case(
    "K3",
    "snac_snake",
    "snac",
    "snac/layers.py ResidualUnit, Snake1d; snac/vq.py VectorQuantize",
    "`alpha` [1, C, 1], weight norm's `original0`, `original1`, and `codebook.weight` [n, dim].",
)
def snac() -> Made:
    unit = use("snac.layers:ResidualUnit")(8)
    vq = use("snac.vq:VectorQuantize")(8, 32, 4)
    found = {f"encoder.block.1.block.0.{n}": t for n, t in state(unit).items()}
    found |= {f"quantizer.quantizers.0.{n}": t for n, t in state(vq).items()}
    rules = [("alpha", "other"), ("codebook", "constant"), ("original0", "norm")]
    return by(found, [*rules, ("original1", "weight"), *WB])


@case(
    "K3",
    "vocos_ada_norm",
    "vocos",
    "vocos/modules.py AdaLayerNorm in ConvNeXtBlock",
    "`norm.scale.weight` and `norm.shift.weight` [conditions, C]: embeddings that are norms.",
)
def vocos() -> Made:
    made = use("vocos.modules:ConvNeXtBlock")(16, 32, 0.5, adanorm_num_embeddings=4)
    found = {f"backbone.convnext.0.{n}": t for n, t in state(made).items()}
    return by(found, [("norm", "norm"), ("gamma", "other"), *WB])


@case(
    "K3",
    "vits_flow",
    "transformers",
    "transformers/models/vits/modeling_vits.py VitsElementwiseAffine, VitsAttention",
    "`translate` and `log_scale` [C, 1]; `emb_rel_k` and `emb_rel_v` [1, 9, dim].",
)
def vits() -> Made:
    lib = use("transformers.models.vits.modeling_vits")
    config = use("transformers:VitsConfig")(hidden_size=16, num_attention_heads=2)
    found = {
        f"duration_predictor.flows.0.{n}": t
        for n, t in drawn(lib.VitsElementwiseAffine(config)).items()
    }
    made = state(lib.VitsAttention(config))
    found |= {f"text_encoder.encoder.layers.0.attention.{n}": t for n, t in made.items()}
    return by(found, [("translate|log_scale", "other"), ("emb_rel", "position"), *WB])


@case(
    "K3",
    "gat_attention",
    "torch-geometric",
    "torch_geometric/nn/conv/gat_conv.py GATConv",
    "`att_src` and `att_dst` [1, heads, dim]; `lin.weight` is a weight.",
)
def gat() -> Made:
    made = use("torch_geometric.nn:GATConv")(8, 8, heads=2)
    found = {f"convs.0.{n}": t for n, t in state(made).items()}
    return by(found, [("att_", "other"), *WB])


@case(
    "K3",
    "xcit_temperature",
    "timm",
    "timm/models/xcit.py XCA, timm/models/swin_transformer_v2.py logit_scale",
    "`temperature` [heads, 1, 1].",
)
def xcit() -> Made:
    made = use("timm.models.xcit:XCA")(16, 2)
    found = {f"blocks.0.attn.{n}": t for n, t in state(made).items()}
    return by(found, [("temperature", "other"), *WB])


@case(
    "K3",
    "t5_relative",
    "transformers",
    "transformers/models/t5/modeling_t5.py T5Attention",
    "`relative_attention_bias.weight` [buckets, heads]: an embedding that is called bias and ends"
    " in"
    " weight.",
)
def t5() -> Made:
    config = use("transformers:T5Config")(d_model=16, num_heads=2, d_kv=8)
    made = use("transformers.models.t5.modeling_t5:T5Attention")(
        config, has_relative_attention_bias=True, layer_idx=0
    )
    found = {f"encoder.block.0.layer.0.SelfAttention.{n}": t for n, t in state(made).items()}
    return by(found, [("relative_attention_bias", "position"), *WB])


@case(
    "K3",
    "flax_biases",
    "flax",
    "flax/linen/attention.py MultiHeadDotProductAttention",
    "`query.bias` [heads, dim] of two dims; kernels of three.",
)
def flax() -> Made:
    linen, jax = use("flax.linen"), use("jax")
    numpy, flat = use("jax.numpy"), use("flax.traverse_util:flatten_dict")
    made = linen.SelfAttention(2).init(jax.random.PRNGKey(0), numpy.zeros((1, 3, 16)))
    convert = use("tests.wild.wildlib:numpy_to_torch")
    found = {".".join(("encoder", *n[1:])): convert(t) + 0.01 for n, t in flat(made).items()}
    return by(found, [("bias", "bias"), ("kernel", "weight")])


@case(
    "K3",
    "peft_scales",
    "peft",
    "peft/tuners/ia3/layer.py, peft/tuners/lora/dora.py",
    "`ia3_l` [1, C] or [C, 1]; `lora_magnitude_vector` [C].",
)
def peft() -> Made:
    lib = use("peft")
    config = use("transformers:LlamaConfig")(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=50,
    )
    found: dict[str, Tensor] = {}
    for made in (
        lib.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        lib.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]),
    ):
        model = lib.get_peft_model(use("transformers:LlamaForCausalLM")(config), made)
        found |= lib.get_peft_model_state_dict(model)
    found = {n: t.detach().clone() for n, t in found.items()}
    return by(found, [("ia3|magnitude", "adapter"), ("lora_", "adapter")])
