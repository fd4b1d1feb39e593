"""The commands beside `cp`, on one checkpoint."""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speed.entropy import mask_entropy
from benchmarks.speed.processes import Command, Run, pairs, rounds, run_once, timing
from benchmarks.speed.results import Claim, Results, Row, Spread

__all__ = [
    "LEVELS",
    "SPARSEST",
    "Bench",
    "Subject",
    "make_checkpoint",
    "measure_levels",
    "measure_upkeep",
]

LEVELS = "0.5,0.7,0.9"
SPARSEST = "0.9"
SYNCED = 'cp "$1" "$2" && sync "$2"'


@dataclass
class Bench:
    """What every measurement needs.

    Attributes:
        folder: Where files may be written.
        runs: How many rounds are counted.
        results: Where findings go.
        warm: Whether a first round is not counted.
    """

    folder: Path
    runs: int
    results: Results
    warm: bool = True
    _began: float = field(default_factory=time.perf_counter)

    @property
    def peer_runs(self) -> int:
        """Rounds with other tools, which take their time."""
        return min(self.runs, 3)

    @property
    def elsa(self) -> list[str]:
        """The command, installed beside the interpreter or as a module."""
        script = Path(sys.executable).parent / "elsa"
        return [str(script)] if script.exists() else [sys.executable, "-m", "elsa_cli"]

    def log(self, text: str) -> None:
        """Tell on standard error how far it got."""
        print(f"[{time.perf_counter() - self._began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def add(self, row: Row) -> None:
        """Keep a row, and show it."""
        self.results.rows.append(row)
        self.log(
            f"{row.section} {row.dtype} {row.what}: {row.ours.seconds.median:.2f} s, "
            f"{row.ratio.median:.2f} x {row.against} ({row.base.seconds.median:.2f} s), "
            f"peak {row.ours.peak / 1e6:.0f} MB"
        )

    def claim(
        self,
        dtype: str,
        what: str,
        found: Spread | float,
        goal: float,
        *,
        unit: str,
        at_least: bool = False,
    ) -> None:
        """Keep a goal and what was found."""
        spread = found if isinstance(found, Spread) else Spread(found, found, found)
        self.results.claims.append(Claim(dtype, what, unit, spread, goal, at_least))


@dataclass(frozen=True)
class Subject:
    """A generated checkpoint and what is made of it.

    Attributes:
        section: Section of the results that its rows belong to.
        dtype: `bf16` or `fp32`.
        dense: The checkpoint.
    """

    section: str
    dtype: str
    dense: Path

    @property
    def nested(self) -> Path:
        """The nested checkpoint."""
        return self.dense.with_name("nested.elsa.safetensors")

    @property
    def packed(self) -> Path:
        """The packed checkpoint."""
        return self.dense.with_name("packed.elsa.safetensors")

    @property
    def sparse(self) -> Path:
        """The sparsest level, extracted."""
        return self.dense.with_name("sparse.safetensors")

    @property
    def scratch(self) -> Path:
        """Whatever does not stay."""
        return self.dense.with_name("scratch.safetensors")

    def remove(self) -> None:
        """Delete all of them."""
        for path in (self.dense, self.nested, self.packed, self.sparse, self.scratch):
            path.unlink(missing_ok=True)


def make_checkpoint(subject: Subject, size: int) -> None:
    """Generate the dense checkpoint of `size` bytes, in a process of its own."""
    path, dtype = str(subject.dense), subject.dtype
    argv = [sys.executable, "-m", "benchmarks.speed.generate", path, dtype, str(size), "0"]
    subprocess.run(argv, check=True)


def measure_levels(bench: Bench, subject: Subject, *, claims: bool) -> None:
    """Measure sparsify, pack, and extract from both; leave their outputs for what follows."""
    dense, nested, packed, sparse = subject.dense, subject.nested, subject.packed, subject.sparse
    level = ["--level", SPARSEST]

    argv = ["sparsify", str(dense), "--levels", LEVELS, "-o", str(nested)]
    row, _ = _beside_cp(bench, subject, "sparsify", argv, nested, dense)
    if claims:
        bench.claim(subject.dtype, "sparsify, three levels", row.ratio, 2.5, unit="× cp")
        bench.claim(subject.dtype, "sparsify, peak memory", row.ours.peak / 1e6, 300.0, unit="MB")

    argv = ["extract", str(nested), *level, "-o", str(sparse)]
    row, _ = _beside_cp(bench, subject, "extract", argv, sparse, nested)
    if claims:
        bench.claim(subject.dtype, "extract a level", row.ratio, 1.25, unit="× cp")
        bench.claim(subject.dtype, "extract, peak memory", row.ours.peak / 1e6, 200.0, unit="MB")

    argv = ["pack", str(nested), "-o", str(packed), "--json"]
    row, runs = _beside_cp(bench, subject, "pack", argv, packed, nested)
    report = json.loads(runs[-1].stdout)
    if claims:
        bench.claim(subject.dtype, "pack", row.ratio, 4.0, unit="× cp")
        entropy = mask_entropy(nested)
        bench.claim(
            subject.dtype, "pack, mask bits", report["mask_bytes"] * 8 / entropy, 1.03,
            unit="× entropy",
        )  # fmt: skip
        bench.results.facts.append(
            f"{subject.dtype}: the masks of {LEVELS} take "
            f"{report['mask_bytes'] * 8 / report['prunable']:.3f} bits a weight, their entropy is "
            f"{entropy / report['prunable']:.3f}; three plain masks would take 3."
        )

    again = dense.with_name("again.safetensors")
    argv = ["extract", str(packed), *level, "-o", str(again)]
    row, _ = _beside_cp(bench, subject, "extract from packed", argv, again, sparse)
    if claims:
        bench.claim(subject.dtype, "extract from packed", row.ratio, 2.0, unit="× cp of its output")
        _prefix(bench, subject, row, report["prefix"][0])


def measure_upkeep(bench: Bench, subject: Subject) -> None:
    """Measure the commands that have no goal: unpack, verify, inspect."""
    nested, packed = str(subject.nested), str(subject.packed)
    argv = ["pack", "--unpack", packed, "-o", str(subject.scratch)]
    _beside_cp(bench, subject, "pack --unpack", argv, subject.scratch, subject.nested)
    _beside_cp(bench, subject, "verify, nested", ["verify", nested], None, subject.nested)
    _beside_cp(bench, subject, "verify, packed", ["verify", packed], None, subject.packed)
    dense = str(subject.dense)
    _beside_cp(bench, subject, "inspect, plain", ["inspect", dense], None, subject.dense)


def _beside_cp(
    bench: Bench,
    subject: Subject,
    what: str,
    argv: Sequence[str],
    output: Path | None,
    copied: Path,
) -> tuple[Row, list[Run]]:
    """Time an elsa command in turn with `cp` of the file `copied`, plain and synced."""
    copy = copied.with_name("copy.safetensors")
    commands = [
        Command(["cp", str(copied), str(copy)], [copy]),
        Command(["sh", "-c", SYNCED, "sh", str(copied), str(copy)], [copy]),
        Command([*bench.elsa, *argv], [] if output is None else [output], keep=True),
    ]
    plain, synced, ours = rounds(commands, bench.runs, bench.warm)
    row = Row(
        section=subject.section,
        what=what,
        against=f"cp of the {_role(subject, copied)} file",
        dtype=subject.dtype,
        size=subject.dense.stat().st_size,
        written=ours[-1].written,
        ours=timing(ours),
        base=timing(plain),
        ratio=pairs(ours, plain),
        synced=pairs(ours, synced) if output else None,
    )
    bench.add(row)
    return row, ours


def _role(subject: Subject, path: Path) -> str:
    roles = {
        subject.dense: "dense",
        subject.nested: "nested",
        subject.packed: "packed",
        subject.sparse: "extracted",
    }
    return roles[path]


def _prefix(bench: Bench, subject: Subject, row: Row, prefix: int) -> None:
    """Check that the level comes out of the file's prefix alone, with the same bits."""
    cut = subject.dense.with_name("cut.elsa.safetensors")
    with subject.packed.open("rb") as source, cut.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.truncate(prefix)
    again = cut.with_name("again.safetensors")
    argv = [*bench.elsa, "extract", str(cut), "--level", SPARSEST, "-o", str(again)]
    run = run_once(Command(argv, [again]))
    same = filecmp.cmp(again, subject.sparse, shallow=False)
    whole = subject.packed.stat().st_size
    for path in (cut, again):
        path.unlink()
    bench.claim(
        subject.dtype, "extract from packed, file needed", 1.0 if same else whole / prefix, 1.0,
        unit="× prefix",
    )  # fmt: skip
    start = run_once(Command([*bench.elsa, "inspect", str(subject.packed)])).read
    if not same or run.read is None or row.ours.read is None or start is None:
        return
    bench.results.facts.append(
        f"{subject.dtype}: the packed file has {whole / 1e6:,.1f} MB, level {SPARSEST} its first "
        f"{prefix / 1e6:,.1f} MB. Cut off there, it gives the same bits; the process then asks to "
        f"read {run.read / 1e6:,.1f} MB, of the whole file {row.ours.read / 1e6:,.1f} MB. In both "
        f"are Python's own modules and the header, {start / 1e6:,.1f} MB."
    )
