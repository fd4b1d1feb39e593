"""The same weights with other tools, each as a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from benchmarks.machine import available_memory
from benchmarks.speed.processes import Command, Failed, Run, pairs, rounds, run_once, timing
from benchmarks.speed.results import Row, Spread
from benchmarks.speed.stages import LEVELS, SPARSEST, Bench, Subject, make_checkpoint

__all__ = ["measure_bitmask", "measure_prune", "measure_start"]

# What prune.global_unstructured was seen to take, bytes a weight of fp32, with some to spare.
PRUNE_BYTES = 68
CHAIN = '"$1" sparsify "$2" --levels "$5" -o "$3" && "$1" extract "$3" --level "$5" -o "$4"'


def measure_bitmask(bench: Bench, subject: Subject) -> None:
    """Compare pack and extract with compressed-tensors on the sparsest level."""
    if find_spec("compressed_tensors") is None:
        bench.results.facts.append("compressed-tensors is not installed: not compared.")
        return
    theirs = subject.dense.with_name("bitmask.safetensors")
    packed, sparse, out = str(subject.packed), str(subject.sparse), subject.scratch
    compress, pack = rounds(
        [
            Command(_peer("bitmask", "compress", sparse, str(theirs)), [theirs], keep=True),
            Command(
                [*bench.elsa, "pack", str(subject.nested), "-o", packed], [subject.packed], True
            ),
        ],
        bench.peer_runs,
        bench.warm,
    )
    rows = _rows(bench, subject, "pack", "compressed-tensors compress", pack, compress)
    for row in rows:
        label = f"pack, speed beside {row.against}"
        bench.claim(subject.dtype, label, _inverse(row), 5.0, unit="× as fast", at_least=True)
    decompress, extract = rounds(
        [
            Command(_peer("bitmask", "decompress", str(theirs), str(out)), [out], keep=True),
            Command([*bench.elsa, "extract", packed, "--level", SPARSEST, "-o", str(out)], [out]),
        ],
        bench.peer_runs,
        bench.warm,
    )
    name = "compressed-tensors decompress"
    _rows(bench, subject, "extract from packed", name, extract, decompress)
    bench.results.facts.append(
        f"{subject.dtype}: level {SPARSEST} takes {compress[-1].written / 1e6:,.1f} MB in "
        f"compressed-tensors' file, which holds that level alone."
    )
    theirs.unlink()
    out.unlink(missing_ok=True)


def measure_prune(bench: Bench, subject: Subject) -> None:
    """Compare sparsify with global magnitude pruning in torch, on fp32 weights."""
    if find_spec("torch") is None:
        bench.results.facts.append("torch is not installed: not compared.")
        return
    room = int(available_memory() / PRUNE_BYTES * 4)
    if subject.dense.stat().st_size > room:
        smaller = subject.dense.with_name("smaller.safetensors")
        subject = Subject(subject.section, subject.dtype, smaller)
        make_checkpoint(subject, int(0.9 * room))
        bench.results.facts.append(
            f"torch.nn.utils.prune would not fit into memory with the whole file: it and sparsify "
            f"are compared on {smaller.stat().st_size / 1e6:,.0f} MB."
        )
    theirs = subject.dense.with_name("pruned.safetensors")
    nested, sparse, dense = subject.nested, subject.scratch, str(subject.dense)
    chain = ["sh", "-c", CHAIN, "sh", bench.elsa[0], dense, str(nested), str(sparse), SPARSEST]
    commands = [
        Command(_peer("prune_global", dense, str(theirs), SPARSEST), [theirs], keep=True),
        Command([*bench.elsa, "sparsify", dense, "--levels", LEVELS, "-o", str(nested)], [nested]),
        Command(chain, [nested, sparse], keep=True),
    ]
    if len(bench.elsa) > 1:  # run as a module: the chain needs one word for the command
        commands.pop()
    try:
        prune, ours, *both = rounds(commands, bench.peer_runs, warm=False)
    except Failed as error:
        bench.results.facts.append(f"torch.nn.utils.prune could not be measured: {error}")
        return
    name = "prune.global_unstructured and save"
    row = _rows(bench, subject, "sparsify, three levels", name, ours, prune)[0]
    for runs in both:
        _row(bench, subject, "sparsify to 0.9, then extract", name, runs, prune)
    label = "sparsify, beside torch.nn.utils.prune"
    bench.claim(
        subject.dtype, f"{label}, speed", _inverse(row), 10.0, unit="× as fast", at_least=True
    )
    bench.claim(
        subject.dtype, f"{label}, memory", row.ours.peak / row.base.peak, 0.1, unit="× its peak"
    )
    if both:
        argv = [sys.executable, "-m", "benchmarks.speed.compare", str(theirs), str(sparse)]
        differ = json.loads(run_once(Command(argv)).stdout)["differ"]
        bench.results.facts.append(
            f"{subject.dtype}: the networks that torch.nn.utils.prune and elsa make differ in "
            f"{differ:,} weights (zeros of either sign count as equal)."
        )
    theirs.unlink(missing_ok=True)


def measure_start(bench: Bench, runs: int) -> None:
    """Compare `elsa --help` with importing click."""
    imports, help_ = rounds(
        [Command([sys.executable, "-c", "import click"]), Command([*bench.elsa, "--help"])], runs
    )
    row = Row(
        section="start", what="elsa --help", against='python -c "import click"', dtype="",
        size=0, written=0, ours=timing(help_), base=timing(imports), ratio=pairs(help_, imports),
    )  # fmt: skip
    bench.add(row)
    bench.claim("", "elsa --help", row.ratio, 1.3, unit="× import click")


def _peer(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.peers.{module}", *arguments]


def _inner(runs: Sequence[Run], part: str) -> list[Run]:
    """Return the runs with the seconds of a part, as the peer's script measured it."""
    return [replace(run, seconds=json.loads(run.stdout)[part]) for run in runs]


def _rows(
    bench: Bench, subject: Subject, what: str, peer: str, ours: list[Run], base: list[Run]
) -> list[Row]:
    """Keep three rows: beside the peer's whole process, all but its imports, its call alone."""
    parts = {
        peer: list(base),
        f"{peer}, without imports": _inner(base, "work"),
        f"{peer}, the call alone": _inner(base, "call"),
    }
    return [_row(bench, subject, what, name, ours, runs) for name, runs in parts.items()]


def _row(
    bench: Bench, subject: Subject, what: str, against: str, ours: list[Run], base: list[Run]
) -> Row:
    row = Row(
        section="peers",
        what=what,
        against=against,
        dtype=subject.dtype,
        size=subject.dense.stat().st_size,
        written=ours[-1].written,
        ours=timing(ours),
        base=timing(base),
        ratio=pairs(ours, base),
    )
    bench.add(row)
    return row


def _inverse(row: Row) -> Spread:
    return Spread(1 / row.ratio.median, 1 / row.ratio.high, 1 / row.ratio.low)
