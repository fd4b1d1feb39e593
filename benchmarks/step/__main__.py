"""Measure what freezing adds to a training step: `python -m benchmarks.step`.

Writes docs/step.md and docs/step.json. Three networks of one shape take steps in turn, in one
process: one plain, one with FrozenMask attached, one with the masks of `torch.nn.utils.prune`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks import options as shared
from benchmarks.figures import quartiles
from benchmarks.machine import describe_training
from benchmarks.page import write
from benchmarks.step.networks import SUBJECTS, Subject
from benchmarks.step.page import Case, StepResults, render
from benchmarks.step.variants import FROZEN, KEPT, OPTIMIZERS, Frozen, Masks, Pruned, Variant
from elsa_cli.models.device import pick_device

WARM = 2  # rounds that are not counted
PER = 10_000_000  # the profile says seconds for this many weights


class Bench:
    """Times steps on a device.

    Args:
        device: Where it computes.
        rounds: How many rounds are counted.
        quick: Whether tiny networks will do.
    """

    def __init__(self, device: torch.device, rounds: int, *, quick: bool) -> None:
        """Remember how to measure."""
        self.device, self.rounds, self.quick = device, rounds, quick

    def seconds(self, work: Callable[[], None]) -> float:
        """Return how long something takes, until the device is done with it."""
        self._wait()
        begin = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure(self, subject: Subject, optimizer: str) -> Case:
        """Let the three variants take steps in turn, then time what freezing adds."""
        torch.manual_seed(0)
        many = subject.many if self.device.type == "cuda" else subject.examples
        examples = 4 if self.quick else many
        inputs, targets = (t.to(self.device) for t in subject.batch(self.quick, examples))
        masks = Masks.draw(subject.model(self.quick)).to(self.device)
        plain, frozen, pruned = (
            self._make(kind, subject, optimizer, masks) for kind in (Variant, Frozen, Pruned)
        )
        assert isinstance(frozen, Frozen)
        variants = {"plain": plain, "frozen": frozen, "pruned": pruned}
        times: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(-WARM, self.rounds):
            for name, variant in variants.items():
                seconds = self.seconds(lambda v=variant: v.step((inputs, targets)))  # type: ignore[misc]
                if number >= 0:
                    times[name].append(seconds)
        frozen.freeze.check()
        held = {name: variants[name].held(inputs) for name in ("frozen", "pruned")}
        frozen.backward(inputs, targets)
        weights = sum(mask.numel() for mask in masks.kept.values())
        scale = PER / weights
        return Case(
            network=subject.name,
            optimizer=optimizer,
            parameters=sum(p.numel() for p in plain.model.parameters()),
            weights=weights,
            batch=f"{examples} {subject.words}" if not self.quick else f"{examples} tiny examples",
            steps=self.rounds + WARM,
            seconds={name: quartiles(found) for name, found in times.items()},
            ratio={
                name: quartiles(a / b for a, b in zip(found, times["plain"], strict=True))
                for name, found in times.items()
                if name != "plain"
            },
            held=held,
            clearing=quartiles(scale * s for s in self._repeat(frozen.clear)),
            restoring=quartiles(scale * s for s in self._repeat(frozen.freeze.restore)),
        )

    def _make(self, kind: type[Variant], subject: Subject, optimizer: str, masks: Masks) -> Variant:
        torch.manual_seed(1)
        return kind(subject.model(self.quick).to(self.device), optimizer, masks)

    def _repeat(self, work: Callable[[], None]) -> list[float]:
        return [self.seconds(work) for _ in range(-WARM, self.rounds)][WARM:]


def main() -> None:
    """Measure, and write the page."""
    options = _options()
    device = pick_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    machine = describe_training(words, torch.get_num_threads())
    results = StepResults(machine, options.rounds, KEPT, FROZEN, [])
    bench = Bench(device, options.rounds, quick=options.quick)
    for subject in SUBJECTS:
        for optimizer in OPTIMIZERS:
            print(f"{subject.name}, {optimizer} …", flush=True)
            results.cases.append(bench.measure(subject, optimizer))
    write(options.docs, "step", render(results), results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="rounds that count [40]")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[auto]")
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU [torch's choice]")
    shared.add_docs(parser, "tiny networks")
    options = shared.parse(parser)
    if options.rounds < 2 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds counts from 2, --threads from 1")
    if options.quick:
        options.rounds = min(options.rounds, 5)
    return options


if __name__ == "__main__":
    main()
