"""A checkpoint for the command line, and its levels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands.forkserver import Server, shared
from tests.helpers import elsa
from tests.operations.models import network, save


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its nested and its packed file, made once."""
    folder = tmp_path_factory.mktemp("made")
    save(folder / "model.safetensors", network())
    for line in (
        ["sparsify", "model.safetensors", "--levels", "0.5,0.7,0.9"],
        ["pack", "model.elsa.safetensors"],
    ):
        done = elsa(*line, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder with model.safetensors and model.elsa.safetensors."""
    for name in ("model.safetensors", "model.elsa.safetensors"):
        shutil.copy(made / name, tmp_path)
    return tmp_path


@pytest.fixture
def packed(made: Path, tmp_path: Path) -> Path:
    """A packed file, in a folder with nothing else."""
    return Path(shutil.copy(made / "model.packed.elsa.safetensors", tmp_path))


@pytest.fixture(scope="session")
def sparse(made: Path) -> bytes:
    """What extract writes for level 0.9."""
    done = elsa("extract", "model.elsa.safetensors", "--level", "0.9", "-o", "-", cwd=made)
    assert done.returncode == 0
    return done.stdout


@pytest.fixture(scope="session")
def server() -> Server:
    """A process that has torch already and runs command lines in forks."""
    return shared("torch")
