"""Measure speed and memory: `python -m benchmarks.speed`, from the repository's root.

Writes docs/performance.md, .json and .png. With the extra `bench` installed, and torch, other
tools are measured on the same weights; without them that part is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import options as shared
from benchmarks.goals import CALL, PRUNE_MEMORY, PRUNE_SPEED
from benchmarks.machine import describe
from benchmarks.page import read, write
from benchmarks.speed.bench import Bench, Subject, make_checkpoint
from benchmarks.speed.growth import measure_growth, peaks
from benchmarks.speed.page import goals_text, render
from benchmarks.speed.plot import draw
from benchmarks.speed.processes import floor
from benchmarks.speed.profiles import profile_missed
from benchmarks.speed.results import Results
from benchmarks.speed.rivals import measure_bitmask, measure_prune
from benchmarks.speed.stages import measure_levels, measure_upkeep
from benchmarks.speed.start import measure_start
from elsa_cli.core.kernels.caching import folders

SIZE, QUICK_SIZE = 1.07, 0.01
DTYPES = ("bf16", "fp32")
EMPTY = "no compiled kernels on the machine"
KNOWN = "the compiled kernels that were on the machine"


def main() -> None:
    """Measure, or write the page again from figures."""
    options = _options()
    page = "performance"
    if options.render:
        results = read(Results, options.docs / f"{page}.json")
    else:
        with shared.scratch(options) as folder:
            results = _measure(options, folder)
    for dtype in (*results.options["dtypes"], ""):
        print(f"{dtype or 'start'}\n{goals_text(results, dtype)}")
    write(options.docs, page, render(results), results)
    if options.docs is not None:
        draw(results, options.docs / f"{page}.png")


def _forget_kernels() -> None:
    """Remove the compiled kernels that are kept on this machine, so that first runs find none."""
    for folder in folders(make=False):
        for file in folder.glob("*.bin"):
            file.unlink()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    shared.add_folder(parser)
    parser.add_argument("--size", type=float, default=SIZE, help=f"GB of a checkpoint [{SIZE}]")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count [5]")
    parser.add_argument("--no-peers", action="store_true", help="leave out other tools")
    parser.add_argument("--render", action="store_true", help="only write the page again")
    shared.add_docs(parser, "small sizes, one round")
    options = shared.parse(parser)
    if options.runs < 1 or options.size <= 0:
        parser.error("--size and --runs must be positive")
    if options.render and options.quick:
        parser.error("--render writes the page of a real run")
    if options.quick:
        options.size, options.runs = QUICK_SIZE, 1
    return options


def _measure(options: argparse.Namespace, folder: Path) -> Results:
    """Run everything."""
    results = Results(machine=describe(folder))
    bench = Bench(folder, options.runs, results, quick=options.quick)
    start_runs = 2 if options.quick else 15
    results.options = {
        "size": options.size,
        "runs": options.runs,
        "start_runs": start_runs,
        "dtypes": list(DTYPES),
        "caches": KNOWN if options.quick else EMPTY,
    }
    if not options.quick:
        _forget_kernels()
    for dtype in DTYPES:
        subject = Subject(dtype, folder / "dense.safetensors")
        bench.log(f"{dtype}: {options.size:g} GB")
        make_checkpoint(subject, int(options.size * 1e9))
        measure_levels(bench, subject)
        measure_upkeep(bench, subject)
        if options.no_peers:
            bench.left_out("other tools were left out", CALL, PRUNE_SPEED, PRUNE_MEMORY)
        else:
            measure_bitmask(bench, subject)
            if dtype == "fp32":
                measure_prune(bench, subject)
        profile_missed(bench, subject)
        subject.remove()
    factors = (1, 4) if options.quick else (0.25, 1, 4)
    measure_growth(bench, [options.size * factor for factor in factors])
    peaks(bench)
    measure_start(bench, start_runs)
    results.options["floor"] = f"{floor() / 1e6:.0f} MB"
    for heavy in ("numpy", "torch", "matplotlib"):
        assert heavy not in sys.modules, f"{heavy} would count as memory of what is measured"
    return results


if __name__ == "__main__":
    main()
