"""Memory of n:m masks, which has a bound however many weights lie between those of a group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import write_raw

SHAPE = (8, 4, 1024, 1024)
MIB = 1 << 20
BOUND = 300 * MIB

# Everything is imported and has run once before the measuring begins.
PROGRAM = """
import resource, sys
from elsa_cli.storage.container import Container
from elsa_cli.core.level import parse_levels
from elsa_cli.core.work import Scratch
from elsa_cli.selection.masks import Rule, Traits, choose
from elsa_cli.selection.scores import Chunk

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

with Container(sys.argv[1]) as container:
    (tensor,) = container.tensors
    before = peak()
    levels = parse_levels("0.25,0.5,0.75")
    traits = Traits({tensor.name: int(sys.argv[2])})
    rule = Rule.of(None, None, 4)
    choice = choose(container, [tensor], levels, Chunk.magnitude, rule, 1, traits=traits)
    scratch, kept = Scratch(), [0, 0, 0]
    for part, piece in choice.pieces():
        for level, count in enumerate(choice.packed(part, piece, scratch)[1]):
            kept[level] += count
    assert kept == [tensor.numel // 4, tensor.numel // 2, tensor.numel * 3 // 4], kept
    print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 128 MiB, which takes no space on most disks."""
    header = {"w.weight": {"dtype": "F32", "shape": SHAPE, "data_offsets": [0, 128 * MIB]}}
    path = write_raw(tmp_path_factory.mktemp("large") / "m", header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 128 * MIB)
    return path


@pytest.mark.parametrize("dim", range(4))
def test_groups_along_every_dimension(dim: int, large: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(large), str(dim)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < BOUND
