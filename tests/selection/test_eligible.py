"""Which tensors take part, and what include, exclude and roles do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from elsa_cli.errors import Quantised, UsageError
from elsa_cli.selection.eligible import Eligible, Wanted, eligible_tensors
from elsa_cli.selection.roles import Classes, Told, matching, parse_roles
from elsa_cli.selection.rules import VERSION
from elsa_cli.storage.container import Container
from tests.helpers import BITS, FLOATS, Tensor, random_bits, write_safetensors

Entry = tuple[str, str, tuple[int, ...]]

MODEL: list[Entry] = [
    ("conv.weight", "F32", (8, 4, 3, 3)),
    ("conv.bias", "F32", (8,)),
    ("norm.weight", "F32", (8,)),
    ("model.embed_tokens.weight", "BF16", (100, 8)),
    ("transformer.wte.weight", "F16", (100, 8)),
    ("transformer.wpe.weight", "F16", (64, 8)),
    ("lm_head.weight", "BF16", (100, 8)),
    ("mlp.gate.weight", "F32", (4, 8)),
    ("mlp.experts.0.w1.weight", "F32", (16, 8)),
    ("q_proj.weight", "F8_E4M3", (8, 8)),
    ("q_proj.weight_scale", "F32", (8, 1)),
    ("attn.tril", "F32", (8, 8)),
    ("attn.rel_pos", "F32", (8, 8)),
    ("experts.gate_up_proj_bias", "F32", (4, 8)),
    ("A_log", "F32", (8, 4)),
    ("logit_scale", "F32", ()),
    ("counter", "I64", (2, 2)),
    ("empty.weight", "F32", (0, 4)),
    ("flags", "U8", (4, 4)),
    ("powers", "F8_E8M0", (4, 4)),
]
WEIGHTS = {"conv.weight", "mlp.experts.0.w1.weight", "q_proj.weight"}


def choose(
    folder: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    roles: Sequence[str] = (),
    entries: Sequence[Entry] = tuple(MODEL),
    classes: Classes | None = None,
) -> Eligible:
    rng = np.random.default_rng(0)
    tensors: list[Tensor] = [
        (name, dtype, shape, random_bits(rng, dtype, shape, "normal"))
        for name, dtype, shape in entries
    ]
    write_safetensors(folder / "m", tensors)
    with Container(folder / "m") as container:
        return eligible_tensors(container, Wanted(include, exclude, roles), classes)


def names(eligible: Eligible) -> set[str]:
    return {t.name for t in eligible.tensors}


def test_by_default_the_weights(tmp_path: Path) -> None:
    found = choose(tmp_path)
    assert names(found) == WEIGHTS
    assert found.taken == ()


def test_every_tensor_has_a_role(tmp_path: Path) -> None:
    found = choose(tmp_path)
    told = {name: told.role for name, told in found.roles.told.items()}
    assert told == {
        "conv.weight": "weight",
        "conv.bias": "bias",
        "norm.weight": "norm",
        "model.embed_tokens.weight": "embedding",
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "position",
        "lm_head.weight": "head",
        "mlp.gate.weight": "router",
        "mlp.experts.0.w1.weight": "weight",
        "q_proj.weight": "weight",
        "q_proj.weight_scale": "scale",
        "attn.tril": "constant",
        "attn.rel_pos": "position",
        "experts.gate_up_proj_bias": "bias",
        "A_log": "other",
        "logit_scale": "scale",
        "counter": "constant",
        "empty.weight": "weight",
        "flags": "constant",
        "powers": "constant",
    }
    assert all(t.reason for t in found.roles.told.values())
    left = found.left()
    assert left.keys() == {name for name, _, _ in MODEL} - WEIGHTS
    assert left["norm.weight"] is found.roles.told["norm.weight"]


def test_what_is_recorded(tmp_path: Path) -> None:
    assert choose(tmp_path).recorded() == {"rules": VERSION, "told_by": "names"}
    found = choose(tmp_path, classes=Classes("the recipe's model", {}))
    assert found.recorded() == {"rules": VERSION, "told_by": "the recipe's model"}


def test_every_float_that_can_be_ranked(tmp_path: Path) -> None:
    entries: list[Entry] = [(f"fc.{dtype}.weight", dtype, (8, 8)) for dtype in FLOATS]
    found = choose(tmp_path, entries=entries)
    assert {t.dtype.name for t in found.tensors} == set(FLOATS)


def test_in_the_order_of_the_file(tmp_path: Path) -> None:
    entries: list[Entry] = [(f"{n}.weight", "F32", (4, 4)) for n in ("b", "c", "a")]
    found = choose(tmp_path, entries=entries)
    assert [t.name for t in found.tensors] == ["b.weight", "c.weight", "a.weight"]


# -- include and exclude --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        # A glob takes matrices, whatever they are called, and nothing that breaks.
        (
            ["*"],
            WEIGHTS
            | {
                "model.embed_tokens.weight",
                "transformer.wte.weight",
                "lm_head.weight",
            },
        ),
        (["conv.*"], {"conv.weight"}),
        (["*.weight"], choosable := WEIGHTS | {"model.embed_tokens.weight"}),
        # A name written out takes any float.
        (["conv.bias"], {"conv.bias"}),
        (["norm.weight", "lm_head.*"], {"norm.weight", "lm_head.weight"}),
        (["logit_scale"], {"logit_scale"}),
        (["attn.tril", "A_log"], {"attn.tril", "A_log"}),
        (["q_proj.weight_scale"], {"q_proj.weight_scale"}),
        (["conv.bias", "conv.*"], {"conv.bias", "conv.weight"}),
    ],
)
def test_include(include: list[str], expected: set[str], tmp_path: Path) -> None:
    found = choose(tmp_path, include)
    if expected is choosable:
        assert names(found) > expected
        assert not names(found) & {"norm.weight", "empty.weight", "attn.tril"}
        return
    assert names(found) == expected
    told = found.roles.told
    assert set(found.taken) == {name for name in expected if told[name].role != "weight"}


def test_a_glob_never_takes_what_breaks(tmp_path: Path) -> None:
    """A case of a public report: prune one part, and not its norms and biases."""
    entries: list[Entry] = [
        ("net.norm.weight", "F32", (64,)),
        ("net.norm2.weight", "F32", (1, 64, 1, 1)),
        ("net.conv.weight", "F32", (64, 64, 3, 3)),
        ("net.conv.bias", "F32", (64,)),
        ("net.token", "F32", (1, 1, 64)),
        ("net.proj.weight", "F32", (1, 64)),
        ("vae.w", "F32", (8, 8)),
    ]
    assert names(choose(tmp_path, ["net.*"], entries=entries)) == {"net.conv.weight"}
    assert names(choose(tmp_path, ["net.proj.weight"], entries=entries)) == {"net.proj.weight"}


def test_exclude(tmp_path: Path) -> None:
    assert names(choose(tmp_path, exclude=["conv*"])) == WEIGHTS - {"conv.weight"}
    assert names(choose(tmp_path, exclude=["mlp.*", "q_*"])) == {"conv.weight"}
    assert names(choose(tmp_path, exclude=["conv.weight"])) == WEIGHTS - {"conv.weight"}
    # It wins over include, also where that is written out.
    found = choose(tmp_path, ["conv.weight", "q_proj.weight"], ["conv.weight"])
    assert names(found) == {"q_proj.weight"}


SPECIAL: list[Entry] = [
    ("blocks[0].weight", "F32", (8, 8)),
    ("blocks[1].weight", "F32", (8, 8)),
    ("blocks0.weight", "F32", (8, 8)),
    ("what?.weight", "F32", (8, 8)),
    ("whats.weight", "F32", (8, 8)),
    ("a*b.weight", "F32", (8, 8)),
    ("axxb.weight", "F32", (8, 8)),
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocks[1].weight", {"blocks[1].weight"}),
        # A name of the file is that name alone, though it is a glob of others.
        ("blocks[0].weight", {"blocks[0].weight"}),
        ("what?.weight", {"what?.weight"}),
        ("a*b.weight", {"a*b.weight"}),
        # What is no name is a glob.
        ("blocks[01].weight", {"blocks0.weight"}),
        ("blocks[[][01]].weight", {"blocks[0].weight", "blocks[1].weight"}),
        ("wha??.weight", {"what?.weight", "whats.weight"}),
    ],
)
def test_names_that_look_like_globs(pattern: str, expected: set[str], tmp_path: Path) -> None:
    every = {name for name, _, _ in SPECIAL}
    assert names(choose(tmp_path, [pattern], entries=SPECIAL)) == expected
    assert names(choose(tmp_path, exclude=[pattern], entries=SPECIAL)) == every - expected
    found = choose(tmp_path, roles=[f"{pattern}=norm"], entries=SPECIAL)
    assert names(found) == every - expected


def test_case_counts(tmp_path: Path) -> None:
    for option in ("include", "exclude"):
        with pytest.raises(UsageError, match="matches no tensor"):
            choose(tmp_path, **{option: ["CONV.*"]})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing(option: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf'^{option}=\["nothing\.\*"\] matches no tensor'):
        choose(tmp_path, **{option: ["conv.*", "nothing.*"]})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["counter", "flags", "powers"])
def test_a_name_written_out_that_cannot_be_pruned(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be pruned") as caught:
        choose(tmp_path, ["conv.weight", name])
    assert caught.value.tensor == name


def test_no_tensor_that_is_not_a_float(tmp_path: Path) -> None:
    entries: list[Entry] = [("fc.weight", "F32", (4, 4))]
    entries += [(f"{dtype}.x", dtype, (16, 16)) for dtype in BITS]
    found = choose(tmp_path, ["*"], entries=entries)
    assert {t.dtype.name for t in found.tensors} == {*FLOATS}


def test_empty_tensors_never_take_part(tmp_path: Path) -> None:
    assert "empty.weight" not in names(choose(tmp_path, ["*.weight"]))
    with pytest.raises(UsageError, match="no tensor is left"):
        choose(tmp_path, ["empty.weight"])


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tensor is left to prune"):
        choose(tmp_path, ["conv.weight"], ["conv.*"])
    with pytest.raises(UsageError, match="no tensor is left to prune"):
        choose(tmp_path, ["norm.*"])
    entries: list[Entry] = [
        ("fc.bias", "F32", (3,)),
        ("n", "I32", (3, 3)),
        ("gc.bias", "F32", (3,)),
    ]
    with pytest.raises(UsageError, match="the tensors are: 2 bias, 1 constant") as caught:
        choose(tmp_path, entries=entries)
    assert caught.value.file == str(tmp_path / "m")
    with pytest.raises(UsageError, match="the tensors are: none"):
        choose(tmp_path, entries=[])


# -- Roles ----------------------------------------------------------------------------------------


def test_roles_that_are_given(tmp_path: Path) -> None:
    found = choose(tmp_path, roles=["lm_head.*=weight", "conv.weight=other"])
    assert names(found) == WEIGHTS - {"conv.weight"} | {"lm_head.weight"}
    assert found.taken == ()
    assert found.roles.told["conv.weight"] == Told("other", "as it was asked for")
    # A vector too, if it is said to be a weight.
    assert "norm.weight" in names(choose(tmp_path, roles=["norm.weight=weight"]))


def test_the_last_role_wins(tmp_path: Path) -> None:
    found = choose(tmp_path, roles=["*=norm", "conv.*=weight", "conv.bias=bias"])
    assert names(found) == {"conv.weight"}
    with pytest.raises(UsageError, match="no tensor is prunable"):
        choose(tmp_path, roles=["conv.*=weight", "*=norm"])


def test_how_roles_are_read() -> None:
    assert parse_roles(["a=b.weight=head", "*=weight"]) == [("a=b.weight", "head"), ("*", "weight")]


@pytest.mark.parametrize("text", ["", "conv.weight", "=weight", "weight"])
def test_what_is_no_role(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not NAME=ROLE"):
        choose(tmp_path, roles=[text])


@pytest.mark.parametrize("role", ["", "Weight", "weights", "x"])
def test_a_role_that_there_is_not(role: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"no role '{role}'; roles are weight, embedding, "):
        choose(tmp_path, roles=[f"conv.weight={role}"])


def test_a_role_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the role of 'x' is given, which matches no tensor"):
        choose(tmp_path, roles=["x=head"])


def test_a_role_makes_no_float(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="I64 weights cannot be pruned") as caught:
        choose(tmp_path, roles=["counter=weight"])
    assert caught.value.tensor == "counter"
    found = choose(tmp_path, exclude=["counter"], roles=["counter=weight"])
    assert names(found) == WEIGHTS
    found = choose(tmp_path, ["conv.*"], roles=["counter=weight"])
    assert names(found) == {"conv.weight"}


# -- Classes --------------------------------------------------------------------------------------


def test_classes_win_over_names(tmp_path: Path) -> None:
    linear, embedding = Told("weight", "Linear", input_dim=1), Told("embedding", "Embedding")
    classes = Classes(
        "a model",
        {
            "conv.weight": embedding,
            "model.embed_tokens.weight": linear,
            "norm.weight": Told("norm", "RMSNorm"),
            "attn.tril": Told("constant", "a buffer"),
            # What a name knows better: heads and routers are linear, positions are embeddings.
            "lm_head.weight": linear,
            "mlp.gate.weight": linear,
            "transformer.wpe.weight": embedding,
            # Not that of floats, of scales and of the user.
            "counter": linear,
            "q_proj.weight_scale": linear,
            "A_log": linear,
        },
    )
    found = choose(tmp_path, roles=["A_log=other"], classes=classes)
    told = {name: t.role for name, t in found.roles.told.items()}
    assert names(found) == WEIGHTS - {"conv.weight"} | {"model.embed_tokens.weight"}
    assert told["lm_head.weight"] == "head"
    assert told["mlp.gate.weight"] == "router"
    assert told["transformer.wpe.weight"] == "position"
    assert told["counter"] == "constant"
    assert told["q_proj.weight_scale"] == "scale"
    assert found.roles.told["lm_head.weight"].input_dim == 1
    assert found.roles.source == "a model"


# -- Quantised ------------------------------------------------------------------------------------

CODES: list[Entry] = [
    ("l.q.qweight", "I32", (16, 256)),
    ("l.q.scales", "F16", (1, 256)),
    ("l.fc.weight", "F32", (8, 8)),
    ("l.norm.weight", "F32", (8,)),
]
UNFIT: list[Entry] = [
    ("a.weight", "F8_E4M3", (8, 8)),
    ("a.weight_scale", "F32", (3, 5)),
    ("b.weight", "F32", (8, 8)),
]


def test_codes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Quantised, match=r"quantised \(GPTQ\).*dequantise it") as caught:
        choose(tmp_path, entries=CODES)
    assert caught.value.tensor == "l.q.qweight"
    assert caught.value.file == str(tmp_path / "m")
    with pytest.raises(Quantised):
        choose(tmp_path, ["l.q.qweight"], entries=CODES)
    with pytest.raises(Quantised):
        choose(tmp_path, exclude=["l.norm.*"], entries=CODES)


def test_ways_round_codes(tmp_path: Path) -> None:
    for found in (
        choose(tmp_path, ["l.fc.weight"], entries=CODES),
        choose(tmp_path, ["l.*"], entries=CODES),
        choose(tmp_path, exclude=["*.qweight"], entries=CODES),
        choose(tmp_path, roles=["l.q.*=constant"], entries=CODES),
    ):
        assert names(found) == {"l.fc.weight"}
    with pytest.raises(UsageError, match="I32 weights cannot be pruned"):
        choose(tmp_path, roles=["l.q.qweight=weight"], entries=CODES)


def test_codes_that_are_stored_as_floats(tmp_path: Path) -> None:
    entries: list[Entry] = [
        ("q.weight", "BF16", (64, 1)),
        ("q.weight.absmax", "F32", (2,)),
        ("fc.weight", "F32", (8, 8)),
    ]
    with pytest.raises(Quantised, match="bitsandbytes"):
        choose(tmp_path, entries=entries)
    assert names(choose(tmp_path, ["*"], entries=entries)) == {"fc.weight"}


def test_a_scale_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for include in ([], ["a.weight"], ["*.weight"]):
        with pytest.raises(Quantised, match=r"its scale a\.weight_scale does not fit") as caught:
            choose(tmp_path, include, entries=UNFIT)
        assert caught.value.tensor == "a.weight"
    assert names(choose(tmp_path, ["b.*"], entries=UNFIT)) == {"b.weight"}
    assert names(choose(tmp_path, exclude=["a.*"], entries=UNFIT)) == {"b.weight"}
    both = choose(tmp_path, roles=["a.weight=weight"], entries=UNFIT)
    assert names(both) == {"a.weight", "b.weight"}


# -- Patterns -------------------------------------------------------------------------------------


def test_matching() -> None:
    assert matching(["a.b", "a.c", "d"], "a.*") == {"a.b", "a.c"}
    assert matching(["a[0]", "a0"], "a[0]") == {"a[0]"}
    assert matching(["a1", "a0"], "a[0]") == {"a0"}
    assert matching(["A"], "a") == set()
