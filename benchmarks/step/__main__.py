"""Measure what freezing adds to a training step: `python -m benchmarks.step`.

Writes docs/step.md and docs/step.json. Three networks of one shape take steps in turn, in one
process: one plain, one with FrozenMask attached, one with the masks of `torch.nn.utils.prune`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from benchmarks.machine import describe_training
from benchmarks.speed.results import Spread
from benchmarks.step.networks import SUBJECTS, Batch, Subject, prunable
from benchmarks.step.page import Case, Held, StepResults, render
from elsa_cli import FrozenMask
from elsa_cli.models.device import pick_device

KEPT = 0.3  # of the weights: the level that is trained
FROZEN = 0.1  # the level that is done
WARM = 2  # rounds that are not counted
LR = 1e-3
WEIGHT_DECAY = 1e-2
PER = 10_000_000  # weights that the profile is told for

OPTIMIZERS: Mapping[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=WEIGHT_DECAY),
}


@dataclass(frozen=True)
class Masks:
    """The kept and the frozen weights of each module, bool, by its name."""

    kept: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]

    @classmethod
    def draw(cls, model: nn.Module) -> Masks:
        """Draw them at random; the frozen ones lie inside the kept ones."""
        chance = {name: torch.rand(_weight(m).shape) for name, m in prunable(model).items()}
        return cls(
            {name: c < KEPT for name, c in chance.items()},
            {name: c < FROZEN for name, c in chance.items()},
        )

    def to(self, device: torch.device) -> Masks:
        """Return them on a device."""
        return Masks(
            {name: mask.to(device) for name, mask in self.kept.items()},
            {name: mask.to(device) for name, mask in self.frozen.items()},
        )


class Variant:
    """A network, its optimizer, and its weights as they were once they were masked."""

    def __init__(self, model: nn.Module, optimizer: str, masks: Masks) -> None:
        """Mask the weights and make the optimizer."""
        self.model = model
        self.masks = masks
        self.prepare()
        self.before = {name: w.clone() for name, w in self.weights().items()}
        self.optimizer = OPTIMIZERS[optimizer](list(model.parameters()))

    def prepare(self) -> None:
        """Zero what is not kept; the plain network does no more, and so keeps nothing."""
        with torch.no_grad():
            for name, module in prunable(self.model).items():
                module.get_parameter("weight").mul_(self.masks.kept[name])

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that the network computes with."""
        return {name: _weight(m).detach() for name, m in prunable(self.model).items()}

    def step(self, batch: Batch) -> None:
        """Take a training step."""
        inputs, targets = batch
        self.backward(inputs, targets)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def backward(self, inputs: Tensor, targets: Tensor) -> None:
        """Compute gradients."""
        F.cross_entropy(self.model(inputs), targets).backward()  # type: ignore[no-untyped-call]

    def held(self, inputs: Tensor) -> Held:
        """Count what should not have changed, and did."""
        frozen = zero = moved = filled = 0
        with torch.no_grad():
            self.model(inputs)  # prune computes its weights when the network runs
        for name, now in self.weights().items():
            done, empty = self.masks.frozen[name], ~self.masks.kept[name]
            frozen += int(done.sum())
            zero += int(empty.sum())
            moved += int((now[done] != self.before[name][done]).sum())
            filled += int(torch.count_nonzero(now[empty]))
        return Held(frozen=frozen, moved=moved, zero=zero, filled=filled)


class Frozen(Variant):
    """With FrozenMask attached."""

    def __init__(self, model: nn.Module, optimizer: str, masks: Masks) -> None:
        """Attach it."""
        super().__init__(model, optimizer, masks)
        self.freeze.attach(self.optimizer)

    def prepare(self) -> None:
        """Hold the weights."""
        kept, frozen = (
            {f"{name}.weight": mask for name, mask in of.items()}
            for of in (self.masks.kept, self.masks.frozen)
        )
        self.freeze = FrozenMask(self.model, kept, frozen)

    def clear(self) -> None:
        """Run the hooks that a backward pass runs, on the gradients there are."""
        for module in prunable(self.model).values():
            weight: Any = module.get_parameter("weight")
            for hook in (weight._post_accumulate_grad_hooks or {}).values():
                hook(weight)


class Pruned(Variant):
    """With the masks of torch.nn.utils.prune."""

    def prepare(self) -> None:
        """Mask every weight."""
        for name, module in prunable(self.model).items():
            prune.custom_from_mask(module, "weight", self.masks.kept[name])  # type: ignore[no-untyped-call]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def quartiles(figures: Iterable[float]) -> Spread:
    """Return the median, and in place of smallest and largest the quartiles."""
    low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
    return Spread(median, low, high)


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
    page = render(results)
    if options.docs is None:
        print(page)
        return
    options.docs.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(results), indent=1, ensure_ascii=False)
    (options.docs / "step.json").write_text(text + "\n")
    (options.docs / "step.md").write_text(page)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="rounds that count [40]")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[auto]")
    parser.add_argument("--threads", type=int, help="of torch on the CPU [torch's own choice]")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it run at all?")
    parser.add_argument("--docs", type=Path, help="where the page goes [docs; none with --quick]")
    options = parser.parse_args()
    if options.rounds < 2 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds counts from 2, --threads from 1")
    if options.quick:
        options.rounds = min(options.rounds, 5)
    elif options.docs is None:
        options.docs = Path("docs")
    return options


if __name__ == "__main__":
    main()
