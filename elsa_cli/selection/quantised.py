"""Quantised weights: which tensors are codes and scales, and of what format.

A format is known by what stands side by side in one module, and by the dtype of its codes. Codes of
one byte whose code 0 is the weight 0, with a scale (FP8), can be ranked and zeroed as they are; all
others have to be dequantised first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from elsa_cli.checkpoint.container import TensorInfo
from elsa_cli.selection.naming import Siblings
from elsa_cli.selection.scaled import Grid, fit_scale

__all__ = ["FORMATS", "Found", "find_quantised"]

FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
PACKED = ("F4", "F6_E2M3", "F6_E3M2")
BYTES = ("I8", "U8")
INTEGERS = (*BYTES, "I16", "U16", "I32", "U32", "I64", "U64")
STORAGE = (*BYTES, "F16", "BF16", "F32")  # what bitsandbytes packs its codes into

WEIGHT = r"(?:.*[_.])?(?:weight|proj|w)"
# Factors of what goes into a layer or comes out of it: they belong to no weight.
OF_ACTIVATIONS = re.compile(
    r".*(?:input|act|output|in_scale|out_scale|[kqv]_scale|kv_|cache|smooth|pre_quant|layer|logit"
    r"|attn|softmax|prob|zero|bias).*"
)
SCALE = re.compile(r".*scale.*")
PLAIN = re.compile(rf"{WEIGHT}|(?:.*_)?bias")


@dataclass(frozen=True)
class Format:
    """A format that has to be dequantised first.

    Attributes:
        name: As its makers call it.
        codes: Pattern of the codes' own name in lower case.
        dtypes: Dtypes that the codes can have; none for any.
        beside: Patterns of other tensors of the module; one of each has to be there.
    """

    name: str
    codes: str
    dtypes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


# The first format that fits names the codes; the last lines catch what has no name here.
FORMATS = (
    Format("SVDQuant", r"qweight", INTEGERS, (r"wscales|smooth.*",)),
    Format("GPTQ", r"qweight", INTEGERS, (r"g_idx",)),
    Format("AWQ", r"qweight", INTEGERS, (r"qzeros|scaled_zeros|zeros?",)),
    Format("EETQ", r"q?weight", BYTES, (r"weight_scales",)),
    Format("GPTQ or AWQ", r"qweight", INTEGERS),
    Format("Marlin", r"b", INTEGERS, (r"s", r"workspace|meta|s")),
    Format("bitsandbytes, 4 bits", r"weight", STORAGE, (r"weight\.absmax|weight\.quant_state.*",)),
    Format("bitsandbytes, 8 bits", r"weight", BYTES, (r"scb|weight\.scb",)),
    Format("MLX", WEIGHT, ("U32",), (r"(?:.*_)?scales",)),
    Format("AQLM", r"codes", INTEGERS, (r"codebooks",)),
    Format("VPTQ", r"(?:.*_)?indices", INTEGERS, (r"(?:.*_)?centroids.*",)),
    Format("QuIP#", r"qidxs.*", INTEGERS),
    Format("SpQR", r"(?:dense|quantized)_weights?", INTEGERS),
    Format("HQQ", r"w_q"),
    Format("HIGGS", r"weight", INTEGERS, (r"scales", r"tables2?|grid")),
    Format("SqueezeLLM", r"qweight", INTEGERS, (r"lookup_table",)),
    Format("MXFP4", r"(?:.*_)?blocks", ("U8",), (r"(?:.*_)?scales",)),
    Format("NVFP4", rf"{WEIGHT}|.*_packed", ("U8", "F4"), (r".*scale_2|.*global_scale",)),
    Format("compressed-tensors, packed", r".*_packed", (), (r".*scale.*",)),
    Format("torchao", r".*(?:qdata|tensor_impl.*|int_data|packed_weight)"),
    Format("Quanto", r"(?:.*\.)?_data(?:\..*)?", (), (r".*_scale",)),
    Format("GGUF", rf"{WEIGHT}|.*", BYTES, (r".*(?:qtype|quant_type|ggml).*",)),
    Format("FP8 with zero points", WEIGHT, FLOAT8, (r".*zero_?point.*",)),
    Format("MXFP4", WEIGHT, ("U8", "F4"), (r".*weight.*scale.*|.*proj_scale.*",)),
    Format("8-bit integers", WEIGHT, BYTES, (r".*(?:scale|absmax).*",)),
    Format("packed integers", WEIGHT, INTEGERS, (r".*(?:scale|zero|absmax|codebook|lut).*",)),
    Format("4- or 6-bit floats", r".*", PACKED, (r".*scale.*",)),
)


@dataclass(frozen=True)
class Found:
    """What is quantised in a file.

    Attributes:
        formats: What the format is called, by the name of each tensor that belongs to one that has
            to be dequantised: codes and all that goes with them.
        codes: The codes among those.
        scales: By the name of each FP8 weight, its scale, and how it lies over the weight.
        unfit: FP8 weights beside which a scale stands that does not fit, with the scale's name.
    """

    formats: Mapping[str, str]
    codes: frozenset[str]
    scales: Mapping[str, tuple[TensorInfo, Grid]]
    unfit: Mapping[str, str]


def find_quantised(siblings: Siblings) -> Found:
    """Look through the modules of a file."""
    formats: dict[str, str] = {}
    codes: set[str] = set()
    scales: dict[str, tuple[TensorInfo, Grid]] = {}
    unfit: dict[str, str] = {}
    for beside in _modules(siblings):
        for last, t in beside.items():
            name = _format_of(last, t, beside)
            if name is not None:
                codes.add(t.name)
                formats[t.name] = name
            elif t.dtype.name in FLOAT8 and not SCALE.fullmatch(last):
                for scale in _scales_of(last, beside):
                    grid = fit_scale(t.shape, scale.shape, scale.dtype)
                    if grid is None:
                        unfit[t.name] = scale.name
                    else:
                        scales[t.name] = (scale, grid)
                        break
        own = [formats[t.name] for t in beside.values() if t.name in formats]
        for last, t in beside.items():
            if own and not PLAIN.fullmatch(last):
                formats.setdefault(t.name, own[0])
    return Found(
        formats, frozenset(codes), scales, {n: s for n, s in unfit.items() if n not in scales}
    )


def _modules(siblings: Siblings) -> Iterator[dict[str, TensorInfo]]:
    """Yield the tensors of each module that has codes, by their names in it in lower case.

    What belongs to a tensor by its name counts to the module of that tensor: beside `fc.weight`
    stands `fc.weight.absmax` as `weight.absmax`.
    """
    modules: dict[str, dict[str, TensorInfo]] = {}
    for owner, tensors in siblings.owned.items():
        module = owner
        parts = owner.split(".")
        for at in range(len(parts), max(0, len(parts) - 3), -1):
            prefix = ".".join(parts[:at])
            if prefix in siblings.by_name or parts[at - 1] == "weight":
                module = ".".join(parts[: at - 1])
        inner = owner[len(module) + 1 :] if module else owner
        for last, t in tensors.items():
            key = f"{inner}.{last}" if module != owner else last
            modules.setdefault(module, {})[key.lower()] = t
    for beside in modules.values():
        if any(t.dtype.name not in ("F64", "F32", "F16", "BF16") for t in beside.values()) or any(
            "absmax" in last or last == "w_q" for last in beside
        ):
            yield beside


def _format_of(last: str, t: TensorInfo, beside: Mapping[str, TensorInfo]) -> str | None:
    for form in FORMATS:
        if (
            (not form.dtypes or t.dtype.name in form.dtypes)
            and re.fullmatch(form.codes, last)
            and all(
                any(re.fullmatch(pattern, other) for other in beside if other != last)
                for pattern in form.beside
            )
        ):
            return form.name
    return None


def _scales_of(last: str, beside: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """Return the scales that can be an FP8 weight's, likeliest first, whatever their spelling.

    `weight_scale`, `weight_scale_inv` (which multiplies, too), `scale_weight`, `scale`, and, of
    several weights in one module, the one that has the weight's own name.
    """
    found = [
        (name, t)
        for name, t in beside.items()
        if SCALE.fullmatch(name)
        and not OF_ACTIVATIONS.fullmatch(name)
        and (t.dtype.float_bits is not None or t.dtype.name in ("F8_E8M0", "U8"))
    ]
    mine = [(name, t) for name, t in found if last in name]
    others = [other for other in beside if other != last and beside[other].dtype.name in FLOAT8]
    if not mine:
        mine = [(n, t) for n, t in found if not any(o in n for o in others if len(o) > 1)]
    return [t for _, t in sorted(mine, key=lambda item: len(item[0]))]
