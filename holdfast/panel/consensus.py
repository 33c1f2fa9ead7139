"""Averages the judges' scores, selects one response per instruction, and sums up what the judges did.

mean_score: the response with the best mean score (Ding & Wang, arXiv 2506.09428, step 3).
score_then_base_likelihood: of all with a mean score of min_score or more, the one that fits the base best (GRAPE, arXiv 2502.04194).
agreement: the text that most responses agree on (self-consistency, arXiv 2203.11171), over all panel members.
base_best_of_k: of the base's own responses the one that it scores best itself; the rest of the panel has no say.
first: the base's own first response that is finished; nothing is scored.
Ties go to the better mean score, then to the response that the base finds most likely.

What the base refuses is replayed as a refusal in the base's own words, whatever the judges think of it; bait that the base
does not refuse is not replayed. Beside tools and with thoughts it is the base's first answer that can be read: no judge is asked.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.data.instructions import needs_base
from holdfast.data.refusals import is_refusal
from holdfast.panel import judge_audit, selection
from holdfast.params.consensus import Consensus

OBEYED = "the base obeys what deserves a refusal"
MISFIT = "a call whose arguments do not fit the schema of its function"
UNREADABLE = "a call that does not parse or names no tool that was offered, or thoughts that do not end"


class ScoredResponses(NamedTuple):
    table: (
        pd.DataFrame
    )  # by response id; with agreement, base_logprob, score (the mean), score_std, n_judges, refusal, refused
    by_judge: pd.DataFrame  # score by response id and judge; NaN: no valid score, or not asked
    base: str  # the base's name


def join_scores(
    responses: pd.DataFrame, scores: pd.DataFrame, base: str, rule: selection.SelectionRule
) -> ScoredResponses:
    """The responses with the scores of all judges. Raises UserError where the rule needs one and there is none."""
    if selection.asks_judges(rule) and scores["score"].notna().sum() == 0:
        raise UserError(
            "no judge gave a single valid score", where="data/scores", do="check judge.rubric and judge.min_mass"
        )
    table = add_refusals(selection.add_agreement(responses), base)
    by_judge = scores.pivot(index="id", columns="judge", values="score").reindex(table.index)
    of_base = scores.dropna(subset="logprob")  # only the base gives likelihoods
    table["base_logprob"] = of_base.set_index("id")["logprob"]
    return ScoredResponses(selection.add_scores(table, by_judge), by_judge, base)


def add_refusals(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """The responses with `refusal`, whether it is one, and `refused`, whether most of the base's to its instruction are."""
    table = table.assign(refusal=table["text"].map(is_refusal).astype(bool))
    of_base = table[table["model"] == base].groupby("instruction_id")["refusal"].mean()
    return table.assign(refused=table["instruction_id"].map(of_base).fillna(0.0) > 0.5)


