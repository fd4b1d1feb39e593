"""Which tensors take part."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from elsa_cli.checkpoint.container import TensorInfo, lay_out
from elsa_cli.checkpoint.dtypes import DTYPES
from elsa_cli.errors import UsageError
from elsa_cli.selection.eligible import prunable_tensors
from tests.helpers import BITS, FLOATS

MODEL = [
    ("conv.weight", "F32", (8, 4, 3, 3)),
    ("conv.bias", "F32", (8,)),
    ("model.embed_tokens.weight", "BF16", (100, 8)),
    ("transformer.wte.weight", "F16", (100, 8)),
    ("transformer.wpe.weight", "F16", (100, 8)),
    ("lm_head.weight", "BF16", (100, 8)),
    ("TokenEmbedding.weight", "F32", (4, 4)),
    ("shared.weight", "F32", (4, 4)),
    ("model.shared.weight", "F32", (4, 4)),
    ("q_proj.weight", "F8_E4M3", (8, 8)),
    ("q_proj.weight_scale", "F32", (8, 1)),
    ("counter", "I64", (2, 2)),
    ("empty", "F32", (0, 4)),
    ("norm", "F32", ()),
    ("quantised", "U8", (4, 4)),
    ("mantissas", "F8_E8M0", (4, 4)),
]


def model(entries: Sequence[tuple[str, str, tuple[int, ...]]] = MODEL) -> tuple[TensorInfo, ...]:
    return lay_out((name, DTYPES[dtype], shape) for name, dtype, shape in entries)


def names(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> set[str]:
    return {t.name for t in prunable_tensors(model(), include, exclude)}


def test_by_default() -> None:
    assert names() == {"conv.weight", "model.shared.weight", "q_proj.weight"}


def test_every_float_that_can_be_ranked() -> None:
    entries = [(f"t.{dtype}", dtype, (8, 8)) for dtype in BITS]
    found = {t.dtype.name for t in prunable_tensors(model(entries))}
    assert found == set(FLOATS)


def test_in_the_order_given() -> None:
    tensors = model()
    found = prunable_tensors(tensors)
    assert found == [t for t in tensors if t in found]


def test_exclude_takes_away() -> None:
    assert names(exclude=("conv*",)) == {"model.shared.weight", "q_proj.weight"}
    assert names(exclude=("*.shared.*", "q_*")) == {"conv.weight"}


def test_include_replaces_the_default() -> None:
    assert names(include=("*.bias", "lm_head.*")) == {"conv.bias", "lm_head.weight"}
    assert names(include=("norm",)) == {"norm"}
    assert names(include=("conv.*",), exclude=("*.bias",)) == {"conv.weight"}
    assert "conv.weight" not in names(include=("lm_head.weight",))


def test_globs_of_include_pass_over_what_cannot_be_pruned() -> None:
    found = names(include=("*",))
    assert found == {n for n, d, s in MODEL if d in FLOATS and n != "empty"}


@pytest.mark.parametrize("name", ["counter", "quantised", "mantissas"])
def test_a_name_written_out_that_cannot_be_pruned(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be pruned") as caught:
        names(include=("conv.weight", name))
    assert caught.value.tensor == name


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_glob_that_matches_nothing(option: str) -> None:
    with pytest.raises(UsageError, match=rf"--{option} 'nothing\.\*' matches no tensor"):
        names(**{option: ("conv.*", "nothing.*")})


def test_case_counts_in_globs_of_the_user() -> None:
    with pytest.raises(UsageError, match="matches no tensor"):
        names(include=("CONV.*",))


def test_nothing_left() -> None:
    with pytest.raises(UsageError, match="no tensor is prunable"):
        names(include=("conv.weight",), exclude=("conv.*",))
    with pytest.raises(UsageError, match="no tensor is prunable"):
        prunable_tensors(model([("bias", "F32", (3,)), ("counts", "I32", (3, 3))]))
