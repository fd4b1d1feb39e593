"""K4: modules that only sound like embeddings, heads and routers: pictures, sound, diffusion."""

import torch

from tests.wild.k3 import WB, drawn
from tests.wild.k4 import small
from tests.wild.wildlib import Made, by, case, state, use


@case(
    "K4",
    "detr_heads",
    "transformers",
    "transformers/models/detr/modeling_detr.py DetrForObjectDetection: its heads",
    "`class_labels_classifier` and `bbox_predictor.layers.0` are Linears;"
    " `query_position_embeddings`"
    " is an nn.Embedding.",
)
def detr() -> Made:
    head = use("transformers.models.detr.modeling_detr:DetrMLPPredictionHead")(16, 16, 4, 3)
    found = {f"bbox_predictor.{n}": t for n, t in state(head).items()}
    found["class_labels_classifier.weight"] = torch.nn.Linear(16, 8).weight.detach()
    found["model.query_position_embeddings.weight"] = torch.nn.Embedding(10, 16).weight.detach()
    return by(found, [("query_pos", "position"), *WB])


@case(
    "K4",
    "deformable_class_embed",
    "transformers",
    "transformers/models/grounding_dino/modeling_grounding_dino.py; d_fine heads",
    "`class_embed.0.weight` and `bbox_embed.0.layers.0.weight` are Linears, as in DETR's own code.",
)
def rt_detr() -> Made:
    lib = use("transformers.models.rt_detr.modeling_rt_detr")
    config = use("transformers:RTDetrConfig")(d_model=16, num_labels=4, decoder_layers=2)
    mlp = lib.RTDetrMLPPredictionHead(16, 16, 4, 3)
    found = {f"model.decoder.bbox_embed.0.{n}": t for n, t in state(mlp).items()}
    found["model.decoder.class_embed.0.weight"] = torch.nn.Linear(16, 4).weight.detach()
    found["model.denoising_class_embed.weight"] = torch.nn.Embedding(
        5, config.d_model
    ).weight.detach()
    return by(found, [("denoising", "embedding"), *WB])


@case(
    "K4",
    "unet_embeddings",
    "diffusers",
    "diffusers/models/embeddings.py TimestepEmbedding, TextTimeEmbedding, LabelEmbedding",
    "`time_embedding.linear_1.weight` and `add_embedding.linear_1.weight` are weights;"
    " `class_embedding.embedding_table.weight` is an embedding.",
)
def unet() -> Made:
    lib = use("diffusers.models.embeddings")
    found = {f"time_embedding.{n}": t for n, t in state(lib.TimestepEmbedding(8, 16)).items()}
    found |= {f"add_embedding.{n}": t for n, t in state(lib.TimestepEmbedding(12, 16)).items()}
    made = lib.LabelEmbedding(10, 16, 0.1)
    found |= {f"class_embedding.{n}": t for n, t in state(made).items()}
    return by(found, [("embedding_table", "embedding"), *WB])


@case(
    "K4",
    "flux_embedders",
    "diffusers",
    "diffusers/models/transformers/transformer_flux.py FluxTransformer2DModel",
    "`x_embedder`, `context_embedder`, `time_text_embed.*` and `norm_out.linear` are all weights;"
    " so is `norm1.linear`, under a module called norm.",
)
def flux() -> Made:
    made = use("diffusers:FluxTransformer2DModel")(
        in_channels=4,
        num_layers=0,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=1,
        joint_attention_dim=6,
        pooled_projection_dim=6,
        axes_dims_rope=(2, 2, 4),
    )
    found = state(made, drop="timestep_embedder|guidance")
    rules = [(r"norm_[qk]\.weight", "norm"), *WB]
    return by(found, rules)


@case(
    "K4",
    "vit_patch_embed",
    "timm",
    "timm/models/vision_transformer.py, hybrid embedder",
    "`patch_embed.proj.weight` is a convolution, `head.weight` the classifier, a Linear;"
    " `pos_embed`"
    " a parameter.",
)
def vit() -> Made:
    made = use("timm.models.vision_transformer:VisionTransformer")(
        img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=5
    )
    return by(state(made), [("pos_embed|cls_token", "position"), ("norm", "norm"), *WB])


@case(
    "K4",
    "token_mixer",
    "timm",
    "timm/models/metaformer.py MetaFormerBlock with SepConv",
    "`token_mixer.pwconv1.weight` is a weight; `layer_scale1.scale` and `res_scale1.scale` are"
    " not.",
)
def metaformer() -> Made:
    lib = use("timm.models.metaformer")
    made = lib.MetaFormerBlock(dim=8, token_mixer=lib.SepConv, layer_scale_init_value=1e-5)
    found = {f"stages.0.blocks.0.{n}": t for n, t in state(made).items()}
    return by(found, [(r"norm", "norm"), (r"\.scale$|act", "other"), *WB])


