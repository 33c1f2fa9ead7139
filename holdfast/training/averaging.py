"""How far to go from the base's weights to the tuned ones, chosen on rows that were not trained on (`average: auto`).

WiSE-FT (Wortsman et al., arXiv 2109.01903) draws the line between both. Where on it the domain is learnt and the base
still kept is measured on held-out rows of both sources, by one forward pass each (held_out.py). fine_tuning.py holds
the rows out, process.py chooses when training has ended.
"""

from __future__ import annotations

from typing import Any

import torch

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.core.rows import MixRow
from holdfast.training import anchors, held_out
from holdfast.training.trainer import Table

MAX_HELD_OUT_ROWS = 200  # of each source, and at most a fifth of them
MIN_HELD_OUT_ROWS = 10  # of each source; fewer say too little
PARTS_TRIED = tuple(n / 20 for n in range(20, 0, -1))  # of the way, from the far end


def hold_out(rows: list[MixRow], seed: int, arm: str) -> tuple[list[MixRow], list[MixRow]]:
    """(rows to train on, rows held out, each once). A row that is held out is in no epoch.

    Raises UserError where a fifth of a source's rows is less than MIN_HELD_OUT_ROWS.
    """
    held: dict[tuple[str, str], MixRow] = {}
    for source in ("replay", "domain"):
        by_id = {row["source_id"]: row for row in rows if row["source"] == source}
        count = min(MAX_HELD_OUT_ROWS, len(by_id) // 5)
        if count < MIN_HELD_OUT_ROWS:
            raise UserError(
                "average: auto measures on rows that are not trained on, "
                f"and a fifth of {len(by_id)} {source} rows is too few",
                where=f"finetune.arms.{arm}.average",
                do=f"give at least {5 * MIN_HELD_OUT_ROWS} (mix.arms.{arm}.share for replay), or a number",
            )
        for id in sorted(by_id, key=lambda id: records.text_id(seed, "average", id))[:count]:
            held[source, id] = by_id[id]
    return [row for row in rows if (row["source"], row["source_id"]) not in held], list(held.values())


def choose_average(
    tuned: Any, start: anchors.Weights, held: list[tuple[str, held_out.EncodedRow]], table: Table, target: float
) -> dict[str, Any]:
    """The largest part of the way with a retention of at least `target` (0 to 1); the smallest tried where none has it.

    `held`: (source, row); `table`: the base's side of them. The model is left at the tuned weights. A part's gain is
    the domain's log-probability per token over the base's (nats).
    """
    tuned.eval()
    weights, tried, before = dict(tuned.named_parameters()), [], None
    end = {name: weights[name].detach().clone() for name in start}
    with torch.no_grad():
        for part in (0.0, *PARTS_TRIED):
            for name, base in start.items():
                weights[name].copy_(torch.lerp(base.to(end[name]), end[name], part))
            outcomes = held_out.outcomes(tuned, [row for _, row in held], table)
            by_source = {
                s: [one for (source, _), one in zip(held, outcomes, strict=True) if source == s]
                for s in ("replay", "domain")
            }
            tokens = {source: sum(one.tokens for one in several) for source, several in by_source.items()}
            retention = 1 - sum(one.moved for one in by_source["replay"]) / tokens["replay"]
            logprob = sum(one.logprob for one in by_source["domain"]) / tokens["domain"]
            before = logprob if before is None else before
            if part:
                tried.append({"average": part, "retention": retention, "gain": logprob - before})
            if part and retention >= target:
                break
        for name, weight in end.items():
            weights[name].copy_(weight)
    last = tried[-1]
    return {"chosen": last["average"], "met": last["retention"] >= target, "target": target, "tried": tried}


def sentence(choice: dict[str, Any]) -> str:
    """A choice of `choose_average` in words."""
    part, retention = choice["chosen"], choice["tried"][-1]["retention"]
    short = "" if choice["met"] else f", less than the {choice['target']:.1%} asked for"
    return f"average: {part:g} of the way to the tuned weights keeps {retention:.1%} of the base's choices{short}"
