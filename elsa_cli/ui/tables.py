"""Tables as text, in time linear in their rows: rich takes a hundred times as long for a row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from elsa_cli.text import printable

__all__ = ["draw", "fold"]

GAP = 3  # columns between two cells
MARGIN = 1  # columns before the first cell, and after the last
NAME = 16  # columns that a row's name keeps as long as it can


def _cells(text: str) -> int:
    """Return how many columns a printable text takes; a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fold(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` columns, at spaces where it can be done."""
    if _cells(text) <= width:
        return [text]
    if text.isascii() and " " not in text:
        return [text[at : at + width] for at in range(0, len(text), width)]
    lines, line, taken = [], "", 0
    for word in text.split(" "):
        if line and taken + 1 + _cells(word) <= width:
            line, taken = f"{line} {word}", taken + 1 + _cells(word)
            continue
        if line:
            lines.append(line)
        line, taken = "", 0
        for character in word:
            if line and taken + _cells(character) > width:
                lines.append(line)
                line, taken = "", 0
            line, taken = line + character, taken + _cells(character)
    return [*lines, line]


def _narrowed(widths: Sequence[int], floors: Sequence[int], most: int) -> list[int]:
    """Make the widest columns narrower, but none less than its floor, until all fit into `most`."""
    narrowed = list(widths)
    while sum(narrowed) > most:
        loose = [at for at, width in enumerate(narrowed) if width > floors[at]]
        if not loose:
            break
        widest = max(narrowed[at] for at in loose)
        those = [at for at in loose if narrowed[at] == widest]
        lower = max(*(floors[at] for at in those), *(w for w in (1, *narrowed) if w < widest))
        excess = min(sum(narrowed) - most, (widest - lower) * len(those))
        share, more = divmod(excess, len(those))
        for number, at in enumerate(those):
            narrowed[at] -= share + (number < more)
    return narrowed


def _fit(table: Sequence[Sequence[str]], width: int | None) -> tuple[list[int], int]:
    """Return the widths of the columns and of the gap between them.

    Where they do not fit, the names of columns are broken at spaces first, then the names of rows,
    and numbers last.
    """
    natural = [max(map(_cells, cells)) for cells in zip(*table, strict=True)]
    if width is None:
        return natural, GAP
    compact = [
        max(*map(_cells, cells[0].split(" ")), *map(_cells, cells[1:]), 1)
        for cells in zip(*table, strict=True)
    ]
    floors = [min(natural[0], NAME), *compact[1:]]
    gap = GAP if sum(floors) + GAP * (len(natural) - 1) + 2 * MARGIN <= width else 1
    room = width - gap * (len(natural) - 1) - 2 * MARGIN
    widths = _narrowed(natural, [natural[0], *compact[1:]], room)
    widths = _narrowed(widths, floors, room)
    return _narrowed(widths, [1] * len(widths), room), gap


def draw(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    width: int | None = None,
    gap: tuple[int, str] | None = None,
    bold: Callable[[str], str] = str,
    rule: str = "─",
    texts: Collection[str] = (),
) -> Iterator[str]:
    """Yield the lines of a table; the first column is text, the others are numbers.

    Args:
        columns: Their names.
        rows: Their cells; whatever is not printable is shown as an escape.
        title: A line above.
        width: Columns of the screen; names are broken where they do not fit. None: any width fits.
        gap: The number of rows after which rows are left out, and a line that says so.
        bold: Makes a text bold.
        rule: The character of the line below the names.
        texts: Names of further columns that are text.
    """
    left = frozenset(at for at, name in enumerate(columns) if not at or name in texts)
    table = [[printable(cell) for cell in row] for row in (columns, *rows)]
    widths, between = _fit(table, width)
    if title is not None:
        yield bold(printable(title))
    yield ""
    yield from _row(table[0], widths, between, left, bold)
    yield " " * MARGIN + rule * (sum(widths) + between * (len(columns) - 1))
    for number, row in enumerate(table[1:]):
        if gap is not None and number == gap[0]:
            yield " " * MARGIN + printable(gap[1])
        yield from _row(row, widths, between, left)
    yield ""


def _row(
    cells: Sequence[str],
    widths: Sequence[int],
    between: int,
    left: Collection[int],
    heading: Callable[[str], str] | None = None,
) -> Iterator[str]:
    """Yield the lines of a row: one, unless a cell has to be broken; a heading ends at its rule."""
    style = heading or str
    if all(_cells(cell) <= width for cell, width in zip(cells, widths, strict=True)):
        yield _joined(cells, widths, between, left, style)
        return
    parts = [fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, parts))
    for part in parts:
        missing = [""] * (height - len(part))
        part[:] = missing + part if heading else part + missing
    for line in zip(*parts, strict=True):
        yield _joined(line, widths, between, left, style)


def _joined(
    cells: Sequence[str],
    widths: Sequence[int],
    between: int,
    left: Collection[int],
    style: Callable[[str], str],
) -> str:
    padded = []
    for at, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - _cells(cell))
        shown = style(cell) if cell else ""
        padded.append(shown + space if at in left else space + shown)
    return (" " * MARGIN + (" " * between).join(padded)).rstrip()
