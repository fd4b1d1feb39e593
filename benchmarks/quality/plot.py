"""Draw the metric over sparsity, a panel for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.quality.page import METHODS
from benchmarks.quality.records import Records
from benchmarks.quality.tasks import ALL_LEVELS, TASKS, Task

__all__ = ["draw"]

STYLES = {
    "zeroed": ("0.55", "x", ":"),
    "separate": ("black", "s", "-"),
    "nested": ("tab:blue", "o", "-"),
    "no-joint": ("tab:cyan", "^", "--"),
    "shared": ("tab:orange", "v", "--"),
    "unfrozen": ("tab:red", "d", ":"),
    "longer": ("tab:green", "*", ""),
}
SHOWN_WHOLE = ("separate", "nested", "no-joint", "shared", "longer")  # a panel holds all of these
DODGE = 0.05  # between methods, so that error bars do not hide each other


def draw(records: Records, path: Path) -> None:
    """Write the plot as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = [task for name, task in TASKS.items() if name in records.plans]
    figure, grid = pyplot.subplots(
        1, len(tasks), figsize=(max(8.0, 4.6 * len(tasks)), 5), layout="constrained", squeeze=False
    )
    for axes, task in zip(grid[0], tasks, strict=True):
        _panel(axes, task, records)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axes: Any, task: Task, records: Records) -> None:
    """Draw one task."""
    levels = ALL_LEVELS[::-1]  # dense first
    inside: list[float] = []
    for number, (what, label) in enumerate(METHODS.items()):
        colour, marker, line = STYLES[what]
        means = {level: records.mean(task.name, what, level) for level in levels}
        points = [
            (at + DODGE * (number - len(METHODS) // 2), mean.mean, mean.deviation or 0.0)
            for at, level in enumerate(levels)
            if (mean := means[level]) is not None
        ]
        places, values, bars = zip(*points, strict=True) if points else ((), (), ())
        axes.errorbar(
            places, values, bars,
            color=colour, marker=marker, linestyle=line, capsize=2, markersize=5, label=label,
        )  # fmt: skip
        if what in SHOWN_WHOLE:
            inside += [v + b for v, b in zip(values, bars, strict=True)]
            inside += [v - b for v, b in zip(values, bars, strict=True)]
    if inside:
        room = 0.15 * (max(inside) - min(inside)) or 1.0
        axes.set_ylim(min(inside) - room, max(inside) + room)
    axes.set_xticks(range(len(levels)), levels)
    axes.set_xlabel("sparsity; lines that leave the panel: see the table", fontsize=9)
    axes.set_ylabel(task.unit)
    axes.set_title(f"{task.title}: {'more' if task.higher else 'less'} is better")
    axes.grid(alpha=0.25)
