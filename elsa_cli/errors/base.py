"""The error that all others are, and those that belong to no file and no training."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Self

from elsa_cli.errors.wording import Call, Param, Words
from elsa_cli.text import one_line

__all__ = [
    "ElsaError",
    "MissingPackage",
    "NothingToDo",
    "UsageError",
    "VerificationFailed",
]


class ElsaError(Exception):
    """What went wrong, in which file and tensor, and what to do about it.

    Args:
        what: The problem, without a full stop; a `Words` if it names a parameter.
        file: The file that has the problem, or None.
        tensor: The tensor that has the problem, or None.
        hint: What the user can do, or None; a `Words` if it names a parameter.
    """

    exit_code = 1
    number: int | None = None  # the errno of those that are an OSError too

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
        self._words = Words("{}{}{}", where, what, Words("; {}", hint) if hint else "")
        super().__init__(one_line(self._words))
        if isinstance(self, OSError):
            for name, value in (("errno", self.number), ("filename", self.file)):
                setattr(self, name, value)

    def __str__(self) -> str:
        """Return the line, in which parameters are spelled as in Python."""
        return str(self.args[0])

    def spelled(self, spell: Callable[[Param | Call], str]) -> str:
        """Return the line, in which parameters are spelled as `spell` says."""
        return one_line(self._words.spelled(spell))

    def renamed(self, file: str) -> Self:
        """Return this error with another name for its file."""
        other = copy.copy(self)
        ElsaError.__init__(other, self.what, file=file, tensor=self.tensor, hint=self.hint)
        return other


class UsageError(ElsaError, ValueError):
    """Arguments that contradict or cannot be read."""

    exit_code = 2


class MissingPackage(ElsaError, ImportError):
    """An optional package that is not installed."""


class NothingToDo(ElsaError):
    """The run would change nothing."""


class VerificationFailed(ElsaError):
    """`verify` found something wrong."""
