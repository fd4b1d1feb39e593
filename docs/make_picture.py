"""Draw docs/digits.png from runs of `examples/digits/demo.py` with several seeds.

    python docs/make_picture.py [DEMO.json ...]

Each DEMO.json is what one run of the demo wrote. They are first gathered in docs/digits.json;
without any, docs/digits.json is drawn as it is. `make picture` runs the demo five times and then
this script. docs/make_readme.py makes the table of the README from the same figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

FIGURES = Path(__file__).with_name("digits.json")
TARGET = Path(__file__).with_name("digits.png")

# Colours of Okabe and Ito, which colour-blind readers can tell apart; the markers differ as well.
CURVES = (
    ("zeroed", "zeroing alone", "#000000", "x", ":"),
    ("alone", "separate networks, one a level", "#D55E00", "s", "--"),
    ("nested", "one nested network (elsa freeze-train)", "#0072B2", "o", "-"),
)
DODGE = 0.014  # between curves, in sparsity, so that bars do not hide each other
CLOSE_UP = (96.0, 100.2)  # percent


class Spread(NamedTuple):
    """One figure over all seeds."""

    mean: float
    low: float
    high: float


def gather(files: Sequence[str]) -> None:
    """Write docs/digits.json from what runs of the demo wrote."""
    runs = sorted((json.loads(Path(file).read_text()) for file in files), key=lambda r: r["seed"])
    FIGURES.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


def runs() -> list[Any]:
    """Return the runs of docs/digits.json; each has `seed`, `epochs` and `levels`, dense first."""
    found: list[Any] = json.loads(FIGURES.read_text())["runs"]
    return found


def spread(runs: Sequence[Any], row: int, key: str) -> Spread:
    """Return mean and range over the seeds of one figure of the level in row `row`."""
    values = [run["levels"][row][key] for run in runs]
    return Spread(mean(values), min(values), max(values))


def draw(runs: Sequence[Any], target: Path) -> None:
    """Draw accuracy over sparsity: all of it, and a close-up of its top."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    levels = [row["level"] for row in runs[0]["levels"]]
    sparsity = [0.0 if level == "dense" else float(level) for level in levels]
    pyplot.rcParams.update({"font.size": 12, "axes.titlesize": 12})
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for axes in panels:
        for number, (key, label, colour, marker, line) in enumerate(CURVES):
            spreads = [spread(runs, row, key) for row in range(len(levels))]
            axes.errorbar(
                [x + DODGE * (number - 1) for x in sparsity],
                [s.mean for s in spreads],
                [[s.mean - s.low for s in spreads], [s.high - s.mean for s in spreads]],
                **{"color": colour, "marker": marker, "linestyle": line, "label": label},
                capsize=3,
                markersize=6,
            )
        axes.set_xticks(sparsity, levels)
        axes.set_xlabel("level (share of the weights that are zero)")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("accuracy (% of 360 test images)")
    panels[0].set_ylim(top=101)
    panels[0].set_title("all networks")
    panels[1].set_ylim(CLOSE_UP)
    panels[1].set_title("the same, above 96 %")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(target, dpi=160, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    if sys.argv[1:]:
        gather(sys.argv[1:])
    draw(runs(), TARGET)
    print(TARGET)
