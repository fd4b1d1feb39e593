"""Options that the benchmarks share."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["add_docs", "add_folder", "parse", "scratch"]


def add_docs(parser: argparse.ArgumentParser, quick: str) -> None:
    """Add `--docs` and `--quick`; `quick` says what the latter makes small."""
    parser.add_argument("--docs", type=Path, help="where the page goes [docs; none with --quick]")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: does it run at all?")


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add `--folder`."""
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where files are written and removed again [.]"
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options; without `--quick` the page goes to docs/ unless it is said."""
    options = parser.parse_args()
    if options.docs is None and not options.quick:
        options.docs = Path("docs")
    return options


@contextlib.contextmanager
def scratch(options: argparse.Namespace) -> Iterator[Path]:
    """Give a new folder inside `--folder`, and remove it."""
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="elsa-bench-", dir=options.folder) as folder:
        yield Path(folder)
