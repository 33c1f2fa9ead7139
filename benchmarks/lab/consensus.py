"""Which rule chooses right answers, and what does the panel cost? Every strategy of `consensus` against the world's truth.

    dvc repro && python -m benchmarks.lab.consensus        (minutes at first: every judge judges everything, once; then seconds)

Instructions are the run's own, those that are valid questions of the world (judging left out: its answers are scores
themselves). Intervals: 95 %, Wilson over instructions; the difference to the base's one sample is paired. Then, over all
instructions, the adaptive panel of the stage `judge` against the full one, for several random samples of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from holdfast.core import manifest, records
from holdfast.data.instructions import messages
from holdfast.panel import consensus, early_stopping, scoring, selection
from holdfast.panel.early_stopping import Judgement, Pair
from holdfast.params.consensus import Consensus, SelectionRule
from holdfast.params.judge import Judge
from holdfast.params.models import load_panel
from holdfast.pocket.fidelity import read_question

DATA, MANIFESTS = Path("data"), Path("models/manifest")
SEEDS = 5  # samples of the adaptive panel
Right = pd.Series  # by instruction: 1 right, 0 wrong


def full_panel(settings: Judge, panel: list[str]) -> pd.DataFrame:
    """What every judge says of every response; from the cache of finished shards where this ran before."""
    base = manifest.load(MANIFESTS / "base.json")
    judges = {base.name: base} | {n: manifest.load(MANIFESTS / f"{n}.json") for n in panel if n != base.name}
    rubric = scoring.read_rubric(Path(settings.rubric))
    rows = records.read("instructions_kept", DATA / "instructions" / "kept.parquet")
    chats = {row["id"]: messages(row) for row in rows}
    responses = pd.concat([records.read_frame("responses", DATA / "responses" / f"{m}.parquet") for m in panel])
    table = selection.add_agreement(responses)
    everything = early_stopping.Panel(table, list(judges), set(chats), SelectionRule(), settings)
    for judge, pairs, _ in everything.rounds():
        is_base = judge == base.name
        everything.add(judge, scoring.score_pairs(pairs, chats, judges[judge], rubric, is_base, settings))
    return pd.DataFrame([row for judge in panel for row in everything.rows(judge)])


def gather(panel: list[str], scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """(responses with scores, agreement and truth; scores by judge, the base first; the base's name).

    `right` is missing where the world has no answer to the instruction."""
    kept = records.read_frame("instructions_kept", DATA / "instructions" / "kept.parquet")
    asked = {row.id: q for row in kept.itertuples() if (q := read_question(row.text)) and q.skill != "judging"}
    responses = pd.concat([records.read_frame("responses", DATA / "responses" / f"{m}.parquet") for m in panel])
    of_base = scores.dropna(subset="logprob").set_index("id")
    base = str(of_base["judge"].iloc[0])
    table = selection.add_agreement(responses).assign(base_logprob=of_base["logprob"])
    by_judge = scores.pivot(index="id", columns="judge", values="score").reindex(table.index)
    by_judge = by_judge[[base, *(name for name in panel if name != base)]]
    table = consensus.add_refusals(table, base)
    table["skill"] = [q.skill if (q := asked.get(i)) else None for i in table["instruction_id"]]
    table["right"] = [
        q.answer == text.strip() if (q := asked.get(i)) else np.nan
        for i, text in zip(table["instruction_id"], table["text"], strict=True)
    ]
    return selection.add_scores(table, by_judge), by_judge, base


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    middle, spread = right + z * z / (2 * n), z * np.sqrt(right * (1 - right) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


def rules(table: pd.DataFrame, by_judge: pd.DataFrame, base: str, panel: list[str]) -> dict[str, Right]:
    """Right or wrong per instruction under every rule, with the full panel."""
    first = table[table["sample"] == table.groupby(["instruction_id", "model"])["sample"].transform("min")]
    by_instruction = table.groupby("instruction_id")["right"]
    selections = {"base, one sample": first[first["model"] == base].set_index("instruction_id")["right"]}
    for name in panel:
        if name != base:
            selections[f"{name}, one sample"] = first[first["model"] == name].set_index("instruction_id")["right"]

    def chosen(**knobs) -> Right:
        rule = Consensus(**{"min_score": 1.0, **knobs})
        best = consensus.select_best(table, by_judge, base, rule)
        return best.set_index("instruction_id")["right"].reindex(by_instruction.groups)

    selections["base_best_of_k"] = chosen(strategy="base_best_of_k", tie=0.0)
    for tie in (0.0, 0.05, 0.25):
        selections[f"mean_score, ties within {tie}"] = chosen(strategy="mean_score", tie=tie)
    for threshold in (3.0, 4.0, 4.5):
        selections[f"score_then_base_likelihood, at least {threshold}"] = chosen(
            strategy="score_then_base_likelihood", min_score=threshold
        )
    for tie in (0.0, 0.05):
        selections[f"agreement, ties within {tie}"] = chosen(strategy="agreement", tie=tie)
    selections["the best of all, if one knew"] = by_instruction.max()
    return {name: right.astype(float).fillna(0.0).astype(bool) for name, right in selections.items()}


def accuracy(table: pd.DataFrame, by_judge: pd.DataFrame, base: str, panel: list[str]) -> None:
    """The first two tables: right answers by rule, and by skill."""
    known = table["right"].notna()
    table, by_judge = table[known], by_judge[known]
    by_rule = rules(table, by_judge, base, panel)
    first = by_rule["base, one sample"].astype(float)
    print(f"{table['instruction_id'].nunique():,} instructions with a known answer, {len(table):,} responses")
    print(f"{'rule, full panel':48}{'right':>8}{'95 % interval':>18}{'against base alone':>24}")
    for name, right in by_rule.items():
        low, high = wilson(float(right.mean()), len(right))
        gain = right.astype(float) - first.reindex(right.index).fillna(0.0)
        half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        print(f"{name:48}{right.mean():8.3f}{f'{low:.3f} to {high:.3f}':>18}{f'{gain.mean():+.3f} ± {half:.3f}':>24}")
    names = ("base, one sample", "base_best_of_k", "mean_score, ties within 0.05", "agreement, ties within 0.05")
    print("\nby skill: " + "; ".join(names))
    skill = table.groupby("instruction_id")["skill"].first()
    for name, ids in skill.groupby(skill).groups.items():
        parts = "".join(f"{by_rule[rule].reindex(ids).astype(float).mean():8.3f}" for rule in names)
        print(f"{name:14}{len(ids):6,}{parts}")
    print()
    for name in by_judge.columns:
        told = (by_judge[name] > 3) == table["right"].astype(bool)
        print(f"{name} as judge of these responses: right in {told.mean():.3f}")


def adaptive(table: pd.DataFrame, by_judge: pd.DataFrame, base: str, scores: pd.DataFrame, settings: Judge) -> None:
    """The last table: the adaptive panel's choices and calls against the full panel's, by strategy."""
    panel, chosen_by_params = list(by_judge.columns), Consensus.load()
    full_judgements: dict[str, dict[Pair, Judgement]] = {name: {} for name in panel}
    for row in scores.merge(table["text"], left_on="id", right_index=True).itertuples():
        score, logprob = (None if np.isnan(value) else value for value in (row.score, row.logprob))
        pair = Pair(row.instruction_id, row.text)
        full_judgements[row.judge][pair] = Judgement(score, row.mass, logprob, row.tokens)
    instructions = sorted(set(table["instruction_id"]))
    everything = sum(len(judgements) for judgements in full_judgements.values())

    def outcomes(rule: Consensus, scores: pd.DataFrame) -> pd.DataFrame:
        best = consensus.select_best(selection.add_scores(table, scores), scores, base, rule)
        best = best.set_index("instruction_id").reindex(instructions)
        good = best["deciding_score"] >= rule.min_score
        return pd.DataFrame({"text": best["text"], "good": good, "right": best["right"]})

    print(
        f"\nadaptive panel: confidence {settings.confidence}, sample of {settings.audit}; the worst of {SEEDS} samples"
    )
    print(
        f"{'strategy':28}{'same choice':>13}{'same, or both rejected':>24}{'right':>8}{'full panel':>12}{'calls':>9}"
        f"{'fewer':>7}{'calls per kept row':>20}{'tokens':>8}{'full panel':>14}"
    )
    for strategy in ("mean_score", "score_then_base_likelihood", "agreement", "base_best_of_k"):
        rule = chosen_by_params.model_copy(update={"strategy": strategy})
        full, runs = outcomes(rule, by_judge), []
        for seed in range(SEEDS):
            sample = early_stopping.draw_sample(instructions, settings.audit, seed)
            asked = early_stopping.Panel(table.drop(columns="base_logprob"), panel, sample, rule, settings)
            for judge, pairs, _ in asked.rounds():
                asked.add(judge, {pair: full_judgements[judge][pair] for pair in pairs})
            judgements = [one for by_pair in asked.judgements.values() for one in by_pair.values()]
            got = outcomes(rule, asked.scores(panel))
            same = (got["text"] == full["text"]) | (got["text"].isna() & full["text"].isna())
            outcome = (same & (got["good"] == full["good"])) | ~(got["good"] | full["good"])
            calls, tokens = len(judgements), sum(one.tokens or 0 for one in judgements)
            runs.append((same.mean(), outcome.mean(), got["right"].mean(), calls, got["good"].sum(), tokens))
        same, outcome, right = (min(run[n] for run in runs) for n in range(3))
        _, _, _, calls, kept_rows, tokens = max(runs, key=lambda run: run[3])
        all_tokens = sum(one.tokens or 0 for by_pair in full_judgements.values() for one in by_pair.values())
        whole = f"{everything / full['good'].sum():.2f}, {all_tokens / full['good'].sum():.0f}"
        print(
            f"{strategy:28}{same:13.4f}{outcome:24.4f}{right:8.4f}{full['right'].mean():12.4f}{calls:9,}{everything / calls:7.2f}"
            f"{calls / kept_rows:20.2f}{tokens / kept_rows:8.0f}{whole:>14}"
        )


def main() -> None:
    panel, settings = load_panel(), Judge.load()
    scores = full_panel(settings, panel)
    table, by_judge, base = gather(panel, scores)
    accuracy(table, by_judge, base, panel)
    for confidence in (settings.confidence, 0.98):
        adaptive(table, by_judge, base, scores, settings.model_copy(update={"confidence": confidence}))


if __name__ == "__main__":
    main()
