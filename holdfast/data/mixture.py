"""What an arm trains on, in order: every epoch all domain rows, and replay rows until they have their share.

The share is counted in trained tokens (those the loss is taken on), not in rows: a long answer counts as much as it
weighs in the loss. Every epoch takes replay rows that were not used before while there are any: more distinct rows hold
the base in more places than a few rows again and again.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

from holdfast.chat import encoding
from holdfast.core import records, storage
from holdfast.core.errors import UserError, first_line
from holdfast.params.mix import Mix, MixArm

Row = dict[str, Any]  # of the contracts "domain", "replay" and "mix"


def arm_config(params: Mix, arm: str) -> MixArm:
    """The arm's part of the section `mix`. Raises UserError where it has none."""
    if arm not in params.arms:
        raise UserError(
            f"arm '{arm}' has no entry in mix.arms", where="params.yaml", do=f"add mix.arms.{arm}: {{share: ...}}"
        )
    return params.arms[arm]


def find_share(mix_config: MixArm, pilot_report: Path) -> float:
    """The share of params.yaml, or with `share: auto` the pilot's. Raises UserError where the pilot has chosen none."""
    if mix_config.share != "auto":
        return mix_config.share
    share = storage.read_json(pilot_report).get("share")
    if share is None:
        raise UserError(
            "holds no share", where=pilot_report, do="run `dvc repro`: a pilot runs before its arm's mixture"
        )
    return share


def domain_rows(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """Rows of the contract "domain" as rows of a mixture, with the tokens that each is trained on."""
    return [mixture_row(tokenizer, "domain", row["id"], row["messages"], row["source"]) for row in rows]


def replay_rows(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """Rows of the contract "replay" as rows of a mixture, with the tokens that each is trained on."""
    return [
        mixture_row(
            tokenizer,
            "replay",
            row["id"],
            [*row["context"], *encoding.turns(row["instruction"], row["response"])],
            f"replay row {row['id']}",
        )
        for row in rows
    ]


def mixture_row(tokenizer: Any, source: str, id: str, messages: encoding.Messages, where: str) -> Row:
    """Raises UserError, naming `where`, where the base's chat template cannot render the conversation."""
    safe = encoding.escape_messages(tokenizer, messages)
    try:
        tokens = sum(encoding.encode(tokenizer, safe)[1])
    except Exception as error:  # a template is a program: no system role, alternating roles, ...
        what = f"the base's chat template cannot render this conversation ({first_line(error)})"
        raise UserError(what, where=where, do="fix or remove the row") from None
    return dict(source=source, source_id=id, messages=safe, trained_tokens=tokens)


def trained_tokens(rows: list[Row]) -> int:
    return sum(row["trained_tokens"] for row in rows)


def build_mixture(
    domain: list[Row], replay: list[Row], share: float, epochs: float, max_repeats: int, seed: int, arm: str
) -> list[Row]:
    """Rows of the contract "mix", epoch after epoch, shuffled within.

    `share`: replay's part of the trained tokens, 0 to below 1; `epochs`: may end with a part of one. Raises UserError
    where the replay set is too small for the share.
    """
    domain = sorted(domain, key=lambda row: records.text_id(seed, row["source_id"]))
    passes = [domain[: math.ceil(len(domain) * min(1, epochs - n))] for n in range(math.ceil(epochs))]
    wanted = [trained_tokens(part) * share / (1 - share) for part in passes]
    if trained_tokens(replay) * max_repeats < sum(wanted):
        raise UserError(
            f"share {share:g} needs {sum(wanted):,.0f} replay tokens in {epochs:g} epochs; {len(replay):,} rows have "
            f"{trained_tokens(replay):,}, each used at most {max_repeats} times",
            where=f"mix.arms.{arm}",
            do="raise reconstruct.samples and balance.rows, raise mix.max_repeats, or lower the share",
        )

    def shuffled_replay(repeat: int) -> list[Row]:
        return sorted(replay, key=lambda row: records.text_id(seed, repeat, row["source_id"]))

    supply = chain.from_iterable(({**row, "repeat": n} for row in shuffled_replay(n)) for n in range(max_repeats))
    rows, owed, following = [], 0.0, next(supply, None)
    for epoch, part in enumerate(passes):
        rows += [{**row, "epoch": epoch, "repeat": epoch} for row in part]
        owed += wanted[epoch]
        while following and owed >= following["trained_tokens"] / 2:
            rows.append({**following, "epoch": epoch})
            owed -= following["trained_tokens"]
            following = next(supply, None)
    for row in rows:  # stored by id, so epoch after epoch, shuffled within
        key = records.text_id(seed, row["source"], row["source_id"], row["epoch"], row["repeat"])
        row["id"] = f"{row['epoch']:04d}-{key}"
    return sorted(rows, key=lambda row: row["id"])


def summarise(
    rows: list[Row], replay: list[Row], arm: str, mix_config: MixArm, share: float, epochs: float, rewritten: Row | None
) -> Row:
    """What a mixture holds, for reports/mix. `replay`: the rows that could be used; `rewritten`: of rewrite_answers."""
    used = [row for row in rows if row["source"] == "replay"]
    tokens = {source: trained_tokens([r for r in rows if r["source"] == source]) for source in ("domain", "replay")}
    uses = Counter(row["source_id"] for row in used)
    got = tokens["replay"] / max(sum(tokens.values()), 1)
    return {
        "schema": 1,
        "arm": arm,
        "epochs": epochs,
        "share": {"wanted": share, "chosen_by": "pilot" if mix_config.share == "auto" else "params", "got": got},
        "rows": {"domain": len(rows) - len(used), "replay": len(used)},
        "trained_tokens": tokens,
        "replay": {"rows": len(replay), "used": len(uses), "most_uses": max(uses.values(), default=0)},
        "rewritten": rewritten,
    }


def sentence(summary: Row) -> str:
    """A summary of `summarise` in one or two lines."""
    share, replay, rewritten = summary["share"], summary["replay"], summary["rewritten"]
    rows, tokens = sum(summary["rows"].values()), sum(summary["trained_tokens"].values())
    arm, changed = summary["arm"], ""
    if rewritten:
        own, answers = rewritten["rewritten"], rewritten["answers"]
        changed = f"\n{arm}: {own:,} of {answers:,} answers are now the base's own words"
    return (
        f"{arm}: {rows:,} rows in {summary['epochs']:g} epochs, {tokens:,} trained tokens, "
        f"{share['got']:.1%} of them replay (wanted {share['wanted']:.1%}), "
        f"{replay['used']:,} replay rows used up to {replay['most_uses']} times{changed}"
    )
