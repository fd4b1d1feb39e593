"""Turn results into docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.goals import GOALS
from benchmarks.page import join, machine_table, megabytes, spread_text, table, verdict
from benchmarks.speed.plot import growth
from benchmarks.speed.remarks import INTRODUCTION, METHOD, PEERS, PROFILES
from benchmarks.speed.results import First, Profile, Results, Row

__all__ = ["goals_text", "render"]


def render(results: Results) -> str:
    """Return the page."""
    options = results.options
    parts = ["# Performance", "", INTRODUCTION.format(**options)]
    for dtype in options["dtypes"]:
        parts += [f"## {dtype}, goals", "", goals_text(results, dtype)]
    parts += ["## Start, goals", "", goals_text(results, "")]
    if results.profiles:
        parts += ["## Where the time goes", "", PROFILES, _profiles(results.profiles)]
    for dtype in options["dtypes"]:
        rows = [row for row in results.rows if row.section == dtype]
        parts += [f"## {dtype}, times", "", _times(rows)]
    parts += ["## First run on a machine", "", _first_text(options["caches"])]
    parts += [_firsts(results.firsts)]
    rows = [row for row in results.rows if row.section == "peers"]
    if rows:
        parts += ["## Other tools on the same weights", "", _peers(rows), PEERS]
    parts += ["## Growth", "", "![Time and memory over size](performance.png)", ""]
    parts += [_growth(results)]
    if results.facts:
        parts += ["## Also found", "", *(f"- {fact}" for fact in results.facts), ""]
    parts += machine_table(results.machine)
    parts += ["## How it was measured", "", METHOD.format(**options)]
    return join(parts)


def goals_text(results: Results, dtype: str) -> str:
    """Return the table of the goals of a dtype, or of those without one.

    Every goal has a row; one that was not measured says why.
    """
    rows = []
    for goal in GOALS:
        if dtype not in goal.dtypes:
            continue
        figure = results.figure(goal.what, goal.unit, dtype)
        found, met, beside = "not measured", "–", "" if figure is None else figure.beside
        if figure is not None and figure.found is not None:
            found, met = spread_text(figure.found), verdict(goal.met(figure.found))
        rows.append([goal.what, found, goal.text, met, beside])
    return table(["command", "found", "goal", "met", "beside it"], rows)


def _times(rows: Sequence[Row]) -> str:
    head = ["command", "s", "user s", "system s", "peak", "written", "beside"]
    head += ["cp + sync, s", "× cp + sync", "cp, s", "× cp"]
    return table(head, [_time(row) for row in rows])


def _time(row: Row) -> list[str]:
    assert row.plain is not None
    assert row.plain_ratio is not None
    return [
        row.what,
        spread_text(row.ours.seconds),
        spread_text(row.ours.user),
        spread_text(row.ours.system),
        megabytes(row.ours.peak),
        megabytes(row.written) if row.written else "–",
        row.against,
        spread_text(row.base.seconds),
        spread_text(row.ratio),
        spread_text(row.plain.seconds),
        spread_text(row.plain_ratio),
    ]


def _first_text(caches: str) -> str:
    return (
        "Each command ran once before its rounds, in the order of the table, with\n"
        f"{caches}. What one run compiles, the next ones find.\n"
    )


def _firsts(firsts: Sequence[First]) -> str:
    head = ["command", "weights", "first run, s", "user s", "in the rounds, s", "user s"]
    rows = []
    for first in firsts:
        row = [first.what, first.dtype, f"{first.seconds:.2f}", f"{first.user:.2f}"]
        rows.append([*row, spread_text(first.later), spread_text(first.later_user)])
    return table(head, rows)


def _profiles(profiles: Sequence[Profile]) -> str:
    rows = []
    for profile in profiles:
        whole = sum(share.user + share.system for share in profile.shares)
        name = f"{profile.what}, {profile.dtype}" if profile.dtype else profile.what
        for share in profile.shares:
            part = (share.user + share.system) / whole if whole else 0.0
            times = [f"{share.user:.2f}", f"{share.system:.2f}", f"{part:.0%}"]
            rows.append([name, share.function, *times])
            name = ""
    return table(["command", "inside", "user s", "system s", "share"], rows)


def _peers(rows: Sequence[Row]) -> str:
    head = ["elsa", "s", "peak", "beside", "s", "peak", "file", "elsa is faster, ×"]
    return table(
        head,
        [
            [
                row.what,
                spread_text(row.ours.seconds),
                megabytes(row.ours.peak),
                row.against,
                spread_text(row.base.seconds),
                megabytes(row.base.peak),
                f"{row.size / 1e9:.2f} GB {row.dtype}",
                spread_text(row.ratio.inverse),
            ]
            for row in rows
        ],
    )


def _growth(results: Results) -> str:
    head = ["checkpoint, bf16", "command", "s", "user s per 10⁹ weights", "peak"]
    head += ["cp + sync, s", "× cp + sync"]
    rows = [
        [
            f"{row.size / 1e9:.2f} GB",
            what,
            spread_text(row.ours.seconds),
            spread_text(row.user),
            megabytes(row.ours.peak),
            spread_text(row.base.seconds),
            spread_text(row.ratio),
        ]
        for what, of in growth(results).items()
        for row in of
    ]
    return table(head, rows)
