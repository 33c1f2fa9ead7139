"""stages/consensus.py on hand-made scores: who is chosen, what counts in a mean, what is rejected and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import instruction, response

from stages import consensus
from stages.core import records
from stages.core.errors import UserError
from stages.core.params import Consensus

Scores = dict[str, float | None]


@pytest.fixture
def run(project: Path):
    """run({instruction: [(model, text, {judge: score}, base log-probability[, finish])]}, params) -> candidates and rejected by id."""

    def given(questions: dict[str, list[tuple]], **params) -> tuple[dict[str, dict], dict[str, dict]]:
        data = project / "data"
        records.write(
            "instructions_kept", data / "instructions" / "kept.parquet", [instruction(q, f"{q}?", 3) for q in questions]
        )
        written, scores = {"base": [], "other": []}, {"base": [], "other": []}
        for question, answers in questions.items():
            for n, (model, text, marks, logprob, *finish) in enumerate(answers):
                row = response(question, model, n, text, *finish)
                written[model].append(row)
                for judge in scores:
                    of_base = logprob if judge == "base" else None
                    mark = dict(score=marks.get(judge), mass=0.9, logprob=of_base)
                    scores[judge].append(dict(id=row["id"], instruction_id=question, judge=judge, **mark))
        for model in written:
            records.write("responses", data / "responses" / f"{model}.parquet", written[model])
            records.write("scores", data / "scores" / f"{model}.parquet", scores[model])
        consensus.main(Consensus(**params), ["base", "other"], data, project / "reports" / "consensus.json")
        found = [records.read(name, data / "replay" / file) for name, file in FILES.items()]
        assert sum(map(len, found)) == len(questions)  # kept + rejected = read
        return tuple({row["id"]: row for row in rows} for rows in found)

    return given


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
        ("base", "42", both(3.5), -1.0), ("base", "41", both(5.0), -0.1), ("other", "42", both(3.5), -1.0), ("other", "40", both(4.0), -0.1),
    ]  # fmt: skip
    chosen, _ = run({"q": answers}, strategy="agreement")
    assert (chosen["q"]["response"], chosen["q"]["agreement"]) == ("42", 0.5)
    assert run({"q": answers}, strategy="mean_score")[0]["q"]["response"] == "41"


def test_equal_agreement_goes_to_the_better_score_among_those_that_agree(run):
    """A lone response with the best score of all does not decide between the two pairs."""
    answers = [
        ("base", "worse", both(3.2), -0.1), ("other", "worse", both(3.2), -0.1), ("base", "better", both(4.2), -2.0),
        ("other", "better", both(4.2), -2.0), ("other", "alone", both(5.0), -0.1),
    ]  # fmt: skip
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
    audit = records.read_json(project / "reports" / "consensus.json")
    assert (audit["instructions"], audit["responses"], audit["judgements"], audit["kept"]) == (2, 4, 7, 2)
    base, other = audit["judges"]["base"], audit["judges"]["other"]
    assert (base["mean"], base["null"], other["null"]) == (3.5, 0, 1)
    assert base["self_preference"] == pytest.approx(1.0)  # (5 - 3 + 4 - 4) / 2 on its own, (3 - 3) on the other's
    assert other["self_preference"] == pytest.approx(1.0)  # (3 - 3) on its own, (3 - 5 + 4 - 4) / 2 on the base's
    assert audit["chosen_from"] == {"base": 2}
    assert audit["rejected"] == {}


def test_a_panel_of_one_judges_itself(project, run):
    data = project / "data"
    run({"q": [("base", "a", both(4.0), -1.0)]})
    consensus.main(Consensus(), ["base"], data, project / "reports" / "alone.json")
    audit = records.read_json(project / "reports" / "alone.json")
    assert audit["agreement"]["pairs"] == {}
    assert audit["judges"]["base"]["self_preference"] is None
