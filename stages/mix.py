"""Builds one arm's training mixture: all domain rows, and replay rows until they bear their share of the loss.

holdfast mix --arm NAME        (writes data/mixes/NAME.parquet)

The share is counted in trained tokens (those the loss is taken on), not in rows: a long answer weighs what it weighs.
"""

from __future__ import annotations

from pathlib import Path

from stages.core import chat, manifest, records
from stages.core.errors import UserError
from stages.core.params import Mix


def main(params: Mix, arm: str, model: Path, data: Path, out: Path) -> None:
    if arm not in params.arms:
        raise UserError(
            f"arm '{arm}' has no entry in mix.arms", where="params.yaml", do=f"add mix.arms.{arm}: {{share: ...}}"
        )
    share = params.arms[arm].share
    tokenizer = manifest.tokenizer(manifest.load(model).folder())

    def measured(messages: chat.Messages, where: str) -> tuple[chat.Messages, int]:
        safe = [{"role": m["role"], "content": chat.neutral(tokenizer, m["content"])} for m in messages]
        try:
            return safe, sum(chat.encode(tokenizer, safe)[1])
        except Exception as error:  # a template is a program: no system role, alternating roles, ...
            what = f"the base's chat template cannot render this conversation ({chat.first_line(error)})"
            raise UserError(what, where=where, do="mend or remove the row") from None

    rows = []
    for row in records.read("domain", data / "domain" / "train.parquet"):
        messages, tokens = measured(row["messages"], row["source"])
        rows.append(dict(source="domain", source_id=row["id"], repeat=0, messages=messages, trained_tokens=tokens))
    domain_tokens = sum(row["trained_tokens"] for row in rows)

    wanted, have = domain_tokens * share / (1 - share), 0
    if wanted:
        replay = records.read("replay", data / "replay" / "replay.parquet")
        replay.sort(key=lambda row: records.text_id(params.seed, row["id"]))
        turns = [
            [{"role": "user", "content": r["instruction"]}, {"role": "assistant", "content": r["response"]}]
            for r in replay
        ]
        ready = [measured(m, f"replay row {r['id']}") for m, r in zip(turns, replay, strict=True)]
        once = sum(tokens for _, tokens in ready)
        if once * params.max_repeats < wanted:
            raise UserError(
                f"share {share} needs {wanted:,.0f} replay tokens; {len(replay):,} rows have {once:,}, each used at most "
                f"{params.max_repeats} times",
                where=f"mix.arms.{arm}",
                do="raise reconstruct.samples and balance.rows, raise mix.max_repeats, or lower the share",
            )
        for n in range(len(ready) * params.max_repeats):
            repeat, i = divmod(n, len(ready))
            messages, tokens = ready[i]
            if have + tokens / 2 > wanted:
                break
            rows.append(
                dict(
                    source="replay", source_id=replay[i]["id"], repeat=repeat, messages=messages, trained_tokens=tokens
                )
            )
            have += tokens
    for row in rows:
        row["id"] = records.text_id(
            params.seed, row["source"], row["source_id"], row["repeat"]
        )  # sorting by it shuffles
    records.write("mix", out, rows)
    repeats = 1 + max((row["repeat"] for row in rows), default=0)
    total = domain_tokens + have
    print(
        f"{arm}: {len(rows):,} rows, {total:,} trained tokens, {have / max(total, 1):.1%} of them replay (wanted {share:.1%}), "
        f"replay rows used up to {repeats} time{'s' * (repeats > 1)}"
    )
