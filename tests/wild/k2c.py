"""K2: more quantised checkpoints: Model Optimizer, transformers, diffusers, exllamav3."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.wild.k2 import RULES, layer
from tests.wild.k2b import PACKED, PATH, filled, under
from tests.wild.wildlib import Made, by, case, state, use

SCALES: tuple[str, str] = ("scale|_amax|_quantizer|factor", "scale")


def modelopt(config: str, export: bool = True) -> dict[str, Tensor]:
    """A layer calibrated, and exported, by NVIDIA's Model Optimizer."""
    lib = use("modelopt.torch.quantization")
    model = nn.Sequential(layer(64, 128))
    lib.quantize(model, getattr(lib, config), lambda module: module(torch.randn(4, 128)))
    if export:
        use("modelopt.torch.export.unified_export_hf:_export_quantized_weight")(
            model[0], torch.bfloat16
        )
    found = {n[2:]: t.detach().clone() for n, t in model.state_dict().items()}
    keep = {n: t for n, t in found.items() if not export or "quantizer" not in n}
    return under(keep)


def modelopt_case(config: str, note: str, do: str) -> None:
    """Put the case of one configuration on the list."""
    name = f"modelopt_{config.removesuffix('_CFG').lower()}"
    where = f"modelopt/torch/export/unified_export_hf.py _export_quantized_weight, {config}"

    @case("K2", name, "nvidia-modelopt", where, note)
    def made() -> Made:
        return by(modelopt(config), [SCALES, *RULES], do=do)


modelopt_case("FP8_DEFAULT_CFG", "F8 codes, `weight_scale` and `input_scale` of shape []", "ranked")
modelopt_case("FP8_PER_CHANNEL_PER_TOKEN_CFG", "F8 codes, `weight_scale` [rows], one dim", "ranked")
modelopt_case("NVFP4_DEFAULT_CFG", "U8 `weight`, F8 `weight_scale`, `weight_scale_2` []", "refused")
modelopt_case("MXFP4_DEFAULT_CFG", "U8 `weight` [rows, cols/2], U8 `weight_scale`", "refused")
modelopt_case("MXFP8_DEFAULT_CFG", "F8 `weight`, U8 `weight_scale`: exponents", "ranked")
modelopt_case("INT4_AWQ_CFG", "U8 `weight` [rows/2, cols], `weight_scale` F32", "refused")
modelopt_case("INT8_SMOOTHQUANT_CFG", "I8 `weight`, `weight_scale` [rows]", "ranked")


@case(
    "K2",
    "modelopt_fake",
    "nvidia-modelopt",
    "modelopt/torch/quantization mtq.quantize(INT8_DEFAULT_CFG), its own state dict",
    "Not quantised: F32 `weight`, and `weight_quantizer._amax` [rows, 1] beside it.",
)
def modelopt_fake() -> Made:
    rules = [SCALES, (r"\.weight$", "weight")]
    return by(modelopt("INT8_DEFAULT_CFG", export=False), rules, do="as a float weight")


