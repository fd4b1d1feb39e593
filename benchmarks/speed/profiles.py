"""Where a command spends its CPU time: one more run of it, with samples taken inside."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.bench import Bench, Subject
from benchmarks.speed.processes import Command, run_once
from benchmarks.speed.results import Profile, Share

__all__ = ["profile", "profile_missed"]

TOP = 8  # functions; what the others take is added up


def profile_missed(bench: Bench, subject: Subject) -> None:
    """Profile the commands that miss a goal with this checkpoint."""
    commands = subject.commands()
    for what in bench.missed(subject.dtype):
        if what in commands:
            argv, _, _ = commands[what]
            # the inputs of other commands stay as they are
            output = subject.beside("profiled")
            argv = [*argv[: argv.index("-o")], "-o", str(output)]
            profile(bench, what, subject.dtype, argv, output)


def profile(bench: Bench, what: str, dtype: str, argv: Sequence[str], output: Path) -> None:
    """Run a command of elsa once, and keep which functions took its CPU time."""
    samples = bench.folder / "samples.json"
    sampled = [sys.executable, "-m", "benchmarks.speed.sample", str(samples), *argv]
    run_once(Command(sampled, [output]))
    found = [Share(*share) for share in json.loads(samples.read_text())]
    rest = found[TOP:]
    shares = found[:TOP]
    if rest:
        others = (sum(s.user for s in rest), sum(s.system for s in rest))
        shares.append(Share(f"{len(rest)} others", *others))
    bench.results.profiles.append(Profile(what, dtype, shares))
    bench.log(f"{dtype} {what}: sampled")
    samples.unlink()
    output.unlink()
