"""One process alone, and two that train together; what the two do is in pair.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from elsa_cli.errors import TrainingError
from elsa_cli.models.distributed import Group, is_peer_error, local_rank, world_size
from tests.training.tiny import CPU, raw

Pair = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_alone_nothing_is_asked_of_anyone() -> None:
    assert (world_size(), local_rank()) == (1, 0)
    group = Group(CPU)
    assert (group.size, group.rank, group.writes) == (1, 0, True)
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    before = [raw(p.grad) for p in model.parameters() if p.grad is not None]
    group.average(list(model.parameters()))
    after = [raw(p.grad) for p in model.parameters() if p.grad is not None]
    assert all(map(torch.equal, before, after))
    values = torch.tensor([1.5])
    assert group.reduce(values) is values
    group.broadcast([values])
    group.agree({"a": values}, "level 0.9")
    group.barrier()
    group.close()
    assert not torch.distributed.is_initialized()


def test_alone_no_error_is_of_another_process() -> None:
    assert is_peer_error(RuntimeError("Connection closed by peer")) is None


def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match=r"2 processes do not find each other: .*; start them"):
        Group(CPU)


def test_two_know_who_they_are(pair: Pair) -> None:
    for number, rank in enumerate(pair):
        group = rank["group"]
        assert (group["size"], group["rank"], group["writes"]) == (2, number, not number)
        assert group["launcher"] == [2, number]


def test_two_add_up_share_and_compare(pair: Pair) -> None:
    for rank in pair:
        group = rank["group"]
        assert group["sum"] == [3.0, 1.0]
        assert group["of the first"] == [[1.0, 0.0], [0]]
        assert group["differ"].startswith(
            "the processes have different weights at the end of level 0.9; the recipe must do the"
        )


def test_gradients_are_averaged_whoever_has_them(pair: Pair) -> None:
    """Used by both, by the second alone, by none; of other dtypes, layouts and sizes."""
    for rank in pair:
        assert rank["average"] == {
            "both": [[3.0, 4.0]],
            "second": [2.0],
            "none": None,
            "double": [0.5],
            "sparse": [[0.0], [1.0], [1.0]],
            "channels last": [True, 1.5],
            "large": [1.5, 1.5],
        }


def test_any_dtype_is_shared_out(pair: Pair) -> None:
    for rank in pair:
        assert rank["shared"] == ["False", "1.5", "(1+2j)", "7", "0"]


def test_errors_of_the_other_process_are_told_apart(pair: Pair) -> None:
    for rank in pair:
        group = rank["group"]
        assert group["lost"].startswith("another process of this run has ended; see what")
        assert (
            group["late"]
            == [
                "PeerSilent: another process of this run did not answer in time; it is stuck, or "
                "its share of the step takes far longer; see what it does, then start the run "
                "again with resume=True"
            ]
            * 3
        )
        assert group["others"] == ["None", "None", "None"]


def test_a_process_that_is_gone(pair: Pair) -> None:
    assert pair[0]["lost"].startswith("PeerLost: another process of this run has ended")
    assert "resume=True" in pair[0]["lost"]


@pytest.mark.parametrize("run", ["shared out", "own share", "joint", "recalibrate", "past"])
def test_two_end_with_one_result(run: str, pair: Pair) -> None:
    first, second = (rank["training"][run] for rank in pair)
    assert first == second
    assert first["kept"] == first["ends"]
    assert len(set(first["ends"].values())) == 3


@pytest.mark.parametrize("run", ["unused", "unused joint"])
def test_each_process_may_use_other_parameters(run: str, pair: Pair) -> None:
    """A head that is not used, and layers that each process leaves out as it likes."""
    first, second = (rank["training"][run] for rank in pair)
    assert first == second
    assert first["kept"] == first["ends"]
    assert all(names == ["aux.bias", "aux.weight"] for names in first["without gradient"])
    assert first["notes"][-1].endswith(
        "2 parameters got no gradient in any of 6 steps: aux.bias, aux.weight"
    )


def test_one_that_is_measured_for_longer_than_the_group_waits(pair: Pair) -> None:
    """The barrier waits; another call ends in a line that says what happened."""
    assert [rank["patient"] for rank in pair] == ["waited", "waited"]
    assert pair[1]["impatient"].startswith("PeerSilent: another process of this run did not answer")
