"""Measure what nesting costs in accuracy: `python -m benchmarks.quality`.

Writes docs/quality.md, .json and .png. Networks trained in one file are compared with the same
networks trained each by itself, for as long in all, from the same dense checkpoint.

Every figure goes into a file under build/quality as soon as it is there; a run that was interrupted
continues when it is started again. Several processes can work side by side, each on other tasks or
seeds; `--render` makes the page of all their files. Start it in the repository's root; the
data must be there, as examples/fashion_mnist.py and examples/tiny_gpt.py tell.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import options as shared
from benchmarks.machine import describe_training
from benchmarks.page import write
from benchmarks.quality.page import render
from benchmarks.quality.plot import draw
from benchmarks.quality.records import Measurement, Records
from benchmarks.quality.runs import (
    NESTED,
    dense_start,
    measured_items,
    nested,
    separate,
    steps_of,
    zeroed,
)
from benchmarks.quality.tasks import ALL_LEVELS, DENSE, TASKS, Task, quick
from elsa_cli import TrainOptions
from elsa_cli.errors import Interrupted

# Those that no run sets; the page tells them.
TOLD = ("schedule", "init", "norm", "reselect", "precision", "accumulate", "clip_norm")


class Bench:
    """Measures one task with one seed, and skips what is known.

    Args:
        task: The task.
        seed: The seed.
        records: What is known.
        part: The file that holds it.
        folder: Where networks are kept between runs.
    """

    def __init__(self, task: Task, seed: int, records: Records, part: Path, folder: Path) -> None:
        """Make a folder for this task as it is planned now."""
        self.task, self.seed, self.records, self.part = task, seed, records, part
        digest = hashlib.sha256(json.dumps(task.plan()).encode()).hexdigest()[:8]
        self.folder = folder / f"{task.name}-{seed}-{digest}-{torch.get_num_threads()}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start = self.folder / "dense.safetensors"
        self.masked = self.folder / "dense.elsa.safetensors"

    def run(self) -> None:
        """Measure what is missing."""
        task, seed = self.task, self.seed
        if task.name not in self.records.items:
            self.records.items[task.name] = measured_items(task)
            self.records.steps[task.name] = steps_of(task, task.load(), 1)
        if not self.start.exists():
            dense_start(task, self.start, self.masked, seed)
        self._measure("zeroed", ALL_LEVELS, lambda: {"zeroed": zeroed(task, self.masked)})
        for level in ALL_LEVELS:
            self._alone("separate", level, task.epochs)
        for what in NESTED:
            self._measure(what, ALL_LEVELS, lambda what=what: self._nested(what))  # type: ignore[misc]
        self._alone("longer", DENSE, task.all_epochs)

    def _alone(self, what: str, level: str, epochs: float) -> None:
        """Train one level by itself."""

        def work() -> dict[str, dict[str, float]]:
            value = separate(self.task, self.start, self.masked, level, epochs, self.seed)
            return {what: {level: value}}

        self._measure(what, (level,), work)

    def _nested(self, what: str) -> dict[str, Mapping[str, float]]:
        """Train all levels; the figures at the end of each stage have a name of their own."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:  # no saves: they hide time
            output = Path(folder) / "nested.elsa.safetensors"
            found = nested(self.task, self.masked, output, self.seed, what)
        return {f"{what} stage": found.stage, what: found.file}

    def _measure(
        self,
        what: str,
        levels: Sequence[str],
        work: Callable[[], Mapping[str, Mapping[str, float]]],
    ) -> None:
        """Run something unless its figures are there, and keep them."""
        name = self.task.name
        if all(self.seed in self.records.values(name, what, level) for level in levels):
            return
        begin = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - begin
        for key, values in found.items():
            assert set(values) == set(levels), f"{key}: {list(values)}, not {list(levels)}"
            for level in levels:
                share = seconds / len(levels) if key == what else 0.0
                self.records.found.append(
                    Measurement(name, self.seed, key, level, values[level], round(share, 3))
                )
        self.records.save(self.part)
        told = ", ".join(f"{level} {found[what][level]:.4g}" for level in levels)
        print(f"{name} {self.seed} {what}: {told} ({seconds:.1f} s)", flush=True)


def main() -> None:
    """Measure, write the page, or both."""
    try:
        _run(_options())
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; the same command continues from here", file=sys.stderr)
        sys.exit(130)


def _run(options: argparse.Namespace) -> None:
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="elsa-quality-") as folder:
            options.folder = Path(folder)
            records = _merged(_measure(options, {"digits": quick(TASKS["digits"])}))
    elif options.render:
        records = _merged(options.part or sorted(options.folder.glob("*.json")))
    else:
        tasks = {n: t for n, t in TASKS.items() if options.task in (None, n)}
        parts = _measure(options, tasks)
        if options.task is not None or options.seed is not None:
            return  # the page is for all of them: --render
        records = _merged(parts)
    write(options.docs, "quality", render(records), records)
    if options.docs is not None:
        draw(records, options.docs / "quality.png")


def _measure(options: argparse.Namespace, tasks: Mapping[str, Task]) -> list[Path]:
    """Measure tasks, and return the files with the figures."""
    torch.set_num_threads(options.threads)
    parts: list[Path] = []
    for task in tasks.values():
        for seed in range(task.seeds) if options.seed is None else (options.seed,):
            part = options.folder / f"{task.name}-{seed}.json"
            if options.part:
                part = options.part[0]
            now = Records(
                machine=describe_training("CPU", options.threads),
                defaults={name: str(getattr(TrainOptions(), name)) for name in TOLD},
                plans={task.name: task.plan()},
            )
            records = Records.load(part)
            records.merge(now, str(part))
            Bench(task, seed, records, part, options.folder).run()
            parts.append(part)
    return list(dict.fromkeys(parts))


def _merged(parts: Sequence[Path]) -> Records:
    """Return what all files hold together.

    Raises:
        SystemExit: There is none, or they do not go together.
    """
    if not parts:
        raise SystemExit("nothing was measured yet")
    records = Records()
    for part in parts:
        records.merge(Records.load(part), str(part))
    return records


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=list(TASKS), help="one task [all of them]")
    parser.add_argument("--seed", type=int, metavar="N", help="one seed, from 0 [all of them]")
    parser.add_argument(
        "--part",
        type=Path,
        action="append",
        metavar="FILE",
        help="where the figures go [FOLDER/TASK-SEED.json]; with --render where they are, "
        "several times if wanted [FOLDER/*.json]",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/quality"), help="[build/quality]"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch [1]")
    parser.add_argument("--render", action="store_true", help="only write the page")
    shared.add_docs(parser, "a few epochs")
    options = shared.parse(parser)
    if options.threads < 1 or (options.seed is not None and options.seed < 0):
        parser.error("--threads counts from 1, --seed from 0")
    if options.quick and (options.render or options.task or options.seed or options.part):
        parser.error("--quick goes with --threads and --docs alone")
    if not options.render and options.part and len(options.part) > 1:
        parser.error("--part: figures go to one file")
    return options


if __name__ == "__main__":
    main()
