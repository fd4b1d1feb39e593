"""Measure what many small tensors cost: `python -m benchmarks.speed.many_tensors`.

Writes docs/many_tensors.md and docs/many_tensors.json. Every command runs on checkpoints of many
matrices of 8x8, with short and with long names, and on one matrix of the same bytes.
"""

from __future__ import annotations

import argparse
import random
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import options as shared
from benchmarks.figures import Spread
from benchmarks.machine import describe
from benchmarks.page import join, machine_table, spread_text, table, verdict, write
from benchmarks.speed.header import encode_header
from benchmarks.speed.processes import Command, rounds

__all__ = ["ManyResults", "Measured", "main", "render"]

TENSORS, QUICK = 30_000, 300
SIDE = 8
LEVELS = "0.5,0.9"
FACTOR, EXTRA = 3, 5.0  # the goal: at most FACTOR times the one tensor, and EXTRA seconds

NAMES: dict[str, Callable[[int], str]] = {
    "short": lambda n: f"m.{n}.w",
    "long": lambda n: (
        f"model.language_model.layers.{n // 512}.block_sparse_moe.experts.{n % 512 // 4}."
        f"feed_forward.projection_{n % 4}.weight"
    ),
}

INTRODUCTION = """\
Written by `python -m benchmarks.speed.many_tensors`; the figures behind it are in
[many_tensors.json](many_tensors.json). Every command runs on a checkpoint of {tensors:,} F32
matrices of 8 × 8, once with short and once with long names, and on one of a single matrix of the
same {megabytes:.2f} MB of weights.
"""

METHOD = """\
- Every command is timed as a whole process, from start to exit, interpreter and imports included;
  standard output and standard error go to files, so a table is written and no bar is drawn.
- The three checkpoints take turns. Rounds: {rounds}, and one before them that is not counted, so
  inputs lie in the page cache. Before every run the file system is synced. Tables show the median
  and, in brackets, smallest and largest.
- Short names are such as `{short}`, long ones such as `{long}`.
- `load_level` is the function, called in a new interpreter, with arrays of numpy.
- The levels are {levels}.
"""


@dataclass(frozen=True)
class Measured:
    """One command.

    Attributes:
        what: The command, in words.
        one: Seconds with the one tensor.
        many: Seconds with many tensors, by kind of name.
    """

    what: str
    one: Spread
    many: dict[str, Spread]

    @property
    def limit(self) -> float:
        """The most seconds that the goal allows."""
        return FACTOR * self.one.median + EXTRA


@dataclass
class ManyResults:
    """Everything a run found.

    Attributes:
        machine: Where it ran, in words.
        rounds: Rounds that counted.
        tensors: Number of small tensors.
        commands: What was measured.
    """

    machine: dict[str, str]
    rounds: int
    tensors: int
    commands: list[Measured] = field(default_factory=list)


class Files:
    """The files made of one dense checkpoint."""

    def __init__(self, folder: Path, name: str) -> None:
        """Name them."""
        self._stem = folder / name
        self.dense = self.at("safetensors")
        self.nested = self.at("elsa.safetensors")
        self.packed = self.at("packed.elsa.safetensors")
        self.scratch = self.at("again.safetensors")
        self.sparse = [self.at(f"{level}.safetensors") for level in LEVELS.split(",")]

    def at(self, ending: str) -> Path:
        """Return the file with an ending."""
        return self._stem.with_name(f"{self._stem.name}.{ending}")

    def commands(self) -> Iterator[tuple[str, Command]]:
        """Yield what is measured, in an order in which each finds its inputs."""
        dense, nested, packed = map(str, (self.dense, self.nested, self.packed))
        sparse = list(map(str, self.sparse))
        template = str(self.at("{level}.safetensors"))
        scratch, to = [self.scratch], ["-o", str(self.scratch)]
        sparsify = ["sparsify", dense, "--levels", LEVELS]
        yield "sparsify", _elsa([*sparsify, "-o", nested], [self.nested])
        yield "sparsify --scope layer", _elsa([*sparsify, "--scope", "layer", *to], scratch)
        extract = ["extract", nested, "--level", LEVELS, "-o", template]
        yield "extract, two levels", _elsa(extract, self.sparse)
        yield "pack", _elsa(["pack", nested, "-o", packed], [self.packed])
        yield "extract from packed", _elsa(["extract", packed, "--level", "0.9", *to], scratch)
        yield "pack --unpack", _elsa(["pack", "--unpack", packed, *to], scratch)
        yield "pack, a bundle of three", _elsa(["pack", dense, *sparse, *to], scratch)
        yield "verify", _elsa(["verify", nested])
        yield "verify, packed", _elsa(["verify", packed])
        yield "inspect", _elsa(["inspect", nested])
        yield "inspect --json", _elsa(["inspect", nested, "--json"])
        yield "inspect --json, plain", _elsa(["inspect", dense, "--json"])
        yield "load_level", _load(nested)
        yield "load_level, packed", _load(packed)


