"""What an arm trains on, in order: every epoch all domain rows, and replay rows until they have their share.

The share is counted in rows. Counted in trained tokens it would leave a domain of short answers next to no replay: beside
500 labels of seven tokens a quarter of the tokens is ten answers of the base (docs/log.md). Every epoch takes replay rows
that were not used before while there are any: more distinct rows hold the base in more places than a few rows again and
again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from holdfast.chat import encoding
from holdfast.chat.answers import read_answer
from holdfast.core import records, storage
from holdfast.core.errors import UserError, first_line
from holdfast.core.rows import DomainRow, MixRow, ReplayRow, TrainingRow
from holdfast.data.instructions import needs_base
from holdfast.params.mix import Mix, MixArm, count_replay


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


def domain_rows(tokenizer: Any, rows: list[DomainRow]) -> list[TrainingRow]:
    """Rows of the domain with the tokens that each is trained on.

    A conversation whose earlier thoughts the template leaves out of a history becomes several (encoding.unroll)."""
    controls, mixed = encoding.control_strings(tokenizer), []
    for row in rows:
        tools = encoding.escape_controls(controls, row.get("tools"))
        safe = encoding.escape_controls(controls, row["messages"])
        parts = [safe] if all(len(m) == 2 for m in safe) else encoding.unroll(tokenizer, safe, tools)
        for number, part in enumerate(parts):
            id = f"{row['id']}/{number + 1}" if number + 1 < len(parts) else row["id"]
            mixed.append(mixture_row(tokenizer, "domain", id, part, row["source"], tools))
    return mixed


def replay_rows(tokenizer: Any, rows: list[ReplayRow]) -> list[TrainingRow]:
    """Rows of the replay set with the tokens that each is trained on."""
    return [
        mixture_row(
            tokenizer,
            "replay",
            row["id"],
            replay_conversation(tokenizer, row),
            f"replay row {row['id']}",
            row.get("tools"),
            row.get("thinking"),
        )
        for row in rows
    ]


def replay_conversation(tokenizer: Any, row: ReplayRow) -> encoding.Messages:
    """The conversation of a replay row, escaped; an answer beside tools or with thoughts is the turn that the template writes back
    as it was written. Raises UserError where it is none of this template's."""
    chat = encoding.escape_messages(tokenizer, [*row["context"], *encoding.turns(row["instruction"])])
    if not needs_base(row):
        return [*chat, {"role": "assistant", "content": encoding.escape_special_tokens(tokenizer, row["response"])}]
    turn = read_answer(tokenizer, chat, row["response"], row.get("tools"), row.get("thinking"))
    if turn is None:
        what = "the base's chat template does not write this answer, with calls or thoughts"
        raise UserError(what, where=f"replay row {row['id']}", do="run `dvc repro`: it was drawn with another template")
    return follow_up(tokenizer, [*chat, turn], row)


def follow_up(tokenizer: Any, chat: encoding.Messages, row: ReplayRow) -> encoding.Messages:
    """The conversation with the turns after the response: results of its calls, escaped, and the base's answer to them. Where the
    template writes the call otherwise in a history than the base wrote it (without empty thoughts, say) the call is only shown: other
    rows teach it."""
    after = row.get("after")
    if not after:
        return chat
    tools, thinking = row.get("tools"), row.get("thinking")
    written = encoding.render(tokenizer, chat[:-1], respond=True, tools=tools, thinking=thinking) + row["response"]
    whole = [*chat, *encoding.escape_messages(tokenizer, after[:-1])]
    if not encoding.render(tokenizer, whole, respond=True, tools=tools, thinking=thinking).startswith(written):
        chat = [*chat[:-1], {**chat[-1], "train": False}]
    chat = [*chat, *encoding.escape_messages(tokenizer, after[:-1])]
    turn = read_answer(tokenizer, chat, after[-1]["content"], tools, thinking)
    if turn is None:
        what = "the base's chat template does not write this answer to a tool's result"
        raise UserError(what, where=f"replay row {row['id']}", do="run `dvc repro`: it was drawn with another template")
    return [*chat, turn]


def mixture_row(
    tokenizer: Any,
    source: str,
    id: str,
    messages: encoding.Messages,
    where: str,
    tools: list | None = None,
    thinking: bool | None = None,
) -> TrainingRow:
    """`messages`, `tools`: escaped. Raises UserError, naming `where`, where the base's chat template cannot render them."""
    try:
        tokens = sum(encoding.encode(tokenizer, messages, tools, thinking)[1])
    except Exception as error:  # a template is a program: no system role, alternating roles, ...
        what = f"the base's chat template cannot render this conversation ({first_line(error)})"
        raise UserError(what, where=where, do="fix or remove the row") from None
    row: TrainingRow = {"source": source, "source_id": id, "messages": messages, "trained_tokens": tokens}
    if tools:
        row["tools"] = tools
    if thinking is not None:
        row["thinking"] = thinking
    return row


