"""Saves: an interrupted run continues from the last one, and ends with the same bits.

A save is one file beside the output, written whole or not at all, and removed when the output is
complete.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from elsa_cli.errors import InputError, Param, UsageError, Words
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.training.options import TrainOptions

__all__ = ["ENDING", "Saves"]

ENDING = ".resume"
VERSION = 3  # facts are named like the parameters
OPTIONS = frozenset(field.name for field in fields(TrainOptions))


class Saves:
    """The save of one run.

    Args:
        output: The output of the run; the save lies beside it.
        facts: What is trained and how, as text by name; a save with other facts is refused.
        machine: What the bits of the result depend on besides, as text by name: a save with other
            values is used, and the difference is noted.

    Attributes:
        path: The file of the save.
    """

    def __init__(
        self, output: str, facts: Mapping[str, str], machine: Mapping[str, str] | None = None
    ) -> None:
        """Remember where the save lies; nothing is read or written."""
        self.path = output + ENDING
        self._facts = dict(facts)
        self._machine = dict(machine or {})

    @property
    def exists(self) -> bool:
        """Whether there is a save."""
        return os.path.exists(self.path)

    def refuse_leftover(self) -> None:
        """Raise UsageError if there is a save, so that a new run does not overwrite it."""
        if self.exists:
            raise UsageError(
                "is the save of an interrupted run",
                file=self.path,
                hint=Words("add {} to continue it, or delete it", Param("resume", True)),
            )

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the save.

        Raises:
            OutputError: It cannot be written; the old one is intact.
        """
        with OutputFile(self.path, Policy()) as out:
            with out.reporting(), out.stream() as file:
                ours = {"version": VERSION, "facts": self._facts, "machine": self._machine}
                whole = {**ours, **state}
                torch.save(_plain(whole), file)
            out.commit()

    def read(self) -> dict[str, Any] | None:
        """Return the save, or None if there is none.

        Raises:
            InputError: It is damaged.
            UsageError: It is the save of another run; the message says what differs.
        """
        if not self.exists:
            return None
        try:
            with zipfile.ZipFile(self.path) as parts:  # torch does not check the checksums
                damaged = parts.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} has another checksum")
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            facts, version = state["facts"], state["version"]
            differ = _differences(facts, self._facts) if version == VERSION else []
        except Exception as error:  # damaged bytes in a pickle may raise anything
            raise self._damaged(error) from error
        if version != VERSION:
            raise InputError(
                f"was saved by another version ({version})", file=self.path, hint="delete it"
            )
        if differ:
            raise UsageError(
                Words("is the save of another run: {}", _joined(differ)),
                file=self.path,
                hint="use the same options, or delete it to start from the beginning",
            )
        return state

    def elsewhere(self, state: Mapping[str, Any]) -> list[str]:
        """Return a line if a save was written on another machine than this run is trained on."""
        differ = _differences(state["machine"], self._machine)
        return [
            Words("{}: the bits may differ from those of an uninterrupted run", _joined(differ))
        ] * bool(differ)

    def _damaged(self, error: Exception) -> InputError:
        reason = str(error).split("\n")[0][:100]
        return InputError(
            f"cannot be read ({reason})",
            file=self.path,
            hint="delete it to start from the beginning",
        )

    def remove(self) -> None:
        """Remove the save: the output is complete."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _plain(value: Any) -> Any:
    """Return a state with numpy's numbers as Python's: `torch.load` refuses numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(v) for key, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    return value


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the differences between a save's facts and those of this run, as text."""
    return [
        Words(
            "{} was {}, is {}",
            Param(name) if name in OPTIONS else name,
            before.get(name),
            now.get(name),
        )
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _joined(texts: Sequence[str]) -> Words:
    """Return texts with semicolons between them."""
    return Words("; ".join(["{}"] * len(texts)), *texts)
