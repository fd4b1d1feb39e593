"""A choice of masks is a nested source like any other: it holds the networks that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.nested.writer import write_nested
from elsa_cli.checkpoint.opening import open_nested, open_plain
from elsa_cli.checkpoint.packed.writer import write_packed
from elsa_cli.core.level import parse_levels
from elsa_cli.core.work import no_progress, pieces_of
from elsa_cli.operations.chosen_source import Choosing, ChosenSource
from elsa_cli.selection.masks import Rule, Traits
from elsa_cli.sparsifiers import bind
from elsa_cli.storage.output import OutputFile
from tests.networks import make, read_level

NET = make(
    prunable=(
        ("a.weight", "F32", (8, 12)),
        ("b.weight", "BF16", (36, 12)),
        ("c.weight", "BF16", (300, 112)),
    ),
    per_level=(),
)
LEVELS = ("0.75", "0.5", "dense")


@pytest.mark.parametrize("rule", [Rule(), Rule("layer", "uniform"), Rule("layer", "uniform", 4)])
@pytest.mark.parametrize("size", [64, 1 << 20])
def test_it_holds_the_networks_that_it_writes(rule: Rule, size: int, tmp_path: Path) -> None:
    scorer, _ = bind("magnitude", {}, 0)
    with pieces_of(size), open_plain(NET.write(tmp_path / "plain")) as container:
        tensors = [container.named[name] for name in NET.prunable]
        draft = Manifest(
            levels=parse_levels(list(LEVELS[:2])),
            tensors=tuple(Entry(t.name, t.dtype, t.shape, (), "") for t in tensors),
            method={},
            seed=0,
            masks="auto",
            mask_digests=(),
        )
        dims = Traits({t.name: 1 for t in tensors})
        choosing = Choosing(tensors, scorer, rule, dims, finite=False)
        source = ChosenSource(container, choosing, draft)
        with OutputFile(tmp_path / "packed") as out, pytest.raises(ValueError, match="not counted"):
            write_packed(out, source, 1)
        with OutputFile(tmp_path / "nested") as out:
            write_nested(out, source, 2, no_progress)
            out.commit()
        with open_nested(tmp_path / "nested") as reader:
            for level in LEVELS:
                assert read_level(source, level) == read_level(reader, level)
            assert read_level(reader, "dense") == NET.level("dense")
