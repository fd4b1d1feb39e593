"""Quantised weights: which tensors are codes and scales, and of what format.

A format is known by what stands side by side in one module, and by the dtype of its codes. Codes of
one byte whose code 0 is the weight 0, with a scale (FP8), can be ranked and zeroed as they are; all
others have to be dequantised first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from elsa_cli.selection.naming import Siblings, real_dims
from elsa_cli.selection.scaled import Grid, fit_scale
from elsa_cli.storage.container import TensorSpec

__all__ = ["FORMATS", "Format", "Found", "find_quantised"]

FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
PACKED = ("F4", "F6_E2M3", "F6_E3M2")
BYTES = ("I8", "U8")
INTEGERS = (*BYTES, "I16", "U16", "I32", "U32", "I64", "U64")
STORAGE = (*BYTES, "F16", "BF16", "F32")  # what bitsandbytes packs its codes into

WEIGHT = r"(?:.*[_.])?(?:weight|proj|w)"
# Factors of what goes into a layer or comes out of it: they belong to no weight.
OF_ACTIVATIONS = re.compile(
    r".*(?:input|act|output|in_scale|out_scale|[kqv]_scale|kv_|cache|smooth|pre_quant|layer|log"
    r"|attn|softmax|prob|zero|bias).*"
)
ODD = re.compile(r"absmax|(?:^|\.)w_q$", re.IGNORECASE)
SCALE = re.compile(r".*scale.*")
INNER = r"weight|(?:.*_)?centroids"  # what looks like a module and is a part of a weight
PLAIN = re.compile(rf"(?!.*centroids)(?:{WEIGHT}|(?:.*_)?bias)")


@dataclass(frozen=True)
class Format:
    """A format that has to be dequantised first.

    Attributes:
        name: As its makers call it.
        codes: Pattern of the codes' own name in lower case.
        dtypes: Dtypes that the codes can have; none for any.
        beside: Patterns of other tensors of the module; one of each has to be there.
        matrix: Whether the codes have two or more dimensions other than 1.
        columns: Whether the codes have as many columns as the scales, being packed along the rows.
    """

    name: str
    codes: str
    dtypes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    matrix: bool = False
    columns: bool = False


# The first format that fits names the codes; the last lines catch what has no name here.
FORMATS = (
    Format("SVDQuant", r"qweight", INTEGERS, (r"wscales|smooth.*",)),
    Format("GPTQ", r"qweight", INTEGERS, (r"g_idx",)),
    # GPTQ packs along the inputs, (in / 8, out); AWQ along the outputs, (in, out / 8).
    Format("GPTQ", r"qweight", INTEGERS, (r"scales?",), columns=True),
    Format("AWQ", r"qweight", INTEGERS, (r"qzeros|scaled_zeros|zeros?",)),
    Format("EETQ", r"q?weight", BYTES, (r"weight_scales",)),
    Format("SqueezeLLM", r"qweight", INTEGERS, (r"lookup_table",)),
    Format("GPTQ or AWQ", r"qweight", INTEGERS),
    Format("Marlin", r"b", INTEGERS, (r"s", r"workspace|meta|s")),
    Format("bitsandbytes, 4 bits", r"weight", STORAGE, (r"weight\.absmax|weight\.quant_state.*",)),
    Format("bitsandbytes, 8 bits", r"weight", BYTES, (r"scb|weight\.scb",)),
    Format("MLX", WEIGHT, ("U32",), (r"(?:.*_)?scales",)),
    Format("AQLM", r"codes", INTEGERS, (r"codebooks",)),
    Format("VPTQ", r"(?:.*_)?indices", INTEGERS, (r"(?:.*_)?centroids.*",)),
    Format("QuIP#", r"qidxs.*", INTEGERS),
    Format("SpQR", r"(?:dense|quantized)_weights?", INTEGERS),
    Format("HQQ", r"w_q", INTEGERS),
    Format("HQQ", r"w_q", STORAGE, (r"scales?|zeros?|zero_q|meta.*|nbits|group_size",)),
    Format("HIGGS", r"weight", INTEGERS, (r"scales", r"tables2?|grid")),
    Format("EXL3", r"trellis", INTEGERS, (r"su|suh|svh|sv",)),
    Format("MXFP4", r"(?:.*_)?blocks", ("U8",), (r"(?:.*_)?scales",)),
    Format("NVFP4", rf"{WEIGHT}|.*_packed", ("U8", "F4"), (r".*scale_2|.*global_scale",)),
    Format("compressed-tensors, packed", r".*_packed", (), (r".*scale.*",)),
    Format("torchao", r".*(?:qdata|tensor_impl.*|int_data|packed_weight)"),
    Format("Quanto", r"(?:.*\.)?_data(?:\..*)?", INTEGERS, (r".*_scale",)),
    Format("GGUF", rf"{WEIGHT}|.*", BYTES, (r".*(?:qtype|quant_type|ggml).*",)),
    Format("FP8 with zero points", WEIGHT, FLOAT8, (r".*zero_?point.*",)),
    Format("MXFP4", WEIGHT, ("F4",), (r".*scale.*",)),
    Format("packed into bytes", WEIGHT, ("U8",), (r".*(?:scale|absmax).*",)),
    Format("8-bit integers", WEIGHT, BYTES, (r".*(?:scale|absmax).*",)),
    Format("packed integers", WEIGHT, INTEGERS, (r".*(?:scale|zero|absmax|codebook|lut).*",)),
    Format("4- or 6-bit floats", r".*", PACKED, (r".*scale.*",)),
    Format("integers under the name of a projection", r"(?:.*_)?proj", INTEGERS, matrix=True),
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
    scales: Mapping[str, tuple[TensorSpec, Grid]]
    unfit: Mapping[str, str]


def find_quantised(siblings: Siblings) -> Found:
    """Look through the modules of a file."""
    formats: dict[str, str] = {}
    codes: set[str] = set()
    scales: dict[str, tuple[TensorSpec, Grid]] = {}
    unfit: dict[str, str] = {}
    for beside in _modules(siblings):
        candidates = _scales_of(beside)
        hits: dict[str, list[str]] = {}
        for last, t in beside.items():
            name = _format_of(last, t, beside, hits)
            if name is not None:
                codes.add(t.name)
                formats[t.name] = name
            else:
                for scale in candidates.get(last, ()):
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


def _modules(siblings: Siblings) -> Iterator[dict[str, TensorSpec]]:
    """Yield the tensors of each module that has codes, by their names in it in lower case.

    What belongs to a tensor by its name counts to the module of that tensor: beside `fc.weight`
    stands `fc.weight.absmax` as `weight.absmax`.
    """
    if not any(_odd(name, t) for name, t in siblings.by_name.items()):
        return
    modules: dict[str, dict[str, TensorSpec]] = {}
    for owner, tensors in siblings.owned.items():
        module = owner
        parts = owner.split(".")
        for at in range(len(parts), max(0, len(parts) - 3), -1):
            prefix = ".".join(parts[:at])
            if prefix in siblings.by_name or re.fullmatch(INNER, parts[at - 1]):
                module = ".".join(parts[: at - 1])
        inner = owner[len(module) + 1 :] if module else owner
        for last, t in tensors.items():
            key = f"{inner}.{last}" if module != owner else last
            modules.setdefault(module, {})[key.lower()] = t
    for beside in modules.values():
        if any(_odd(last, t) for last, t in beside.items()):
            yield beside


def _odd(name: str, t: TensorSpec) -> bool:
    """Tell whether a tensor can be of a quantised module: floats are, where codes are packed so."""
    return t.dtype.name not in ("F64", "F32", "F16", "BF16") or ODD.search(name) is not None


def _format_of(
    last: str, t: TensorSpec, beside: Mapping[str, TensorSpec], hits: dict[str, list[str]]
) -> str | None:
    """Return what the format of some codes is called, or None.

    `hits` keeps which names of the module a pattern fits, so that each is matched once.
    """

    def fitting(pattern: str) -> list[str]:
        if pattern not in hits:
            hits[pattern] = [name for name in beside if re.fullmatch(pattern, name)]
        return hits[pattern]

    for form in FORMATS:
        if (
            (not form.dtypes or t.dtype.name in form.dtypes)
            and (not form.matrix or len(real_dims(t.shape)) >= 2)
            and (not form.columns or _same_columns(t, beside))
            and re.fullmatch(form.codes, last)
            and all(any(other != last for other in fitting(pattern)[:2]) for pattern in form.beside)
        ):
            return form.name
    return None


def _same_columns(t: TensorSpec, beside: Mapping[str, TensorSpec]) -> bool:
    scales = beside.get("scales", beside.get("scale"))
    return scales is not None and t.shape[-1:] == scales.shape[-1:]


def _scales_of(beside: Mapping[str, TensorSpec]) -> dict[str, list[TensorSpec]]:
    """Return the scales that can be each FP8 weight's, likeliest first, whatever their spelling.

    `weight_scale`, `weight_scale_inv` (which multiplies, too) and `scale_weight` have the weight's
    own name in theirs; `scale` has none, and of several the one that begins as the weight does is
    the likeliest.
    """
    weights = {n for n, t in beside.items() if t.dtype.name in FLOAT8 and not SCALE.fullmatch(n)}
    own: dict[str, list[str]] = {weight: [] for weight in weights}
    ownerless = []
    for name, t in beside.items():
        if not SCALE.fullmatch(name) or not (
            t.dtype.float_bits is not None or t.dtype.name in ("F8_E8M0", "U8")
        ):
            continue
        owner = _owner(name, weights)
        if owner:
            own[owner].append(name)
        elif not OF_ACTIVATIONS.fullmatch(name) and t.dtype.name not in FLOAT8:
            ownerless.append(name)
    found = {}
    for weight, names in own.items():
        names.sort(key=len)
        others = sorted(ownerless, key=lambda n: (-_alike(n, weight), len(n)))
        found[weight] = [beside[n] for n in (*names, *others)]
    return found


def _alike(one: str, other: str) -> int:
    """Return how many characters two names begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _owner(scale: str, weights: Collection[str]) -> str:
    """Return the longest name of a weight that a scale's name has in it as whole words, or ''."""
    words = re.split(r"([._])", scale)
    spans = (
        "".join(words[first : first + size])
        for size in range(len(words), 0, -1)
        for first in range(len(words) - size + 1)
    )
    return next((span for span in spans if span in weights), "")
