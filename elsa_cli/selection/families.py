"""The rules that tell a tensor's role by its name, as data: the first one that fits decides.

Each rule names the family of networks or libraries that it is for. What moves a tensor from one
role to another is a new `rules.VERSION`. It is one table, in one order, and therefore one file,
however long.
"""

from __future__ import annotations

from elsa_cli.selection.rules import Rule, Test

__all__ = ["RULES"]


def _word(words: str) -> str:
    """Return a pattern for a segment that has one of some words, between underscores."""
    return rf"(?:.*_)?(?:{words})(?:_.*)?"


def _last(words: str) -> str:
    """Return a pattern for a segment whose last word is one of some."""
    return rf"(?:.*_)?(?:{words})"


WEIGHT = r"weight|weights|kernel|w|original|weight_orig|weight_v|embedding|embeddings"
NORM = (
    r"(?:.*_)?(?:norm|norms|layernorm|layer_norm|batchnorm|batch_norm|groupnorm|group_norm|rmsnorm"
    r"|instancenorm|ln|bn|gn|grn|rms|lnorm|layernorms?)(?:_(?:f|q|k|v|kv|x|in|out|pre|post))?"
    r"|ln_.*|norm_(?!.*(?:proj|linear|fc|mlp|dense)).*|.*norm|batchnorm.*d|bn.*d"
)
EMBED = r"embed|embeds|embedding|embeddings|embd|emb|embs"
# A segment that names a layer is one, whatever else it says: `embedding_projection`, `linear_pos`.
NO_LAYER = (
    r"(?!to_|(?:.*_)?(?:mapper|proj|projection|projector|project|mapping|transformation|transform|dense|linear"
    r"|fc|conv|mlp|mixer)(?:_.*)?$)"
)
PLACE = r"pos|position|positions|positional|time|temporal|segment|seg|token_type|type"

