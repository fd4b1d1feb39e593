"""Warnings of a choice, and when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from elsa_cli.checkpoint.manifest import Entry
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import parse_levels
from elsa_cli.selection.concerns import concerns
from elsa_cli.selection.eligible import Wanted, eligible_tensors
from elsa_cli.storage.container import Container
from elsa_cli.text import listed
from tests.helpers import Tensor, random_bits, write_safetensors


def told(
    folder: Path,
    counts: Mapping[str, tuple[int, tuple[int, ...]]],
    levels: str = "0.5",
    include: tuple[str, ...] = (),
    roles: tuple[str, ...] = (),
) -> list[str]:
    """Return the warnings for tensors of some numbers of weights and kept weights."""
    rng = np.random.default_rng(0)
    shapes = {name: (numel // 2, 2) for name, (numel, _) in counts.items()}
    tensors: list[Tensor] = [
        (name, "F32", shape, random_bits(rng, "F32", shape, "normal"))
        for name, shape in shapes.items()
    ]
    write_safetensors(folder / "m", tensors)
    with Container(folder / "m") as container:
        eligible = eligible_tensors(container, Wanted(include, (), roles))
    assert {t.name for t in eligible.tensors} == counts.keys()
    entries = [
        Entry(t.name, DTYPES["F32"], t.shape, counts[t.name][1], "0" * 64) for t in eligible.tensors
    ]
    return concerns(parse_levels(levels), entries, eligible)


def test_an_ordinary_choice(tmp_path: Path) -> None:
    counts = {f"l{at}.weight": (100, (10, 50)) for at in range(20)}
    assert told(tmp_path, counts, "0.9,0.5") == []
    # One tensor alone has all that is kept, and all weights.
    assert told(tmp_path, {"a.weight": (100, (50,))}) == []


def test_a_level_that_keeps_nothing(tmp_path: Path) -> None:
    (line,) = told(tmp_path, {"a.weight": (100, (0, 50)), "b.weight": (100, (0, 50))}, "0.99,0.5")
    assert line == "level 0.99 keeps nothing of any tensor"


def test_tensors_of_which_nothing_is_kept(tmp_path: Path) -> None:
    counts = {f"l{at}.weight": (100, (0 if at < 5 else 20, 50)) for at in range(12)}
    (line,) = told(tmp_path, counts, "0.9,0.5")
    assert line.startswith(
        "level 0.9 keeps nothing of 5 tensors: l0.weight, l1.weight, l2.weight and 2 more;"
    )
    assert '; sparsify(scope="layer") gives each its share' in line
    # One weight of each is enough.
    alive = {name: (100, (max(1, kept[0]), 50)) for name, (_, kept) in counts.items()}
    assert told(tmp_path, alive, "0.9,0.5") == []


def test_an_empty_tensor_is_not_missed(tmp_path: Path) -> None:
    with_empty: list[Tensor] = [
        ("a.weight", "F32", (4, 4), bytes(range(64))),
    ]
    write_safetensors(tmp_path / "m", with_empty)
    with Container(tmp_path / "m") as container:
        eligible = eligible_tensors(container)
    entries = [
        Entry("a.weight", DTYPES["F32"], (4, 4), (8,), "0" * 64),
        Entry("b.weight", DTYPES["F32"], (0, 4), (0,), "0" * 64),
    ]
    assert concerns(parse_levels("0.5"), entries, eligible) == []


def test_a_tensor_that_takes_what_is_kept(tmp_path: Path) -> None:
    """One of 1 % of the weights has half of what is kept."""
    counts = {"a.weight": (100, (50, 100)), "b.weight": (9900, (50, 4950))}
    (line,) = told(tmp_path, counts, "0.99,0.5")
    assert line.startswith(
        "level 0.99 keeps far more than its share of 1 tensor: a.weight (50 % of what is kept"
    )
    assert "1 % of all" in line
    assert "; exclude leaves a tensor dense" in line


def test_shares_at_their_limits(tmp_path: Path) -> None:
    # Three times the share is no concern: 12 % of the weights, 36 % of what is kept.
    three = {"a.weight": (120, (36,)), "b.weight": (880, (64,))}
    assert told(tmp_path, three, "0.9") == []
    assert len(told(tmp_path, {"a.weight": (120, (37,)), "b.weight": (880, (63,))}, "0.9")) == 1
    # And none that has but a tenth of what is kept, however small it is.
    tenth = {"a.weight": (10, (10,)), "b.weight": (990, (90,))}
    assert told(tmp_path, tenth, "0.9") == []
    assert len(told(tmp_path, {"a.weight": (12, (11,)), "b.weight": (988, (89,))}, "0.9")) == 1


def test_each_level_for_itself(tmp_path: Path) -> None:
    counts = {"a.weight": (100, (0, 90, 100)), "b.weight": (9900, (100, 110, 9900))}
    lines = told(tmp_path, counts, "0.99,0.98,0")
    assert [line.split(" keeps ")[0] for line in lines] == ["level 0.99", "level 0.98"]


def test_names_that_no_rule_knows(tmp_path: Path) -> None:
    counts = {"strange": (100, (50,)), "fc.weight": (100, (50,)), "unheard": (100, (50,))}
    (line,) = told(tmp_path, counts)
    assert line.startswith(
        "no rule knows the name of 2 tensors taken for weights: strange, unheard"
    )
    # Not if the user says so.
    assert told(tmp_path, counts, roles=("strange=weight", "unheard=weight")) == []


def test_what_include_takes(tmp_path: Path) -> None:
    counts = {"embed.weight": (100, (50,)), "q_proj.weight": (80, (40,))}
    (line,) = told(tmp_path, counts, include=("*.weight",))
    assert line == "include takes 1 tensor of other roles than weight: embed.weight (embedding)"


def test_lists_are_cut_short() -> None:
    assert listed([]) == ""
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert listed([str(at) for at in range(2003)]) == "0, 1, 2 and 2,000 more"
    assert listed(["a", "b"], 1) == "a and 1 more"
