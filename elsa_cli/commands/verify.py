"""`elsa verify`: check nesting, counts and digests."""

from __future__ import annotations

import click

from elsa_cli.commands._common import checkpoint_argument, run_options, send, to_json
from elsa_cli.commands._input import open_input
from elsa_cli.errors import VerificationFailed
from elsa_cli.ui import Screen

__all__ = ["command"]


@click.command(name="verify")
@checkpoint_argument("NESTED")
@run_options
def command(
    checkpoint: str | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Check NESTED, nested or packed: nesting, counts, digests, tiling.

    Names what is wrong and where, and exits with 1. A packed file may be cut behind any level.

    \b
    Example:
      elsa verify model.elsa.safetensors
    """
    from elsa_cli.operations.verify import verify

    screen = Screen(quiet=quiet, verbose=verbose)
    with (
        open_input(checkpoint, screen, search=True) as source,
        screen.progress("verify") as progress,
    ):
        report = verify(source.path, threads=threads, progress=progress)
    for problem in report.problems:
        if not as_json:
            screen.problem(f"{problem.where}: {problem.what}")
    if report.ok:
        levels = ", ".join(map(str, report.levels))
        screen.note(
            f"{report.kind}, levels {levels}: {report.tensors} tensors nest and have their counts, "
            f"{report.digests} digests agree"
        )
    if report.ok or as_json:
        payload = {**to_json(report), "ok": report.ok} if as_json else None
        send(screen, [source.path] if source.named else [], payload)
    if not report.ok:
        number = len(report.problems)
        raise VerificationFailed(
            f"{number} problem{'s' if number > 1 else ''} found",
            file=source.path if source.named else "standard input",
            hint="make or fetch the file again",
        )
