"""Where a training computes, and that it does the same every time."""

from __future__ import annotations

import os

import pytest
import torch

from elsa_cli.errors import UsageError
from elsa_cli.models.device import pick_device, repeatable, threads_in_use


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_cpu() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu() -> None:
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_no_gpu(name: str) -> None:
    with pytest.raises(UsageError, match=rf'^device="{name}" cannot be used \(no CUDA device'):
        pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "meta"])
def test_no_such_device(name: str) -> None:
    with pytest.raises(UsageError, match=rf'^device="{name}" cannot be used \(.*\); use auto'):
        pick_device(name)


@pytest.mark.parametrize("fails", [False, True])
def test_repeatable_is_taken_back(fails: bool) -> None:
    before = torch.get_num_threads()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    try:
        with repeatable(before + 2):
            assert threads_in_use() == torch.get_num_threads() == before + 2
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert not torch.backends.cudnn.benchmark
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False


def test_threads_may_be_left_open() -> None:
    before = torch.get_num_threads()
    with repeatable(None):
        assert threads_in_use() == before


def test_cublas_is_told_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with repeatable(None):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with repeatable(None):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
