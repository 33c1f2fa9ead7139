"""The results of a branch over its last revisions, as a section of the page.

The page itself is an output of the pipeline, and says nothing of commits: the same inputs give the same bytes. So this section is put
into a copy of it, where a pull request is reviewed (`holdfast history --page FILE`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from holdfast.reporting.markup import NONE, Column, Table, html, html_table, is_number, percent, score, section
from holdfast.reporting.plots import WIDTH, dot, figure, label, line, scale, text, ticks

PLACE, LINK = "<!-- history -->", "<!-- link to the history -->"  # in the page, where the section and the link to it go
DRAWN = 4  # arms of one figure: more lines cannot be told apart
KEYS = {"general": "General score", "domain": "Domain score"}


class Result(NamedTuple):
    """What metrics.json said at one commit."""

    commit: str
    date: str
    metrics: dict[str, Any]

    def value(self, arm: str, key: str) -> Any:
        entry = self.metrics.get(arm)
        return entry.get(key) if isinstance(entry, dict) else None


def insert(page: str, results: Sequence[Result]) -> str:
    """The page with the section, and a link to it; as it was where it has no place for them."""
    if PLACE not in page:
        return page
    return page.replace(PLACE, compose(results), 1).replace(LINK, '<a href="#history">History</a>', 1)


def compose(results: Sequence[Result]) -> str:
    """A figure for each score, and a table of the results, the newest first."""
    arms = [name for name in results[-1].metrics if name != "base"] if results else []
    rows = [
        [f"{result.date} {result.commit}", arm, str(result.value(arm, "verdict") or NONE)]
        + [score(result.value(arm, key)) for key in KEYS]
        + [percent(result.value(arm, "retention"))]
        for result in reversed(results)
        for arm in arms
        if isinstance(result.metrics.get(arm), dict)
    ]
    columns = [Column("Result"), Column("Arm"), Column("Verdict", "verdict")]
    columns += [Column(title, "number") for title in ("General", "Domain", "Retention")]
    figures = "".join(draw(results, arms, key) for key in KEYS)
    note = "Each commit in the history of this branch that changed the results, from git; scores are chance-adjusted, in points."
    return section("History", f'<div class="plates">{figures}</div>', html_table(Table(columns, rows)), note=note)


def draw(results: Sequence[Result], arms: Sequence[str], key: str) -> str:
    """A line for each arm, from the oldest result to the newest; the base's score as a line of its own. Empty where fewer than two
    results have the score."""
    drawn = [arm for arm in arms if sum(is_number(result.value(arm, key)) for result in results) > 1][:DRAWN]
    if not drawn:
        return ""
    lines = {"base": [result.value("base", key) for result in results]}
    lines |= {arm: [result.value(arm, key) for result in results] for arm in drawn}
    known = [value for values in lines.values() for value in values if is_number(value)]
    room = max(0.01, 0.12 * (max(known) - min(known)))
    low, high = min(known) - room, max(known) + room
    top, bottom, left, right = 10.0, 150.0, 34.0, WIDTH - 104.0
    at_x, at_y = scale(0, max(len(results) - 1, 1), left, right), scale(low, high, bottom, top)
    body = []
    for tick in ticks(100 * low, 100 * high, 4):
        body += [
            line(left, at_y(tick / 100), right, at_y(tick / 100), "grid"),
            text(left - 6, at_y(tick / 100) + 4, f"{tick:g}", "tick", "end"),
        ]
    body.append(line(left, bottom, right, bottom, "axis"))
    ends: list[tuple[float, str, int]] = []
    for number, (name, values) in enumerate(lines.items()):
        places = [(at_x(n), at_y(value)) for n, value in enumerate(values) if is_number(value)]
        if not places:
            continue
        look = f"c{number - 1}" if number > 1 else ""
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline points="{steps}" class="{"zero" if name == "base" else f"curve {look}"}" fill="none"/>')
        if name != "base":
            for result, value, n in zip(results, values, range(len(results)), strict=True):
                if is_number(value):
                    kind = html(str(result.value(name, "verdict") or ""))
                    title = f"{name}, {result.date} {result.commit}: {score(value)}"
                    body.append(dot(at_x(n), at_y(value), f"mark {kind}", title, 3.5))
        ends.append((places[-1][1], name, number))
    for place, name, number in spread(ends):
        body.append(text(right + 8, place + 4, label(name, 13), f"name c{number - 1}" if number > 1 else "name"))
    first, last = results[0], results[-1]
    body += [text(left, bottom + 16, first.date, "tick"), text(right, bottom + 16, last.date, "tick", "end")]
    caption = (
        f"{len(results)} results, {first.commit} to {last.commit}. Dots: in the colour of the arm's verdict there."
    )
    return figure(bottom + 24, f"{KEYS[key]}, in points.", body, caption)


def spread(ends: list[tuple[float, str, int]], apart: float = 14.0) -> list[tuple[float, str, int]]:
    """Labels at the lines' ends, moved down until none lies over another."""
    placed: list[tuple[float, str, int]] = []
    for place, name, number in sorted(ends):
        low = placed[-1][0] + apart if placed else place
        placed.append((max(place, low), name, number))
    return placed
