"""K2: quantised checkpoints with packed codes, from the packages that write them."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.wild.k2 import RULES, layer
from tests.wild.wildlib import Made, by, case, numpy_to_torch, state, use

PATH = "model.layers.0.self_attn.q_proj"
PACKED: list[tuple[str, str]] = [
    (r"(scale|scales|absmax|quant_map|qzeros|zeros?|SCB|biases|_shift|zero_point)$", "scale"),
    (r"\.bias$", "bias"),
    (r"(qweight|W_q|\.weight|indices|codes|trellis)$", "codes"),
    (r"", "other"),
]


def under(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a layer's path."""
    return {f"{PATH}.{n}": t for n, t in found.items()}


@case(
    "K2",
    "hqq_4bit",
    "hqq",
    "hqq/core/quantize.py HQQLinear.state_dict",
    "`W_q` U8 [rows/2, cols], `scale` and `zero` [groups, 1] F32: both matrices by shape only; the"
    " rest are settings as tensors.",
)
def hqq() -> Made:
    lib = use("hqq.core.quantize")
    config = lib.BaseQuantizeConfig(nbits=4, group_size=64)
    made = lib.HQQLinear(layer(64, 128), config, compute_dtype=torch.float32, device="cpu")
    found = {n: t for n, t in made.state_dict().items() if isinstance(t, Tensor)}
    return by(under(found), PACKED, do="refused")


@case(
    "K2",
    "bnb_nf4",
    "bitsandbytes",
    "bitsandbytes/nn/modules.py Linear4bit, functional.py QuantState.as_dict(packed=True)",
    "`weight` U8 [n/2, 1] and under it `weight.absmax`, `weight.quant_map` [16], nested ones, and"
    " `weight.quant_state.bitsandbytes__nf4`, JSON as bytes.",
)
def bnb_nf4() -> Made:
    lib = use("bitsandbytes.nn")
    made = lib.Linear4bit(128, 64, bias=False, quant_type="nf4")
    made.weight = lib.Params4bit(
        layer(64, 128).weight.data,
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=True,
    ).to("cpu")
    found = {n: t.detach().clone() for n, t in made.state_dict().items()}
    return by(under(found), [("absmax|quant_map", "scale"), *PACKED], do="refused")


@case(
    "K2",
    "bnb_int8",
    "bitsandbytes",
    "bitsandbytes/nn/modules.py Linear8bitLt",
    "I8 `weight` with `SCB` [rows], the largest of each row (scale = SCB / 127), `weight_format`"
    " U8.",
)
def bnb_int8() -> Made:
    lib = use("bitsandbytes.nn")
    made = lib.Linear8bitLt(128, 64, bias=False, has_fp16_weights=False)
    weight = lib.Int8Params(layer(64, 128).weight.data, requires_grad=False, has_fp16_weights=False)
    made.weight = weight.to("cpu")
    found = {n: t.detach().clone() for n, t in made.state_dict().items()}
    if "SCB" not in found:
        found["SCB"] = made.weight.SCB.detach().clone()
    return by(under(found), PACKED, do="ranked")


@case(
    "K2",
    "gptq_4bit",
    "auto-round",
    "auto_round_extension/torch/qlinear_torch_zp.py QuantLinear.pack",
    "`qweight` I32 [cols/8, rows], `qzeros` I32, `scales` F16 [groups, rows], `g_idx` I32.",
)
def gptq() -> Made:
    cls = use("auto_round_extension.torch.qlinear_torch_zp:QuantLinear")
    made = cls(4, 32, 128, 64, False, g_idx=True)
    linear: Any = layer(64, 128)
    parts = linear.weight.detach().unflatten(1, (-1, 32))
    scale = (parts.amax(-1) - parts.amin(-1)) / 15
    made.pack(linear, scale, (-parts.amin(-1) / scale).round(), None, device="cpu")
    found = {n: t for n, t in state(made).items()}
    return by(under(found), PACKED, do="refused")


@case(
    "K2",
    "awq_gemm",
    "autoawq",
    "awq/modules/linear/gemm.py WQLinear_GEMM.from_linear",
    "`qweight` I32 [cols, rows/8]: the other way round than GPTQ's; `qzeros`, `scales` F16.",
)
def awq() -> Made:
    cls = use("awq.modules.linear.gemm:WQLinear_GEMM")
    linear: Any = layer(64, 128)
    parts = linear.weight.detach().unflatten(1, (-1, 32))
    scale = ((parts.amax(-1) - parts.amin(-1)) / 15).t().contiguous()
    zero = torch.full_like(scale, 8)
    made = cls.from_linear(linear, 4, 32, False, scale, zero)
    return by(under(state(made)), PACKED, do="refused")


@case(
    "K2",
    "aqlm",
    "aqlm",
    "aqlm/inference.py QuantizedLinear",
    "`codes` I8 or I16 [out, in/8, books], `codebooks` [books, 256, 1, 8], `scales` [out, 1, 1, 1]."
    " Names and shapes are the package's, the values random: it has no writer.",
)
def aqlm() -> Made:
    made = use("aqlm:QuantizedLinear")(
        64, 32, in_group_size=8, out_group_size=1, num_codebooks=2, nbits_per_codebook=8, bias=False
    )
    return by(under(filled(made)), [("codebooks", "other"), *PACKED], do="refused")


