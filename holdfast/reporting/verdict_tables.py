"""The verdict as tables: arms, and the suites of each. Nothing is escaped here."""

from __future__ import annotations

from typing import Any

from holdfast.reporting.findings import Json, Run, part
from holdfast.reporting.markup import (
    NONE,
    Column,
    Table,
    count,
    interval,
    is_number,
    p_value,
    percent,
    points,
    score,
)


def arms(run: Run) -> Table:
    rows = []
    for arm, result in run.arms().items():
        general, domain = part(result, "general"), part(result, "domain")
        rows.append(
            [
                run.title(arm),
                str(result.get("verdict")),
                score(general.get("before")),
                score(general.get("after")),
                points(general.get("change")),
                interval(general.get("low"), general.get("high")),
                points(general.get("bound")),
                percent(general.get("retention")),
                points(part(result, "self").get("change")),
                points(domain.get("change")),
                count(general.get("lost")),
                count(general.get("gained")),
            ]
        )
    titles = ["Before", "After", "Change", "Interval", "Bound", "Retention", "Self", "Domain gain", "Lost", "Gained"]
    return Table([Column("Arm"), Column("Verdict", "verdict"), *(Column(t, "number") for t in titles)], rows)


def arms_in_brief(run: Run) -> Table:
    """The arms in the width of a pull request's comment."""
    rows = []
    for arm, entry in run.arms().items():
        general, domain = part(entry, "general"), part(entry, "domain")
        rows.append(
            [
                run.title(arm),
                str(entry.get("verdict")),
                from_to(general.get("before"), general.get("after")),
                points(general.get("change")),
                interval(general.get("low"), general.get("high")),
                points(general.get("bound")),
                percent(general.get("retention")),
                from_to(domain.get("before"), domain.get("after")),
                f"{count(general.get('lost'))} / {count(general.get('gained'))}",
            ]
        )
    titles = ["General", "Change", "Interval", "Bound", "Retention", "Domain", "Lost / gained"]
    return Table([Column("Arm"), Column("Verdict", "verdict"), *(Column(t, "number") for t in titles)], rows)


def from_to(before: Any, after: Any) -> str:
    return f"{score(before)} → {score(after)}" if is_number(before) and is_number(after) else NONE


def moved_suites(run: Run, arm: str) -> tuple[Table, list[str]]:
    """(suites that changed, in the width of a comment; the names of those in which no item did)."""
    rows, still = [], []
    for name, s in sorted(part(run.gate, "arms", arm, "suites").items(), key=damage):
        if s.get("lost") == s.get("gained") == s.get("change") == 0 and s.get("verdict") == "pass":
            still.append(name)
            continue
        rows.append(
            [
                name,
                str(s.get("verdict") or NONE),
                from_to(adjusted_score(s, "before"), adjusted_score(s, "after")),
                points(s.get("change")),
                interval(s.get("low"), s.get("high")),
                score(s.get("margin")),
                f"{count(s.get('lost'))} / {count(s.get('gained'))}",
                count(s.get("items")),
                str(s.get("role", "")),
            ]
        )
    titles = ["Before → after", "Change", "Interval", "Margin", "Lost / gained", "Items"]
    columns = [Column("Suite"), Column("Verdict", "verdict"), *(Column(t, "number") for t in titles), Column("Role")]
    return Table(columns, rows, arm=arm), still


def suites(run: Run, arm: str) -> Table:
    """One row per suite: general ones first, then the domain's; of each what dropped most first."""
    names = part(run.gate, "arms", arm, "suites")
    rows = []
    for name, s in sorted(names.items(), key=damage):
        rows.append(
            [
                name,
                str(s.get("verdict") or NONE),
                str(s.get("role", "")),
                count(s.get("items")),
                score(adjusted_score(s, "before")),
                score(adjusted_score(s, "after")),
                points(s.get("change")),
                interval(s.get("low"), s.get("high")),
                count(s.get("lost")),
                count(s.get("gained")),
                p_value(s.get("mcnemar_p")),
                score(s.get("margin")),
            ]
        )
    kinds = {"Lost": "lost", "Gained": "gained"}
    titles = ["Items", "Before", "After", "Change", "Interval", "Lost", "Gained", "p", "Margin"]
    numbers = [Column(t, kinds.get(t, "number")) for t in titles]  # type: ignore[arg-type]
    return Table([Column("Suite"), Column("Verdict", "verdict"), Column("Role"), *numbers], rows, arm=arm)


def damage(item: tuple[str, Any]) -> tuple[bool, float, str]:
    """The sort key of a suite in a table; one without a score comes first, since something is wrong with it."""
    name, suite = item
    change = part(suite, "change")
    return part(suite, "role") != "general", change if is_number(change) else float("-inf"), name


def adjusted_score(suite: Json, when: str) -> Any:
    return suite.get(f"{when}_adjusted", suite.get(when))
