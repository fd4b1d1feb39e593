"""Errors of files: those that cannot be read, and those that cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from elsa_cli.errors.base import ElsaError

__all__ = [
    "AlreadyNested",
    "BadManifest",
    "CutFile",
    "DiskFull",
    "DuplicateName",
    "HeaderNotJson",
    "HeaderTooLong",
    "HoleInData",
    "InputError",
    "LevelNotStored",
    "MalformedFile",
    "Misfit",
    "MissingFile",
    "NonFinite",
    "NotABundle",
    "NotNested",
    "OffsetOutOfRange",
    "OtherFormat",
    "OutputError",
    "OutputExists",
    "OverlappingTensors",
    "Quantised",
    "ShapeMismatch",
    "TrailingBytes",
    "TruncatedFile",
    "UnknownDtype",
    "UnknownVersion",
]


class InputError(ElsaError):
    """A file that cannot be used."""


class MissingFile(InputError, FileNotFoundError):
    """A file that does not exist."""

    number = errno.ENOENT


class MalformedFile(InputError, ValueError):
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


class LevelNotStored(InputError, LookupError):
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


class OutputExists(OutputError, FileExistsError):
    """The output exists, and `clobber=False` forbids replacing it."""

    number = errno.EEXIST


class DiskFull(OutputError):
    """Not enough space for the output."""
