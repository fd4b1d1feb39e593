"""A network in memory does what every nested source does: the tests of `tests/checkpoint`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from elsa_cli.checkpoint.opening import open_nested
from elsa_cli.checkpoint.source import NestedSource
from elsa_cli.models.nested_file import NestedInMemory, from_nested
from tests import networks
from tests.checkpoint import test_sources as suite
from tests.checkpoint.test_sources import (  # noqa: F401
    test_both_forms_hold_the_network,
    test_every_network,
    test_it_says_what_its_tensors_are_and_not_where,
    test_masks_alone,
    test_nothing_is_written_to_find_out_what_would_be,
    test_pieces_cover_every_weight_once,
    test_what_can_be_copied,
)
from tests.models.nested_files import NOT_IN_TORCH

# The network of those tests, without the dtypes that torch lacks.
NET = networks.make(
    prunable=[(n, d, tuple(s)) for n, d, s, _ in suite.NET.tensors if n in suite.NET.prunable],
    shared=[t for t in networks.SHARED if t[1] not in NOT_IN_TORCH],
)


@pytest.fixture(params=["header", "tensors", "packed"])
def source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NestedSource]:
    monkeypatch.setattr(suite, "NET", NET)
    form = request.param
    path = networks.write_nested(tmp_path / "file", NET, "auto" if form == "packed" else form)
    if form == "packed":
        path = networks.write_pack(tmp_path / "packed", path)
    with open_nested(path) as reader:
        file = from_nested(reader, 2)
    with NestedInMemory(file) as made:
        yield made