RULES: tuple[Rule, ...] = (
    # -- Buffers, by the name of the buffer itself --------------------------------------------
    Rule(
        "constant",
        "tables of rotary and sinusoid positions: Llama, GPT-NeoX, DeepSeek, Wav2Vec2, tutorials",
        leaf=r"inv_freq|.*_inv_freq|freqs?|freqs?_.*|.*freqs|pe|cos|sin|(?:cos|sin)_cached"
        r"|.*_(?:cos|sin)|rope.*|rotary.*|pos_table|sinusoid.*|div_term|position_ids?|.*omega",
    ),
    Rule(
        "constant",
        "attention masks: GPT-2, nanoGPT, Swin, Reformer, MinGPT",
        leaf=_last(r"mask|masks|tril|triu|masked_bias|causal|attn_mask|future_mask"),
    ),
    Rule(
        "constant",
        "spectrograms and their filters: Whisper, torchaudio, librosa, PANNs, ESPnet",
        leaf=r"window|.*_window|windows|mel|mel_.*|mels|.*_mel|fb|fbanks?|.*filterbanks?|dct.*"
        r"|(?:forward|inverse|.*fourier|.*dft|.*stft)_?bas[ie]s|window_sumsquare|melw|wsin|wcos",
    ),
    Rule(
        "constant",
        "Fourier bases as convolutions: torchlibrosa, nnAudio, asteroid",
        above=r"i?stft|spectrogram(?:_extractor)?|logmel(?:_extractor)?|mel_spectrogram|mel_spec",
    ),
    Rule(
        "constant",
        "resampling and blur filters: StyleGAN, BigVGAN, alias-free networks, LPIPS",
        leaf=r"filt|filter|.*_filter|resample_(?:filter|kernel)|blur.*|fir.*|lowpass.*|upfirdn.*",
    ),
    Rule(
        "constant",
        "anchors, strides and grids of detectors: YOLO, RetinaNet, RT-DETR, Swin",
        leaf=r"anchors?|anchor_.*|.*_anchors?|strides?|grid|grids|.*_grid|priors?|.*_coords"
        r"|relative_(?:position_)?(?:coords|index).*|.*_coords_table|coords?|.*_index|.*_indices",
    ),
    Rule("constant", "distribution focal loss: YOLOv8 and later", module=r"dfl", leaf=WEIGHT),
    Rule("constant", "distribution focal loss", parent=r"dfl", leaf=WEIGHT),
    Rule(
        "constant",
        "noise schedules: DDPM, Stable Diffusion, k-diffusion",
        leaf=r"betas|alphas|alphas_cumprod.*|sqrt_.*|log_one_minus.*|posterior_.*|lvlb_weights"
        r"|sigmas|log_sigmas|timesteps",
    ),
    Rule(
        "constant",
        "slopes and decays of linear attention: ALiBi, MiniMax, RetNet",
        leaf=r"slopes?|.*_slopes?|alibi.*|slope_rate|.*_decay(?:_.*)?|decay",
        module=r"(?!.*(?:rwkv|attention_rwkv)).*",
        tests=(Test.NO_BIAS,),
    ),
    Rule(
        "constant",
        "statistics of inputs: image and audio conditioners",
        leaf=r"mean|std|var|(?:.*_)?(?:pixel|image|norm|input|feature|data)_(?:mean|std|var)"
        r"|global_cmvn.*|istd",
    ),
    Rule("constant", "integer copies of weights: I-BERT", leaf=r".*_integer|.*scaling_factor"),
    Rule(
        "constant",
        "averages of codebooks: EnCodec, VQ-VAE",
        leaf=r"embed_avg|embed_sum|embed_ind|cluster_(?:size|usage|sum)|ema_.*|.*_ema|inited"
        r"|initted|embedding_sum",
    ),
    Rule("constant", "copies of all weights: LitEma of latent diffusion", module=r"model_ema"),
    # -- Norms ---------------------------------------------------------------------------------
    Rule("norm", "running statistics", leaf=r"running_(?:mean|var|std)|num_batches_tracked"),
    Rule("norm", "weight normalisation", leaf=r"(?:.*_)?weight(?:_.*)?_g"),
    Rule("norm", "weight normalisation", leaf=r"g|.*_g", tests=(Test.VECTOR,)),
    Rule(
        "norm",
        "spectral normalisation",
        leaf=r"weight_u|_?u|sn_u|u",
        tests=(Test.VECTOR,),
    ),
    Rule("norm", "layer scale and affine norms", leaf=r"gamma|beta|(?:.*_)?(?:gamma|beta)(?:_.*)?"),
    Rule("norm", "every normalisation layer", module=NORM, leaf=r"weight|bias|scale|shift|g|b|w"),
    Rule("norm", "norms driven by an embedding", module=r"scale|shift", parent=NORM, leaf=WEIGHT),
    Rule("norm", "parameters of a norm by their own name", leaf=rf"(?:{NORM})_(?:weight|w|scale)"),
    # -- Biases, positions, tokens, by the name of the parameter itself --------------------------
    Rule(
        "position",
        "tables of relative positions: Swin, BEiT, T5, Wav2Vec2, MViT, Conformer",
        leaf=r"rel_pos.*|.*_rel|.*_rel_pos|.*rel_pos_.*|relative_position.*|.*bias_table|rpb|rpe.*|rpb_.*"
        r"|pos_bias_[uv]|rel_(?:embed|height|width|h|w).*|.*relative_(?:bias|embed).*",
    ),
    Rule("constant", "orthogonal parametrization", leaf=r"base"),
    Rule("other", "attention of graph networks: GAT", leaf=r"att_(?:src|dst|edge|l|r)|att"),
    Rule("bias", "biases of several heads: TransformerLens", leaf=r"b_[qkvo]"),
    Rule("bias", "every layer", leaf=_word(r"bias|biases")),
    Rule("bias", "every layer, one letter", leaf=r"b|b_.*", tests=(Test.VECTOR,)),
    Rule(
        "position",
        "positions as parameters: ViT, CLIP, MAE, Perceiver, TimeSformer",
        leaf=_word(r"pos|position|positions|positional|ape|abs_pos|pos_embed"),
    ),
    Rule(
        "position",
        "tokens, queries and latents as parameters: ViT, DeiT, BLIP-2, Perceiver, SigLIP, DETR",
        leaf=r"(?:.*_)?(?:tokens?|latents?|probes?|registers?|queries|query|prompts?|cls|slots?"
        r"|memory|mem|mem_[kv]|sep|pad|null_.*|img_feature_extensor)|(?:.*_)?tokens?_.*|probe|latent_.*"
        r"|latents?_.*|pad_(?:up|down|left|right)|class_emb.*|cls_.*|dist_.*|mask_emb.*|.*_attention_query|persistent.*|null.*",
    ),
    Rule("embedding", "embeddings as parameters", leaf=_word(EMBED + r"|codebook|codebooks")),
    Rule("embedding", "codebooks of a quantiser", leaf=r"embed.*", above=r".*quantiz.*|vq"),
    Rule(
        "other",
        "state-space, recurrent and hyper-connection parameters: Mamba, RWKV, RecurrentGemma, S4",
        leaf=r"a_log.*|.*_a_log|a_logs|ds?|dts?|dt_(?!proj).*|.*_dt|time_.*|x_(?:maa|mix|[rwkvag]).*|maa_.*"
        r"|faaaa|r_k|fn|hc_.*|lambda.*|.*lambda|log_.*|a_real|a_imag|recurrent_param|state.*",
    ),
    Rule(
        "scale",
        "learned scales and temperatures: CLIP, Swin v2, LayerScale, Snake, PReLU, ReZero",
        leaf=r"(?:.*_)?(?:scale|scales|scaling|temperature|tau|alpha|alphas|gain|multiplier|gate"
        r"|gates|slope|eps|rezero|skip_weight|resweight|modulation|scale_shift|translate|shift|const)(?:_inv|_msa|_mlp)?"
        r"|alpha_.*|scale_.*|.*scale_shift_table|modulate_table|ls|ls_.*|per_dim_scale|skip_init|.*_constant|.*_const",
    ),
    Rule("scale", "activations with parameters", module=r"(?:.*_)?(?:prelu|snake|act)", leaf=r".*"),
    # -- Modules whose weight is not one -----------------------------------------------------------
    Rule(
        "router",
        "mixtures of experts with a router: Switch, DBRX, Granite, Jamba, gpt-oss, OLMoE",
        module=r"(?:.*_)?router",
        leaf=WEIGHT,
        tests=(Test.MATRIX,),
    ),
    Rule(
        "router",
        "routers made of a module: Granite, NLLB-MoE, LongCat, DeepSpeed",
        parent=r"(?:.*_)?router(?:_mlp)?",
        module=r"classifier|gate|layer|linear|proj|out_proj|wg|fc|weight|scorer",
        leaf=WEIGHT,
        tests=(Test.MATRIX,),
    ),
    Rule(
        "router",
        "gates of experts: Mixtral, Qwen-MoE, DeepSeek",
        module=r"gate|gating|gate_network|moe_gate|wg|expert_gate|shared_expert_gate|moe_router",
        leaf=WEIGHT,
        tests=(Test.MATRIX, Test.EXPERTS),
    ),
    Rule(
        "router",
        "gates of experts: DeepSpeed-MoE, fairseq, Tutel",
        parent=r"gate|gating|moe_gate|gates",
        module=r"wg|gate|classifier|layer|linear|w|projection",
        leaf=WEIGHT,
        tests=(Test.MATRIX, Test.EXPERTS),
    ),
    Rule(
        "router",
        "routing between kernels: CondConv, dynamic convolutions",
        module=r"routing(?:_fn)?",
        leaf=WEIGHT,
        tests=(Test.MATRIX,),
    ),
    Rule("router", "router as a parameter", leaf=r"(?:.*_)?router(?:_weight)?|gate_weight|w_gate"),
    Rule(
        "weight",
        "the first layer of a vision network, which projects patches",
        module=_word(r"patch|patches|pixel"),
        leaf=WEIGHT,
    ),
    Rule(
        "weight",
        "layers that make embeddings of what they are given: DETR, MaskFormer, MAE, DiT",
        module=r"(?:enc_out_)?class_embed|bbox_embed|mask_embed(?:der)?|decoder_embed"
        r"|[xycts]_embedder|(?:context|time|text|image|label|caption|guidance)_embedder",
        leaf=WEIGHT,
    ),
    Rule(
        "position",
        "embeddings of positions: BERT, GPT-2, OPT, T5",
        module=NO_LAYER + rf"(?:wpe|(?:.*_)?(?:{PLACE})s?_(?:.*_)?(?:{EMBED}).*"
        rf"|(?:{EMBED})_(?:.*_)?(?:{PLACE})s?(?:_.*)?|relative_attention_bias|bias_values"
        r"|(?:.*_)?(?:rel|relative|attention|attn|pos|position).*_bias"
        r"|position(?:s|al)?|pos|.*position(?:al)?_encod.*|.*_pos)",
        leaf=WEIGHT,
        tests=(Test.MATRIX, Test.NO_BIAS),
    ),
    Rule(
        "position",
        "tokens and queries as embeddings: DETR, Qwen-Omni, MaskFormer",
        module=NO_LAYER + r"(?:(?!(?:.*_)?emb|tok_emb|word_emb)(?:.*_)?(?:tokens?"
        r"|quer(?:y|ies)_(?:feat|feats|features|pos|embed|embedder)|queries|tgt_embed|refpoints?|latents?)|pe_[kqv])",
        leaf=WEIGHT,
        tests=(Test.MATRIX, Test.NO_BIAS),
    ),
    Rule(
        "position",
        "queries as embeddings: EoMT, SAM 3",
        module=r"reference_points|query",
        leaf=WEIGHT,
        tests=(Test.MATRIX, Test.NO_BIAS, Test.TALL, Test.NEAR_ROOT),
    ),
    Rule(
        "head",
        "output projections of language models: GPT-2, Llama, MPT, GPT-NeoX, Bark, BART",
        module=r"(?:.*_)?lm_heads?|vocab_proj.*|.*vocab_proj(?:ector)?|codebooks?_head|lm_output|output_embed.*|tok_out",
        leaf=WEIGHT,
    ),
    Rule(
        "head",
        "output projections that undo an embedding: GPT-NeoX, TransformerLens",
        module=r"embed_out|unembed.*|(?:.*_)?unembed(?:ding)?",
        leaf=WEIGHT,
        tests=(Test.MATRIX,),
    ),
    Rule(
        "head",
        "output projections that are called logits: Dia",
        module=r"(?:to_)?logits?(?:_(?:dense|proj|projection|linear|head|layer))?",
        leaf=WEIGHT,
        tests=(Test.TALL,),
    ),
    Rule(
        "head",
        "output projections inside a head: T5Gemma",
        parent=r"(?:.*_)?lm_heads?",
        module=r"(?:.*_)?(?:out_proj|decoder|proj|out|linear|projection|output)",
        leaf=WEIGHT,
    ),
    Rule(
        "head",
        "output projections as a parameter, (in, vocabulary): CoCa",
        leaf=r"(?:.*_)?(?:projection|proj|head|output)",
        tests=(Test.TO_VOCABULARY,),
    ),
    Rule("head", "as a parameter", leaf=r"lm_head|unembed.*|w_u|vocab_proj.*"),
    Rule(
        "head",
        "output projections by another name: BERT, FSMT, RWKV, Llama's own files, ChatGLM",
        module=r"(?:.*_)?(?:decoder|heads?|outputs?|output_layer|output_projection|out|classifier"
        r"|generator|predictions?|predictor|fc_out|proj_out|vocab|lm|words?)",
        leaf=WEIGHT,
        tests=(Test.VOCABULARY, Test.MATRIX),
    ),
    Rule(
        "head",
        "last layers of small language models",
        module=r"cls|projection|fc|linear|final|final_layer|dense|last.*",
        leaf=WEIGHT,
        tests=(Test.VOCABULARY, Test.MATRIX, Test.NEAR_ROOT),
    ),
    Rule(
        "head",
        "output projection at the root of a language model's own file: Llama, InternLM",
        module=r"output",
        leaf=WEIGHT,
        tests=(Test.NEAR_ROOT, Test.MATRIX, Test.TALL, Test.NO_BIAS),
    ),
    Rule(
        "embedding",
        "embeddings of words, types and codes: every language model, VQ-VAE",
        module=NO_LAYER
        + rf"(?:wte|shared|(?:.*_)?(?:{EMBED}|embedder)(?:_.*)?|(?:.*_)?(?:codebooks?|vocab|lookup)"
        r"|(?:tok|word|char)_.*table|embedding_table|lut)",
        leaf=WEIGHT,
        tests=(Test.MATRIX, Test.NO_BIAS),
    ),
    Rule(
        "embedding",
        "a matrix of a vocabulary's shape under any name: CTRL",
        leaf=WEIGHT,
        tests=(Test.VAST, Test.MATRIX, Test.NO_BIAS, Test.NEAR_ROOT),
    ),
    # -- Weights ------------------------------------------------------------------------------
    Rule("weight", "every layer", leaf=r"weights?|kernel|w|weight_[vw]|weight_orig|original"),
    Rule("weight", "several matrices in one module", leaf=_word(r"weights?|kernel|kernels|matrix")),
    Rule(
        "weight",
        "projections as parameters: fused experts, CLIP, open_clip",
        leaf=_last(r"proj|projs|projection|projections|linear|fc|dense|conv|mlp")
        + r"|gate_up|up_gate|fc_.*|w_.*|w[qkvogi]|wqkv|wkv|qkv|lora_[ab](?:_.*)?"
        r"|lora_(?:up|down|mid)|u|v|hada_w_.*|lokr_w.*",
    ),
)
