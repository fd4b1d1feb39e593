"""Every error the tool reports, with its exit code.

ElsaError                       exit 1
├── UsageError                  exit 2: options or arguments that cannot be meant
├── InputError                  a file that cannot be used
│   ├── MalformedFile           not a legal safetensors file
│   │   ├── OtherFormat         a file of another kind: a zip archive, a web page, GGUF
│   │   ├── TruncatedFile       the file ends before its header or its data does
│   │   ├── HeaderTooLong       more than 100,000,000 bytes of header
│   │   ├── HeaderNotJson       the header is not a JSON object of the right form
│   │   ├── DuplicateName       one name stands twice in the header
│   │   ├── HoleInData          bytes that no tensor owns
│   │   ├── OverlappingTensors  bytes that two tensors own
│   │   ├── OffsetOutOfRange    data_offsets that are negative or run backwards
│   │   ├── ShapeMismatch       the bytes of a tensor are not what its shape and dtype need
│   │   ├── UnknownDtype        a dtype that safetensors does not have
│   │   └── TrailingBytes       bytes after the last tensor
│   ├── NotNested               a plain checkpoint where a nested or packed one is needed
│   ├── AlreadyNested           a nested checkpoint where a plain one is needed
│   ├── UnknownVersion          written by a later version of the format
│   ├── BadManifest             the manifest or the masks contradict the file
│   ├── LevelNotStored          a level that the file does not hold
│   ├── CutFile                 a packed file that ends before the level asked for
│   ├── NonFinite               NaN or infinity among the weights to rank
│   ├── Quantised               weights in a format that has to be dequantised first
│   ├── NotABundle              checkpoints that are not levels of one dense network
│   └── Misfit                  a checkpoint and a model that do not have the same tensors
├── OutputError                 a file that cannot be written
│   ├── OutputExists            --no-clobber, and the output is there
│   └── DiskFull                not enough space for the output
├── TrainingError               a training that cannot go on
│   ├── RecipeError             the recipe lacks something, or raised
│   ├── NonFiniteLoss           the loss or a weight became NaN or infinite
│   ├── FrozenChanged           a frozen weight is not what it was
│   ├── NoGradient              a phase trained nothing: its weights got no gradient
│   ├── PeerLost                another process of the run is gone
│   ├── PeerSilent              another process of the run did not answer in time
│   └── Interrupted             exit 128 + the signal: it came, and what was done is saved
├── NothingToDo                 the run would change nothing
└── VerificationFailed          `verify` found something wrong

A message is one line: where (file, tensor), what is wrong, what to do.
"""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Sequence
from typing import Self

from elsa_cli.text import one_line

__all__ = [
    "AlreadyNested",
    "BadManifest",
    "CutFile",
    "DiskFull",
    "DuplicateName",
    "ElsaError",
    "FrozenChanged",
    "HeaderNotJson",
    "HeaderTooLong",
    "HoleInData",
    "InputError",
    "Interrupted",
    "LevelNotStored",
    "MalformedFile",
    "Misfit",
    "NoGradient",
    "NonFinite",
    "NonFiniteLoss",
    "NotABundle",
    "NotNested",
    "NothingToDo",
    "OffsetOutOfRange",
    "OtherFormat",
    "OutputError",
    "OutputExists",
    "OverlappingTensors",
    "PeerLost",
    "PeerSilent",
    "Quantised",
    "RecipeError",
    "ShapeMismatch",
    "TrailingBytes",
    "TrainingError",
    "TruncatedFile",
    "UnknownDtype",
    "UnknownVersion",
    "UsageError",
    "VerificationFailed",
]


