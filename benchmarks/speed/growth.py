"""Time and memory over the size of the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Spread
from benchmarks.goals import FOURFOLD, GOALS, MB
from benchmarks.page import megabytes, spread_text
from benchmarks.speed.bench import Bench, Subject, copies, make_checkpoint
from benchmarks.speed.processes import Command, Run, rounds
from benchmarks.speed.results import Row, pairs
from benchmarks.speed.stages import noise

__all__ = ["measure_growth", "peaks"]

DTYPE = "bf16"


def measure_growth(bench: Bench, sizes: Sequence[float]) -> None:
    """Let a command take turns over checkpoints of several sizes, each four times the one before.

    Args:
        bench: Where findings go.
        sizes: GB, smallest first.
    """
    subjects = [Subject(DTYPE, bench.folder / f"{size:g}.safetensors") for size in sizes]
    for subject, size in zip(subjects, sizes, strict=True):
        make_checkpoint(subject, int(size * 1e9))
    plans = [subject.commands() for subject in subjects]
    for what in plans[0]:
        turn: list[Command] = []
        for subject, plan in zip(subjects, plans, strict=True):
            argv, output, copied = plan[what]
            # extract writes as many bytes as there are in the dense file, but for its header
            synced, plain = copies(copied if copied != subject.sparse else subject.dense)
            keep = output in (subject.nested, subject.packed)
            turn += [synced, plain, Command([*bench.elsa, *argv], [output], keep)]
        done = rounds(turn, bench.runs, bench.warm)
        kept: list[tuple[Row, list[Run]]] = []
        for number, subject in enumerate(subjects):
            synced_runs, plain_runs, ours = done[3 * number : 3 * number + 3]
            row = Row.of(
                "growth", what, "cp", ours, synced_runs,
                plain=plain_runs, dtype=DTYPE, size=subject.size,
            )  # fmt: skip
            kept.append((bench.add(row), ours))
        _fourfold(bench, what, *kept[-2:])
    for subject in subjects:
        subject.remove()


def _fourfold(
    bench: Bench, what: str, small: tuple[Row, list[Run]], large: tuple[Row, list[Run]]
) -> None:
    """Compare the largest checkpoint with four times the one before it, round by round."""
    (row, one), (four_row, four) = small, large
    times = four_row.size / row.size
    cpu = Spread.of(
        (b.user + b.system) / (a.user + a.system) for a, b in zip(one, four, strict=True)
    )
    beside = f"CPU {spread_text(cpu.times(1 / times))} ×" + noise(four_row.base.seconds)
    bench.found(what, FOURFOLD, DTYPE, pairs(four, one).times(1 / times), beside)


def peaks(bench: Bench) -> None:
    """Find the largest memory of each command with such a goal, over all sizes of a dtype."""
    for goal in GOALS:
        for dtype in goal.dtypes if goal.unit == MB else ():
            rows = [
                row
                for row in bench.results.rows
                if (row.what, row.dtype) == (goal.what, dtype) and row.section in (dtype, "growth")
            ]
            largest = max(row.size for row in rows)
            peak = max(row.ours.peak for row in rows)
            beside = f"with up to {megabytes(largest)}"
            bench.found(goal.what, MB, dtype, peak / 1e6, beside)
