"""What an arm trains on, in order: every epoch all domain rows, and replay rows until they bear their share.

The share is counted in trained tokens (those the loss is taken on), not in rows: a long answer weighs what it weighs.
Every epoch takes replay rows that were not used before while there are any: more distinct rows hold the base in more
places than the same rows again.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

from holdfast.chat import encoding
from holdfast.core import records
from holdfast.core.errors import UserError, first_line

Row = dict[str, Any]


def domain(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """Rows of a domain split as rows of a mixture, with the tokens that each is trained on."""
    return [measured(tokenizer, "domain", row["id"], row["messages"], row["source"]) for row in rows]


def replay(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """The same of a replay set."""
    return [
        measured(
            tokenizer, "replay", row["id"], [*row["context"], *encoding.turns(row["instruction"], row["response"])],
            f"replay row {row['id']}",
        )
        for row in rows
    ]  # fmt: skip


def measured(tokenizer: Any, source: str, id: str, messages: encoding.Messages, where: str) -> Row:
    safe = [{"role": m["role"], "content": encoding.neutral(tokenizer, m["content"])} for m in messages]
    try:
        tokens = sum(encoding.encode(tokenizer, safe)[1])
    except Exception as error:  # a template is a program: no system role, alternating roles, ...
        what = f"the base's chat template cannot render this conversation ({first_line(error)})"
        raise UserError(what, where=where, do="mend or remove the row") from None
    return dict(source=source, source_id=id, messages=safe, trained_tokens=tokens)


def tokens(rows: list[Row]) -> int:
    return sum(row["trained_tokens"] for row in rows)


def mixed(
    domain: list[Row], replay: list[Row], share: float, epochs: float, max_repeats: int, seed: int, arm: str
) -> list[Row]:
    """Rows of the contract "mix". Raises UserError where the replay set is too small for the share."""
    domain = sorted(domain, key=lambda row: records.text_id(seed, row["source_id"]))
    # The last epoch may be a part of one.
    passes = [domain[: math.ceil(len(domain) * min(1, epochs - n))] for n in range(math.ceil(epochs))]
    wanted = [tokens(part) * share / (1 - share) for part in passes]
    if tokens(replay) * max_repeats < sum(wanted):
        raise UserError(
            f"share {share:g} needs {sum(wanted):,.0f} replay tokens in {epochs:g} epochs; {len(replay):,} rows have "
            f"{tokens(replay):,}, each used at most {max_repeats} times",
            where=f"mix.arms.{arm}",
            do="raise reconstruct.samples and balance.rows, raise mix.max_repeats, or lower the share",
        )

    def again(repeat: int) -> list[Row]:
        return sorted(replay, key=lambda row: records.text_id(seed, repeat, row["source_id"]))

    supply = chain.from_iterable(({**row, "repeat": n} for row in again(n)) for n in range(max_repeats))
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
