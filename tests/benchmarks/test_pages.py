"""The pages of the benchmarks are Markdown that holds together, and their figures come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.figures import Spread, quartiles
from benchmarks.goals import CALL, CP, GOALS, MB, STEP, USER, Goal
from benchmarks.page import read, spread_text, table, write
from benchmarks.quality.page import render as render_quality
from benchmarks.quality.records import Records
from benchmarks.speed.many_tensors import ManyResults
from benchmarks.speed.many_tensors import render as render_many
from benchmarks.speed.page import goals_text
from benchmarks.speed.page import render as render_speed
from benchmarks.speed.processes import Run
from benchmarks.speed.results import Figure, Results, Row
from benchmarks.speed.results import Results as SpeedResults
from benchmarks.step.page import StepResults
from benchmarks.step.page import render as render_step

ROOT = Path(__file__).resolve().parents[2]


def runs(*seconds: float) -> list[Run]:
    return [Run(s, s / 2, s / 4, int(1000 * s), None, 7, "") for s in seconds]


@pytest.fixture
def row() -> Row:
    return Row.of(
        "bf16", "pack", "cp of the nested file", runs(2, 8, 4), runs(1, 2, 4),
        plain=runs(1, 1, 1), dtype="bf16", size=4_000_000_000,
    )  # fmt: skip


def test_a_ratio_is_taken_within_a_round(row: Row) -> None:
    assert row.ratio == Spread(2, 1, 4)  # 2/1, 8/2, 4/4
    assert row.plain_ratio == Spread(4, 2, 8)


def test_user_seconds_count_for_a_billion_weights(row: Row) -> None:
    assert row.user == Spread(1, 0.5, 2)  # 2 · 10⁹ weights in 4 GB of bf16; 1, 4 and 2 s
    assert row.system == Spread(0.5, 0.25, 1)


def test_the_inverse_of_a_spread_swaps_its_ends() -> None:
    assert Spread(2, 1, 4).inverse == Spread(0.5, 0.25, 1)


def test_quartiles_leave_out_the_ends() -> None:
    assert quartiles([1, 2, 3, 4, 100]) == Spread(3, 2, 4)


@pytest.mark.parametrize(
    ("figure", "at_least", "met"),
    [(1.0, False, True), (1.1, False, False), (1.0, True, True), (0.9, True, False)],
)
def test_the_median_meets_a_goal_or_not(figure: float, at_least: bool, met: bool) -> None:
    goal = Goal("pack", CP, 1.0, at_least=at_least)
    assert goal.met(Spread(figure, 0, 10)) is met


def test_every_goal_has_a_row_and_one_without_a_figure_says_why() -> None:
    found = Figure("pack", CP, "bf16", Spread(1.5, 1, 2), "6 × plain cp")
    missing = Figure("pack", CALL, "bf16", None, "not installed")
    text = goals_text(Results(figures=[found, missing]), "bf16")
    lines = text.splitlines()[2:]
    assert len(lines) == sum("bf16" in goal.dtypes for goal in GOALS)
    assert "| pack | 1.50 (1.00–2.00) | ≤ 2 × cp | yes | 6 × plain cp |" in lines
    (line,) = [line for line in lines if CALL in line]
    assert line == f"| pack | not measured | ≥ 2 {CALL} | – | not installed |"


def test_a_goal_that_is_missed_is_told() -> None:
    found = Figure("sparsify", USER, "bf16", Spread.one(2.0), "")
    text = goals_text(Results(figures=[found]), "bf16")
    assert f"| sparsify | 2.000 | ≤ 1.5 {USER} | **no** |  |" in text


def test_goals_are_told_apart_by_command_and_unit() -> None:
    keys = [(goal.what, goal.unit) for goal in (*GOALS, STEP)]
    assert len(set(keys)) == len(keys)
    assert {goal.bound for goal in GOALS if goal.unit == MB} == {300, 200}


def test_results_come_back_from_json(tmp_path: Path, row: Row) -> None:
    figures = [Figure("pack", CP, "bf16", row.ratio), Figure("pack", CALL, "", None, "why")]
    rows = [row, replace(row, plain=None, plain_ratio=None)]
    results = Results({"CPU": "x"}, {"dtypes": ["bf16"]}, rows, figures)
    write(tmp_path, "page", "text\n", results)
    assert read(Results, tmp_path / "page.json") == results
    assert (tmp_path / "page.md").read_text() == "text\n"


def test_a_row_that_does_not_fit_its_head_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        table(["a", "b"], [["1"]])


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (Spread(0.05, 0.04, 0.06), "0.050 (0.040–0.060)"),
        (Spread(25, 24, 26.04), "25.0 (24.0–26.0)"),
        (Spread.one(1234), "1,234"),
        (Spread.one(1.009), "1.009"),
    ],
)
def test_a_spread_is_written_with_few_digits(spread: Spread, text: str) -> None:
    assert spread_text(spread) == text


PAGES: dict[str, Callable[[Path], str]] = {
    "performance": lambda path: render_speed(read(SpeedResults, path)),
    "quality": lambda path: render_quality(Records.load(path)),
    "step": lambda path: render_step(read(StepResults, path)),
    "many_tensors": lambda path: render_many(read(ManyResults, path)),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_docs_is_what_its_figures_give(name: str) -> None:
    page = (ROOT / f"docs/{name}.md").read_text()
    assert page == PAGES[name](ROOT / f"docs/{name}.json")
