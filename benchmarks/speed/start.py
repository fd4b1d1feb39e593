"""How long a command takes before it works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from benchmarks.goals import CLICK, SECONDS, SMALL
from benchmarks.page import spread_text
from benchmarks.speed.bench import LEVELS, Bench, Subject, make_checkpoint
from benchmarks.speed.processes import Command, rounds
from benchmarks.speed.profiles import profile
from benchmarks.speed.results import Row

__all__ = ["measure_start"]

SMALL_BYTES = 1_000_000
TOP = 6


def measure_start(bench: Bench, runs: int) -> None:
    """Compare `elsa --help` with importing click, and time sparsify on a small file."""
    subject = Subject("bf16", bench.folder / "small.safetensors")
    make_checkpoint(subject, SMALL_BYTES)
    click = 'python -c "import click"'
    argv = ["sparsify", str(subject.dense), "--levels", LEVELS, "-o", str(subject.nested)]
    imports, help_, small = rounds(
        [
            Command([sys.executable, "-c", "import click"]),
            Command([*bench.elsa, "--help"]),
            Command([*bench.elsa, *argv], [subject.nested]),
        ],
        runs,
        bench.warm,
    )
    row = bench.add(Row.of("start", "elsa --help", click, help_, imports))
    beside = f"{spread_text(row.ours.seconds)} s; import click {spread_text(row.base.seconds)} s"
    bench.found(row.what, CLICK, "", row.ratio, beside)
    row = bench.add(Row.of("start", SMALL, click, small, imports))
    beside = f"user {spread_text(row.ours.user)} s, system {spread_text(row.ours.system)} s"
    bench.found(SMALL, SECONDS, "", row.ours.seconds, beside)
    missed = bench.missed("")
    if SMALL in missed:
        profile(bench, SMALL, "", argv, subject.nested)
    if "elsa --help" in missed:
        bench.results.facts.append(_imports())
    subject.remove()


def _imports() -> str:
    """Return which packages take the time of the imports of `elsa --help`."""
    argv = [sys.executable, "-X", "importtime", "-m", "elsa_cli", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    spent: Counter[str] = Counter()
    for micros, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", done.stderr):
        spent[name.split(".")[0]] += int(micros)
    most = ", ".join(f"{name} {micros / 1e3:.1f}" for name, micros in spent.most_common(TOP))
    return (
        f"elsa --help, milliseconds of importing by package, those of Python's start included: "
        f"{most}; {spent.total() / 1e3:.1f} in all (one run, slowed by the counting)."
    )
