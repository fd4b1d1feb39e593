"""Which trained parameters have had a gradient: a phase that trains nothing is no success.

Reentrant checkpointing, `detach()` or `no_grad()` can cut what is trained off from the loss, and
nothing else would tell. A parameter that is not used is another matter: experts that no token is
sent to, layers that are left out at random, a head for export only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from elsa_cli.errors import NoGradient
from elsa_cli.text import listed

__all__ = ["EARLY", "GradientWatch"]

EARLY = 20  # steps after which it is known whether anything is trained at all
CHANCE = 3  # steps; in fewer, layers that are left out at random may all have been


class GradientWatch:
    """Looks at each parameter until it has had a gradient once; later it costs nothing.

    Args:
        parameters: What the phase trains, each once, by name.
        pruned: Names of prunable tensors: the phase is there for these.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], pruned: Collection[str]) -> None:
        """Begin with none seen."""
        self._waiting = dict(parameters)
        self._all = len(parameters)
        self._weights = {name for name in parameters if name in pruned}

    def look(self) -> None:
        """Look after a backward pass, while gradients are there."""
        if self._waiting:
            self._waiting = {n: p for n, p in self._waiting.items() if p.grad is None}

    @property
    def missing(self) -> list[str]:
        """Names of parameters without a gradient so far, sorted."""
        return sorted(self._waiting)

    def load(self, missing: Iterable[str]) -> None:
        """Go on from a save."""
        wanted = set(missing)
        self._waiting = {n: p for n, p in self._waiting.items() if n in wanted}

    def judge(self, title: str, steps: int, file: str, *, ended: bool) -> str | None:
        """Return a note on what has had no gradient, or None.

        Args:
            title: The phase, for the line.
            steps: How many it has made.
            file: The recipe.
            ended: Whether the phase is over; until then a warm-up may be going on.

        Raises:
            NoGradient: Nothing was trained, or no weight of those that the phase is there for.
        """
        missing = self.missing
        if not missing or not steps:
            return None
        of = f"in any of {steps:,} steps" if steps > 1 else "in its one step"
        nothing = len(missing) == self._all
        weightless = bool(self._weights) and self._weights.issubset(missing)
        if nothing or (weightless and ended and steps >= CHANCE):
            what = "parameter" if nothing else "weight"
            raise NoGradient(
                f"no {what} that {title} trains got a gradient {of}, so nothing was trained",
                file=file,
                hint="something cuts it off from the loss: checkpoint(…, use_reentrant=True) does "
                "so where what lies below is frozen, as embeddings are after the sparsest level "
                "(use use_reentrant=False); detach() and no_grad() do so too",
            )
        if not ended:
            return f"no weight of {title} got a gradient {of} yet" if weightless else None
        some = f"{len(missing):,} parameters" if len(missing) > 1 else "a parameter"
        return f"{title}: {some} got no gradient {of}: {listed(missing)}"
