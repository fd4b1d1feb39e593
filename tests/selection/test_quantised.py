"""Quantised formats by what stands side by side, and plain checkpoints that are not quantised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.selection.naming import Siblings
from elsa_cli.selection.quantised import FORMATS, Found, find_quantised
from elsa_cli.storage.container import TensorSpec, lay_out

Entries = dict[str, tuple[str, tuple[int, ...]]]


def found_in(entries: Entries) -> Found:
    return find_quantised(
        Siblings(
            lay_out(
                TensorSpec(name, DTYPES[dtype], shape) for name, (dtype, shape) in entries.items()
            )
        )
    )


# What the makers of each format write for one module, by the name of the format.
CASES: list[tuple[str, set[str], Entries]] = [
    (
        "SVDQuant",
        {"qweight"},
        {
            "qweight": ("I8", (32, 32)),
            "wscales": ("BF16", (4, 32)),
            "smooth_factor": ("BF16", (64,)),
            "proj_down": ("BF16", (64, 8)),
            "bias": ("BF16", (32,)),
        },
    ),
    (
        "GPTQ",
        {"qweight"},
        {
            "qweight": ("I32", (16, 64)),
            "qzeros": ("I32", (4, 8)),
            "scales": ("F16", (4, 64)),
            "g_idx": ("I32", (128,)),
        },
    ),
    (
        "AWQ",
        {"qweight"},
        {"qweight": ("I32", (128, 8)), "qzeros": ("I32", (4, 8)), "scales": ("F16", (4, 64))},
    ),
    ("EETQ", {"weight"}, {"weight": ("I8", (32, 32)), "weight_scales": ("F16", (32,))}),
    ("GPTQ", {"qweight"}, {"qweight": ("I32", (16, 256)), "scales": ("F16", (1, 256))}),
    ("GPTQ or AWQ", {"qweight"}, {"qweight": ("I32", (256, 16)), "scales": ("F16", (1, 128))}),
    (
        "SqueezeLLM",
        {"qweight"},
        {"qweight": ("I32", (8, 64)), "lookup_table": ("F16", (64, 16))},
    ),
    (
        "Marlin",
        {"B"},
        {"B": ("I32", (8, 128)), "s": ("F16", (1, 64)), "workspace": ("I32", (16,))},
    ),
    (
        "bitsandbytes, 4 bits",
        {"weight"},
        {
            "weight": ("U8", (4096, 1)),
            "weight.absmax": ("U8", (128,)),
            "weight.quant_map": ("F32", (16,)),
            "weight.nested_absmax": ("F32", (1,)),
            "weight.quant_state.bitsandbytes__nf4": ("U8", (168,)),
        },
    ),
    (
        "bitsandbytes, 4 bits",  # stored as floats
        {"weight"},
        {"weight": ("BF16", (2048, 1)), "weight.absmax": ("F32", (128,))},
    ),
    ("bitsandbytes, 8 bits", {"weight"}, {"weight": ("I8", (64, 128)), "SCB": ("F32", (64,))}),
    (
        "MLX",
        {"weight"},
        {"weight": ("U32", (64, 16)), "scales": ("F32", (64, 2)), "biases": ("F32", (64, 2))},
    ),
    (
        "AQLM",
        {"codes"},
        {
            "codes": ("I8", (32, 8, 2)),
            "codebooks": ("F32", (2, 256, 1, 8)),
            "scales": ("F32", (32, 1, 1, 1)),
        },
    ),
    (
        "VPTQ",
        {"indices"},
        {
            "indices": ("I32", (1, 4, 20)),
            "centroids.weight": ("F32", (1, 512)),
            "res_centroids.weight": ("F32", (4, 128)),
            "perm": ("I16", (64,)),
        },
    ),
    ("QuIP#", {"Qidxs"}, {"Qidxs": ("I16", (32, 4)), "SU": ("F16", (32,)), "SV": ("F16", (32,))}),
    (
        "EXL3",
        {"trellis"},
        {"trellis": ("I16", (4, 2, 48)), "suh": ("F16", (64,)), "svh": ("F16", (32,))},
    ),
    (
        "SpQR",
        {"dense_weights"},
        {"dense_weights": ("I64", (100,)), "row_offsets": ("I32", (33,))},
    ),
    (
        "HQQ",
        {"W_q"},
        {"W_q": ("U8", (64, 64)), "scale": ("F32", (128, 1)), "zero": ("F32", (128, 1))},
    ),
    ("HQQ", {"W_q"}, {"W_q": ("F32", (64, 64)), "scale": ("F32", (128, 1))}),  # 3 bits, in floats
    (
        "HIGGS",
        {"weight"},
        {
            "weight": ("I16", (16, 256)),
            "scales": ("F32", (64, 1)),
            "tables": ("F32", (16,)),
            "tables2": ("F32", (16, 16, 2)),
        },
    ),
    (
        "MXFP4",
        {"gate_up_proj_blocks", "down_proj_blocks"},
        {
            "gate_up_proj_blocks": ("U8", (2, 32, 2, 16)),
            "gate_up_proj_scales": ("U8", (2, 32, 2)),
            "gate_up_proj_bias": ("BF16", (2, 32)),
            "down_proj_blocks": ("U8", (2, 64, 1, 16)),
            "down_proj_scales": ("U8", (2, 64, 1)),
        },
    ),
    (
        "NVFP4",
        {"weight"},
        {
            "weight": ("U8", (64, 64)),
            "weight_scale": ("F8_E4M3", (64, 8)),
            "weight_scale_2": ("F32", ()),
            "input_scale": ("F32", ()),
        },
    ),
    (
        "NVFP4",
        {"weight_packed"},
        {
            "weight_packed": ("U8", (64, 64)),
            "weight_scale": ("F8_E4M3", (64, 8)),
            "weight_global_scale": ("F32", (1,)),
        },
    ),
    (
        "compressed-tensors, packed",
        {"weight_packed"},
        {
            "weight_packed": ("I32", (64, 16)),
            "weight_scale": ("F32", (64, 1)),
            "weight_shape": ("I64", (2,)),
        },
    ),
    (
        "torchao",
        {"_weight_qdata"},
        {"_weight_qdata": ("I8", (64, 64)), "_weight_scale": ("F32", (64, 1))},
    ),
    (
        "Quanto",
        {"weight._data"},
        {"weight._data": ("I8", (64, 128)), "weight._scale": ("F32", (64, 1))},
    ),
    (
        "Quanto",
        {"weight._data._data"},
        {"weight._data._data": ("U8", (32, 128)), "weight._scale": ("F32", (64, 1))},
    ),
    ("GGUF", {"weight"}, {"weight": ("U8", (64, 144)), "weight_qtype": ("I32", ())}),
    (
        "FP8 with zero points",
        {"weight"},
        {
            "weight": ("F8_E4M3", (64, 64)),
            "weight_scale": ("F32", (64, 1)),
            "weight_zero_point": ("F8_E4M3", (64, 1)),
        },
    ),
    ("MXFP4", {"weight"}, {"weight": ("F4", (64, 64)), "weight_scale": ("U8", (64, 2))}),
    (
        "8-bit integers",
        {"weight"},
        {"weight": ("I8", (64, 4, 32)), "scale": ("F32", (64, 4, 1)), "svd_up": ("F32", (64, 8))},
    ),
    (
        "packed into bytes",
        {"weight"},
        {"weight": ("U8", (16, 64)), "weight_scale": ("F32", (1,))},
    ),
    (
        "packed integers",
        {"weight"},
        {"weight": ("I32", (8, 64)), "weight_zeros": ("F16", (1, 64))},
    ),
    (
        "4- or 6-bit floats",
        {"weight_6"},
        {"weight_6": ("F6_E2M3", (64, 64)), "s_scale": ("F8_E8M0", (64, 2))},
    ),
    ("integers under the name of a projection", {"down_proj"}, {"down_proj": ("U8", (2, 32, 8))}),
]
CASE_IDS = [f"{at}-{case[0]}" for at, case in enumerate(CASES)]


def test_there_is_a_case_for_every_format() -> None:
    assert {name for name, _, _ in CASES} == {form.name for form in FORMATS}


@pytest.mark.parametrize("module", ["", "model.layers.0.self_attn.q_proj.", "0."])
@pytest.mark.parametrize(("name", "codes", "entries"), CASES, ids=CASE_IDS)
def test_a_format(name: str, codes: set[str], entries: Entries, module: str) -> None:
    plain: Entries = {"embed.weight": ("F32", (30, 8)), "norm.weight": ("F32", (8,))}
    found = found_in({module + last: value for last, value in entries.items()} | plain)
    assert found.codes == {module + last for last in codes}
    biases = {last for last in entries if last == "bias" or last.endswith("_bias")}
    assert found.formats == {module + last: name for last in entries if last not in biases}
    assert not found.scales
    assert not found.unfit


@pytest.mark.parametrize(("name", "codes", "entries"), CASES, ids=CASE_IDS)
def test_other_modules_of_the_file_stay_as_they_are(
    name: str, codes: set[str], entries: Entries
) -> None:
    plain: Entries = {
        "fc.weight": ("F32", (8, 8)),
        "fc.scale": ("F32", (8,)),
        "gc.weight": ("F8_E4M3", (8, 8)),
        "gc.weight_scale": ("F32", ()),
    }
    found = found_in({f"hc.{last}": value for last, value in entries.items()} | plain)
    assert not found.formats.keys() & plain.keys()
    assert found.scales.keys() == {"gc.weight"}


ZOO = json.loads((Path(__file__).parent / "zoo.json").read_text())


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E4M3"])
def test_no_plain_checkpoint_is_quantised(dtype: str) -> None:
    for architecture, tensors in ZOO.items():
        found = found_in({name: (dtype, tuple(shape)) for name, shape, _ in tensors})
        assert not found.formats, architecture
        assert not found.scales, architecture
        assert not found.unfit, architecture


@pytest.mark.parametrize(
    "entries",
    [
        {"embeddings.position_ids": ("I64", (1, 77)), "embeddings.scale": ("F32", (1,))},
        {"attn.mask": ("BOOL", (64, 64)), "attn.proj.weight": ("F32", (8, 8))},
        {"attn.bias": ("U8", (1, 1, 64, 64)), "attn.c_attn.weight": ("F32", (8, 24))},
        {"bn.num_batches_tracked": ("I64", ()), "bn.weight": ("F32", (8,))},
        {"relative_position_index": ("I64", (49, 49)), "logit_scale": ("F32", (3, 1, 1))},
        {"codebook.inited": ("U8", (1,)), "codebook.embed": ("F32", (64, 8))},
        # Trained for quantisation, and not quantised yet.
        {
            "fc.weight": ("F32", (8, 8)),
            "fc.weight_fake_quant.scale": ("F32", (1,)),
            "fc.weight_fake_quant.zero_point": ("I32", (1,)),
            "fc.weight_fake_quant.fake_quant_enabled": ("U8", (1,)),
        },
        {"fc.weight": ("F32", (8, 8)), "fc.weight_quantizer._amax": ("F32", (8, 1))},
        {"fc.weight": ("F32", (8, 8)), "fc.weight_integer": ("F32", (8, 8))},
        {"attn.k_scale": ("F32", (1,)), "attn.k_proj.weight": ("BF16", (8, 8))},
        {"loss.class_weight": ("I64", (10,)), "fc.weight": ("F32", (10, 8))},
        {"tree.indices": ("I64", (10, 2)), "tree.children": ("I64", (10, 2))},
        # Nothing stands beside it that could be a scale.
        {"counts.weight": ("I64", (4, 4)), "flags.weight": ("U8", (4, 4))},
        {"spam.proj": ("I64", (4,)), "fc.weight": ("F32", (4, 4))},
        {"b": ("I32", (4,)), "a": ("F32", (4, 4))},
    ],
)
def test_buffers_beside_floats_are_no_codes(entries: Entries) -> None:
    found = found_in(entries)
    assert not found.formats
    assert not found.scales
    assert not found.unfit


# -- FP8 ----------------------------------------------------------------------------------------


def scales_in(entries: Entries) -> dict[str, str]:
    found = found_in(entries)
    assert not found.formats
    assert not found.unfit
    return {name: scale.name for name, (scale, _) in found.scales.items()}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        ("weight", "weight_scale"),
        ("weight", "weight_scale_inv"),
        ("weight", "scale_weight"),
        ("weight", "scale"),
        ("weight", "scales"),
        ("weight", "weight.scale"),
        ("weight", "weight_scale_factor"),
        ("gate_up_proj", "gate_up_proj_scale"),
        ("gate_up_proj", "gate_up_proj_scale_inv"),
        ("gate_up_proj", "gate_up_proj_weight_scale"),
        ("in_proj_weight", "in_proj_weight_scale"),
        ("out", "out_scale"),
        ("wk", "wk_scale"),
        ("wv", "scale_wv"),
        ("attn_proj", "attn_proj_scale"),
    ],
)
def test_the_scale_of_a_weight_in_every_spelling(weight: str, scale: str, dtype: str) -> None:
    for module in ("", "a.b.", "model.layers.0.mlp.experts."):
        entries: Entries = {module + weight: (dtype, (8, 16)), module + scale: ("F32", (8, 1))}
        assert scales_in(entries) == {module + weight: module + scale}


@pytest.mark.parametrize("scale", ["F64", "F32", "F16", "BF16", "F8_E8M0"])
def test_dtypes_of_scales(scale: str) -> None:
    assert scales_in({"w.weight": ("F8_E4M3", (8, 16)), "w.weight_scale": (scale, (8, 1))})
    assert scales_in({"w.weight": ("F8_E4M3", (8, 64)), "w.weight_scale": ("U8", (8, 2))})
    assert not scales_in({"w.weight": ("F8_E4M3", (8, 16)), "w.weight_scale": ("I64", (8, 1))})


OTHERS = ["input_scale", "k_scale", "v_scale", "output_scale", "act_scale", "activation_scale"]
OTHERS += ["in_scale", "out_scale", "kv_cache_scale", "smooth_scale", "pre_quant_scale"]
OTHERS += [
    "bias_scale",
    "attn_output_scale",
    "logit_scale",
    "softmax_scale",
    "prob_scale",
    "log_scale",
]


@pytest.mark.parametrize("other", OTHERS)
def test_scales_of_something_else(other: str) -> None:
    entries: Entries = {"weight": ("F8_E4M3", (8, 16)), other: ("F32", ())}
    assert not scales_in(entries)
    assert scales_in(entries | {"weight_scale": ("F32", ())}) == {"weight": "weight_scale"}
    # Names come in any order.
    assert scales_in({"scale": ("F32", (8,))} | entries) == {"weight": "scale"}


def test_each_weight_of_a_module_has_its_own_scale() -> None:
    entries: Entries = {
        "gate_up_proj": ("F8_E4M3", (4, 32, 16)),
        "gate_up_proj_scale": ("F32", (4, 32, 1)),
        "down_proj": ("F8_E4M3", (4, 16, 16)),
        "down_proj_scale": ("F32", (4, 16, 1)),
        "up_proj": ("F8_E4M3", (4, 32, 16)),
        "up_proj_scale": ("F32", (4, 32, 1)),
        "w": ("F8_E4M3", (4, 4)),
        "scale_w": ("F32", (4, 1)),
    }
    assert scales_in(entries) == {
        "gate_up_proj": "gate_up_proj_scale",
        "down_proj": "down_proj_scale",
        "up_proj": "up_proj_scale",
        "w": "scale_w",
    }


def test_no_scale_is_taken_from_another_weight() -> None:
    entries: Entries = {
        "up_proj": ("F8_E4M3", (8, 16)),
        "gate_up_proj": ("F8_E4M3", (8, 16)),
        "gate_up_proj_scale": ("F32", (8, 1)),
    }
    assert scales_in(entries) == {"gate_up_proj": "gate_up_proj_scale"}


def test_an_fp8_scale_is_no_weight_of_its_own() -> None:
    entries: Entries = {"weight": ("F8_E4M3", (8, 32)), "weight_scale": ("F8_E4M3", (8, 1))}
    assert scales_in(entries) == {"weight": "weight_scale"}
    # Where everything was cast to FP8, a learned scale is not taken for one of quantisation.
    assert not scales_in({"translate": ("F8_E4M3", (2, 1)), "skip_scale": ("F8_E4M3", (2, 1))})


def test_the_own_scale_comes_before_another() -> None:
    entries: Entries = {"weight": ("F8_E4M3", (8, 16)), "scale": ("F32", (8,))}
    assert scales_in(entries | {"weight_scale_inv": ("F32", ())}) == {"weight": "weight_scale_inv"}


def test_weights_and_scales_that_share_the_beginning_of_their_names() -> None:
    entries: Entries = {}
    for at in range(40):
        entries[f"l{at}_w"] = ("F8_E4M3", (8, 16))
        entries[f"l{at}_scale"] = ("F32", ())
    assert scales_in(entries) == {f"l{at}_w": f"l{at}_scale" for at in range(40)}


def test_fp8_without_a_scale_is_plain() -> None:
    assert not scales_in({"fc.weight": ("F8_E4M3", (8, 16)), "gc.weight_scale": ("F32", ())})


def test_a_scale_that_does_not_fit() -> None:
    found = found_in({"weight": ("F8_E4M3", (8, 16)), "weight_scale": ("F32", (3, 5))})
    assert found.unfit == {"weight": "weight_scale"}
    assert not found.scales
    # One that fits is preferred to one that does not.
    found = found_in(
        {
            "weight": ("F8_E4M3", (8, 16)),
            "weight_scale": ("F32", (3, 5)),
            "weight_scale_inv": ("F32", (8, 1)),
        }
    )
    assert not found.unfit
    assert found.scales["weight"][0].name == "weight_scale_inv"