@case(
    "K2",
    "gpt_oss_mxfp4",
    "transformers",
    "transformers/integrations/mxfp4.py Mxfp4Deserialize reads these names; quantiser: mlx mxfp4",
    "`gate_up_proj_blocks` U8 [E, out, groups, 16], `gate_up_proj_scales` U8 [E, out, groups] and a"
    " 2-D bias; no name ends in weight.",
)
def gpt_oss() -> Made:
    core = use("mlx.core")
    core.random.seed(0)
    found: dict[str, Tensor] = {}
    for name, rows, columns in (("gate_up_proj", 32, 64), ("down_proj", 64, 32)):
        codes, scales = core.quantize(core.random.normal((2 * rows, columns)), mode="mxfp4")
        numpy = use("numpy")
        packed = torch.from_numpy(numpy.array(codes).view(numpy.uint8).copy())
        path = f"model.layers.0.mlp.experts.{name}"
        found[f"{path}_blocks"] = packed.view(2, rows, columns // 32, 16)
        found[f"{path}_scales"] = torch.from_numpy(numpy.array(scales)).view(2, rows, -1).clone()
        found[f"{path}_bias"] = torch.randn(2, rows).bfloat16()
    found["model.layers.0.mlp.router.weight"] = torch.randn(2, 64).bfloat16()
    rules = [("_scales", "scale"), ("_bias", "bias"), ("router", "router"), ("_blocks", "codes")]
    return by(found, rules, do="refused")


@case(
    "K2",
    "hf_mxfp4_experts",
    "transformers",
    "transformers/integrations/mxfp4.py Mxfp4GptOssExperts",
    "U8 `gate_up_proj` [E, out, in/2] under the weight's own name. Values random.",
)
def hf_mxfp4() -> Made:
    config = use("types").SimpleNamespace(num_local_experts=2, intermediate_size=16, hidden_size=32)
    made = use("transformers.integrations.mxfp4:Mxfp4GptOssExperts")(config)
    found = {f"model.layers.0.mlp.experts.{n}": t for n, t in filled(made).items()}
    return by(found, [("_bias", "bias"), ("_proj$", "codes")], do="refused")


@case(
    "K2",
    "bitnet_packed",
    "transformers",
    "transformers/integrations/bitnet.py pack_weights, BitLinear",
    "U8 `weight` [rows/4, cols], four ternary codes a byte with 1 for zero; `weight_scale` [1].",
)
def bitnet() -> Made:
    lib = use("transformers.integrations.bitnet")
    weight = layer(64, 64).weight.detach()
    scale = 1 / weight.abs().mean()
    codes = (weight * scale).round().clamp(-1, 1)
    assert set(dict(lib.BitLinear(64, 64, False).named_buffers())) == {"weight", "weight_scale"}
    found = {"weight": lib.pack_weights(codes), "weight_scale": scale.view(1)}
    return by(under(found), RULES, do="refused")


@case(
    "K2",
    "metal_affine",
    "transformers",
    "transformers/integrations/metal_quantization.py MetalQuantize",
    "U32 `weight`, `scales` and `qbiases` [rows, groups].",
)
def metal() -> Made:
    pack = use("transformers.integrations.metal_quantization:_affine_quantize_tensor")
    codes, scales, biases = pack(layer(64, 128).weight.detach(), 64, 4)
    found = {"weight": codes, "scales": scales, "qbiases": biases}
    return by(under(found), [("scales|qbiases", "scale"), *RULES], do="refused")


@case(
    "K2",
    "gemma_int8",
    "transformers",
    "transformers/integrations/gemma_quant.py QuantizedLinear and QuantizedEmbedding",
    "I8 `weight` with `weight_scale` [rows, 1]; `embedding_quantized` with `embedding_scale`, an"
    " embedding. Values random.",
)
def gemma() -> Made:
    lib = use("transformers.integrations.gemma_quant")
    found = under(filled(lib.QuantizedLinear(64, 32, num_bits=8)))
    table = filled(lib.QuantizedEmbedding(40, 64, torch.bfloat16, num_bits=8))
    found |= {f"model.embed_tokens.{n}": t for n, t in table.items()}
    return by(found, [("scale", "scale"), *RULES], do="ranked")


@case(
    "K2",
    "fbgemm_fp8_experts",
    "transformers",
    "transformers/integrations/fbgemm_fp8.py FbgemmFp8Llama4TextExperts",
    "F8 `gate_up_proj` [E, in, out] with `gate_up_proj_scale` [E, 1, out]: the scale lies along the"
    " last dimension; `down_proj` [E, in, out] with [E, out, 1], which does not even broadcast."
    " Values random.",
)
def fbgemm() -> Made:
    config = use("transformers:Llama4TextConfig")(
        num_local_experts=2, intermediate_size=32, hidden_size=64
    )
    made = use("transformers.integrations.fbgemm_fp8:FbgemmFp8Llama4TextExperts")(config)
    found = {f"model.layers.1.feed_forward.experts.{n}": t for n, t in filled(made).items()}
    return by(found, [("_scale$", "scale"), ("_proj$", "codes")], do="refused")


def svdq(precision: str) -> dict[str, Tensor]:
    """The tensors of a Nunchaku layer, from the source of its class, values random."""
    kernels = use("sys").modules
    kernels.setdefault("kernels", use("types").ModuleType("kernels"))
    lib: Any = use("types").ModuleType("svdq")
    path = use("importlib.util").find_spec("diffusers").submodule_search_locations[0]
    with open(f"{path}/quantizers/nunchaku/utils.py", encoding="utf-8") as source:
        text = source.read()
    start = text.index("class SVDQW4A4Linear")
    exec(
        text[start : text.index("def forward", start)].rstrip(),
        {"torch": torch, "nn": nn},
        vars(lib),
    )
    made = lib.SVDQW4A4Linear(64, 32, rank=8, bias=True, precision=precision, group_size=16)
    return {f"transformer_blocks.0.attn.to_qkv.{n}": t for n, t in filled(made).items()}


@case(
    "K2",
    "nunchaku_int4",
    "diffusers",
    "diffusers/quantizers/nunchaku/utils.py SVDQW4A4Linear",
    "I8 `qweight` [out, in/2], `wscales` BF16 [in/g, out], `smooth_factor` [in], and real matrices"
    " `proj_down` [in, r] and `proj_up` [out, r]. Values random.",
)
def nunchaku_int4() -> Made:
    return by(svdq("int4"), [SCALES, ("_down|_up", "adapter"), *RULES], do="refused")


@case(
    "K2",
    "nunchaku_nvfp4",
    "diffusers",
    "diffusers/quantizers/nunchaku/utils.py SVDQW4A4Linear(precision='nvfp4')",
    "`wscales` is F8 [in/16, out]: an F8 matrix that is a scale; `wcscales` [out], `wtscale` [1].",
)
def nunchaku_nvfp4() -> Made:
    return by(svdq("nvfp4"), [SCALES, ("_down|_up", "adapter"), *RULES], do="refused")


@case(
    "K2",
    "exl3_trellis",
    "exllamav3",
    "exllamav3/modules/quant/exl3.py LinearEXL3.get_tensors",
    "`trellis` I16 [in/16, out/16, 16 * bits], `suh` F16 [in], `svh` F16 [out]. Values random.",
)
def exl3() -> Made:
    found = {
        "suh": torch.randn(64).sign().half(),
        "svh": torch.rand(32).half(),
        "trellis": torch.randint(-(2**15), 2**15, (4, 2, 48)).short(),
        "mcg": torch.tensor(-865363201, dtype=torch.int32),
    }
    return by(under(found), [("s[uv]h", "scale"), *PACKED], do="refused")


@case(
    "K2",
    "ibert_integer",
    "transformers",
    "transformers/models/ibert/quant_modules.py QuantLinear and QuantEmbedding",
    "F32 buffers: `weight_integer` [rows, cols], zeros until the first pass, beside the F32 weight,"
    " and `fc_scaling_factor` [rows].",
)
def ibert() -> Made:
    lib = use("transformers.models.ibert.quant_modules")
    made = lib.QuantLinear(32, 32, bias=True, weight_bit=8, bias_bit=32, per_channel=True)
    made.quant_mode = True
    made.weight.data = layer(32, 32).weight.data
    made.bias.data = torch.randn(32) * 0.02
    made(torch.randn(2, 32), torch.tensor([0.01]))
    found = {f"ibert.encoder.layer.0.output.dense.{n}": t for n, t in state(made).items()}
    rules = [("factor", "scale"), ("_integer", "constant"), ("bias", "bias"), ("", "weight")]
    return by(found, rules, do="as a float weight")


@case(
    "K2",
    "higgs",
    "transformers",
    "transformers/integrations/higgs.py HiggsLinear",
    "I16 `weight`, `scales` [rows, groups], `tables` [16] and `tables2` [16, 16, 2]. Values"
    " random.",
)
def higgs() -> Made:
    made = use("transformers.integrations.higgs:HiggsLinear")(
        256, 64, num_bits=4, bias=False, group_size=256
    )
    return by(under(filled(made)), [("scales", "scale"), ("table", "other"), *RULES], do="refused")


@case(
    "K2",
    "kv_cache_scales",
    "compressed-tensors",
    "compressed_tensors/quantization/quant_metadata.py KVCacheScaleType",
    "`k_scale` and `v_scale` belong to the attention, to no weight: the BF16 weights are ranked as"
    " usual.",
)
def kv_cache() -> Made:
    path = PATH.removesuffix(".q_proj")
    names = use("compressed_tensors.quantization.quant_metadata:KVCacheScaleType")
    assert (names.KEY.value, names.VALUE.value) == ("k_scale", "v_scale")
    found = {
        f"{path}.k_scale": torch.tensor([0.03]),
        f"{path}.v_scale": torch.tensor([0.04]),
        f"{path}.k_proj.weight": layer(32, 64).weight.detach().bfloat16(),
    }
    return by(found, [("_scale", "scale"), ("", "weight")], do="as a float weight")
