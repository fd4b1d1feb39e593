"""The commands beside `cp`, on one checkpoint."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Spread
from benchmarks.goals import CP, ENTROPY, PREFIX, USER
from benchmarks.page import spread_text
from benchmarks.speed.bench import SPARSEST, Bench, Subject, copies
from benchmarks.speed.entropy import mask_entropy
from benchmarks.speed.processes import Command, Run, rounds, run_once
from benchmarks.speed.results import First, Row

__all__ = ["measure_levels", "measure_upkeep", "noise"]

NOISY = 1.5  # from here on, largest over smallest time of cp itself is said beside a ratio


def measure_levels(bench: Bench, subject: Subject) -> None:
    """Measure sparsify, pack, and extract from both; leave their outputs for what follows."""
    dtype, prefix = subject.dtype, 0
    for what, (argv, output, copied) in subject.commands().items():
        command = Command([*bench.elsa, *argv], [output], keep=True)
        first = run_once(command)
        if not copied.exists():  # of extract: as large a file as it writes
            shutil.copyfile(output, copied)
        row, runs = _beside_cp(bench, subject, what, argv, output, copied)
        ours = row.ours
        bench.results.firsts.append(
            First(what, dtype, first.seconds, first.user, ours.seconds, ours.user)
        )
        assert row.plain_ratio is not None
        plain = f"{spread_text(row.plain_ratio)} × plain cp"
        bench.found(what, CP, dtype, row.ratio, plain + noise(row.base.seconds))
        if dtype == "bf16":
            system = f"system {spread_text(row.system)} s per 10⁹ weights"
            bench.found(what, USER, dtype, row.user, system)
        if what == "pack":
            prefix = _masks(bench, subject, runs)
        if what == "extract from packed":
            _prefix(bench, subject, row, prefix)


def measure_upkeep(bench: Bench, subject: Subject) -> None:
    """Measure the commands that have no goal: unpack, verify, inspect."""
    nested, packed = str(subject.nested), str(subject.packed)
    argv = ["pack", "--unpack", packed, "-o", str(subject.scratch)]
    _beside_cp(bench, subject, "pack --unpack", argv, subject.scratch, subject.nested)
    _beside_cp(bench, subject, "verify, nested", ["verify", nested], None, subject.nested)
    _beside_cp(bench, subject, "verify, packed", ["verify", packed], None, subject.packed)
    dense = str(subject.dense)
    _beside_cp(bench, subject, "inspect, plain", ["inspect", dense], None, subject.dense)


def noise(copy: Spread) -> str:
    """Return what to add where the disk's own noise hides a ratio."""
    if copy.high <= NOISY * copy.low:
        return ""
    return f"; cp itself varied {copy.high / copy.low:.1f}-fold, {spread_text(copy)} s"


def _beside_cp(
    bench: Bench,
    subject: Subject,
    what: str,
    argv: Sequence[str],
    output: Path | None,
    copied: Path,
) -> tuple[Row, list[Run]]:
    """Time an elsa command in turn with `cp` of the file `copied`, synced and plain."""
    ours = Command([*bench.elsa, *argv], [] if output is None else [output], keep=True)
    synced, plain, runs = rounds([*copies(copied), ours], bench.runs, bench.warm)
    against = f"cp of the {_role(subject, copied)} file"
    row = Row.of(
        subject.dtype, what, against, runs, synced,
        plain=plain, dtype=subject.dtype, size=subject.size,
    )  # fmt: skip
    return bench.add(row), runs


def _role(subject: Subject, path: Path) -> str:
    roles = {
        subject.dense: "dense",
        subject.nested: "nested",
        subject.packed: "packed",
        subject.sparse: "extracted",
    }
    return roles[path]


def _masks(bench: Bench, subject: Subject, runs: Sequence[Run]) -> int:
    """Compare the size of coded masks with their entropy; return the sparsest level's prefix."""
    report = json.loads(runs[-1].stdout)
    entropy, weights = mask_entropy(subject.nested), report["prunable"]
    bits = report["mask_bytes"] * 8
    bench.found(
        "pack", ENTROPY, subject.dtype, bits / entropy,
        f"{bits / weights:.3f} bits a weight, entropy {entropy / weights:.3f}, plain masks 3",
    )  # fmt: skip
    prefix: int = report["prefix"][0]
    return prefix


def _prefix(bench: Bench, subject: Subject, row: Row, prefix: int) -> None:
    """Check that the level comes out of the file's prefix alone, with the same bits."""
    cut, again = subject.beside("cut.elsa"), subject.beside("again")
    with subject.packed.open("rb") as source, cut.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.truncate(prefix)
    argv = [*bench.elsa, "extract", str(cut), "--level", SPARSEST, "-o", str(again)]
    run = run_once(Command(argv, [again]))
    same = filecmp.cmp(again, subject.sparse, shallow=False)
    whole = subject.packed.stat().st_size
    for path in (cut, again):
        path.unlink()
    needed = f"{prefix / 1e6:,.1f} MB of {whole / 1e6:,.1f} MB"
    bench.found(
        "extract from packed", PREFIX, subject.dtype, 1.0 if same else whole / prefix, needed
    )
    start = run_once(Command([*bench.elsa, "inspect", str(subject.packed)])).read
    if not same or run.read is None or row.ours.read is None or start is None:
        return
    bench.results.facts.append(
        f"{subject.dtype}: the packed file has {whole / 1e6:,.1f} MB, level {SPARSEST} its first "
        f"{prefix / 1e6:,.1f} MB. Cut off there, it gives the same bits; the process then asks to "
        f"read {run.read / 1e6:,.1f} MB, of the whole file {row.ours.read / 1e6:,.1f} MB. In both "
        f"are Python's modules and the header, {start / 1e6:,.1f} MB."
    )
