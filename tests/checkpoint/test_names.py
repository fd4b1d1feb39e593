"""Which names are the format's, and how the others go beside them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.checkpoint.names import (
    CONTENT_HASHES,
    content_hashes,
    foreign,
    is_ours,
    level_name,
    mask_name,
    shell_name,
    stored,
    without_hashes,
)
from elsa_cli.core.level import DENSE, parse_level

KEYS = st.sampled_from(
    [
        *CONTENT_HASHES,
        "elsa",
        "elsa.",
        "elsa.note",
        "elsa.mask.0.9",
        "elsa.mask.x",
        "elsa.level.0.5/norm\n",
        "elsa.foreign/",
        "elsa.foreign/elsa",
        "elsa.foreign/elsa.foreign/elsa",
        "format",
        "",
    ]
)
OTHERS = """
    elsa elsa. elsa.weight elsa.mask elsa.mask.0 elsa.mask.1 elsa.mask.0.0 elsa.mask.0.90
    elsa.mask.0.9.weight elsa.mask.dense elsa.mask.9 elsa.mask..9 elsa.level.0.9 elsa.level.0/w
    elsa.level.dense/w elsa.shell.0.9 elsa.shell.0.9.weight elsa.shell.dense.mask elsa.shell.0.mask
    Elsa.mask.0.9 x.elsa.mask.0.9 elsa.mask.٠.٩ elsa.foreign/w
"""


@pytest.mark.parametrize("text", ["0.9", "90%", "1e-20", "0.999999999999999999"])
def test_the_names_that_the_format_makes_are_its_own(text: str) -> None:
    level = parse_level(text)
    for name in (mask_name(level), level_name(level, "a\n/b"), level_name(level, "")):
        assert is_ours(name)
        assert stored({name: "x"}, same_tensors=True) == {f"elsa.foreign/{name}": "x"}
    for shell in (shell_name(level, "mask"), shell_name(level, "values")):
        assert is_ours(shell)
    assert is_ours(shell_name(DENSE, "values"))


@pytest.mark.parametrize("name", OTHERS.split())
def test_no_other_name_is(name: str) -> None:
    assert not is_ours(name)


@given(st.dictionaries(st.one_of(KEYS, st.text()), st.text(max_size=3)), st.booleans())
def test_foreign_metadata_goes_round(metadata: dict[str, str], same: bool) -> None:
    kept = stored(metadata, same_tensors=same)
    assert len(kept) == len(metadata)
    assert not any(key == "elsa" or is_ours(key) for key in kept)
    assert same or not content_hashes(kept)
    own = {"elsa": "{}", "elsa.mask.0.9": "AwA=", "elsa.level.0.9/n": "AwA="}
    assert foreign({**kept, **own}) == metadata


def test_hashes_of_content() -> None:
    metadata = {"ss_sd_model_hash": "1", "sshs_model_hash": "2", "modelspec.hash_sha256": "3"}
    assert content_hashes(metadata) == ("modelspec.hash_sha256", "sshs_model_hash")
    assert without_hashes(metadata) == {"ss_sd_model_hash": "1"}
