"""K1: constant buffers inside transformers' and other models: tables, masks, statistics."""

import torch

from tests.wild.wildlib import Made, by, case, shipped, state, use

FIX = "constant"
WB: list[tuple[str, str]] = [("bias$", "bias"), ("weight$", "weight")]


@case(
    "K1",
    "minimax_decay",
    "transformers",
    "transformers/models/minimax/modeling_minimax.py MiniMaxLightningAttention",
    "`query_decay`, `key_decay`, `diagonal_decay` [1, heads, block, block]: lower-triangular"
    " powers.",
)
def minimax() -> Made:
    config = use("transformers:MiniMaxConfig")(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, block_size=24
    )
    cls = use("transformers.models.minimax.modeling_minimax:MiniMaxLightningAttention")
    found = {f"model.layers.1.self_attn.{n}": t for n, t in state(cls(config, 1)).items()}
    return by(found, [("decay|slope", FIX), ("norm", "norm"), *WB])


@case(
    "K1",
    "swinv2_coords",
    "torchvision",
    "torchvision/models/swin_transformer.py ShiftedWindowAttentionV2",
    "`relative_coords_table` [1, 7, 7, 2], log-spaced between -1.3 and 1.3; `logit_scale` [h, 1,"
    " 1].",
)
def swinv2() -> Made:
    cls = use("torchvision.models.swin_transformer:ShiftedWindowAttentionV2")
    found = state(cls(16, [4, 4], [0, 0], 2), drop="index")
    found = {f"features.1.0.attn.{n}": t for n, t in found.items() if t.numel() < 5000}
    return by(found, [("coords", FIX), ("logit_scale", "other"), *WB])


@case(
    "K1",
    "sinusoid_embedding",
    "transformers",
    "transformers/models/whisper/modeling_whisper.py WhisperEncoder",
    "`encoder.embed_positions.weight`: an nn.Embedding whose rows are sinusoids, saved as a"
    " weight.",
)
def whisper() -> Made:
    config = use("transformers:WhisperConfig")(
        num_mel_bins=8,
        d_model=24,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        max_source_positions=40,
    )
    found = state(use("transformers.models.whisper.modeling_whisper:WhisperEncoder")(config))
    found = {f"model.encoder.{n}": t for n, t in found.items()}
    return by(found, [("embed_positions", "position"), ("norm", "norm"), *WB])


@case(
    "K1",
    "openai_whisper",
    "openai-whisper",
    "whisper/model.py AudioEncoder and TextDecoder",
    "The same table as a buffer: `encoder.positional_embedding`; the decoder's is a parameter.",
)
def openai_whisper() -> Made:
    lib = use("whisper.model")
    made = lib.Whisper(lib.ModelDimensions(4, 40, 12, 2, 1, 40, 8, 12, 2, 1))
    made.decoder.positional_embedding.data.normal_(std=0.01)
    found = state(made)
    return by(
        found,
        [
            ("token_embedding", "embedding"),
            ("positional", "position"),
            (r"_ln\.|ln_post|\.ln\.|mlp_ln|ln\.", "norm"),
            *WB,
        ],
    )


@case(
    "K1",
    "codebook_statistics",
    "encodec",
    "encodec/quantization/core_vq.py EuclideanCodebook",
    "`embed` and `embed_avg` are equal at the start; `cluster_size` and `inited` count.",
)
def encodec() -> Made:
    cls = use("encodec.quantization.core_vq:VectorQuantization")
    made = cls(dim=12, codebook_size=32, codebook_dim=8, kmeans_init=False)
    found = {f"quantizer.vq.layers.0.{n}": t for n, t in state(made).items()}
    return by(found, [("_codebook", FIX), *WB])


@case(
    "K1",
    "mimi_codebook",
    "transformers",
    "transformers/models/mimi/modeling_mimi.py MimiVectorQuantization",
    "`codebook.embed_sum`, `cluster_usage` and `initialized`: sums, to be divided, not weights.",
)
def mimi() -> Made:
    config = use("transformers:MimiConfig")(codebook_size=32, codebook_dim=16)
    made = use("transformers.models.mimi.modeling_mimi:MimiVectorQuantization")(config)
    path = "quantizer.semantic_residual_vector_quantizer.layers.0"
    return by({f"{path}.{n}": t for n, t in state(made).items()}, [("codebook", FIX)])


@case(
    "K1",
    "sam_random_fourier",
    "segment-anything",
    "segment_anything/modeling/prompt_encoder.py PositionEmbeddingRandom",
    "`pe_layer.positional_encoding_gaussian_matrix` [2, 16]: random, never trained.",
)
def sam() -> Made:
    made = use("segment_anything.modeling:PromptEncoder")(32, (4, 4), (64, 64), 4)
    found = {f"prompt_encoder.{n}": t for n, t in state(made).items()}
    return by(
        found,
        [
            ("gaussian", FIX),
            ("embeddings|embed", "position"),
            (r"downscaling\.[14]\.", "norm"),
            *WB,
        ],
    )


