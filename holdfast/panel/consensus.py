"""Averages the judges' scores, chooses one response per instruction, and audits the judges.

holdfast consensus        (writes data/replay/{candidates,rejected}.parquet and reports/consensus.json)

mean_score: the response with the best mean score (Ding & Wang, arXiv 2506.09428, step 3).
score_then_base_likelihood: of all with a mean score of min_score or more, the one that fits the base best (GRAPE, arXiv 2502.04194).
agreement: the text that most responses agree on (self-consistency, arXiv 2203.11171), over all panel members.
base_best_of_k: of the base's own responses the one that it scores best itself; the rest of the panel has no say.
Ties go to the better mean score, then to the response that the base finds most likely.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.panel import judge_audit, selection
from holdfast.params.consensus import Consensus


def main(params: Consensus, panel: list[str], data: Path, summary: Path) -> None:
    kept = records.read_frame("instructions_kept", data / "instructions" / "kept.parquet")
    responses = pd.concat([records.read_frame("responses", data / "responses" / f"{m}.parquet") for m in panel])
    scores = pd.concat([records.read_frame("scores", data / "scores" / f"{m}.parquet") for m in panel])
    if scores["score"].notna().sum() == 0:
        raise UserError(
            "no judge gave a single valid score", where="data/scores", do="check judge.rubric and judge.min_mass"
        )
    table = selection.with_agreement(responses)
    by_judge = scores.pivot(index="id", columns="judge", values="score").reindex(table.index)
    of_base = scores.dropna(subset="logprob")  # the base, and nobody else, gives likelihoods
    table["base_logprob"] = of_base.set_index("id")["logprob"]
    base = str(of_base["judge"].iloc[0]) if len(of_base) else ""
    table = selection.scored(table, by_judge)
    usable = can_be_chosen(table, params, base)

    if not usable.any():
        raise UserError(
            f"no response is finished and has {params.min_judges} or more scores",
            where="consensus",
            do="raise respond.max_tokens, or lower consensus.min_judges",
        )
    chosen = selection.choose(table[usable], params, by_judge, base).merge(
        kept[["id", "context", "text", "cluster"]], left_on="instruction_id", right_on="id"
    )
    chosen = chosen.rename(columns={"text_x": "response", "text_y": "instruction"}).drop(columns=["id"])
    chosen = chosen.rename(columns={"instruction_id": "id"})
    chosen = chosen[records.SCHEMAS["candidates"].names]
    judged = (
        by_judge.loc[chosen["response_id"], base].to_numpy() if params.strategy == "base_best_of_k" else chosen["score"]
    )
    good = judged >= params.min_score
    rejected = chosen[~good].assign(reason="mean score below min_score")
    unanswered = kept[~kept["id"].isin(chosen["id"])]
    rejected_rows = to_rows(rejected) + [
        dict(
            id=row.id, context=row.context, instruction=row.text, response="", response_id="", model="", revision="", score=None, score_std=None,
            n_judges=0, agreement=0.0, base_logprob=None, cluster=row.cluster, reason="no finished response with enough scores",
        )
        for row in unanswered.itertuples()
    ]  # fmt: skip
    candidates = to_rows(chosen[good])
    if not candidates:
        raise UserError(
            f"no response reached the mean score {params.min_score}",
            where="consensus",
            do=f"lower consensus.min_score (best: {chosen['score'].max():.2f})",
        )
    assert len(candidates) + len(rejected_rows) == len(kept)
    records.write("candidates", data / "replay" / "candidates.parquet", candidates)
    records.write("candidates_rejected", data / "replay" / "rejected.parquet", rejected_rows)
    found = audit(params, table, by_judge, scores, base, chosen[good], rejected_rows)
    records.write_json(summary, found)
    for warning in judge_audit.warnings(by_judge):
        print(f"warning: {warning}")
    calls, tokens = found["calls_per_kept_row"], found["tokens_per_kept_row"]
    cost = f"{calls:.2f} judge calls" + (f", {tokens:.0f} tokens of judges' prompts" if tokens else "")
    print(f"per kept row {cost}; the full panel: {found['calls_of_the_full_panel'] / len(candidates):.2f} calls")
    print(f"kept {len(candidates):,} of {len(kept):,} instructions with a response; {len(rejected_rows):,} rejected")


def can_be_chosen(table: pd.DataFrame, params: Consensus, base: str) -> pd.Series:
    return selection.eligible(table, params, base) & (table["n_judges"] >= params.min_judges)


def to_rows(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def audit(
    params: Consensus,
    table: pd.DataFrame,
    by_judge: pd.DataFrame,
    scores: pd.DataFrame,
    base: str,
    chosen: pd.DataFrame,
    rejected: list[dict],
) -> dict:
    """What was chosen, and what the judges did."""

    # What judges are worth is told by the random sample that each of them scored whole: elsewhere, who was asked about what
    # hangs on what the ones before said.
    whole = table[table.index.isin(scores.loc[scores["audit"], "id"])]
    marks = by_judge.loc[whole.index]

    def chosen_by(given: pd.DataFrame) -> pd.Series:
        part = selection.scored(whole, given)
        best = selection.choose(part[can_be_chosen(part, params, base)], params, given, base)
        return best.set_index("instruction_id")["response_id"]

    judges = judge_audit.audit(whole, marks, chosen_by, params.tie)
    asked = scores.merge(table["text"], left_on="id", right_index=True).drop_duplicates(
        ["judge", "instruction_id", "text"]
    )
    for judge, entry in judges.items():
        calls = asked[asked["judge"] == judge]
        entry["calls"] = len(calls)
        entry["null"] = int(calls["score"].isna().sum())
        entry["unreadable"] = int(calls["mass"].isna().sum())
        entry["mass"] = judge_audit.finite(calls["mass"].mean())
    everything = len(table.drop_duplicates(["instruction_id", "text"])) * len(by_judge.columns)
    tokens = float(asked["tokens"].sum()) if asked["tokens"].notna().all() else float("nan")
    return {
        "schema": 1,
        "strategy": params.strategy,
        "instructions": int(table["instruction_id"].nunique()),
        "responses": len(table),
        "unfinished": int((table["finish"] != "stop").sum()),
        "judgements": int(by_judge.notna().sum().sum()),
        "audited_instructions": int(whole["instruction_id"].nunique()),
        "calls": len(asked),
        "calls_of_the_full_panel": everything,
        "calls_per_kept_row": len(asked) / len(chosen),
        "tokens_per_kept_row": judge_audit.finite(tokens / len(chosen)),
        "kept": len(chosen),
        "rejected": dict(Counter(row["reason"] for row in rejected)),
        "chosen_from": {model: int(n) for model, n in chosen["model"].value_counts().sort_index().items()},
        "mean_score": judge_audit.finite(chosen["score"].mean()),
        "agreement": {
            **judge_audit.agreement(whole, marks),
            "ties": judge_audit.ties(whole, whole["score"], params.tie),
            "mean": judge_audit.finite(chosen["agreement"].mean()),
        },
        "judges": judges,
        "warnings": judge_audit.warnings(by_judge),
        "score_histogram": np.histogram(chosen["score"].astype(float), bins=8, range=(1, 5))[0].tolist(),
    }
