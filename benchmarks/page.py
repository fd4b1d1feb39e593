"""Pages in Markdown, and how every benchmark writes its own."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from benchmarks.figures import Spread

__all__ = ["join", "machine_table", "megabytes", "read", "spread_text", "table", "verdict", "write"]

Kind = TypeVar("Kind")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Raises:
        ValueError: A row has more or fewer cells than the head.
    """
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"a row does not fit under {head}")
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine_table(machine: Mapping[str, str]) -> list[str]:
    """Return the section that says where a benchmark ran."""
    return ["## Machine", "", table(["", ""], [[k, v] for k, v in machine.items()])]


def join(parts: Sequence[str]) -> str:
    """Return a page of its lines and blocks."""
    return "\n".join(parts).rstrip() + "\n"


def verdict(met: bool) -> str:
    """Return the cell that says whether a goal is met."""
    return "yes" if met else "**no**"


def spread_text(s: Spread) -> str:
    """Return the median and, if they differ, smallest and largest."""
    digits = 0 if s.median >= 100 else 1 if s.median >= 20 else 2
    if s.median < 0.1 or (s.low == s.high and s.median < 10):  # the latter is counted, not timed
        digits = 3
    middle = f"{s.median:,.{digits}f}"
    return middle if s.low == s.high else f"{middle} ({s.low:,.{digits}f}–{s.high:,.{digits}f})"


def megabytes(nbytes: float) -> str:
    """Return a number of bytes for a table."""
    return f"{nbytes / 1e6:,.0f} MB"


def write(docs: Path | None, name: str, page: str, figures: Any = None) -> None:
    """Write NAME.md and the figures behind it, or print the page where there is no folder.

    Args:
        docs: The folder.
        name: Name of the files without their endings.
        page: The page.
        figures: A dataclass, which becomes NAME.json; None leaves that file alone.
    """
    if docs is None:
        print(page)
        return
    docs.mkdir(parents=True, exist_ok=True)
    if figures is not None:
        assert is_dataclass(figures)
        assert not isinstance(figures, type)
        text = json.dumps(asdict(figures), indent=1, ensure_ascii=False)
        (docs / f"{name}.json").write_text(text + "\n")
    (docs / f"{name}.md").write_text(page)


def read(kind: type[Kind], path: Path) -> Kind:
    """Return the figures behind a page, as the dataclass that `write` was given."""
    found = _build(kind, json.loads(path.read_text()))
    assert isinstance(found, kind)
    return found


def _build(kind: Any, raw: Any) -> Any:
    """Turn what JSON gave into dataclasses, alone or in lists and mappings."""
    origin = get_origin(kind)
    if isinstance(kind, types.UnionType):
        return None if raw is None else _build(get_args(kind)[0], raw)
    if origin is list:
        return [_build(get_args(kind)[0], item) for item in raw]
    if origin in (dict, Mapping):
        return {key: _build(get_args(kind)[1], item) for key, item in raw.items()}
    if is_dataclass(kind):
        assert isinstance(kind, type)
        hints = get_type_hints(kind)
        return kind(**{name: _build(hints[name], value) for name, value in raw.items()})
    return raw
