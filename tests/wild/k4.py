"""K4: embeddings, heads, routers, and modules that sound like them: language and experts."""

from typing import Any

from tests.wild.k3 import WB, drawn
from tests.wild.wildlib import Made, by, case, numpy_to_torch, state, use

LLAMA: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 40,
}


def small(name: str, config: str, **settings: Any) -> Any:
    """A small model of transformers, by the names of its class and its config."""
    return use(f"transformers:{name}")(use(f"transformers:{config}")(**settings))


@case(
    "K4",
    "bert_untied",
    "transformers",
    "transformers/models/bert/modeling_bert.py BertForMaskedLM(tie_word_embeddings=False)",
    "`output.dense` and `transform.dense` are weights, `cls.predictions.decoder` is the head.",
)
def bert() -> Made:
    made = small(
        "BertForMaskedLM",
        "BertConfig",
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        tie_word_embeddings=False,
    )
    rules = [
        ("word_embeddings|token_type", "embedding"),
        ("position_embeddings", "position"),
        ("LayerNorm", "norm"),
        (r"decoder\.weight", "head"),
    ]
    return by(state(made), [*rules, *WB])


@case(
    "K4",
    "gpt_neox_japanese",
    "transformers",
    "transformers/models/gpt_neox_japanese/modeling_gpt_neox_japanese.py"
    " GPTNeoXJapaneseForCausalLM",
    "`gpt_neox.embed_in` is the embedding, `embed_out` the head (GPT-NeoX itself says `lm_head`"
    " since"
    " transformers 5).",
)
def gpt_neox() -> Made:
    made = small(
        "GPTNeoXJapaneseForCausalLM",
        "GPTNeoXJapaneseConfig",
        tie_word_embeddings=False,
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_multiple_size=2,
    )
    rules = [("embed_in", "embedding"), ("embed_out|lm_head", "head"), ("norm", "norm")]
    return by(state(made), [*rules, *WB])


@case(
    "K4",
    "original_llama",
    "torchtune",
    "torchtune/models/convert_weights.py _FROM_META: the names of Meta's checkpoints",
    "`tok_embeddings.weight`, `output.weight` (the head), `layers.0.attention.wo.weight`.",
)
def original_llama() -> Made:
    found = {}
    text = (use("tests.wild.wildlib").shipped("torchtune", "models/convert_weights.py")).read_text()
    for name in ("tok_embeddings.weight", "output.weight", "layers.{}.attention.wo.weight"):
        assert f'"{name}"' in text
    config = use("litgpt:Config").from_name(
        "Llama-3.2-1B", n_layer=1, n_embd=16, n_head=2, n_query_groups=1, intermediate_size=24
    )
    config.padded_vocab_size = 40
    for name, tensor in state(use("litgpt:GPT")(config)).items():
        for old, new in (
            ("lm_head", "output"),
            ("transformer.wte", "tok_embeddings"),
            ("transformer.h", "layers"),
            ("attn.proj", "attention.wo"),
            ("mlp.fc_1", "feed_forward.w1"),
            ("mlp.fc_2", "feed_forward.w3"),
            ("mlp.proj", "feed_forward.w2"),
            ("transformer.ln_f", "norm"),
            ("norm_1", "attention_norm"),
            ("norm_2", "ffn_norm"),
        ):
            name = name.replace(old, new)
        if "qkv" not in name:
            found[name] = tensor
    rules = [("tok_emb", "embedding"), (r"^output", "head"), ("norm", "norm"), *WB]
    return by(found, rules)


@case(
    "K4",
    "qwen2_moe_gates",
    "transformers",
    "transformers/models/qwen2_moe/modeling_qwen2_moe.py Qwen2MoeSparseMoeBlock",
    "`gate.weight` and `shared_expert_gate.weight` [1, d] route; `shared_expert.gate_proj` does"
    " not.",
)
def qwen2_moe() -> Made:
    config = use("transformers:Qwen2MoeConfig")(
        **LLAMA,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=12,
    )
    made = use("transformers.models.qwen2_moe.modeling_qwen2_moe:Qwen2MoeSparseMoeBlock")(config)
    found = {f"model.layers.0.mlp.{n}": t for n, t in drawn(made).items()}
    return by(found, [(r"\.gate\.|expert_gate", "router"), ("", "weight")])


@case(
    "K4",
    "switch_router",
    "transformers",
    "transformers/models/nllb_moe/modeling_nllb_moe.py NllbMoeSparseMLP",
    "`ffn.router.classifier.weight`: a router that is called classifier.",
)
def nllb() -> Made:
    config = use("transformers:NllbMoeConfig")(d_model=16, num_experts=4, vocab_size=40)
    made = use("transformers.models.nllb_moe.modeling_nllb_moe:NllbMoeSparseMLP")(config, 12)
    found = {f"model.encoder.layers.3.ffn.{n}": t for n, t in drawn(made).items()}
    return by(found, [("router", "router"), *WB, ("experts", "weight")])


