"""Show a training on the screen, and write it to a log."""

from __future__ import annotations

import os
from typing import Any

from elsa_cli.commands._training import number
from elsa_cli.commands._wording import Speller
from elsa_cli.core.closing import Closing
from elsa_cli.errors import OutputError
from elsa_cli.text import json_text
from elsa_cli.training.events import PhaseReport, Tick, Watcher
from elsa_cli.ui import TrainingLine

__all__ = ["ScreenWatcher"]


class ScreenWatcher(Watcher, Closing):
    """Shows where a training is, a line for each finished level, and writes a log.

    The log has a line of JSON for each epoch and each level. Lines that an interrupted run wrote
    after its last save are removed when the run continues.

    Args:
        line: The line on the screen that says where the training is.
        spell: Spells parameters that a note names as options.
        log: The log's path, or None.
        log_every: Steps after which a line is also written, or None.
    """

    def __init__(
        self, line: TrainingLine, spell: Speller, log: str | None, log_every: int | None
    ) -> None:
        """Open the log.

        Raises:
            OutputError: It cannot be written.
        """
        self._line = line
        self._spell = spell
        self._log_every = log_every
        self._metrics = ""
        self._number = 0
        self._path = log if os.environ.get("RANK", "0") == "0" else None
        self._log: Any = None
        self._begun = False
        if self._path is not None:
            try:
                self._log = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"cannot be written: {error.strerror}", file=self._path)

    def _write(self, kind: str, **fields: Any) -> None:
        if self._log is None:
            return
        try:
            if not self._begun:  # a new run begins a new log
                self._log.truncate(0)
            self._begun = True
            self._log.write(json_text({"kind": kind, **fields}) + "\n")
            self._log.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def mark(self) -> int:
        """Return the bytes of the log."""
        return 0 if self._log is None else int(self._log.seek(0, os.SEEK_END))

    def rewind(self, mark: int) -> None:
        """Cut the log back to what it had at a save."""
        if self._log is not None:
            self._log.truncate(min(mark, self.mark()))
            self._begun = True

    def stepped(self, tick: Tick) -> None:
        """Show the line; log the step if asked."""
        name = "joint phase" if tick.phase == "joint" else f"level {tick.phase}"
        self._line.update(
            f"{name} ({tick.number} of {tick.phases})  epoch {tick.epoch}  "
            f"loss {number(tick.mean_loss)}{self._metrics}",
            tick.done,
            tick.total,
        )
        if self._log_every and tick.step % self._log_every == 0:
            self._write("step", **vars(tick))

    def epoch_ended(self, tick: Tick) -> None:
        """Log the epoch."""
        self._write("epoch", **vars(tick))

    def finished(self, report: PhaseReport) -> None:
        """Show how a finished phase ended."""
        self._metrics = "".join(f"  {k} {number(v)}" for k, v in report.metrics.items())
        name = "joint phase" if report.phase == "joint" else f"level {report.phase}"
        loss = "" if report.loss is None else f"  loss {number(report.loss)}"
        self._line.note(
            f"{name}: {report.steps:,} steps in {report.seconds:.1f} s{loss}{self._metrics}"
        )
        fields = vars(report) | {"metrics": dict(report.metrics)}
        self._write("phase", **fields)

    def noted(self, text: str) -> None:
        """Show a line."""
        self._line.note(self._spell.text(text))

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
