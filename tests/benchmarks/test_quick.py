"""`--quick` runs a whole benchmark on something small and writes its page. Nothing is timed."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.goals import CALL, GOALS, PRUNE_MEMORY, PRUNE_SPEED
from benchmarks.page import read
from benchmarks.speed.results import Results

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {
    CALL: "compressed_tensors",
    PRUNE_SPEED: "torch",
    PRUNE_MEMORY: "torch",
}  # what a goal needs to be installed


def quick(module: str, folder: Path, *options: str) -> Path:
    """Run a benchmark, and return the folder with its page."""
    docs = folder / "docs"
    argv = [sys.executable, "-m", f"benchmarks.{module}", "--quick", "--docs", str(docs), *options]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return docs


def tables(page: str) -> Iterator[list[list[str]]]:
    """Yield the tables of a page, each as rows of cells."""
    for block in re.findall(r"(?:^\|.*\|\n)+", page, re.M):
        yield [line[2:-2].split(" | ") for line in block.splitlines()]


def check_markdown(page: str) -> None:
    """Assert that a page has one title, tables of one width, no gap in words, and one end."""
    lines = page.splitlines()
    assert [line for line in lines if line.startswith("# ")] == lines[:1]
    assert page.endswith("\n")
    assert not page.endswith("\n\n")
    assert "\n\n\n" not in page
    found = list(tables(page))
    assert found
    for head, rule, *rows in found:
        assert set(rule) == {"---"}
        assert rows, head
        assert {len(row) for row in (rule, *rows)} == {len(head)}
    for before, line in itertools.pairwise(lines):
        if line.startswith("|") and not before.startswith("|"):
            assert not before, "a table needs an empty line before it"
        if line.startswith("#"):
            assert not before


def test_the_page_of_speed_has_a_figure_for_every_goal(tmp_path: Path) -> None:
    docs = quick("speed", tmp_path, "--folder", str(tmp_path / "scratch"))
    page = (docs / "performance.md").read_text()
    check_markdown(page)
    results = read(Results, docs / "performance.json")
    for goal in GOALS:
        for dtype in goal.dtypes:
            figure = results.figure(goal.what, goal.unit, dtype)
            assert figure is not None, goal
            needs = LEFT_OUT.get(goal.unit)
            if needs is None or find_spec(needs) is not None:
                assert figure.found is not None, figure.beside
                assert 0 < figure.found.low <= figure.found.median <= figure.found.high
            else:
                assert "is not installed" in figure.beside
    assert (docs / "performance.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "scratch").iterdir())
    for section in ("## bf16, goals", "## First run on a machine", "## Growth"):
        assert section in page
    # a file so small misses goals by its start alone, and the page says where the time went
    (profile,) = [rows for rows in tables(page) if rows[0][1] == "inside"]
    assert ["imports"] in [row[1:2] for row in profile]


def test_the_page_of_speed_is_written_again_from_its_figures(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "benchmarks.speed", "--render", "--quick"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--render writes the page of a real run" in done.stderr


@pytest.mark.parametrize("count", ["--tensors", "--rounds"])
def test_a_count_below_one_is_refused(count: str) -> None:
    argv = [sys.executable, "-m", "benchmarks.speed.many_tensors", "--quick", count, "0"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--rounds and --tensors count from 1" in done.stderr


def test_the_page_of_many_tensors_has_every_command(tmp_path: Path) -> None:
    docs = quick("speed.many_tensors", tmp_path, "--tensors", "9", "--folder", str(tmp_path))
    page = (docs / "many_tensors.md").read_text()
    check_markdown(page)
    figures = json.loads((docs / "many_tensors.json").read_text())
    goals = next(tables(page))
    assert [row[0] for row in goals[2:]] == [command["what"] for command in figures["commands"]]


def test_the_page_of_a_step_has_every_network(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    docs = quick("step", tmp_path, "--rounds", "2", "--device", "cpu", "--threads", "1")
    page = (docs / "step.md").read_text()
    check_markdown(page)
    goals = next(tables(page))
    names = [row[:2] for row in goals[2:]]
    assert names == [[n, o] for n in ("ResNet-18", "transformer") for o in ("SGD", "AdamW")]
    held = [row for row in json.loads((docs / "step.json").read_text())["cases"]]
    assert all(case["held"]["frozen"]["moved"] == 0 for case in held)
