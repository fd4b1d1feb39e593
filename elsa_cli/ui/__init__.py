"""Tables, lines and progress bars, all of them on standard error."""

from elsa_cli.text import listed
from elsa_cli.ui.numbers import count, percent, size
from elsa_cli.ui.progress import TrainingLine
from elsa_cli.ui.screen import Screen, highlight

__all__ = ["Screen", "TrainingLine", "count", "highlight", "listed", "percent", "size"]
