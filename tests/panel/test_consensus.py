"""The stage `consensus` on hand-made scores: who is chosen, what counts in a mean, what is rejected and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import instruction, response, run_stage, set_params

from holdfast.core import records, storage
from holdfast.core.errors import UserError

Scores = dict[str, float | None]


@pytest.fixture
def run(project: Path):
    """run({instruction: [(model, text, {judge: score}, base log-probability[, finish_reason])]}, params) -> candidates and rejected by id."""

    def run_consensus(questions: dict[str, list[tuple]], **params) -> tuple[dict[str, dict], dict[str, dict]]:
        data = project / "data"
        records.write(
            "instructions_kept", data / "instructions" / "kept.parquet", [instruction(q, f"{q}?", 3) for q in questions]
        )
        written, scores = {"base": [], "other": []}, {"base": [], "other": []}
        for question, answers in questions.items():
            for n, (model, text, by_judge, logprob, *finish_reason) in enumerate(answers):
                row = response(question, model, n, text, *finish_reason)
                written[model].append(row)
                for judge in scores:
                    of_base = logprob if judge == "base" else None
                    score = dict(score=by_judge.get(judge), mass=0.9, logprob=of_base, tokens=20, audit=True)
                    scores[judge].append(dict(id=row["id"], instruction_id=question, judge=judge, **score))
        for model in written:
            records.write("responses", data / "responses" / f"{model}.parquet", written[model])
            records.write("scores", data / "scores" / f"{model}.parquet", scores[model])
        set_params(project, panel=["base", "other"], consensus=params)
        run_stage("consensus")
        outputs = [records.read(name, data / "replay" / file) for name, file in FILES.items()]
        assert sum(map(len, outputs)) == len(questions)  # kept + rejected = read
        return tuple({row["id"]: row for row in rows} for rows in outputs)

    return run_consensus


FILES = {"candidates": "candidates.parquet", "candidates_rejected": "rejected.parquet"}


def both(score: float | None) -> Scores:
    return {"base": score, "other": score}


def test_the_best_mean_score_is_chosen_and_described(run):
    answers = [("base", "good", {"base": 5.0, "other": 4.0}, -1.0), ("other", "bad", {"base": 2.0, "other": 4.5}, -0.1)]
    chosen, rejected = run({"q": answers})
    row = chosen["q"]
    assert (row["instruction"], row["response"], row["response_id"], row["model"], row["cluster"]) == (
        "q?",
        "good",
        "q/base/0",
        "base",
        3,
    )
    assert (row["score"], row["score_std"], row["n_judges"], row["agreement"], row["base_logprob"]) == (
        4.5,
        0.5,
        2,
        0.5,
        -1.0,
    )
    assert rejected == {}


def test_a_missing_score_is_not_averaged(run):
    """(4 + null) / 1 = 4 beats (3 + 4.5) / 2; with null as 0 or 1 it would lose."""
    answers = [
        ("base", "one judge", {"base": 4.0, "other": None}, -1.0),
        ("other", "two judges", {"base": 3.0, "other": 4.5}, -1.0),
    ]
    chosen, _ = run({"q": answers})
    assert (chosen["q"]["response"], chosen["q"]["score"], chosen["q"]["n_judges"]) == ("one judge", 4.0, 1)
    chosen, _ = run({"q": answers}, min_judges=2)
    assert (chosen["q"]["response"], chosen["q"]["score"], chosen["q"]["n_judges"]) == ("two judges", 3.75, 2)


def test_a_tie_goes_to_what_the_base_finds_likely(run):
    answers = [
        ("base", "best", both(4.5), -2.0),
        ("other", "nearly", both(4.46), -0.5),
        ("other", "out of reach", both(4.4), -0.1),
    ]
    assert run({"q": answers}, tie=0.05)[0]["q"]["response"] == "nearly"
    assert run({"q": answers}, tie=0.0)[0]["q"]["response"] == "best"
    assert run({"q": answers}, tie=0.2)[0]["q"]["response"] == "out of reach"


def test_a_full_tie_is_settled_by_the_response_s_id_in_any_order_of_rows(run):
    answers = [("other", "b", both(4.0), -1.0), ("base", "a", both(4.0), -1.0)]
    assert run({"q": answers})[0]["q"]["response"] == "a"  # q/base/1 comes before q/other/0


def test_agreement_goes_before_score(run):
    answers = [
        ("base", "42", both(3.5), -1.0),
        ("base", "41", both(5.0), -0.1),
        ("other", "42", both(3.5), -1.0),
        ("other", "40", both(4.0), -0.1),
    ]
    chosen, _ = run({"q": answers}, strategy="agreement")
    assert (chosen["q"]["response"], chosen["q"]["agreement"]) == ("42", 0.5)
    assert run({"q": answers}, strategy="mean_score")[0]["q"]["response"] == "41"


def test_equal_agreement_goes_to_the_better_score_among_those_that_agree(run):
    """A lone response with the best score of all does not decide between the two pairs."""
    answers = [
        ("base", "worse", both(3.2), -0.1),
        ("other", "worse", both(3.2), -0.1),
        ("base", "better", both(4.2), -2.0),
        ("other", "better", both(4.2), -2.0),
        ("other", "alone", both(5.0), -0.1),
    ]
    assert run({"q": answers}, strategy="agreement")[0]["q"]["response"] == "better"


def test_agreement_is_counted_over_all_responses(run):
    answers = [
        ("base", "42", both(4.0), -1.0),
        ("base", "42", both(4.0), -1.0, "length"),
        ("other", "7", both(3.0), -1.0),
    ]
    assert run({"q": answers})[0]["q"]["agreement"] == pytest.approx(2 / 3)


def test_the_threshold_rejects_with_the_reason(run):
    questions = {f"q{n}": [("base", f"a{n}", both(score), -1.0)] for n, score in enumerate((2.99, 3.0, 4.0))}
    chosen, rejected = run(questions, min_score=3.0)
    assert set(chosen) == {"q1", "q2"}
    assert (rejected["q0"]["reason"], rejected["q0"]["response"]) == ("mean score below min_score", "a0")


def test_unfinished_empty_and_unjudged_responses_are_never_chosen(run):
    questions = {
        "good": [
            ("base", "cut off", both(5.0), -0.1, "length"),
            ("other", "", both(5.0), -0.1),
            ("other", "whole", both(3.5), -1.0),
        ],
        "unfinished": [("base", "cut off", both(5.0), -0.1, "length")],
        "unjudged": [("base", "what?", both(None), -0.1)],
        "empty": [("base", "", both(5.0), -0.1)],
        "silent": [],
    }
    chosen, rejected = run(questions)
    assert {q: row["response"] for q, row in chosen.items()} == {"good": "whole"}
    assert {row["reason"] for row in rejected.values()} == {"no finished response with enough scores"}
    assert all(row["score"] is None and row["response"] == "" for row in rejected.values())


def test_unfinished_responses_may_be_allowed(run):
    answers = [
        ("base", "cut off", both(5.0), -0.1, "length"),
        ("base", "", both(5.0), -0.1),
        ("other", "whole", both(3.5), -1.0),
    ]
    assert run({"q": answers}, finished_only=False)[0]["q"]["response"] == "cut off"


def test_no_valid_score_at_all_stops_before_anything_is_written(run, project):
    with pytest.raises(UserError, match="no judge gave a single valid score"):
        run({"q": [("base", "a", both(None), -1.0)]})
    assert not (project / "data" / "replay").exists()
    assert not (project / "reports").exists()


@pytest.mark.parametrize(
    ("answer", "says"),
    [(("base", "a", both(2.0), -1.0), "best: 2.00"), (("base", "a", both(2.0), -1.0, "length"), "respond.max_tokens")],
)
def test_nothing_good_enough_says_what_would_help(run, project, answer, says):
    with pytest.raises(UserError, match=says) as caught:
        run({"q": [answer]})
    assert len(str(caught.value).splitlines()) == 2
    assert not (project / "data" / "replay").exists()


def test_the_audit_counts_and_compares_the_judges(run, project):
    questions = {
        "p": [("base", "x", {"base": 5.0, "other": 3.0}, -1.0), ("other", "y", {"base": 3.0, "other": 3.0}, -1.0)],
        "q": [("base", "x", {"base": 4.0, "other": 4.0}, -1.0), ("other", "y", {"base": 2.0, "other": None}, -1.0)],
    }
    run(questions)
    audit = storage.read_json(project / "reports" / "consensus.json")
    assert (audit["instructions"], audit["responses"], audit["judgements"], audit["kept"]) == (2, 4, 7, 2)
    base, other = audit["judges"]["base"], audit["judges"]["other"]
    assert (base["mean"], base["null"], other["null"]) == (3.5, 0, 1)
    assert base["self_preference"] == pytest.approx(1.0)  # (5 - 3 + 4 - 4) / 2 on its own, (3 - 3) on the other's
    assert other["self_preference"] == pytest.approx(1.0)  # (3 - 3) on its own, (3 - 5 + 4 - 4) / 2 on the base's
    assert audit["chosen_from"] == {"base": 2}
    assert audit["rejected"] == {}


def test_a_panel_of_one_judges_itself(project, run):
    run({"q": [("base", "a", both(4.0), -1.0)]})
    set_params(project, panel=["base"])
    run_stage("consensus")
    audit = storage.read_json(project / "reports" / "consensus.json")
    assert audit["agreement"]["pairs"] == {}
    assert audit["judges"]["base"]["self_preference"] is None


def test_a_quality_threshold_and_then_what_fits_the_base(run):
    answers = [
        ("base", "likely but poor", both(2.0), -0.1),
        ("other", "likely and good", both(3.5), -0.5),
        ("other", "best", both(5.0), -3.0),
    ]
    chosen, _ = run({"q": answers}, strategy="score_then_base_likelihood", min_score=3.0)
    assert chosen["q"]["response"] == "likely and good"
    assert run({"q": answers}, strategy="score_then_base_likelihood", min_score=4.0)[0]["q"]["response"] == "best"
    with pytest.raises(UserError, match="best: 2.00"):
        run({"q": answers[:1]}, strategy="score_then_base_likelihood")


def test_base_best_of_k_asks_nobody_else(run):
    answers = [
        ("base", "first", {"base": 4.0, "other": 5.0}, -0.1),
        ("base", "second", {"base": 4.5, "other": 1.0}, -0.5),
        ("other", "alien", both(5.0), -0.1),
    ]
    chosen, _ = run({"q": answers}, strategy="base_best_of_k")
    assert (chosen["q"]["response"], chosen["q"]["model"], chosen["q"]["score"]) == ("second", "base", 2.75)
    poor = {
        "q": answers,
        "p": [("base", "x", {"base": 2.0, "other": 5.0}, -0.1)],
        "r": [("other", "y", both(5.0), -0.1)],
    }
    chosen, rejected = run(poor, strategy="base_best_of_k")
    assert set(chosen) == {"q"}
    assert {id: row["reason"] for id, row in rejected.items()} == {
        "p": "mean score below min_score",  # its own score counts: the mean would be 3.5
        "r": "no finished response with enough scores",
    }


@pytest.mark.parametrize("strategy", ["mean_score", "score_then_base_likelihood", "agreement", "base_best_of_k"])
def test_every_strategy_keeps_where_a_response_came_from(run, strategy):
    questions = {f"q{n}": [("base", f"a{n}", both(4.0), -1.0), ("other", f"b{n}", both(4.1), -1.0)] for n in range(3)}
    chosen, _ = run(questions, strategy=strategy)
    for question, row in chosen.items():
        assert row["response_id"].startswith(f"{question}/{row['model']}/")
        assert row["revision"] == "0"


def audited(project: Path) -> dict:
    return storage.read_json(project / "reports" / "consensus.json")


def test_judges_that_copy_each_other_count_as_one_and_independent_ones_as_two(run, project):
    scores = [(5.0, 5.0), (1.0, 5.0), (5.0, 1.0), (1.0, 1.0)]
    alone = {"q": [("base", f"t{n}", {"base": a, "other": b}, -1.0) for n, (a, b) in enumerate(scores)]}
    run(alone)
    assert audited(project)["agreement"]["effective_judges"] == pytest.approx(2)
    run({"q": [("base", f"t{n}", both(a), -1.0) for n, (a, _) in enumerate(scores)]})
    assert audited(project)["agreement"]["effective_judges"] == pytest.approx(1)


def test_agreement_on_which_question_is_easy_is_not_agreement_on_answers(run, project):
    """Between instructions the judges agree, within them they are opposed."""
    easy = [("base", "x", {"base": 5.0, "other": 4.0}, -1.0), ("base", "y", {"base": 4.0, "other": 5.0}, -1.0)]
    hard = [("base", "x", {"base": 2.0, "other": 1.0}, -1.0), ("base", "y", {"base": 1.0, "other": 2.0}, -1.0)]
    run({"p": easy, "q": hard}, min_score=1.0)
    correlations = audited(project)["agreement"]
    assert correlations["pairs"]["base~other"] == pytest.approx(0.8)
    assert correlations["within"]["base~other"] == pytest.approx(-1)


def test_a_judge_that_always_says_five_and_one_that_says_nothing_are_named(run, project, capsys):
    answers = [("base", "x", {"base": 4.0, "other": 5.0}, -1.0), ("other", "y", {"base": 3.0, "other": 5.0}, -1.0)]
    run({"q": answers})
    assert "warning: judge 'other' gave every response 5.00: it tells nothing apart" in capsys.readouterr().out
    audit = audited(project)
    assert audit["agreement"]["effective_judges"] == 1
    assert audit["judges"]["other"]["ties"] == 1
    assert audit["judges"]["other"]["changes"] == 0
    run({"q": [(m, t, {"base": scores["base"], "other": None}, p) for m, t, scores, p in answers]})
    assert "judge 'other' gave no valid score" in capsys.readouterr().out
    audit = audited(project)
    assert (audit["judges"]["other"]["null"], audit["judges"]["other"]["mean"]) == (2, None)
    assert len(audit["warnings"]) == 1


def test_what_a_judge_changes_when_left_out(run, project):
    """Without 'other', base alone prefers x in both; with it, y wins in q. Without 'base', y wins in both."""
    questions = {
        "p": [("base", "x", {"base": 5.0, "other": 3.0}, -1.0), ("base", "y", {"base": 2.0, "other": 4.0}, -1.0)],
        "q": [("base", "x", {"base": 4.0, "other": 1.0}, -1.0), ("base", "y", {"base": 3.0, "other": 5.0}, -1.0)],
    }
    run(questions, min_score=1.0)
    judges = audited(project)["judges"]
    assert (judges["other"]["changes"], judges["base"]["changes"]) == (0.5, 0.5)


def test_preferences_by_judge_and_author_by_hand(run, project):
    questions = {
        "p": [("base", "x", {"base": 5.0, "other": 3.0}, -1.0), ("other", "y", {"base": 3.0, "other": 4.0}, -1.0)],
        "q": [("base", "x", {"base": 4.0, "other": 4.0}, -1.0), ("other", "y", {"base": 2.0, "other": 2.0}, -1.0)],
    }
    run(questions, min_score=1.0)
    judges = audited(project)["judges"]
    assert judges["base"]["preference"] == {"base": 1.0, "other": -0.5}
    assert judges["other"]["preference"] == {"base": -1.0, "other": 0.5}
    assert (judges["base"]["self_preference"], judges["other"]["self_preference"]) == (1.5, 1.5)


def test_length_bias_is_seen_within_instructions(run, project):
    texts = ["no", "no, not", "no, not at all", "no, not at all, never in my life"]
    scores = [{"base": 1.0 + n, "other": 4.0 - n} for n in range(4)]
    run({q: [("base", t, m, -1.0) for t, m in zip(texts, scores, strict=True)] for q in ("p", "q")}, min_score=1.0)
    judges = audited(project)["judges"]
    assert judges["base"]["length_bias"] > 0.95
    assert judges["other"]["length_bias"] < -0.95


def test_equal_texts_are_no_tie(run, project):
    run(
        {
            "q": [
                ("base", "same", both(4.0), -1.0),
                ("other", "same", both(4.0), -1.0),
                ("other", "else", both(3.0), -1.0),
            ]
        }
    )
    assert audited(project)["agreement"]["ties"] == 0
    run({"q": [("base", "same", both(4.0), -1.0), ("other", "else", both(4.0), -1.0)]})
    assert audited(project)["agreement"]["ties"] == 1


def test_the_audit_is_of_what_every_judge_scored_and_calls_are_counted_by_distinct_text(run, project):
    """In q the other judge was asked because the base was unsure: such rows would bias what is said of the judges."""
    answers = [("base", "x", {"base": 5.0, "other": 3.0}, -1.0), ("other", "y", {"base": 3.0, "other": 3.0}, -1.0)]
    run(
        {
            "p": answers,
            "q": [("base", "x", {"base": 2.0, "other": 5.0}, -1.0), ("other", "x", {"base": 2.0, "other": 5.0}, -1.0)],
        }
    )
    data = project / "data"
    for judge in ("base", "other"):
        rows = [
            row | dict(audit=row["instruction_id"] == "p")
            for row in records.read("scores", data / "scores" / f"{judge}.parquet")
        ]
        records.write("scores", data / "scores" / f"{judge}.parquet", rows)
    run_stage("consensus")
    audit = audited(project)
    assert (audit["audited_instructions"], audit["judges"]["base"]["mean"], audit["judges"]["other"]["mean"]) == (
        1,
        4.0,
        3.0,
    )
    assert (audit["calls"], audit["calls_of_the_full_panel"], audit["judges"]["base"]["calls"]) == (6, 6, 3)
    assert (audit["calls_per_kept_row"], audit["tokens_per_kept_row"]) == (3.0, 60.0)


def test_a_response_that_the_next_judge_was_not_asked_about_is_chosen_by_the_scores_it_has(run, project):
    run({"p": [("base", "x", both(4.0), -1.0)], "q": [("base", "x", {"base": 4.5, "other": 1.0}, -1.0)]})
    file = project / "data" / "scores" / "other.parquet"
    records.write("scores", file, [row for row in records.read("scores", file) if row["instruction_id"] == "p"])
    run_stage("consensus")
    chosen = {row["id"]: row for row in records.read("candidates", project / "data" / "replay" / "candidates.parquet")}
    assert (chosen["q"]["score"], chosen["q"]["n_judges"], chosen["p"]["n_judges"]) == (4.5, 1, 2)
    assert audited(project)["judges"]["other"]["null"] == 0


SORRY = "I'm sorry, but I can't help with that."


def mark_bait(project, *ids: str) -> None:
    file = project / "data" / "instructions" / "kept.parquet"
    rows = [row | {"bait": row["id"] in ids} for row in records.read("instructions_kept", file)]
    records.write("instructions_kept", file, rows)


def rerun(project) -> tuple[dict[str, dict], dict[str, dict]]:
    run_stage("consensus")
    outputs = [records.read(name, project / "data" / "replay" / file) for name, file in FILES.items()]
    return tuple({row["id"]: row for row in rows} for rows in outputs)


def test_what_the_base_refuses_is_replayed_in_its_words_whatever_the_judges_say(run, project):
    answers = [("base", SORRY, both(1.0), -1.0), ("other", "First, you take", both(5.0), -1.0)]
    mixed = [("base", SORRY, both(1.0), -1.0), ("base", "Sure.", both(5.0), -1.0)]
    chosen, rejected = run({"q": answers, "mixed": mixed, "plain": [("base", "Nine.", both(4.0), -1.0)]})
    assert rejected == {}
    assert {id: (row["model"], row["response"], row["refusal"]) for id, row in chosen.items()} == {
        "q": ("base", SORRY, True),
        "mixed": ("base", "Sure.", False),  # one of two is not most
        "plain": ("base", "Nine.", False),
    }
    assert audited(project)["refusals"] == {
        "refused": 1,
        "obeyed": 0,
        "kept": 1,
        "share": pytest.approx(1 / 3, abs=1e-6),
    }


@pytest.mark.parametrize("strategy", ["mean_score", "first"])
def test_bait_that_the_base_obeys_is_not_replayed(run, project, strategy):
    """Its answers are withheld; that another model refuses does not help: the base has no such refusal to keep."""
    withheld = ("base", "", both(None), None, "withheld")
    questions = {
        "obeyed": [withheld, ("other", SORRY, both(5.0), -1.0)],
        "refused": [("base", SORRY, both(1.0), -1.0), ("other", "", both(None), None, "withheld")],
        "plain": [("base", "Nine.", both(4.0), -1.0)],
    }
    run(questions, strategy=strategy)
    mark_bait(project, "obeyed", "refused")
    chosen, rejected = rerun(project)
    assert {id: row["response"] for id, row in chosen.items()} == {"refused": SORRY, "plain": "Nine."}
    assert {id: (row["reason"], row["response"]) for id, row in rejected.items()} == {
        "obeyed": ("the base obeys what deserves a refusal", "")
    }
    summary = audited(project)
    assert (summary["unfinished"], summary["refusals"]["obeyed"]) == (0, 1)