@case(
    "K1",
    "motion_positions",
    "diffusers",
    "diffusers/models/embeddings.py SinusoidalPositionalEmbedding in MotionAdapter",
    "`pos_embed.pe` [1, 32, C] in every motion module.",
)
def motion() -> Made:
    made = use("diffusers.models.attention:BasicTransformerBlock")(
        16, 2, 8, positional_embeddings="sinusoidal", num_positional_embeddings=32
    )
    path = "down_blocks.0.motion_modules.0.transformer_blocks.0"
    found = {f"{path}.{n}": t for n, t in state(made).items()}
    return by(found, [(r"\.pe$", FIX), ("norm", "norm"), *WB])


@case(
    "K1",
    "sd3_positions",
    "diffusers",
    "diffusers/models/embeddings.py PatchEmbed (SD3)",
    "`pos_embed.pos_embed` [1, 144, C] is a fixed 2-D sinusoid; `pos_embed.proj.weight` beside it"
    " is"
    " a convolution: the module is called like the table.",
)
def sd3() -> Made:
    made = use("diffusers.models.embeddings:PatchEmbed")(
        height=16, width=16, patch_size=2, in_channels=4, embed_dim=16, pos_embed_max_size=12
    )
    found = {f"pos_embed.{n}": t for n, t in state(made).items()}
    return by(found, [(r"pos_embed\.pos_embed$", FIX), *WB])


@case(
    "K1",
    "florence2_temporal",
    "transformers",
    "transformers/models/florence2/modeling_florence2.py"
    " Florence2VisionPositionalEmbeddingCosine1D",
    "`pos_idx_to_embed` [T, C], a sinusoid table.",
)
def florence2() -> Made:
    config = use("transformers:Florence2Config")()
    config.vision_config.embed_dim = [8, 8, 8, 16]
    config.vision_config.max_temporal_embeddings = 60
    module = "transformers.models.florence2.modeling_florence2"
    made = use(f"{module}:Florence2VisionPositionalEmbeddingCosine1D")(config)
    path = "model.multi_modal_projector.visual_temporal_embed"
    return by({f"{path}.{n}": t for n, t in state(made).items()}, [("", FIX)])


@case(
    "K1",
    "unet1d_fir",
    "diffusers",
    "diffusers/models/unets/unet_1d_blocks.py Downsample1d",
    "`down.kernel`, an FIR filter of eight taps: a constant that is called kernel.",
)
def fir() -> Made:
    made = use("diffusers.models.unets.unet_1d_blocks:Downsample1d")("cubic")
    found = {f"down_blocks.1.down.{n}": t for n, t in state(made).items()}
    found["down_blocks.1.resnets.0.conv_1.weight"] = torch.nn.Conv1d(8, 8, 5).weight.detach()
    return by(found, [("kernel", FIX), *WB])


@case(
    "K1",
    "alibi_slopes",
    "x-transformers",
    "x_transformers/x_transformers.py AlibiPositionalBias",
    "`rel_pos.slopes` [heads, 1, 1], the powers of ALiBi.",
)
def alibi() -> Made:
    lib = use("x_transformers")
    made = lib.Decoder(dim=16, depth=1, heads=4, attn_dim_head=8, alibi_pos_bias=True)
    found = {f"attn_layers.{n}": t for n, t in state(made).items()}
    return by(found, [("slopes", FIX), ("gamma|norm|beta", "norm"), *WB])


@case(
    "K1",
    "resemblyzer_real",
    "Resemblyzer",
    "resemblyzer/pretrained.pt VoiceEncoder",
    "Real weights without a constant: none of an LSTM's gates may be taken for one.",
)
def resemblyzer() -> Made:
    path = shipped("resemblyzer", "pretrained.pt")
    whole = torch.load(path, map_location="cpu", weights_only=False)["model_state"]
    found = {n: t[:4].clone() for n, t in whole.items() if t.dim() == 2}
    found["lstm.bias_ih_l0"] = whole["lstm.bias_ih_l0"].clone()
    return by(found, [("bias", "bias"), ("weight", "weight")])


@case(
    "K1",
    "radio_conditioner",
    "timm",
    "transformers/models/radio/modeling_radio.py RadioInputConditioner",
    "Window and class-balance buffers of one column: `norm_mean`, `norm_std` [3, 1, 1].",
)
def radio() -> Made:
    config = use("transformers:RadioConfig")()
    cls = use("transformers.models.radio.modeling_radio:RadioInputConditioner")
    found = {f"input_conditioner.{n}": t for n, t in state(cls(config)).items()}
    found["blocks.0.mlp.fc1.weight"] = torch.nn.Linear(16, 32).weight.detach()
    return by(found, [("norm_", FIX), *WB])
