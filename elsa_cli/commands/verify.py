"""`elsa verify`: check nesting, counts and digests."""

from __future__ import annotations

from functools import partial

import click

from elsa_cli.commands._input import open_input
from elsa_cli.commands._options import Shown, checkpoint_argument, shown_options, threads_option
from elsa_cli.commands._session import session
from elsa_cli.errors import VerificationFailed
from elsa_cli.text import counted

__all__ = ["command"]


@click.command(name="verify")
@checkpoint_argument("NESTED")
@threads_option
@shown_options("Show all rows of a long table.")
def command(checkpoint: str | None, threads: int | None, shown: Shown) -> None:
    """Check that the masks of NESTED nest and that all counts and digests agree.

    NESTED is a nested or packed checkpoint; a packed one may be cut off behind any level. Every
    problem is shown with its place, and the exit code is then 1.

    \b
    Example:
      elsa verify model.elsa.safetensors
    """
    with session("verify", shown, partial(open_input, checkpoint, search=True)) as run:
        from elsa_cli.operations.verify import verify

        report = verify(run.path, threads=threads, progress=run.progress)
    if not shown.as_json:
        for problem in report.problems:
            run.screen.problem(f"{problem.where}: {problem.what}")
    if report.ok:
        levels = ", ".join(map(str, report.levels))
        run.screen.note(
            f"{report.kind}, levels {levels}: {report.tensors} tensors nest and have their counts, "
            f"{report.digests} digests agree"
        )
    if report.ok or shown.as_json:
        run.send_input(report, ok=report.ok)
    if not report.ok:
        raise VerificationFailed(
            f"{counted(len(report.problems), 'problem')} found",
            file=run.path if run.named else "standard input",
            hint="make or fetch the file again",
        )