@case(
    "K4",
    "condconv_routing",
    "timm",
    "timm/layers/cond_conv2d.py CondConv2d in timm/models/_efficientnet_blocks.py",
    "`routing_fn.weight` [experts, C] is a router; `conv_pw.weight` [experts, out*in*k*k] holds one"
    " flat convolution a row.",
)
def condconv() -> Made:
    made = use("timm.models._efficientnet_blocks:CondConvResidual")(8, 8, num_experts=4)
    found = state(made, drop="running|batches")
    return by(
        {f"blocks.5.0.{n}": t for n, t in found.items()},
        [("routing_fn", "router"), ("bn", "norm"), *WB],
    )


@case(
    "K4",
    "siglip_head",
    "transformers",
    "transformers/models/siglip/modeling_siglip.py SiglipMultiheadAttentionPoolingHead",
    "`head.probe` is a token; `head.attention.in_proj_weight` and `head.mlp.fc1.weight` are"
    " weights.",
)
def siglip() -> Made:
    config = use("transformers:SiglipVisionConfig")(
        hidden_size=16, intermediate_size=24, num_attention_heads=2
    )
    cls = use("transformers.models.siglip.modeling_siglip:SiglipMultiheadAttentionPoolingHead")
    found = {f"vision_model.head.{n}": t for n, t in drawn(cls(config)).items()}
    rules = [("probe", "position"), ("norm", "norm"), ("in_proj_weight", "weight"), *WB]
    return by(found, rules)


@case(
    "K4",
    "ctc_convolution",
    "transformers",
    "transformers/models/parakeet/modeling_parakeet.py ParakeetForCTC",
    "`ctc_head.weight` [vocabulary, d, 1] is a Conv1d that scores tokens.",
)
def ctc() -> Made:
    config = use("transformers:ParakeetCTCConfig")(
        vocab_size=30, encoder_config={"hidden_size": 16}
    )
    head = torch.nn.Conv1d(config.encoder_config.hidden_size, config.vocab_size, 1)
    found = {f"ctc_head.{n}": t for n, t in state(head).items()}
    found["encoder.layers.0.self_attn.relative_k_proj.weight"] = torch.randn(16, 16) * 0.1
    return by(found, [(r"ctc_head\.weight", "head"), *WB])


@case(
    "K4",
    "segformer_decode_head",
    "transformers",
    "transformers/models/segformer/modeling_segformer.py SegformerDecodeHead, overlap embeddings",
    "`decode_head.linear_c.0.proj`, `decode_head.classifier` and `patch_embeddings.0.proj` are"
    " weights.",
)
def segformer() -> Made:
    config = use("transformers:SegformerConfig")(
        hidden_sizes=[4, 4, 4, 4], decoder_hidden_size=8, num_labels=3
    )
    lib = use("transformers.models.segformer.modeling_segformer")
    found = {f"decode_head.{n}": t for n, t in state(lib.SegformerDecodeHead(config)).items()}
    made = lib.SegformerOverlapPatchEmbeddings(7, 4, 3, 4)
    path = "segformer.encoder.patch_embeddings.0"
    found |= {f"{path}.{n}": t for n, t in state(made).items()}
    found = {n: t for n, t in found.items() if "running" not in n}
    return by(found, [("norm", "norm"), *WB])


@case(
    "K4",
    "whisper_decoder",
    "transformers",
    "transformers/models/whisper/modeling_whisper.py WhisperForConditionalGeneration, untied",
    "`model.decoder.layers.0.*` are weights, `model.decoder.embed_tokens` the embedding, `proj_out`"
    " the head.",
)
def whisper() -> Made:
    made = small(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        vocab_size=40,
        num_mel_bins=4,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_source_positions=8,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        tie_word_embeddings=False,
    )
    rules = [
        ("embed_tokens", "embedding"),
        ("embed_positions", "position"),
        ("proj_out", "head"),
        ("norm", "norm"),
    ]
    return by(state(made), [*rules, *WB])


@case(
    "K4",
    "facenet_last",
    "facenet-pytorch",
    "facenet_pytorch/models/mtcnn.py ONet",
    "`dense5`, `dense6_1`: real weights shipped with the package, `conv4_1.weight` has two"
    " outputs.",
)
def facenet() -> Made:
    made = use("facenet_pytorch.models.mtcnn:PNet")(pretrained=True)
    return by(state(made), [(r"prelu", "other"), *WB])
