"""What the page of speed says in words; nothing here depends on what was found."""

from __future__ import annotations

__all__ = ["INTRODUCTION", "METHOD", "PEERS", "PROFILES"]

INTRODUCTION = """\
Written by `python -m benchmarks.speed`; the figures behind it are in
[performance.json](performance.json). Checkpoints have {size:g} GB. Figures are the medians of
{runs} rounds ({start_runs} for the start); brackets hold the smallest and the largest. "cp" in a
goal is `cp a b && sync b`, as every command of elsa that writes ends with an fsync; plain `cp`
stands beside it. All comparisons are ratios from one run on one machine; absolute times say little
about another.
"""

METHOD = """\
- Every command is timed as a whole process, from start to exit, interpreter and imports included.
  Wall time, user and system CPU seconds and peak memory are those that the kernel reports for the
  ended process.
- Checkpoints are generated: normal weights, a different scale for each matrix, an embedding of a
  tenth of the weights, norms; names and shapes as in a small language model. A user second "per 10⁹
  weights" counts all of them, and the start of the process with them.
- A command and its neighbours run in turn on one file system, each onto a path that does not exist.
  A first round is not counted, so inputs lie in the page cache and compiled kernels in theirs.
  Before every run the file system is synced. Every other round runs backwards. A ratio is taken
  within a round.
- Both forms of `extract` stand beside a copy of a file as large as what they write, `pack --unpack`
  too; all other commands stand beside a copy of their input.
- Under Growth, the three sizes of a command take turns within a round.
- Peak memory is the resident set, the largest over all rounds, file pages mapped into it included.
  It cannot be told apart below the size of the process that measures, {floor}: `cp` needs less than
  the tables say.
- The entropy of masks is that of each matrix's counts; generated weights are independent of each
  other within a matrix.
- Sizes are decimal: 1 GB is 10⁹ bytes.
"""

PEERS = """\
- Beside compressed-tensors the jobs are not the same. Its compressor takes one sparse network and
  writes that one; `pack` takes a nested checkpoint and writes every weight of the dense network and
  three masks. Extracting and decompressing do the same job: both write the network at 0.9.
- "without imports" is loading, the call and saving, as timed inside the other tool's process; "the
  call alone" leaves out loading and saving too. Both stand beside a whole process of elsa.
- `torch.nn.utils.prune` makes one sparse network; `sparsify` chooses three masks and keeps the
  dense weights. "sparsify to 0.9, then extract" is the job of the other tool: two processes, one
  level.
"""

PROFILES = """\
CPU seconds inside the functions of the commands that miss a goal: one more run of each, after its
rounds, in which a thread looks every few milliseconds where the others are. Time in a library
counts for the function of elsa that called it.
"""