class ElsaError(Exception):
    """What went wrong, in which file and tensor, and what to do about it.

    Args:
        what: The problem, without a full stop.
        file: The file it is in, or None.
        tensor: The tensor it is in, or None.
        hint: What the user can do, or None.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        file: str | os.PathLike[str] | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the parts and join them into one line."""
        self.what = what
        self.file = None if file is None else os.fspath(file)
        self.tensor = tensor
        self.hint = hint
        where = "".join(f"{part}: " for part in (self.file, tensor) if part)
        line = where + what + (f"; {hint}" if hint else "")
        super().__init__(one_line(line))

    def renamed(self, file: str) -> Self:
        """Return this error with another name for its file."""
        other = copy.copy(self)
        ElsaError.__init__(other, self.what, file=file, tensor=self.tensor, hint=self.hint)
        return other


class UsageError(ElsaError):
    """Options or arguments that cannot be meant."""

    exit_code = 2


class InputError(ElsaError):
    """A file that cannot be used."""


class MalformedFile(InputError):
    """Not a legal safetensors file."""


class OtherFormat(MalformedFile):
    """A file of another kind: a zip archive, a web page, GGUF."""


class TruncatedFile(MalformedFile):
    """The file ends before its header or its data does."""


class HeaderTooLong(MalformedFile):
    """More than 100,000,000 bytes of header."""


class HeaderNotJson(MalformedFile):
    """The header is not a JSON object of the right form."""


class DuplicateName(MalformedFile):
    """One name stands twice in the header."""


class HoleInData(MalformedFile):
    """Bytes that no tensor owns."""


class OverlappingTensors(MalformedFile):
    """Bytes that two tensors own."""


class OffsetOutOfRange(MalformedFile):
    """`data_offsets` that are negative or run backwards."""


class ShapeMismatch(MalformedFile):
    """The bytes of a tensor are not what its shape and dtype need."""


class UnknownDtype(MalformedFile):
    """A dtype that safetensors does not have."""


class TrailingBytes(MalformedFile):
    """Bytes after the last tensor."""


class NotNested(InputError):
    """A plain checkpoint where a nested or packed one is needed."""


class AlreadyNested(InputError):
    """A nested checkpoint where a plain one is needed."""


class UnknownVersion(InputError):
    """Written by a later version of the format."""


class BadManifest(InputError):
    """The manifest or the masks contradict the file."""


class LevelNotStored(InputError):
    """A level that the file does not hold."""


class CutFile(InputError):
    """A packed file that ends before the level asked for."""


class NonFinite(InputError):
    """NaN or infinity among the weights to rank."""


class Quantised(InputError):
    """Weights in a format that has to be dequantised first."""


class NotABundle(InputError):
    """Checkpoints that are not levels of one dense network."""


class Misfit(InputError):
    """A checkpoint and a model that do not have the same tensors.

    Args:
        what: The problem.
        pairs: What only the checkpoint has beside what only the model has, as text.
        file: The checkpoint.
        hint: What the user can do.
    """

    def __init__(
        self,
        what: str,
        pairs: Sequence[tuple[str, str]] = (),
        *,
        file: str | os.PathLike[str] | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the pairs for a table."""
        super().__init__(what, file=file, hint=hint)
        self.pairs = tuple(pairs)


class OutputError(ElsaError):
    """A file that cannot be written."""


class OutputExists(OutputError):
    """`--no-clobber`, and the output is there."""


class DiskFull(OutputError):
    """Not enough space for the output."""


class TrainingError(ElsaError):
    """A training that cannot go on."""


class RecipeError(TrainingError):
    """The recipe lacks something, or raised."""


class NonFiniteLoss(TrainingError):
    """The loss or a weight became NaN or infinite."""


class FrozenChanged(TrainingError):
    """A frozen weight is not what it was."""


class NoGradient(TrainingError):
    """A phase trained nothing: its weights got no gradient."""


class PeerLost(TrainingError):
    """Another process of the run is gone."""


class PeerSilent(TrainingError):
    """Another process of the run did not answer in time."""


class Interrupted(TrainingError):
    """A signal; what was done is saved.

    Args:
        what: What is saved.
        number: The signal.
        file: The output of the run.
        hint: How to go on.
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


class NothingToDo(ElsaError):
    """The run would change nothing."""


class VerificationFailed(ElsaError):
    """`verify` found something wrong."""
