"""What a run was made with, and what it cost, as tables. Nothing is escaped here."""

from __future__ import annotations

from typing import Any

from holdfast.params.base import STAGES
from holdfast.reporting.findings import Json, Run, amounts, part
from holdfast.reporting.markup import (
    NONE,
    Column,
    Table,
    count,
    decimal,
    is_number,
    percent,
    scalar,
)


def cost(run: Run) -> Table:
    rows = []
    for arm in run.arms():
        if not (ledger := run.ledgers.get(arm)):
            continue
        objective = str(ledger.get("objective", NONE))
        if is_number(ledger.get("kl_coefficient")):
            objective += f" × {ledger['kl_coefficient']:g}"
        if is_number(part(ledger, "average", "chosen")):
            objective += f", {ledger['average']['chosen']:g} of the way"
        tokens, flops = part(ledger, "trained_tokens"), ledger.get("flops")
        rows.append(
            [
                run.title(arm),
                objective,
                f"{ledger['learning_rate']:g}" if is_number(ledger.get("learning_rate")) else NONE,
                count(ledger.get("steps")),
                both(part(ledger, "rows")),
                both(tokens),
                percent(ledger.get("share")),
                decimal(flops / 1e12 if is_number(flops) else None, 1),
                f"{decimal(ledger.get('loss_first'))} → {decimal(ledger.get('loss_last'))}",
            ]
        )
    titles = ["Learning rate", "Steps", "Rows", "Trained tokens", "Share", "TFLOP", "Loss"]
    return Table([Column("Arm"), Column("Objective"), *(Column(t, "number") for t in titles)], rows)


def stages(run: Run) -> Table:
    """Tokens and operations of every stage in the order of the pipeline, each stage's share of all operations, and sums."""
    place = {name: n for n, name in enumerate(STAGES)}
    names = sorted(run.costs, key=lambda name: (place.get(name.partition("/")[0], len(place)), name))
    costs = list(run.costs.values())
    total = {key: sum(amounts(costs, key)) for key in ("read", "written", "trained", "flops")}
    rows = [stage_cost(name.replace("/", ", "), run.costs[name], total["flops"]) for name in names]
    rows += [stage_cost("all", total, total["flops"])] if names else []
    titles = ["Tokens read", "written", "trained", "TFLOP", "of all"]
    return Table([Column("Stage"), *(Column(t, "number") for t in titles)], rows, strong=frozenset([len(names)]))


def stage_cost(name: str, cost: Json, all_flops: float) -> list[str]:
    tokens = [count(cost[key]) if cost.get(key) else NONE for key in ("read", "written", "trained")]
    flops = cost.get("flops")
    if not (is_number(flops) and flops):
        return [name, *tokens, NONE, NONE]
    return [name, *tokens, decimal(flops / 1e12), percent(flops / all_flops)]


def both(content: Json) -> str:
    return f"{count(content.get('domain'))} + {count(content.get('replay'))}"


def models(run: Run) -> Table:
    rows = [
        [
            str(m.get("name")),
            str(m.get("source")),
            str(m.get("revision"))[:12],
            str(m.get("architecture")),
            count(m.get("parameters")),
        ]
        for m in run.models
    ]
    return Table(
        [Column("Model"), Column("Source"), Column("Revision"), Column("Architecture"), Column("Parameters", "number")],
        rows,
    )


def settings(content: Json, skip: tuple[str, ...] = ("schema",)) -> Table:
    """Any JSON object as two columns, nested keys joined by dots."""
    rows: list[list[str]] = []

    def walk(inner: Any, path: str) -> None:
        if isinstance(inner, dict):
            for key in sorted(inner):
                walk(inner[key], f"{path}.{key}" if path else str(key))
        else:
            rows.append([path, ", ".join(map(scalar, inner)) if isinstance(inner, list) else scalar(inner)])

    walk({k: v for k, v in content.items() if k not in skip}, "")
    return Table([Column("Setting"), Column("Value")], rows)
