"""Measure speed and memory: `python -m benchmarks.speed`, from the repository's root.

Writes docs/performance.md, .json and .png. With the extra `bench` installed, and torch, other
tools are measured on the same weights; without them that part is left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.speed.processes import floor
from benchmarks.speed.plot import draw
from benchmarks.speed.page import goals_text, render
from benchmarks.speed.results import Results, load, save
from benchmarks.speed.rivals import measure_bitmask, measure_prune, measure_start
from benchmarks.speed.stages import Bench, Subject, make_checkpoint, measure_levels, measure_upkeep

GROWTH = (0.25, 1.0, 4.0)
QUICK_GROWTH = (0.01, 0.02, 0.04)
DTYPES = ("bf16", "fp32")


def main() -> None:
    """Measure, or write the page again from figures."""
    options = _options()
    page = "performance"
    if options.render:
        results = load(options.docs / f"{page}.json")
    else:
        if options.folder is not None:
            options.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="elsa-bench-", dir=options.folder) as folder:
            results = _measure(options, Path(folder))
    for dtype in (*results.options["dtypes"], ""):
        print(f"{dtype or 'start'}\n{goals_text(results.claims, dtype)}")
    if options.docs is None:
        return
    options.docs.mkdir(parents=True, exist_ok=True)
    if not options.render:
        save(results, options.docs / f"{page}.json")
    (options.docs / f"{page}.md").write_text(render(results))
    draw(results, options.docs / f"{page}.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where files are written and removed again"
    )
    parser.add_argument("--size", type=float, default=1.0, help="GB of a checkpoint [1.0]")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count [5]")
    parser.add_argument("--docs", type=Path, help="where the page goes [docs; none with --quick]")
    parser.add_argument("--no-peers", action="store_true", help="leave out other tools")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--render", action="store_true", help="only write the page again")
    options = parser.parse_args()
    if options.runs < 1 or options.size <= 0:
        parser.error("--size and --runs must be positive")
    if options.render and options.quick:
        parser.error("--render writes the page of a real run")
    if options.quick:
        options.size, options.runs = QUICK_GROWTH[1], 1
    elif options.docs is None:
        options.docs = Path("docs")
    return options


def _measure(options: argparse.Namespace, folder: Path) -> Results:
    """Run everything."""
    results = Results(machine=describe(folder))
    bench = Bench(folder, options.runs, results, warm=not options.quick)
    sizes = QUICK_GROWTH if options.quick else GROWTH
    results.options = {"size": options.size, "runs": options.runs, "dtypes": list(DTYPES)}
    for dtype in DTYPES:
        subject = Subject(dtype, dtype, folder / "dense.safetensors")
        bench.log(f"{dtype}: {options.size:g} GB")
        make_checkpoint(subject, int(options.size * 1e9))
        measure_levels(bench, subject, claims=True)
        measure_upkeep(bench, subject)
        if not options.no_peers:
            measure_bitmask(bench, subject)
            if dtype == "fp32":
                measure_prune(bench, subject)
        subject.remove()
    bench.runs = min(options.runs, 3)
    for size in sizes:
        if size != options.size:
            subject = Subject("growth", "bf16", folder / "dense.safetensors")
            bench.log(f"growth: {size:g} GB")
            make_checkpoint(subject, int(size * 1e9))
            measure_levels(bench, subject, claims=False)
            subject.remove()
    largest = max(sizes)
    for what, goal in (("sparsify", 300.0), ("extract", 200.0)):
        peak = max(r.ours.peak for r in results.rows if r.what == what and r.dtype == "bf16")
        label = f"{what}, peak memory up to {largest:g} GB"
        bench.claim("bf16", label, peak / 1e6, goal, unit="MB")
    measure_start(bench, 3 if options.quick else 15)
    results.options["floor"] = f"{floor() / 1e6:.0f} MB"
    for heavy in ("numpy", "torch", "matplotlib"):
        assert heavy not in sys.modules, f"{heavy} would count as memory of what is measured"
    return results


if __name__ == "__main__":
    main()
