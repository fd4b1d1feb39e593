"""Turn what benchmarks.step finds into docs/step.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.figures import Spread
from benchmarks.goals import STEP
from benchmarks.page import join, machine_table, spread_text, table, verdict

__all__ = ["Case", "Held", "StepResults", "render"]

NAMES = {"plain": "plain", "frozen": "FrozenMask", "pruned": "torch.nn.utils.prune"}

INTRODUCTION = """\
Written by `python -m benchmarks.step`; the figures behind it are in [step.json](step.json).
Compared is a training step (forward, backward, optimizer, clearing of gradients) of one network in
three ways: plain; with elsa's `FrozenMask` attached, which holds {zero:.0%} of the prunable weights
at zero and {frozen:.0%} at the bits they have; and with the masks of `torch.nn.utils.prune` on the
same weights, which can hold zeros alone.
"""

METHOD = """\
- The three take a step each, in turn, in one process and on one batch: {rounds} rounds, and two
  before them that are not counted. A ratio is taken within a round. Tables show the median and, in
  brackets, the quartiles.
- All weights of convolutions and linear layers are prunable, except a language model's head. The
  masks are drawn at random; the work does not depend on where they lie.
- SGD has momentum, both optimizers have weight decay; both are torch's default implementations.
- The profile runs the two additions of `FrozenMask` by themselves, on all weights one after the
  other. In a step the gradient of a weight is cleared right after it is computed.
- A frozen weight counts as changed if its value differs from that before the first step, a zero if
  it is not zero any more.
"""


@dataclass(frozen=True)
class Held:
    """Weights that should be as they were, and those that are not.

    Attributes:
        frozen: Frozen weights.
        moved: Those of them with another value.
        zero: Weights outside the mask.
        filled: Those of them that are not zero.
    """

    frozen: int
    moved: int
    zero: int
    filled: int


@dataclass(frozen=True)
class Case:
    """A network with an optimizer; mappings are by variant: plain, frozen, pruned.

    Attributes:
        network: Its name.
        optimizer: Its name.
        parameters: All of its parameters.
        weights: The prunable ones.
        batch: What a step learns from, in words.
        steps: Steps that each variant took.
        seconds: Time of a step.
        ratio: Time over that of the plain step of the same round.
        held: What the steps left as it was, but for plain.
        clearing: Seconds to clear the gradients of 10 million weights.
        restoring: Seconds to restore the bits of 10 million weights.
    """

    network: str
    optimizer: str
    parameters: int
    weights: int
    batch: str
    steps: int
    seconds: Mapping[str, Spread]
    ratio: Mapping[str, Spread]
    held: Mapping[str, Held]
    clearing: Spread
    restoring: Spread


@dataclass
class StepResults:
    """Everything a run found.

    Attributes:
        machine: Where it ran, in words.
        rounds: Rounds that counted.
        kept: Share of the prunable weights that are not zero.
        frozen: Share of the prunable weights that are frozen.
        cases: What was measured.
    """

    machine: dict[str, str]
    rounds: int
    kept: float
    frozen: float
    cases: list[Case]


def render(results: StepResults) -> str:
    """Return the page."""
    cases = results.cases
    text = INTRODUCTION.format(zero=1 - results.kept, frozen=results.frozen)
    parts = ["# A training step", "", text, f"## Goal: {STEP.text}", ""]
    parts += [_goals(cases), "## Times", "", _times(cases), "## What freezing adds", ""]
    parts += [_profile(cases), "## What is held", "", _held(cases), "## Networks", ""]
    parts += [_networks(cases), *machine_table(results.machine)]
    parts += ["## How it was measured", "", METHOD.format(rounds=results.rounds)]
    return join(parts)


def _goals(cases: list[Case]) -> str:
    rows = []
    for case in cases:
        found = case.ratio["frozen"]
        row = [case.network, case.optimizer, _ratio(found), STEP.text, verdict(STEP.met(found))]
        rows.append(row)
    return table(["network", "optimizer", "FrozenMask, × plain", "goal", "met"], rows)


def _times(cases: list[Case]) -> str:
    head = ["network", "optimizer", *(f"{name}, s" for name in NAMES.values())]
    head += [f"{NAMES[which]}, × plain" for which in ("frozen", "pruned")]
    rows = []
    for case in cases:
        row = [case.network, case.optimizer, *(spread_text(case.seconds[w]) for w in NAMES)]
        rows.append([*row, *(_ratio(case.ratio[w]) for w in ("frozen", "pruned"))])
    return table(head, rows)


def _profile(cases: list[Case]) -> str:
    head = ["network", "optimizer", "clearing gradients, ms per 10 M weights"]
    head += ["restoring bits, ms per 10 M weights", "both on its weights, share of a plain step"]
    rows = []
    for case in cases:
        both = (case.clearing.median + case.restoring.median) * case.weights / 1e7
        share = both / case.seconds["plain"].median
        row = [case.network, case.optimizer, _ms(case.clearing), _ms(case.restoring)]
        rows.append([*row, f"{share:.1%}"])
    return table(head, rows)


def _held(cases: list[Case]) -> str:
    head = ["network", "optimizer", "steps", "", "frozen weights changed", "zeros filled"]
    rows = [
        [
            case.network,
            case.optimizer,
            str(case.steps),
            NAMES[which],
            f"{held.moved:,} of {held.frozen:,}",
            f"{held.filled:,} of {held.zero:,}",
        ]
        for case in cases
        for which, held in case.held.items()
    ]
    return table(head, rows)


def _networks(cases: list[Case]) -> str:
    rows = {c.network: [c.network, f"{c.parameters:,}", f"{c.weights:,}", c.batch] for c in cases}
    return table(["network", "parameters", "prunable", "batch"], list(rows.values()))


def _ratio(s: Spread) -> str:
    return f"{s.median:.3f} ({s.low:.3f}–{s.high:.3f})"


def _ms(s: Spread) -> str:
    return f"{1e3 * s.median:.2f} ({1e3 * s.low:.2f}–{1e3 * s.high:.2f})"
