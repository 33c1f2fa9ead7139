"""How far to go from the base's weights to the tuned ones, chosen on rows that were not trained on (`average: auto`).

WiSE-FT (Wortsman et al., arXiv 2109.01903) draws the line between both; where on it the domain is learnt and the base still
kept, held-out rows of both sources tell by one forward pass each (holdfast/training/held_out.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.training import anchors, held_out
from holdfast.training.trainer import Table

HELD = 200  # rows of each source, at most a fifth of them
LEAST = 10  # of each source, with which anything can be said
STEPS = tuple(n / 20 for n in range(20, 0, -1))  # tried from the far end
Rows = list[dict[str, Any]]


def split(rows: Rows, seed: int, arm: str) -> tuple[Rows, Rows]:
    """(rows to train on, rows held out, each once). A source row that is held out is in no epoch."""
    held: dict[tuple[str, str], dict[str, Any]] = {}
    for source in ("replay", "domain"):
        of = {row["source_id"]: row for row in rows if row["source"] == source}
        count = min(HELD, len(of) // 5)
        if count < LEAST:
            raise UserError(
                f"average: auto measures on rows that are not trained on, and a fifth of {len(of)} {source} rows is too few",
                where=f"finetune.arms.{arm}.average",
                do=f"give at least {5 * LEAST} (mix.arms.{arm}.share for replay), or a number",
            )
        for id in sorted(of, key=lambda id: records.text_id(seed, "average", id))[:count]:
            held[source, id] = of[id]
    return [row for row in rows if (row["source"], row["source_id"]) not in held], list(held.values())


def chosen(
    tuned: Any, start: anchors.Weights, held: list[tuple[str, held_out.Row]], table: Table, target: float,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """The largest part of the way with a retention of at least `target`; the smallest tried where none has it. `held`: (source,
    row); `table`: the base's side of them. The model is left at the tuned weights; gain is per token, over the base (nats)."""
    tuned.eval()
    weights, tried, before = dict(tuned.named_parameters()), [], None
    end = {name: weights[name].detach().clone() for name in start}
    with torch.no_grad():
        for part in (0.0, *STEPS):
            for name, base in start.items():
                weights[name].copy_(torch.lerp(base.to(end[name]), end[name], part))
            found = held_out.outcomes(tuned, [row for _, row in held], table)
            by = {
                s: [one for (source, _), one in zip(held, found, strict=True) if source == s]
                for s in ("replay", "domain")
            }
            tokens = {source: sum(one.tokens for one in several) for source, several in by.items()}
            retention = 1 - sum(one.moved for one in by["replay"]) / tokens["replay"]
            logprob = sum(one.logprob for one in by["domain"]) / tokens["domain"]
            before = logprob if before is None else before
            if part:
                tried.append({"average": part, "retention": retention, "gain": logprob - before})
            if part and retention >= target:
                break
        for name, weight in end.items():
            weights[name].copy_(weight)
    best, met = tried[-1], tried[-1]["retention"] >= target
    say(
        f"average: {best['average']:g} of the way to the tuned weights keeps {best['retention']:.1%} of the base's choices"
        + ("" if met else f", less than the {target:.1%} asked for")
    )
    return {"chosen": best["average"], "met": met, "target": target, "tried": tried}