@case(
    "K4",
    "jetmoe_router",
    "transformers",
    "transformers/models/jetmoe/modeling_jetmoe.py JetMoeMoA",
    "`experts.router.layer.weight`; `input_linear.weight` [E, out, in] are experts.",
)
def jetmoe() -> Made:
    config = use("transformers:JetMoeConfig")(hidden_size=16, kv_channels=4, num_local_experts=4)
    made = use("transformers.models.jetmoe.modeling_jetmoe:JetMoeMoA")(config)
    found = {f"model.layers.0.self_attention.experts.{n}": t for n, t in drawn(made).items()}
    return by(found, [("router", "router"), *WB])


@case(
    "K4",
    "deepseek_gate",
    "transformers",
    "transformers/models/deepseek_v3/modeling_deepseek_v3.py DeepseekV3MoE",
    "`gate.weight` and `gate.e_score_correction_bias`; `shared_experts.gate_proj`.",
)
def deepseek() -> Made:
    config = use("transformers:DeepseekV3Config")(
        hidden_size=16, moe_intermediate_size=8, n_routed_experts=8, n_group=2, topk_group=1
    )
    made = use("transformers.models.deepseek_v3.modeling_deepseek_v3:DeepseekV3MoE")(config)
    found = {f"model.layers.3.mlp.{n}": t for n, t in drawn(made).items()}
    return by(found, [("bias", "bias"), (r"\.gate\.weight", "router"), ("", "weight")])


@case(
    "K4",
    "mlx_mla",
    "mlx-lm",
    "mlx_lm/models/mla.py MultiLinear, as in deepseek_v3.py",
    "`self_attn.embed_q.weight` and `unembed_out.weight` [heads, out, in] are weights that are"
    " called"
    " embed.",
)
def mlx_mla() -> Made:
    use("mlx.core").random.seed(0)
    cls = use("mlx_lm.models.mla:MultiLinear")
    found = {}
    for name, made in (("embed_q", cls(8, 16, 4)), ("unembed_out", cls(16, 8, 4))):
        for part, array in made.parameters().items():
            found[f"model.layers.0.self_attn.{name}.{part}"] = numpy_to_torch(array)
    return by(found, [("", "weight")])


@case(
    "K4",
    "deberta_rel",
    "transformers",
    "transformers/models/deberta_v2/modeling_deberta_v2.py DebertaV2ForMaskedLM(legacy=False)",
    "`rel_embeddings.weight` is a position table, `lm_predictions.lm_head.dense` a weight.",
)
def deberta() -> Made:
    made = small(
        "DebertaV2ForMaskedLM",
        "DebertaV2Config",
        vocab_size=30,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        relative_attention=True,
        max_relative_positions=8,
        max_position_embeddings=8,
        legacy=False,
    )
    rules = [
        ("word_embeddings", "embedding"),
        ("position_emb|rel_emb", "position"),
        ("LayerNorm", "norm"),
    ]
    return by(state(made), [*rules, *WB])


@case(
    "K4",
    "csm_codebooks",
    "transformers",
    "transformers/models/csm/modeling_csm.py CsmCodebooksHead",
    "`codebooks_head.weight` [books, d, vocabulary]: a head of three dims whose input comes first.",
)
def csm() -> Made:
    made = use("transformers.models.csm.modeling_csm:CsmCodebooksHead")(16, 4, 30)
    found = {f"depth_decoder.codebooks_head.{n}": t for n, t in drawn(made).items()}
    found["depth_decoder.model.inputs_embeds_projector.weight"] = use("torch").randn(16, 16) * 0.1
    return by(found, [("codebooks_head", "head"), ("", "weight")])


@case(
    "K4",
    "coca_vocabulary",
    "open_clip_torch",
    "open_clip/transformer.py MultimodalTransformer",
    "`text_projection` [d, vocabulary] is the head of CoCa's decoder, with no `.weight`; in a plain"
    " CLIP text tower the same name is a projection.",
)
def coca() -> Made:
    made = use("open_clip.transformer:MultimodalTransformer")(
        width=12, layers=1, heads=2, context_length=8, output_dim=40
    )
    made.text_projection.data.normal_(std=0.1)
    found = {f"text_decoder.{n}": t for n, t in state(made, drop="mask|cross").items()}
    return by(found, [("text_proj", "head"), (r"ln_", "norm"), *WB, ("in_proj_weight", "weight")])


@case(
    "K4",
    "gemma3n_altup",
    "transformers",
    "transformers/models/gemma3n/modeling_gemma3n.py Gemma3nTextAltUp",
    "`modality_router.weight` [4, d] routes; `prediction_coefs.weight` [16, 4] is a Linear.",
)
def altup() -> Made:
    config = use("transformers:Gemma3nTextConfig")(hidden_size=16)
    made = use("transformers.models.gemma3n.modeling_gemma3n:Gemma3nTextAltUp")(config)
    found = {f"model.layers.0.altup.{n}": t for n, t in drawn(made).items()}
    rules = [("router_norm", "norm"), ("modality_router", "router"), ("scale", "other"), *WB]
    return by(found, rules)
