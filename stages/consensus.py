"""Averages the judges' scores, chooses one response per instruction, and audits the judges.

holdfast consensus        (writes data/replay/{candidates,rejected}.parquet and reports/consensus.json)

mean_score: the response with the best mean score (Ding & Wang, arXiv 2506.09428, step 3).
agreement: the text that most responses agree on (self-consistency, arXiv 2203.11171), over all panel members.
Ties go to the better mean score, then to the response that the base finds most likely (GRAPE, arXiv 2502.04194).
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core import records
from stages.core.errors import UserError
from stages.core.params import Consensus


def main(params: Consensus, panel: list[str], data: Path, summary: Path) -> None:
    kept = records.read_frame("instructions_kept", data / "instructions" / "kept.parquet")
    responses = pd.concat([records.read_frame("responses", data / "responses" / f"{m}.parquet") for m in panel])
    scores = pd.concat([records.read_frame("scores", data / "scores" / f"{m}.parquet") for m in panel])
    if scores["score"].notna().sum() == 0:
        raise UserError(
            "no judge gave a single valid score", where="data/scores", do="check judge.rubric and judge.min_mass"
        )
    by_judge = scores.pivot(index="id", columns="judge", values="score")
    table = responses.set_index("id").sort_index()
    table["score"] = by_judge.mean(axis=1)  # nulls are not counted
    table["score_std"] = by_judge.std(axis=1, ddof=0)
    table["n_judges"] = by_judge.notna().sum(axis=1)
    table["base_logprob"] = scores.dropna(subset="logprob").set_index("id")["logprob"]
    same = table.groupby(["instruction_id", "text"])["model"].transform("size")
    table["agreement"] = same / table.groupby("instruction_id")["model"].transform("size")
    usable = (table["text"] != "") & (table["n_judges"] >= params.min_judges)
    if params.finished_only:
        usable &= table["finish"] == "stop"

    if not usable.any():
        raise UserError(
            f"no response is finished and has {params.min_judges} or more scores",
            where="consensus",
            do="raise respond.max_tokens, or lower consensus.min_judges",
        )
    chosen = choose(table[usable], params).merge(
        kept[["id", "text", "cluster"]], left_on="instruction_id", right_on="id"
    )
    chosen = chosen.rename(columns={"text_x": "response", "text_y": "instruction"}).drop(columns=["id"])
    chosen = chosen.rename(columns={"instruction_id": "id"})
    chosen = chosen[records.SCHEMAS["candidates"].names]
    good = chosen["score"] >= params.min_score
    rejected = chosen[~good].assign(reason="mean score below min_score")
    unanswered = kept[~kept["id"].isin(chosen["id"])]
    rejected_rows = to_rows(rejected) + [
        dict(
            id=row.id, instruction=row.text, response="", response_id="", model="", revision="", score=None, score_std=None,
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
    records.write_json(summary, audit(params, table, by_judge, scores, chosen[good], rejected_rows))
    print(f"kept {len(candidates):,} of {len(kept):,} instructions with a response; {len(rejected_rows):,} rejected")


def choose(table: pd.DataFrame, params: Consensus) -> pd.DataFrame:
    """One row per instruction, best first by the strategy; within `tie` of the best mean score the base decides."""
    if params.strategy == "agreement":
        table = table[table["agreement"] == table.groupby("instruction_id")["agreement"].transform("max")]
    best = table.groupby("instruction_id")["score"].transform("max")
    table = table.assign(near=(table["score"] >= best - params.tie).astype(int), response_id=table.index)
    order = {"near": False, "base_logprob": False, "score": False, "response_id": True}  # column: ascending
    ranked = table.sort_values(list(order), ascending=list(order.values()), na_position="last", kind="stable")
    return ranked.groupby("instruction_id", sort=True).head(1).sort_values("instruction_id")


def to_rows(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def audit(
    params: Consensus,
    table: pd.DataFrame,
    by_judge: pd.DataFrame,
    scores: pd.DataFrame,
    chosen: pd.DataFrame,
    rejected: list[dict],
) -> dict:
    """What the judges did: means, missing scores, agreement, and whether each favours its own responses."""
    judges = {}
    for judge in by_judge.columns:
        own = table["model"] == judge
        given, others = by_judge[judge], by_judge.drop(columns=judge).mean(axis=1)
        excess = given - others  # against what the other judges say of the same response
        judges[judge] = {
            "mean": finite(given.mean()),
            "std": finite(given.std(ddof=0)),
            "null": int(given.isna().sum()),
            "mass": finite(scores.loc[scores["judge"] == judge, "mass"].mean()),
            "self_preference": finite(excess[own].mean() - excess[~own].mean()),
        }
    groups = table.groupby("instruction_id")["score"]
    ties = int(
        ((groups.transform("max") - table["score"] <= params.tie).groupby(table["instruction_id"]).sum() > 1).sum()
    )
    return {
        "schema": 1,
        "strategy": params.strategy,
        "instructions": int(table["instruction_id"].nunique()),
        "responses": len(table),
        "unfinished": int((table["finish"] != "stop").sum()),
        "judgements": int(by_judge.notna().sum().sum()),
        "kept": len(chosen),
        "rejected": dict(Counter(row["reason"] for row in rejected)),
        "chosen_from": {model: int(n) for model, n in chosen["model"].value_counts().sort_index().items()},
        "mean_score": finite(chosen["score"].mean()),
        "agreement": {
            "pairs": {
                f"{a}~{b}": finite(pearson(by_judge[a], by_judge[b])) for a, b in combinations(by_judge.columns, 2)
            },
            "ties": ties,
            "mean": finite(chosen["agreement"].mean()),
        },
        "judges": judges,
        "score_histogram": np.histogram(chosen["score"].astype(float), bins=8, range=(1, 5))[0].tolist(),
    }


def pearson(a: pd.Series, b: pd.Series) -> float:
    both = a.notna() & b.notna()
    if both.sum() < 2 or a[both].std() == 0 or b[both].std() == 0:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