def _elsa(arguments: Sequence[str], outputs: Sequence[Path] = ()) -> Command:
    return Command([sys.executable, "-m", "elsa_cli", *arguments], outputs, keep=True)


def _load(path: str) -> Command:
    code = "import sys, elsa_cli; elsa_cli.load_level(sys.argv[1], 0.9, framework='numpy')"
    return Command([sys.executable, "-c", code, path])


def main() -> None:
    """Measure, and write the page."""
    options = _options()
    with shared.scratch(options) as folder:
        results = ManyResults(describe(folder), options.rounds, options.tensors)
        _measure(results, folder, warm=not options.quick)
    write(options.docs, "many_tensors", render(results), results)
    if options.docs is not None:
        print(_goals(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.many_tensors", description=__doc__
    )
    shared.add_folder(parser)
    parser.add_argument("--tensors", type=int, default=TENSORS, help=f"how many [{TENSORS}]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count [3]")
    shared.add_docs(parser, "few tensors")
    options = shared.parse(parser)
    if options.rounds < 1 or options.tensors < 1:
        parser.error("--rounds and --tensors count from 1")
    if options.quick:
        options.tensors, options.rounds = min(options.tensors, QUICK), 1
    return options


def _measure(results: ManyResults, folder: Path, warm: bool) -> None:
    draw = random.Random(0)
    weights = array("f", (draw.gauss(0, 1) for _ in range(results.tensors * SIDE * SIDE)))
    if sys.byteorder == "big":
        weights.byteswap()
    files = {name: Files(folder, name) for name in ("one", *NAMES)}
    _save(files["one"].dense, {"w": (results.tensors * SIDE, SIDE)}, weights)
    for name, of in NAMES.items():
        shapes = {of(n): (SIDE, SIDE) for n in range(results.tensors)}
        _save(files[name].dense, dict(sorted(shapes.items())), weights)
    for turn in zip(*(of.commands() for of in files.values()), strict=True):
        what = turn[0][0]
        print(f"{what} …", flush=True)
        done = rounds([command for _, command in turn], results.rounds, warm)
        one, *many = (Spread.of(run.seconds for run in runs) for runs in done)
        results.commands.append(Measured(what, one, dict(zip(NAMES, many, strict=True))))


def _save(path: Path, shapes: dict[str, tuple[int, ...]], weights: array[float]) -> None:
    """Write F32 weights, dealt out to tensors in their order."""
    path.write_bytes(encode_header(shapes, 4) + weights.tobytes())


def render(results: ManyResults) -> str:
    """Return the page."""
    megabytes = results.tensors * SIDE * SIDE * 4 / 1e6
    text = INTRODUCTION.format(tensors=results.tensors, megabytes=megabytes)
    goal = f"## Goal: at most {FACTOR} × the one tensor + {EXTRA:g} s"
    parts = ["# Many small tensors", "", text, goal, "", _goals(results)]
    parts += machine_table(results.machine)
    examples = {name: of(results.tensors - 1) for name, of in NAMES.items()}
    method = METHOD.format(rounds=results.rounds, levels=LEVELS.replace(",", " and "), **examples)
    parts += ["## How it was measured", "", method]
    return join(parts)


def _goals(results: ManyResults) -> str:
    head = ["command", "one tensor, s"]
    for name in NAMES:
        head += [f"many, {name} names, s", "× one"]
    rows = []
    for c in results.commands:
        row = [c.what, spread_text(c.one)]
        for spread in c.many.values():
            row += [spread_text(spread), f"{spread.median / c.one.median:.1f}"]
        met = all(spread.median <= c.limit for spread in c.many.values())
        rows.append([*row, f"≤ {c.limit:.2f} s", verdict(met)])
    return table([*head, "goal", "met"], rows)


if __name__ == "__main__":
    main()
