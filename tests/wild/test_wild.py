"""Checkpoints from the wild: names, shapes and values as packages on the registries make them.

`cases.json` says of each file where it comes from and what its tensors are; `make.py` makes the
files again where the packages are installed. None of them was made up for these rules.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from elsa_cli.errors import Quantised, UsageError
from elsa_cli.selection.eligible import Wanted, eligible_tensors
from elsa_cli.selection.masks import Traits
from elsa_cli.selection.naming import real_dims
from elsa_cli.selection.roles import tell
from elsa_cli.storage.container import Container

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "cases.json").read_text())

# What is not told, and why.
MISSED = {
    ("K1/csatv2_dct.safetensors", "stem_dct.transform.transform.weights"): (
        "64 values under a weight's name: small weights are believed without a look at them"
    ),
    ("K4/coca_vocabulary.safetensors", "text_decoder.text_projection"): (
        "no embedding is in the file, whose rows would tell the vocabulary"
    ),
    ("K4/ctc_convolution.safetensors", "ctc_head.weight"): (
        "a convolution that scores tokens is a classifier: no embedding has as many rows"
    ),
}
# Codes of 8-bit integers and of torchao would bear ranking, but a mask is for floats alone, and
# torchao's tensors have to be taken apart first: they are refused by name, like packed formats.
REFUSED_TOO = {
    "K2/ct_int8.safetensors",
    "K2/torchao_float8.safetensors",
    "K2/torchao_int8.safetensors",
    "K2/quanto_qint8.safetensors",
    "K2/bnb_int8.safetensors",
    "K2/sdnq_int8.safetensors",
    "K2/modelopt_int8_smoothquant.safetensors",
    "K2/gemma_int8.safetensors",
}
# Layers with two inputs at once, and matrices of several heads whose name tells neither.
UNTOLD_DIMS = {
    ("K5/recurrent.safetensors", "pair.weight"): "bilinear: groups run along its first input",
    ("K5/mlx_switch.safetensors", "model.layers.0.self_attn.embed_q.weight"): "heads, by no name",
}
WEIGHTS = ("weight", "adapter")


def of_kind(*kinds: str) -> list[Any]:
    return [pytest.param(case, id=case["file"]) for case in CASES if case["kind"] in kinds]


def test_there_are_ten_of_each_kind() -> None:
    counts = Counter(case["kind"] for case in CASES)
    assert {kind: count >= 10 for kind, count in counts.items()} == dict.fromkeys(
        ("K1", "K2", "K3", "K4", "K5", "K6"), True
    )
    assert len({case["file"] for case in CASES}) == len(CASES)
    missed = {file for file, _ in MISSED} | REFUSED_TOO | {file for file, _ in UNTOLD_DIMS}
    assert missed < {case["file"] for case in CASES}


@pytest.mark.parametrize("case", of_kind("K1", "K3", "K4"))
def test_only_weights_are_pruned(case: dict[str, Any]) -> None:
    file = case["file"]
    with Container(HERE / file) as container:
        told = tell(container.tensors, container).told
        wrong = {
            t.name
            for t in container.tensors
            if (told[t.name].role == "weight")
            != (case["expect"][t.name] in WEIGHTS and len(real_dims(t.shape)) >= 2)
        }
    assert wrong == {name for place, name in MISSED if place == file}


@pytest.mark.parametrize("case", of_kind("K2"))
def test_quantised_weights_are_ranked_or_refused(case: dict[str, Any]) -> None:
    expected = "refused" if case["file"] in REFUSED_TOO else case["do"]
    with Container(HERE / case["file"]) as container:
        if expected == "refused":
            with pytest.raises(Quantised, match=r"is quantised \(.+\)|FP8"):
                eligible_tensors(container)
            return
        eligible = eligible_tensors(container)
        codes = {name for name, role in case["expect"].items() if role == "codes"}
        weights = {name for name, role in case["expect"].items() if role == "weight"}
        ranked = codes if expected == "ranked" else set()
        assert {t.name for t in eligible.tensors} == weights | ranked
        assert eligible.roles.quantised.scales.keys() == ranked


@pytest.mark.parametrize("case", of_kind("K5"))
def test_the_input_dimension_is_told(case: dict[str, Any]) -> None:
    with Container(HERE / case["file"]) as container:
        try:
            eligible = eligible_tensors(container)
        except UsageError:
            assert case["file"] == "K5/e3nn_flat.safetensors"  # vectors alone
            return
        dims = Traits.of(eligible, 4, (), container.metadata).dims
    wrong = {name for name, dim in dims.items() if case["expect"][name] not in (-1, dim)}
    assert wrong == {name for place, name in UNTOLD_DIMS if place == case["file"]}


@pytest.mark.parametrize("case", of_kind("K6"))
def test_include_takes_what_is_meant(case: dict[str, Any]) -> None:
    with Container(HERE / case["file"]) as container:
        literal = case.get("literal")
        pattern = case["include"] if literal is None else literal
        chosen = {t.name for t in eligible_tensors(container, Wanted(include=[pattern])).tensors}
        assert chosen == ({literal} if literal else set(case["chosen"]))
        if literal and len(case["expect"]) > 1:
            left = eligible_tensors(container, Wanted(exclude=[pattern], roles=["?*=weight"]))
            assert literal not in {t.name for t in left.tensors}
            assert len(left.tensors) == len(container.tensors) - 1