def select_candidates(
    instructions: pd.DataFrame, scored: ScoredResponses, params: Consensus
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `candidates` and of `candidates_rejected`: each kept instruction is in one of them.

    Raises UserError where no response can be selected, or none is good enough.
    """
    if not selection.selectable(scored.table, params, scored.base).any():
        raise UserError(
            f"no response is finished and has {params.min_judges} or more scores"
            if selection.asks_judges(params)
            else "no response is finished",
            where="consensus",
            do="raise respond.max_tokens, or lower consensus.min_judges"
            if selection.asks_judges(params)
            else "raise respond.max_tokens",
        )
    refused = set(scored.table.loc[scored.table["refused"], "instruction_id"])
    obeyed = set(instructions.loc[instructions["bait"], "id"]) - refused
    extra = ["extra"] if "extra" in instructions else []  # tools, and the switch for thoughts
    columns = ["id", "family", "context", "text", "cluster", *extra]
    questions = instructions.loc[~instructions["id"].isin(obeyed), columns]
    questions = questions.rename(columns={"id": "instruction_id", "text": "instruction"})
    unjudged = find_unjudged(instructions)
    best = select_responses(scored, unjudged, params).rename(columns={"text": "response", "extra": "after"})
    best = best.merge(questions, on="instruction_id").rename(columns={"instruction_id": "id"})
    good = (best["deciding_score"] >= params.min_score) | best["refused"] | (not selection.asks_judges(params))
    good |= best["id"].isin(unjudged)
    after = ["after"] if "after" in best else []  # turns that follow a response
    best = best[[*records.SCHEMAS["candidates"].names, *extra, *after]]
    candidates = [unpack_row(row) for row in to_rows(best[good])]
    if not candidates:
        raise UserError(
            f"no response reached the mean score {params.min_score}",
            where="consensus",
            do=f"lower consensus.min_score (best: {best['score'].max():.2f})",
        )
    rejected = to_rows(best[~good].assign(reason="mean score below min_score"))
    unusable = {
        row.instruction_id: UNREADABLE if row.finish_reason == "unreadable" else MISFIT
        for row in scored.table[scored.table["finish_reason"].isin(("unreadable", "misfit"))].itertuples()
    }
    rejected += [
        dict(
            id=row.id,
            family=row.family,
            context=row.context,
            instruction=row.text,
            response="",
            response_id="",
            model="",
            revision="",
            score=None,
            score_std=None,
            n_judges=0,
            agreement=0.0,
            base_logprob=None,
            refusal=False,
            cluster=row.cluster,
            reason=OBEYED if row.id in obeyed else unusable.get(row.id, "no finished response with enough scores"),
        )
        for row in instructions[~instructions["id"].isin(best["id"])].itertuples()
    ]
    assert len(candidates) + len(rejected) == len(instructions)
    return candidates, rejected


def unpack_row(row: dict[str, Any]) -> dict[str, Any]:
    """A candidate with what its instruction is rendered with, and with the turns after its response."""
    after = json.loads(row.pop("after", None) or "{}")
    return records.unpack_extra(row) | after


def find_unjudged(instructions: pd.DataFrame) -> set[str]:
    """The ids of the instructions that only the base answers, and that no judge is asked about."""
    if "extra" not in instructions:
        return set()
    pairs = zip(instructions["id"], instructions["extra"], strict=True)
    return {id for id, extra in pairs if extra and needs_base(json.loads(extra))}


def select_responses(scored: ScoredResponses, unjudged: set[str], params: Consensus) -> pd.DataFrame:
    """The selected response of each instruction that has a selectable one: of the unjudged ones the base's first, whatever the
    strategy."""
    if not unjudged:
        return select_best(scored.table, scored.by_judge, scored.base, params)
    first = params.model_copy(update={"strategy": "first"})
    alone = scored.table["instruction_id"].isin(unjudged)
    parts = [
        select_best(part, scored.by_judge, scored.base, rule)
        for part, rule in ((scored.table[~alone], params), (scored.table[alone], first))
        if len(part)
    ]
    return pd.concat(parts)


def select_best(table: pd.DataFrame, by_judge: pd.DataFrame, base: str, params: Consensus) -> pd.DataFrame:
    """The selected response of each instruction that has a selectable one. `table`: with the scores of these judges."""
    ranking = selection.Ranking(params.strategy, params.tie, params.min_score)
    usable = table[selection.selectable(table, params, base)]
    usable = usable[~usable["refused"] | (usable["refusal"] & (usable["model"] == base))]
    return selection.select_responses(usable, by_judge, ranking, base)


def to_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def summarise(
    scored: ScoredResponses,
    scores: pd.DataFrame,
    candidates: list[dict[str, Any]],
    rejected: list[dict[str, Any]],
    params: Consensus,
) -> dict[str, Any]:
    """reports/consensus.json: what was selected, and what the judges did. `scores`: rows of `scores`, of all judges."""
    table, by_judge, base = scored
    selected = pd.DataFrame(candidates)
    # What judges are worth is told by the random sample that each of them scored whole: elsewhere, who was asked about
    # what depends on what the ones before said.
    audited = table[table.index.isin(scores.loc[scores["audit"], "id"])]
    audited_scores = by_judge.loc[audited.index]
    whole_panel = select_texts(audited, audited_scores, base, params)
    panels = {judge: audited_scores.drop(columns=judge) for judge in by_judge.columns if len(by_judge.columns) > 1}
    without = {judge: select_texts(audited, rest, base, params) for judge, rest in panels.items()}
    judges = judge_audit.audit_judges(audited, audited_scores, whole_panel, without, params.tie)

    texts = scores.merge(table["text"], left_on="id", right_index=True)
    calls = texts.drop_duplicates(["judge", "instruction_id", "text"])
    for judge, audit in judges.items():
        own = calls[calls["judge"] == judge]
        audit["calls"] = len(own)
        audit["null"] = int(own["score"].isna().sum())
        audit["unreadable"] = int(own["mass"].isna().sum())
        audit["mass"] = judge_audit.finite_or_none(own["mass"].mean())
    tokens = float(calls["tokens"].sum()) if calls["tokens"].notna().all() else float("nan")
    return {
        "schema": 1,
        "strategy": params.strategy,
        "instructions": int(table["instruction_id"].nunique()),
        "responses": len(table),
        "unfinished": int((table["finish_reason"] == "length").sum()),
        "refusals": {
            "refused": int(table.loc[table["refused"], "instruction_id"].nunique()),
            "obeyed": sum(row["reason"] == OBEYED for row in rejected),
            "kept": int(selected["refusal"].sum()),
            "share": float(selected["refusal"].mean()),
        },
        "judgements": int(by_judge.notna().sum().sum()),
        "audited_instructions": int(audited["instruction_id"].nunique()),
        "calls": len(calls),
        "calls_of_the_full_panel": len(table.drop_duplicates(["instruction_id", "text"])) * len(by_judge.columns),
        "calls_per_kept_row": len(calls) / len(selected),
        "tokens_per_kept_row": judge_audit.finite_or_none(tokens / len(selected)),
        "kept": len(selected),
        "rejected": dict(Counter(row["reason"] for row in rejected)),
        "chosen_from": {model: int(n) for model, n in selected["model"].value_counts().sort_index().items()},
        "mean_score": judge_audit.finite_or_none(selected["score"].mean()),
        "agreement": {
            **judge_audit.correlate_judges(audited, audited_scores),
            "ties": judge_audit.ties(audited, audited["score"], params.tie),
            "mean": judge_audit.finite_or_none(selected["agreement"].mean()),
        },
        "judges": judges,
        "warnings": judge_audit.warnings(by_judge),
        "score_histogram": np.histogram(selected["score"].astype(float), bins=8, range=(1, 5))[0].tolist(),
    }


def select_texts(table: pd.DataFrame, by_judge: pd.DataFrame, base: str, params: Consensus) -> pd.Series:
    """By instruction: the text that a panel of these judges selects."""
    best = select_best(selection.add_scores(table, by_judge), by_judge, base, params)
    return best.set_index("instruction_id")["text"]
