"""Pictures of reports, drawn with matplotlib, which is imported when one is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from elsa_cli.core.packages import require
from elsa_cli.errors import UsageError
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.text import printable

if TYPE_CHECKING:
    from elsa_cli.operations.evaluate import EvaluateReport

__all__ = ["check_plot", "draw_levels"]

ENDINGS = (".png", ".svg", ".pdf")


def check_plot(path: str) -> None:
    """Refuse a picture that cannot be drawn, before anything is measured.

    Raises:
        UsageError: The ending of the name is unknown.
        OutputError: The file cannot be written.
        MissingPackage: matplotlib is not installed.
    """
    if os.path.splitext(path)[1].lower() not in ENDINGS:
        raise UsageError(
            "is not a supported picture format", file=path, hint=f"use {', '.join(ENDINGS)}"
        )
    Policy().check(path)
    require("matplotlib", "plot", who="plots need")


def draw_levels(path: str, report: EvaluateReport) -> None:
    """Draw each metric against sparsity, and against the bytes to fetch.

    Raises:
        OutputError: The file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "elsa"  # the same report gives the same file
    from matplotlib import pyplot

    names = list(report.levels[0].metrics)
    sparsity = [float(row.level.sparsity) for row in report.levels]
    megabytes = [row.nbytes / 1e6 for row in report.levels]
    figure, axes = pyplot.subplots(
        len(names), 2, figsize=(9, 3.2 * len(names)), squeeze=False, sharey="row"
    )
    about = "" if report.kind == "packed" else ", estimated"
    for name, (left, right) in zip(names, axes, strict=True):
        values = [row.metrics[name] for row in report.levels]
        for axis, places, label in (
            (left, sparsity, "sparsity"),
            (right, megabytes, f"bytes to fetch (MB{about})"),
        ):
            axis.plot(places, values, marker="o", color="#1f6f8b")
            axis.set_xlabel(label)
            axis.grid(alpha=0.3)
            axis.margins(x=0.14, y=0.2)  # room for the levels' names
            for row, x, y in zip(report.levels, places, values, strict=True):
                axis.annotate(
                    str(row.level), (x, y), textcoords="offset points", xytext=(4, 6), fontsize=8
                )
        left.set_ylabel(printable(name))
    figure.suptitle(printable(os.path.basename(report.checkpoint)), fontsize=10)
    figure.tight_layout()
    kind = os.path.splitext(path)[1][1:].lower()
    dated = {"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else {}
    with OutputFile(path, Policy()) as out:
        with out.reporting(), out.stream() as file:
            figure.savefig(file, format=kind, dpi=120, metadata=dated)
        out.commit()
    pyplot.close(figure)