def filled(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors, the values random: for classes that allocate without writing."""
    told: dict[str, Tensor] = {}
    for name, old in module.state_dict().items():
        if old.dtype.is_floating_point:
            told[name] = (torch.rand(old.shape) * 0.1 + 0.01).to(old.dtype)
        else:
            told[name] = torch.randint(0, 100, old.shape).to(old.dtype)
    return told


@case(
    "K2",
    "vptq",
    "vptq",
    "vptq/layers/vqlinear.py VQuantLinear",
    "`indices` I32, `centroids.weight` and `res_centroids.weight` [1, n * d]: an nn.Embedding whose"
    " name ends in weight; `perm`, `weight_scale`, `weight_bias` [in]. Values random.",
)
def vptq() -> Made:
    made = use("vptq.layers.vqlinear:VQuantLinear")(
        64,
        32,
        vector_lens=(-1, 8),
        num_centroids=(-1, 64),
        num_res_centroids=(-1, 16),
        group_num=1,
        group_size=64,
        outlier_size=0,
        indices_as_float=False,
        enable_norm=True,
        enable_perm=True,
        is_indice_packed=True,
        vector_quant_dim="out",
    )
    rules = [("centroids", "other"), ("weight_(scale|bias)", "scale"), *PACKED]
    return by(under(filled(made)), rules, do="refused")


@case(
    "K2",
    "mlx_affine_4bit",
    "mlx",
    "mlx/nn/layers/quantized.py QuantizedLinear and QuantizedEmbedding",
    "`weight` is U32 [rows, cols/8] under its old name; `scales` and `biases` F32 [rows, groups].",
)
def mlx_affine() -> Made:
    return by(mlx("affine", 4), PACKED, do="refused")


@case(
    "K2",
    "mlx_mxfp8",
    "mlx",
    "mlx/nn/layers/quantized.py QuantizedLinear(mode='mxfp8')",
    "`weight` U32 [rows, cols/4], `scales` U8; no `biases`.",
)
def mlx_mxfp8() -> Made:
    return by(mlx("mxfp8", 8), PACKED, do="refused")


@case(
    "K2",
    "mlx_nvfp4",
    "mlx",
    "mlx/nn/layers/quantized.py QuantizedLinear(mode='nvfp4')",
    "`weight` U32 [rows, cols/8], `scales` U8 [rows, cols/16], which are F8 numbers.",
)
def mlx_nvfp4() -> Made:
    return by(mlx("nvfp4", 4), PACKED, do="refused")


def mlx(mode: str, bits: int) -> dict[str, Tensor]:
    """A layer and an embedding quantised by mlx."""
    core, layers = use("mlx.core"), use("mlx.nn")
    core.random.seed(0)
    group = {"affine": 64, "mxfp8": 32, "nvfp4": 16}[mode]
    linear = layers.QuantizedLinear.from_linear(
        layers.Linear(128, 64, bias=False), group, bits, mode=mode
    )
    table = layers.QuantizedEmbedding.from_embedding(
        layers.Embedding(32, 128), group, bits, mode=mode
    )
    found = {f"{PATH}.{n}": numpy_to_torch(t) for n, t in linear.parameters().items()}
    for name, array in table.parameters().items():
        found[f"model.embed_tokens.{name}"] = numpy_to_torch(array)
    return found


def sdnq(dtype: str, svd: bool) -> dict[str, Tensor]:
    """A layer quantised by SD.Next's quantiser."""
    lib = use("sdnq")
    config = lib.SDNQConfig(weights_dtype=dtype, group_size=32, use_svd=svd, svd_rank=8)
    made = lib.sdnq_quantize_layer(layer(64, 128, bias=True), config)[0]
    path = "transformer_blocks.0.attn.to_q"
    return {f"{path}.{n}": t.detach().clone() for n, t in made.state_dict().items()}


@case(
    "K2",
    "sdnq_int8_svd",
    "sdnq",
    "sdnq/quantizer.py sdnq_quantize_layer(int8, use_svd)",
    "I8 `weight` [rows, groups, 32] of three dims for a Linear, `scale` [rows, groups, 1], and"
    " `svd_up` and `svd_down`: the weight is code * scale + up @ down, so code 0 is not 0.",
)
def sdnq_int8_svd() -> Made:
    return by(sdnq("int8", True), [("svd", "adapter"), *RULES], do="refused")


@case(
    "K2",
    "sdnq_int8",
    "sdnq",
    "sdnq/quantizer.py sdnq_quantize_layer(int8)",
    "The same without the low-rank part: I8 `weight` [rows, groups, 32], `scale` [rows, groups,"
    " 1].",
)
def sdnq_int8() -> Made:
    return by(sdnq("int8", False), RULES, do="ranked")


@case(
    "K2",
    "sdnq_uint4",
    "sdnq",
    "sdnq/quantizer.py sdnq_quantize_layer(uint4)",
    "U8 `weight` of one dim, `scale` and `zero_point` [rows, groups, 1] F32.",
)
def sdnq_uint4() -> Made:
    return by(sdnq("uint4", False), RULES, do="refused")
