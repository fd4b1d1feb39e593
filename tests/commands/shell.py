"""Running the command line as a shell does."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import elsa_cli
from tests.commands.forkserver import shared

# Modules in the folder of the run are found first, and then those that this process uses.
BESIDE = {"PYTHONPATH": os.pathsep.join([".", str(Path(elsa_cli.__file__).parents[1])])}
ELSA = f"{shlex.quote(sys.executable)} -m elsa_cli"


def sh(
    line: str, cwd: Path, env: Mapping[str, str] | None = None, kind: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a line in which the word `elsa` stands for the command; standard input is empty.

    Args:
        line: The line.
        cwd: Where it runs.
        env: Variables added to those of this process.
        kind: Of the fork server that runs the commands; by default each starts Python.
    """
    command = shared(kind).shell if kind else ELSA
    return subprocess.run(
        ["sh", "-c", f'elsa() {{ {command} "$@"; }}\n{line}'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=120,
        check=False,
    )


def names(folder: Path) -> list[str]:
    """Return what is in a folder, hidden files too."""
    return sorted(os.listdir(folder))


def one_line(text: str | bytes) -> str:
    """Return an error, checked to be one line without a traceback."""
    shown = text if isinstance(text, str) else text.decode()
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) == 1, shown
    assert lines[0].startswith("Error: "), shown
    return lines[0]
