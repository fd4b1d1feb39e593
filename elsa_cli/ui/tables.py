"""Tables as text, in time linear in their rows: rich takes a hundred times as long for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from elsa_cli.text import printable

__all__ = ["draw", "fold"]

GAP = 3  # columns between two cells
MARGIN = 1  # columns before the first cell


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


def _narrowed(widths: list[int], most: int) -> list[int]:
    """Make the widest columns narrower, down to the next widest, until all fit into `most`."""
    widths = list(widths)
    while sum(widths) > most and max(widths) > 1:
        widest = max(widths)
        those = [at for at, width in enumerate(widths) if width == widest]
        lower = max([1, *(width for width in widths if width < widest)])
        excess = min(sum(widths) - most, (widest - lower) * len(those))
        share, more = divmod(excess, len(those))
        for number, at in enumerate(those):
            widths[at] -= share + (number < more)
    return widths


def draw(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    width: int | None = None,
    gap: tuple[int, str] | None = None,
    bold: Callable[[str], str] = str,
    rule: str = "─",
) -> Iterator[str]:
    """Yield the lines of a table; the first column is text, the others are numbers.

    Args:
        columns: Their names.
        rows: Their cells; whatever is not printable is shown as an escape.
        title: A line above.
        width: Columns of the screen; names are broken where they do not fit. None: there is room.
        gap: After so many rows, a line that says what is left out there.
        bold: Makes a text bold.
        rule: The character of the line below the names.
    """
    table = [[printable(cell) for cell in row] for row in (columns, *rows)]
    natural = [max(map(_cells, cells)) for cells in zip(*table, strict=True)]
    room = None if width is None else width - 2 * MARGIN - GAP * (len(columns) - 1)
    widths = natural if room is None else _narrowed(natural, room)
    if title is not None:
        yield bold(printable(title))
    yield ""
    yield from _row(table[0], widths, bold)
    yield " " * MARGIN + rule * (sum(widths) + GAP * (len(columns) - 1))
    for number, row in enumerate(table[1:]):
        if gap is not None and number == gap[0]:
            yield " " * MARGIN + printable(gap[1])
        yield from _row(row, widths)
    yield ""


def _row(
    cells: Sequence[str], widths: Sequence[int], style: Callable[[str], str] = str
) -> Iterator[str]:
    """Yield the lines of a row: one, unless a cell has to be broken."""
    if all(_cells(cell) <= width for cell, width in zip(cells, widths, strict=True)):
        yield _joined(cells, widths, style)
        return
    parts = [fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for line in range(max(map(len, parts))):
        yield _joined([part[line] if line < len(part) else "" for part in parts], widths, style)


def _joined(cells: Sequence[str], widths: Sequence[int], style: Callable[[str], str]) -> str:
    padded = []
    for at, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - _cells(cell))
        padded.append(space + style(cell) if at else style(cell) + space)
    return (" " * MARGIN + (" " * GAP).join(padded)).rstrip()
