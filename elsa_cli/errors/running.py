"""Errors of a training."""

from __future__ import annotations

import os
import signal

from elsa_cli.errors.base import ElsaError

__all__ = [
    "FrozenChanged",
    "Interrupted",
    "NoGradient",
    "NonFiniteLoss",
    "PeerLost",
    "PeerSilent",
    "RecipeError",
    "TrainingError",
]


class TrainingError(ElsaError):
    """A training that cannot continue."""


class RecipeError(TrainingError):
    """The recipe lacks something, or raised."""


class NonFiniteLoss(TrainingError):
    """The loss or a weight became NaN or infinite."""


class FrozenChanged(TrainingError):
    """A frozen weight is not what it was."""


class NoGradient(TrainingError):
    """A phase trained nothing, because its weights got no gradient."""


class PeerLost(TrainingError, ConnectionError):
    """Another process of the run has ended."""


class PeerSilent(TrainingError, TimeoutError):
    """Another process of the run did not answer in time."""


class Interrupted(TrainingError):
    """A signal ended the run.

    Args:
        what: What is saved.
        number: The signal.
        file: The output of the run.
        hint: How to continue the run.
    """

    exit_code = 130

    def __init__(
        self,
        what: str,
        number: int = signal.SIGINT,
        *,
        file: str | os.PathLike[str] | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the exit code that the signal gives."""
        super().__init__(what, file=file, hint=hint)
        self.exit_code = 128 + number
