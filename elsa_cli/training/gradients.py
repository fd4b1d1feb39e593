"""Which trained parameters have had a gradient: a phase that trains nothing is an error.

Reentrant checkpointing, `detach()` or `no_grad()` can cut the trained parameters off from the loss,
and nothing else would show it. A single parameter without a gradient is no error: an expert may get
no token, a layer may be left out at random, a head may be for export only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from elsa_cli.errors import NoGradient
from elsa_cli.text import listed

__all__ = ["EARLY", "GradientWatch"]

EARLY = 20  # steps after which it is known whether anything is trained
CHANCE = 3  # steps; in fewer, all layers may have been left out at random


class GradientWatch:
    """Looks at each parameter until it has had a gradient once; after that it costs nothing.

    Args:
        parameters: The parameters that the phase trains, each once, by name.
        pruned: Names of the prunable tensors, whose weights the phase should train.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], pruned: Collection[str]) -> None:
        """Begin with no gradient seen."""
        self._waiting = dict(parameters)
        self._all = len(parameters)
        self._weights = {name for name in parameters if name in pruned}

    def look(self) -> None:
        """Look for gradients; call it after a backward pass, before they are cleared."""
        if self._waiting:
            self._waiting = {n: p for n, p in self._waiting.items() if p.grad is None}

    @property
    def missing(self) -> list[str]:
        """Names of parameters without a gradient so far, sorted."""
        return sorted(self._waiting)

    def load(self, missing: Iterable[str]) -> None:
        """Continue from a save, given what `missing` was."""
        wanted = set(missing)
        self._waiting = {n: p for n, p in self._waiting.items() if n in wanted}

    def judge(self, title: str, steps: int, file: str, *, ended: bool) -> str | None:
        """Return a note on the parameters without a gradient, or None.

        Args:
            title: The phase, for the note.
            steps: Steps that it has made.
            file: The recipe's path.
            ended: Whether the phase has ended; before that, it may still be warming up.

        Raises:
            NoGradient: Nothing was trained, or no prunable weight was.
        """
        missing = self.missing
        if not missing or not steps:
            return None
        when = f"in any of {steps:,} steps" if steps > 1 else "in its one step"
        nothing = len(missing) == self._all
        weightless = bool(self._weights) and self._weights.issubset(missing)
        if nothing or (weightless and ended and steps >= CHANCE):
            what = "parameter" if nothing else "weight"
            raise NoGradient(
                f"no {what} that {title} trains got a gradient {when}, so nothing was trained",
                file=file,
                hint="something cuts it off from the loss: checkpoint(…, use_reentrant=True) does "
                "so if the layers below are frozen, as embeddings are after the sparsest level "
                "(use use_reentrant=False); detach() and no_grad() do so too",
            )
        if not ended:
            return f"no weight of {title} got a gradient {when} yet" if weightless else None
        some = f"{len(missing):,} parameters" if len(missing) > 1 else "a parameter"
        return f"{title}: {some} got no gradient {when}: {listed(missing)}"
