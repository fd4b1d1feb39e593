"""Draw time and memory over the size of the checkpoint."""

from __future__ import annotations

from pathlib import Path

from benchmarks.goals import GOALS, MB
from benchmarks.speed.results import Results, Row

__all__ = ["draw", "growth"]

STYLES = {
    "sparsify": ("tab:blue", "o"),
    "pack": ("tab:orange", "s"),
    "extract": ("tab:green", "^"),
    "extract from packed": ("tab:red", "v"),
}
MEMORY = {goal.what: goal.bound for goal in GOALS if goal.unit == MB}


def growth(results: Results) -> dict[str, list[Row]]:
    """Return the rows over sizes of the commands that are drawn, by command, smallest first."""
    found: dict[str, list[Row]] = {}
    for what in STYLES:
        rows = [row for row in results.rows if row.what == what and row.section == "growth"]
        if rows:
            found[what] = sorted(rows, key=lambda row: row.size)
    return found


def draw(results: Results, path: Path) -> None:
    """Write the plot as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    rows = growth(results)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for what, of in rows.items():
        colour, marker = STYLES[what]
        sizes = [row.size / 1e9 for row in of]
        spreads = [row.ours.seconds for row in of]
        left.errorbar(
            sizes,
            [s.median for s in spreads],
            [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
            color=colour, marker=marker, capsize=3, label=what,
        )  # fmt: skip
        right.plot(
            sizes, [row.ours.peak / 1e6 for row in of], color=colour, marker=marker, label=what
        )
        if what in MEMORY:
            right.axhline(MEMORY[what], color=colour, linestyle=":", alpha=0.8)
            right.annotate(
                f"goal for {what}",
                (0.6, MEMORY[what]),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                xytext=(2, 3),
                color=colour,
                fontsize=8,
            )
    copies = rows["sparsify"]
    sizes = [row.size / 1e9 for row in copies]
    left.plot(
        sizes,
        [row.base.seconds.median for row in copies],
        "k--x",
        label="cp + sync of the checkpoint",
    )
    right.plot(sizes, [row.base.peak / 1e6 for row in copies], "k--x")
    right.plot(
        sizes, [row.size / 1e6 for row in copies], color="0.6", label="the checkpoint itself"
    )
    left.set_ylabel("wall time of the whole process, s")
    right.set_ylabel("peak resident memory, MB")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("size of the bf16 checkpoint, GB")
        axes.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.grid(which="both", alpha=0.25)
    left.set_title("Time: median, bars from smallest to largest")
    right.set_title("Memory: cp needs less than shown, see the page")
    named = [axes.get_legend_handles_labels() for axes in (right, left)]
    handles = {n: h for handles, names in named for h, n in zip(handles, names, strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=9)
    figure.savefig(path, dpi=130)
