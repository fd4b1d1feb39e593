"""Turn results into docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.plot import growth
from benchmarks.speed.results import Claim, Results, Row, Spread

__all__ = ["goals_text", "render", "spread_text", "table"]

INTRODUCTION = """\
Written by `python -m benchmarks.speed`; the figures behind it are in
[performance.json](performance.json). Checkpoints have {size:g} GB. Rounds: {runs}, 3 at most beside
other tools and over other sizes, 15 for the start. All comparisons are
ratios from one run on one machine; absolute times say little about another.
"""

METHOD = """\
- Every command is timed as a whole process, from start to exit, interpreter and imports included.
- Checkpoints are generated: normal weights, a scale of its own for each matrix, an embedding of a
  tenth of the weights, norms; names and shapes as in a small language model.
- A command and `cp` of the file it is compared with run in turn on one file system, each onto a
  path that does not exist; a first round is not counted, so inputs lie in the page cache. Before
  every run the file system is synced. Every other round runs backwards. A ratio is taken within a
  round; the tables show the median and, in brackets, smallest and largest.
- Peak memory is the resident set the kernel reports for the ended process, the largest over all
  rounds, file pages mapped into it included. It cannot be told apart below the size of the process
  that measures, {floor}: `cp` needs less than the tables say.
- Sizes are decimal: 1 GB is 10⁹ bytes.
"""

REMARKS = """\
- `cp` leaves its output in the page cache; an elsa command that writes ends with an fsync before
  its output gets its name, so that a file is complete or absent. The goals count against plain
  `cp` all the same. The column "× cp + fsync" compares with `cp a b && sync b`, which does as much.
- Beside compressed-tensors the jobs are not the same. Its compressor takes one sparse network and
  writes that one; `pack` takes a nested checkpoint and writes every weight of the dense network and
  three masks. Extracting and decompressing do the same job: both write the network at 0.9. A
  large part of the peers' whole processes is importing torch and what comes with it, so two more
  figures are taken inside them: "without imports" is loading, the call and saving; "the call alone"
  leaves out loading and saving too. Both stand beside a whole elsa process.
- `torch.nn.utils.prune` makes one sparse network; `sparsify` chooses three masks and keeps the
  dense weights. "sparsify to 0.9, then extract" is the job of the peer: two processes, one level.
- What keeps `sparsify` and `pack` from their goals is arithmetic, not reading or writing: see the
  CPU seconds beside those of `cp`. `sparsify` compares every weight with a few keys for each level,
  twice: to find the cuts and to make the masks. `pack` finds the positions of every shell, codes
  the masks and deals the weights out. Each is a handful of numpy calls a weight; they fill two
  cores, and a `cp` inside the kernel moves several GB a second.
- Generated weights are independent of each other within a matrix. The entropy
  is that of each matrix's counts; masks of trained networks have structure beyond them, which was
  not measured here.
"""


def render(results: Results) -> str:
    """Return the page."""
    options = results.options
    parts = ["# Performance", "", INTRODUCTION.format(**options)]
    for dtype in options["dtypes"]:
        parts += [f"## {dtype}, goals", "", goals_text(results.claims, dtype)]
        rows = [row for row in results.rows if row.section == dtype]
        parts += [f"## {dtype}, times", "", _times(rows)]
    parts += ["## Start", "", goals_text(results.claims, "")]
    rows = [row for row in results.rows if row.section == "peers"]
    if rows:
        parts += ["## Other tools on the same weights", "", _peers(rows)]
    parts += ["## Growth", "", "![Time and memory over size](performance.png)", ""]
    parts += [_growth(results)]
    if results.facts:
        parts += ["## Also found", "", *(f"- {fact}" for fact in results.facts), ""]
    parts += ["## Machine", "", table(["", ""], [[k, v] for k, v in results.machine.items()])]
    parts += ["## How it was measured", "", METHOD.format(floor=options["floor"])]
    parts += ["## Remarks", "", REMARKS]
    return "\n".join(parts).rstrip() + "\n"


def goals_text(claims: Sequence[Claim], dtype: str) -> str:
    """Return the table of the goals of a dtype, or of those without one."""
    rows = []
    for c in claims:
        if c.dtype == dtype:
            bound = f"{'≥' if c.at_least else '≤'} {c.goal:g} {c.unit}"
            met = "yes" if c.met else "**no**"
            rows.append([c.what, f"{spread_text(c.found)} {c.unit}", bound, met])
    return table(["what", "found", "goal", "met"], rows)


def _times(rows: Sequence[Row]) -> str:
    head = ["command", "s", "CPU s", "peak", "written", "beside", "s", "× cp", "× cp + fsync"]
    return table(
        head,
        [
            [
                row.what,
                spread_text(row.ours.seconds),
                f"{row.ours.cpu:.2f}",
                _mb(row.ours.peak),
                _mb(row.written) if row.written else "–",
                row.against,
                spread_text(row.base.seconds),
                spread_text(row.ratio),
                spread_text(row.synced) if row.synced else "–",
            ]
            for row in rows
        ],
    )


def _peers(rows: Sequence[Row]) -> str:
    head = ["elsa", "s", "peak", "beside", "s", "peak", "file", "elsa is faster"]
    return table(
        head,
        [
            [
                row.what,
                spread_text(row.ours.seconds),
                _mb(row.ours.peak),
                row.against,
                spread_text(row.base.seconds),
                _mb(row.base.peak),
                f"{row.size / 1e9:.2f} GB {row.dtype}",
                f"{1 / row.ratio.median:.1f} × ({1 / row.ratio.high:.1f}–{1 / row.ratio.low:.1f})",
            ]
            for row in rows
        ],
    )


def _growth(results: Results) -> str:
    rows = [
        [
            f"{row.size / 1e9:.2f} GB",
            what,
            spread_text(row.ours.seconds),
            _mb(row.ours.peak),
            row.against,
            spread_text(row.base.seconds),
            spread_text(row.ratio),
        ]
        for what, of in growth(results).items()
        for row in of
    ]
    return table(["checkpoint, bf16", "command", "s", "peak", "beside", "s", "× cp"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread_text(s: Spread) -> str:
    """Return the median and, if they differ, smallest and largest."""
    digits = 0 if s.median >= 100 else 1 if s.median >= 20 else 2
    if s.median < 0.1 or (s.low == s.high and s.median < 10):  # the latter is counted, not timed
        digits = 3
    middle = f"{s.median:,.{digits}f}"
    return middle if s.low == s.high else f"{middle} ({s.low:,.{digits}f}–{s.high:,.{digits}f})"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f} MB"
