"""K2: quantised checkpoints whose codes are numbers: FP8 and int8 with scales.

`do`: "ranked" where a weight is its code times a scale of its tensor, row or block, and zero is
code 0: such codes can be ranked by |code * scale| and set to 0. "refused" where codes are packed,
or zero is not code 0.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.wild.wildlib import Made, by, case, state, use

RULES: list[tuple[str, str]] = [
    (r"scale|absmax|amax|zero_point", "scale"),
    (r"\.bias$", "bias"),
    ("weight_shape", "other"),
    ("norm", "norm"),
    ("", "codes"),
]
HF_FP8 = "transformers/integrations/finegrained_fp8.py Fp8Quantize"


def layer(rows: int, columns: int, bias: bool = False) -> Any:
    """A linear layer with rows of different size, as a trained one has."""
    made = nn.Linear(columns, rows, bias=bias)
    made.weight.data *= torch.logspace(-2, 0, rows).view(-1, 1)
    return made


def compressed(scheme: str, rows: int = 64, columns: int = 128) -> dict[str, Tensor]:
    """A layer written by compressed-tensors with one of its preset schemes, scales by min and max.

    The observers of llm-compressor set the scales in the same way.
    """
    lib = use("compressed_tensors.quantization")
    model = nn.Sequential(layer(rows, columns))
    lib.apply_quantization_config(
        model,
        lib.QuantizationConfig(
            config_groups={"group_0": lib.preset_name_to_scheme(scheme, ["Linear"])},
            quantization_status="frozen",
        ),
    )
    module: Any = model[0]
    args = module.quantization_scheme.weights
    w = module.weight.data
    if args.strategy in ("group", "tensor_group"):
        parts = w.unflatten(-1, (-1, args.group_size))
        low, high = parts.amin(-1), parts.amax(-1)
    elif args.strategy == "channel":
        low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    elif args.strategy == "block":
        tall, wide = args.block_structure
        parts = w.reshape(rows // tall, tall, columns // wide, wide)
        low, high = parts.amin((1, 3)), parts.amax((1, 3))
    else:
        low, high = w.min().view(1), w.max().view(1)
    whole = None
    if hasattr(module, "weight_global_scale"):
        whole = 448 * 6 / w.abs().max().view(1).float()
        module.weight_global_scale.data.copy_(whole)
    scale, zero = use("compressed_tensors.quantization.utils").calculate_qparams(
        low, high, args, global_scale=whole
    )
    for name, value in (("weight_scale", scale), ("weight_zero_point", zero)):
        if hasattr(module, name):
            old = getattr(module, name)
            old.data = value.to(old.dtype).reshape(old.shape)
    for name in ("input_scale", "input_global_scale"):
        if hasattr(module, name):
            getattr(module, name).data.fill_(0.02)
    pack = use("compressed_tensors.compressors").ModelCompressor.from_pretrained_model(model)
    pack.compress_model(model)
    found = {f"model.layers.0.self_attn.q_proj.{n[2:]}": t for n, t in state(model).items()}
    found["model.norm.weight"] = torch.ones(columns)
    return found


def scheme_case(scheme: str, note: str, do: str, rows: int = 64, columns: int = 128) -> None:
    """Put the case of one preset scheme on the list."""
    name = f"ct_{scheme.lower()}"
    where = f"compressed_tensors/quantization/quant_scheme.py {scheme}; ModelCompressor"

    @case("K2", name, "compressed-tensors", where, note)
    def made() -> Made:
        return by(compressed(scheme, rows, columns), RULES, do=do)


scheme_case("FP8", "F8 codes, `weight_scale` and `input_scale` [1]", "ranked")
scheme_case("FP8_DYNAMIC", "F8 codes, `weight_scale` [rows, 1]", "ranked")
scheme_case("FP8_BLOCK", "F8 codes, `weight_scale` [rows/128, cols/128]", "ranked", 128, 256)
scheme_case("MXFP8", "F8 codes; `weight_scale` U8 is an exponent: 2 ** (s - 127)", "ranked")
scheme_case("INT8", "I8 codes called `weight`, `weight_scale` [rows, 1], no zero point", "ranked")
scheme_case("W4A16", "`weight_packed` I32 [rows, cols/8], `weight_shape` I64 [2]", "refused")
scheme_case("W4A16_ASYM", "the same with a packed `weight_zero_point` I32", "refused")
scheme_case("NVFP4", "`weight_packed` U8; `weight_scale` is F8: a scale, not codes", "refused")
scheme_case("MXFP4", "`weight_packed` U8, `weight_scale` U8", "refused")
scheme_case("MXFP6A16", "`weight_packed` U8 [rows, cols * 3/4]", "refused")


def fp8_pair(scale_fmt: str, block: tuple[int, int]) -> dict[str, Tensor]:
    """What transformers writes for DeepSeek's FP8: a linear layer and fused experts."""
    config = use("types").SimpleNamespace(weight_block_size=block, scale_fmt=scale_fmt)
    holder = use("types").SimpleNamespace(quantization_config=config)
    cls = use("transformers.integrations.finegrained_fp8:Fp8Quantize")
    told: dict[str, Tensor] = cls(holder).convert(
        {
            "model.layers.3.self_attn.q_proj.weight": layer(128, 128).weight.detach(),
            "model.layers.3.mlp.experts.gate_up_proj": torch.randn(2, 32, 128) * 0.02,
            "model.layers.3.input_layernorm.weight": torch.ones(128),
        }
    )
    return told