def trained_tokens(rows: Sequence[TrainingRow]) -> int:
    return sum(row["trained_tokens"] for row in rows)


def build_mixture(
    domain: list[TrainingRow],
    replay: list[TrainingRow],
    share: float,
    epochs: float,
    max_repeats: int,
    seed: int,
    arm: str,
) -> list[MixRow]:
    """The rows in the order of training: epoch after epoch, shuffled within.

    `share`: replay's part of the rows, 0 to below 1; `epochs`: may end with a part of one. Raises UserError where the
    replay set is too small for the share.
    """
    domain = sorted(domain, key=lambda row: records.text_id(seed, row["source_id"]))
    passes = [domain[: math.ceil(len(domain) * min(1, epochs - n))] for n in range(math.ceil(epochs))]
    ends = [round(count_replay(n, share)) for n in accumulate(map(len, passes))]  # replay rows up to the end of each
    if len(replay) * max_repeats < ends[-1]:
        raise UserError(
            f"share {share:g} needs {ends[-1]:,} replay rows in {epochs:g} epochs; there are {len(replay):,}, "
            f"each used at most {max_repeats} times",
            where=f"mix.arms.{arm}",
            do="raise reconstruct.samples and balance.rows, raise mix.max_repeats, or lower the share",
        )

    def shuffle_replay(repeat: int) -> list[TrainingRow]:
        return sorted(replay, key=lambda row: records.text_id(seed, repeat, row["source_id"]))

    def place(row: TrainingRow, epoch: int, repeat: int) -> MixRow:
        """Stored by id, so epoch after epoch, shuffled within."""
        key = records.text_id(seed, row["source"], row["source_id"], epoch, repeat)
        return {**row, "id": f"{epoch:04d}-{key}", "epoch": epoch, "repeat": repeat}

    supply = ((row, repeat) for repeat in range(max_repeats) for row in shuffle_replay(repeat))
    rows = []
    for epoch, (part, start, end) in enumerate(zip(passes, [0, *ends], ends, strict=False)):
        rows += [place(row, epoch, repeat=epoch) for row in part]
        rows += [place(row, epoch, repeat) for row, repeat in islice(supply, end - start)]
    return sorted(rows, key=lambda row: row["id"])


def summarise(
    rows: list[MixRow],
    replay: list[TrainingRow],
    stored: list[ReplayRow],
    arm: str,
    mix_config: MixArm,
    share: float,
    epochs: float,
    rewritten: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a mixture holds, for reports/mix. `replay`: the rows that could be used, `stored`: as `balance` wrote them;
    `rewritten`: of rewrite_answers."""
    used = [row for row in rows if row["source"] == "replay"]
    tokens = {source: trained_tokens([r for r in rows if r["source"] == source]) for source in ("domain", "replay")}
    uses = Counter(row["source_id"] for row in used)
    families: Counter[str] = Counter()
    for row in stored:
        families[row["family"]] += uses[row["id"]]
    return {
        "schema": 1,
        "arm": arm,
        "epochs": epochs,
        "share": {
            "wanted": share,
            "chosen_by": "pilot" if mix_config.share == "auto" else "params",
            "got": len(used) / max(len(rows), 1),
        },
        "rows": {"domain": len(rows) - len(used), "replay": len(used)},
        "trained_tokens": tokens,
        "replay": {"rows": len(replay), "used": len(uses), "most_uses": max(uses.values(), default=0)},
        "families": {family: n / max(len(used), 1) for family, n in sorted(families.items())},
        "refusals": sum(uses[row["id"]] for row in stored if row["refusal"]) / max(len(used), 1),
        "rewritten": rewritten,
    }


def sentence(summary: dict[str, Any]) -> str:
    """A summary of `summarise` in one or two lines."""
    share, replay, rewritten = summary["share"], summary["replay"], summary["rewritten"]
    rows, tokens = summary["rows"], sum(summary["trained_tokens"].values())
    arm, changed = summary["arm"], ""
    if rewritten:
        own, answers = rewritten["rewritten"], rewritten["answers"]
        changed = f"\n{arm}: {own:,} of {answers:,} answers are now the base's own words"
    return (
        f"{arm}: {sum(rows.values()):,} rows in {summary['epochs']:g} epochs, {rows['replay']:,} of them replay "
        f"({share['got']:.1%}, wanted {share['wanted']:.1%}), {tokens:,} trained tokens; "
        f"{replay['used']:,} replay rows used up to {replay['most_uses']} times{changed}"
    )
