"""Roles by names and shapes alone, on 239 real architectures whose modules' classes tell the truth.

`zoo.json` has each tensor's name, its shape (reduced) and whether it is to be pruned. The truth was
made by a program from the classes of the modules; where it is wrong, WRONG says why.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.selection.naming import Siblings
from elsa_cli.selection.roles import by_name
from elsa_cli.storage.container import TensorSpec, lay_out

Entry = tuple[str, list[int], str]
ZOO: dict[str, list[Entry]] = json.loads((Path(__file__).parent / "zoo.json").read_text())

# The tensors on which the truth is wrong, and why: all of them are linear layers by their class.
WRONG = {
    ("fsmt", "model.decoder.output_projection.weight"): "projects to the vocabulary",
    ("higgs_audio_v2", "audio_lm_head.weight"): "projects to the vocabulary of audio tokens",
    ("janus", "generation_head.vision_head.weight"): "projects to the vocabulary of image tokens",
    ("jetmoe", "model.layers.0.mlp.router.layer.weight"): "scores the experts",
    ("jetmoe", "model.layers.0.self_attention.experts.router.layer.weight"): "scores the experts",
}


def mistakes(entries: list[Entry]) -> set[str]:
    """Return the tensors that the rules put on the other side than the truth does."""
    told = by_name(
        Siblings(
            lay_out(TensorSpec(name, DTYPES["F32"], tuple(shape)) for name, shape, _ in entries)
        )
    )
    return {
        name for name, _, truth in entries if (told[name].role == "weight") != (truth == "prune")
    }


def test_the_zoo_is_whole() -> None:
    assert len(ZOO) == 239
    truths = {truth for entries in ZOO.values() for _, _, truth in entries}
    assert truths == {"prune", "dense"}


@pytest.mark.parametrize("architecture", ZOO)
def test_every_tensor_is_on_the_right_side(architecture: str) -> None:
    wrong = {name for place, name in WRONG if place == architecture}
    assert mistakes(ZOO[architecture]) == wrong


def test_no_more_than_four_are_counted_out() -> None:
    assert len({architecture for architecture, _ in WRONG}) <= len(ZOO) - 235