@case(
    "K2",
    "deepseek_fp8",
    "transformers",
    HF_FP8,
    "`weight_scale_inv` [rows/b, cols/b] is multiplied, despite its name; for fused experts it is"
    " `gate_up_proj_scale_inv` [experts, rows/b, cols/b], with no `.weight`.",
)
def deepseek() -> Made:
    return by(fp8_pair("float", (32, 64)), RULES, do="ranked")


@case(
    "K2",
    "deepseek_fp8_ue8m0",
    "transformers",
    f"{HF_FP8}, scale_fmt ue8m0",
    "The scales are of dtype F8_E8M0: an exponent each.",
)
def deepseek_ue8m0() -> Made:
    return by(fp8_pair("ue8m0", (32, 64)), RULES, do="ranked")


@case(
    "K2",
    "mistral_static_fp8",
    "transformers",
    "transformers/integrations/finegrained_fp8.py FP8Linear, activation_scheme static",
    "`weight_scale_inv` and `activation_scale` have no dimension: [].",
)
def static_fp8() -> Made:
    cls = use("transformers.integrations.finegrained_fp8:FP8Linear")
    made = cls(64, 64, block_size=None, activation_scheme="static")
    weight = layer(64, 64).weight.detach()
    scale = weight.abs().max() / 448
    path = "model.layers.0.self_attn.k_proj"
    names = [n for n, _ in made.named_parameters()]
    assert {"weight", "weight_scale_inv", "activation_scale"} <= set(names), names
    found = {
        f"{path}.weight": (weight / scale).to(torch.float8_e4m3fn),
        f"{path}.weight_scale_inv": scale,
        f"{path}.activation_scale": torch.tensor(1.5),
    }
    return by(found, RULES, do="ranked")


@case(
    "K2",
    "torchao_float8",
    "torchao",
    "torchao/prototype/safetensors/safetensors_support.py flatten_tensor_state_dict",
    "Names join the tensor's parts: `0._weight_qdata` and `0._weight_scale`; nothing ends in"
    " weight.",
)
def torchao_float8() -> Made:
    return by(torchao("Float8WeightOnlyConfig"), [("qdata", "codes"), *RULES], do="ranked")


@case(
    "K2",
    "torchao_int8",
    "torchao",
    "torchao/prototype/safetensors/safetensors_support.py flatten_tensor_state_dict",
    "The same with I8 codes and `_weight_zero_point`, here all 0.",
)
def torchao_int8() -> Made:
    return by(torchao("Int8WeightOnlyConfig"), [("qdata", "codes"), *RULES], do="ranked")


def torchao(config: str) -> dict[str, Tensor]:
    """A layer as torchao writes it to safetensors."""
    lib = use("torchao.quantization")
    model = nn.Sequential(layer(64, 64, bias=True))
    lib.quantize_(model, getattr(lib, config)(version=2))
    flat = use("torchao.prototype.safetensors.safetensors_support:flatten_tensor_state_dict")
    return {n: t.clone() for n, t in flat(model.state_dict())[0].items()}


@case(
    "K2",
    "quanto_qint8",
    "optimum-quanto",
    "optimum/quanto/tensor/weights/qbytes.py WeightQBytesTensor",
    "`weight._data` and `weight._scale`, `input_scale` and `output_scale` of no dimension.",
)
def quanto_int8() -> Made:
    return by(quanto("qint8"), [("_data", "codes"), *RULES], do="ranked")


@case(
    "K2",
    "quanto_qint4",
    "optimum-quanto",
    "optimum/quanto/tensor/weights/qbits.py WeightQBitsTensor",
    "`weight._data._data` U8 packed, `_scale` and `_shift`: zero is not code 0.",
)
def quanto_int4() -> Made:
    return by(quanto("qint4"), [("_data", "codes"), ("_shift", "scale"), *RULES], do="refused")


@case(
    "K2",
    "quanto_qfloat8",
    "optimum-quanto",
    "optimum/quanto/tensor/weights/qbytes.py WeightQBytesTensor",
    "F8 codes in `weight._data` with `weight._scale` [rows, 1].",
)
def quanto_float8() -> Made:
    return by(quanto("qfloat8"), [("_data", "codes"), *RULES], do="ranked")


def quanto(kind: str) -> dict[str, Tensor]:
    """A layer quantised and frozen by quanto."""
    lib = use("optimum.quanto")
    model = nn.Sequential(layer(64, 128, bias=True))
    lib.quantize(model, weights=getattr(lib, kind))
    lib.freeze(model)
    return {n: t.detach().clone() for n, t in model.state_dict().items()}
