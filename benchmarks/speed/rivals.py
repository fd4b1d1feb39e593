"""The same weights with other tools, each as a separate process."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.goals import CALL, PRUNE_MEMORY, PRUNE_SPEED
from benchmarks.machine import available_memory
from benchmarks.page import megabytes, spread_text
from benchmarks.speed.bench import LEVELS, SPARSEST, Bench, Subject, make_checkpoint
from benchmarks.speed.processes import Command, Failed, Run, rounds, run_once
from benchmarks.speed.results import Row

__all__ = ["measure_bitmask", "measure_prune"]

# What prune.global_unstructured was seen to take, bytes a weight of fp32, with some to spare.
PRUNE_BYTES = 68
PRUNE = (PRUNE_SPEED, PRUNE_MEMORY)
CHAIN = '"$1" sparsify "$2" --levels "$5" -o "$3" && "$1" extract "$3" --level "$5" -o "$4"'


def measure_bitmask(bench: Bench, subject: Subject) -> None:
    """Compare pack and extract with compressed-tensors on the sparsest level."""
    if find_spec("compressed_tensors") is None:
        bench.left_out("compressed-tensors is not installed", CALL)
        return
    try:
        _bitmask(bench, subject)
    except Failed as error:
        bench.left_out(f"compressed-tensors could not be measured: {error}", CALL)


def _bitmask(bench: Bench, subject: Subject) -> None:
    theirs = subject.dense.with_name("bitmask.safetensors")
    packed, sparse, out = str(subject.packed), str(subject.sparse), subject.scratch
    compress, pack = rounds(
        [
            Command(_peer("bitmask", "compress", sparse, str(theirs)), [theirs], keep=True),
            Command(
                [*bench.elsa, "pack", str(subject.nested), "-o", packed], [subject.packed], True
            ),
        ],
        bench.runs,
        bench.warm,
    )
    rows = _rows(bench, subject, "pack", "compressed-tensors compress", pack, compress)
    call = rows[-1]
    beside = f"pack {spread_text(call.ours.seconds)} s, the call {spread_text(call.base.seconds)} s"
    bench.found("pack", CALL, subject.dtype, call.ratio.inverse, beside)
    bench.results.facts.append(
        f"{subject.dtype}: level {SPARSEST} takes {compress[-1].written / 1e6:,.1f} MB in "
        f"compressed-tensors' file, which holds that level alone."
    )
    if bench.quick:
        theirs.unlink()
        return
    decompress, extract = rounds(
        [
            Command(_peer("bitmask", "decompress", str(theirs), str(out)), [out], keep=True),
            Command([*bench.elsa, "extract", packed, "--level", SPARSEST, "-o", str(out)], [out]),
        ],
        bench.runs,
        bench.warm,
    )
    name = "compressed-tensors decompress"
    _rows(bench, subject, "extract from packed", name, extract, decompress)
    theirs.unlink()
    out.unlink(missing_ok=True)


def measure_prune(bench: Bench, subject: Subject) -> None:
    """Compare sparsify with global magnitude pruning in torch.

    The speed of a goal is that of loading, pruning and saving, without torch's imports.
    """
    if find_spec("torch") is None:
        bench.left_out("torch is not installed", *PRUNE)
        return
    room = int(available_memory() / PRUNE_BYTES * 4)
    smaller: Path | None = None
    if subject.size > room:
        smaller = subject.dense.with_name("smaller.safetensors")
        subject = Subject(subject.dtype, smaller)
        make_checkpoint(subject, int(0.9 * room))
        bench.results.facts.append(
            f"torch.nn.utils.prune would not fit into memory with the whole file: it and sparsify "
            f"are compared on {megabytes(subject.size)}."
        )
    theirs = subject.dense.with_name("pruned.safetensors")
    three, one, sparse = map(subject.beside, ("three.elsa", "one.elsa", "one"))
    dense = str(subject.dense)
    chain = ["sh", "-c", CHAIN, "sh", bench.elsa[0], dense, str(one), str(sparse), SPARSEST]
    commands = [
        Command(_peer("prune_global", dense, str(theirs), SPARSEST), [theirs], keep=True),
        Command([*bench.elsa, "sparsify", dense, "--levels", LEVELS, "-o", str(three)], [three]),
        Command(chain, [one, sparse], keep=True),
    ]
    if len(bench.elsa) > 1:  # run as a module: the chain needs one word for the command
        commands.pop()
    try:
        prune, ours, *both = rounds(commands, bench.runs, bench.warm)
    except Failed as error:
        bench.left_out(f"torch.nn.utils.prune could not be measured: {error}", *PRUNE)
        return
    name = "prune.global_unstructured and save"
    _, work, _ = _rows(bench, subject, "sparsify", name, ours, prune)
    for runs in both:
        _row(bench, subject, "sparsify to 0.9, then extract", name, runs, prune)
    bench.found(
        "sparsify", PRUNE_SPEED, subject.dtype, work.ratio.inverse,
        f"sparsify {spread_text(work.ours.seconds)} s, {work.against} "
        f"{spread_text(work.base.seconds)} s",
    )  # fmt: skip
    bench.found(
        "sparsify", PRUNE_MEMORY, subject.dtype, work.ours.peak / work.base.peak,
        f"{megabytes(work.ours.peak)} beside {megabytes(work.base.peak)}",
    )  # fmt: skip
    if both:
        argv = [sys.executable, "-m", "benchmarks.speed.compare", str(theirs), str(sparse)]
        differ = json.loads(run_once(Command(argv)).stdout)["differ"]
        bench.results.facts.append(
            f"{subject.dtype}: the networks that torch.nn.utils.prune and elsa make differ in "
            f"{differ:,} weights (zeros of either sign count as equal)."
        )
    for path in (theirs, one, sparse):
        path.unlink(missing_ok=True)
    if smaller is not None:
        smaller.unlink()


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
    return bench.add(
        Row.of("peers", what, against, ours, base, dtype=subject.dtype, size=subject.size)
    )
