"""Tables, which look as rich draws them."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elsa_cli.ui.tables import draw, fold

WORDS = st.sampled_from(["", "a", "weight", "12.00 %", "[b]1,234[/b]", "模型", "x y z", "é", ":x:"])


def drawn_by_rich(columns: list[str], rows: list[list[str]], title: str | None) -> list[str]:
    table = Table(
        title=None if title is None else Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for at, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if at else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    stream = io.StringIO()
    Console(file=stream, width=500, highlight=False).print(table)
    return [line.rstrip() for line in stream.getvalue().removesuffix("\n").split("\n")]


@given(st.data())
def test_a_table_looks_as_rich_draws_it(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 5))
    line = st.lists(st.text("ab. ", max_size=3).flatmap(lambda a: WORDS.map(lambda b: a + b)),
                    min_size=number, max_size=number)  # fmt: skip
    columns = [f"{name}." for name in data.draw(line)]
    rows = [[cell.strip() for cell in row] for row in data.draw(st.lists(line, max_size=5))]
    title = data.draw(st.none() | st.just("from 3 kB"))
    assert list(draw(columns, rows, title=title)) == drawn_by_rich(columns, rows, title)


@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), max_size=4), st.integers(20, 60))
def test_a_table_fits_and_loses_nothing(rows: list[list[str]], width: int) -> None:
    columns = ["tensor", "of all", "weights kept"]
    lines = list(draw(columns, rows, width=width))
    assert max(map(cell_len, lines)) <= width
    shown = sorted("".join(lines).replace(" ", "").replace("─", ""))
    given_cells = [*columns, *(cell for row in rows for cell in row)]
    assert shown == sorted("".join(given_cells).replace(" ", ""))


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 3, [""]),
        ("abc", 3, ["abc"]),
        ("abcd", 3, ["abc", "d"]),
        ("ab cd", 3, ["ab", "cd"]),
        ("a b c", 3, ["a b", "c"]),
        ("a bcdef", 3, ["a", "bcd", "ef"]),
        ("模型模", 5, ["模型", "模"]),
        ("模", 1, ["模"]),  # it has no half
    ],
)
def test_texts_are_folded(text: str, width: int, lines: list[str]) -> None:
    assert fold(text, width) == lines


def test_a_line_for_what_is_left_out() -> None:
    lines = list(draw(["a"], [["1"], ["2"], ["3"]], gap=(2, "… 5 more\x1b")))
    assert lines == ["", " a", " ─", " 1", " 2", r" … 5 more\x1b", " 3", ""]


def test_columns_are_as_wide_as_what_is_shown() -> None:
    """Escapes count as the characters that they are shown as."""
    assert list(draw(["a", "b"], [["\x1b", "1"]])) == [
        "",
        " a      b",
        " ────────",
        r" \x1b   1",
        "",
    ]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            56,
            [
                "                                     density    density",
                " tensor                      dtype    at 0.9     at 0.5",
                " ──────────────────────────────────────────────────────",
                " layers.0.attention.weight     F32   10.00 %    50.00 %",
            ],
        ),
        (
            50,
            [
                "                                density   density",
                " tensor                 dtype    at 0.9    at 0.5",
                " ────────────────────────────────────────────────",
                " layers.0.attention.w     F32   10.00 %   50.00 %",
                " eight",
            ],
        ),
        (
            34,
            [
                "                  density density",
                " tensor     dtype  at 0.9  at 0.5",
                " ────────────────────────────────",
                " layers.0.a   F32 10.00 % 50.00 %",
                " ttention.w",
                " eight",
            ],
        ),
        (
            20,
            [
                "          dens dens",
                "           ity  ity",
                " ten dtyp   at   at",
                " sor    e  0.9  0.5",
                " ──────────────────",
                " lay  F32 10.0 50.0",
                " ers       0 %  0 %",
            ],
        ),
    ],
)
def test_what_is_broken_first(width: int, lines: list[str]) -> None:
    """The names of columns at their spaces, then those of rows; numbers where nothing helps."""
    columns = ["tensor", "dtype", "density at 0.9", "density at 0.5"]
    rows = [["layers.0.attention.weight", "F32", "10.00 %", "50.00 %"]]
    assert list(draw(columns, rows, width=width))[1 : 1 + len(lines)] == lines
