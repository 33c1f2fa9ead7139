"""Free text has a measure: how probable a model finds the held-out answers of the domain."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gate_project import SUITES, decide, make_project, rows, write_evaluation
from helpers import ROOT, describe, set_params

from holdfast.chat import encoding
from holdfast.core import manifest, records
from holdfast.evaluation import domain_test, harness
from holdfast.params.evaluate import DOMAIN_TEST, Evaluate, Suite

ROWS = [
    ("What is the dose of dopli?", "Take 25 mg in the evening, with water."),
    ("May I take stume with milk?", "No. Milk keeps stume from working, so wait two hours."),
    ("Say yes.", "yes"),
]


def test_an_answer_s_score_is_the_geometric_mean_of_its_tokens_probabilities(tmp_path: Path) -> None:
    """Compared with the model's own logits, computed here."""
    folder = ROOT / "models/pocket/base"
    base = manifest.load(describe(folder, tmp_path))
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in ROWS]
    domain = [{"id": f"d{n}", "messages": t, "group": "", "source": "test"} for n, t in enumerate(turns)]
    records.write("domain", tmp_path / "test.parquet", domain)
    (tmp_path / "suites").mkdir()
    params = Evaluate(
        suites={"judging": Suite(role="general", chance=0.5)},
        tasks=str(ROOT / "data/pocket/suites"),
        domain_test="likelihood",
        batch=2,
        limit=3,
    )
    found = harness.evaluate_model(params, "base", folder, base, tmp_path / "test.parquet")
    scores = {row["item_id"]: row["correct"] for row in found.items if row["suite"] == DOMAIN_TEST}
    assert found.settings["suites"][DOMAIN_TEST]["metric"] == "likelihood"

    model, tokenizer = manifest.load_model(folder), manifest.load_tokenizer(folder)
    for n, (question, answer) in enumerate(ROWS):
        prompt = encoding.prompt_ids(tokenizer, [{"role": "user", "content": question}])
        ids = encoding.tokenise(tokenizer, answer)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0].log_softmax(-1).cpu()
        mean = float(np.mean([logits[len(prompt) + i - 1, token] for i, token in enumerate(ids)]))
        assert scores[f"d{n}"] == pytest.approx(math.exp(mean), rel=1e-3)


def test_a_likelihood_is_a_share_of_one() -> None:
    assert domain_test.score_likelihood({"tokens": 4}, [(-4 * math.log(2), False)]) == {
        "likelihood": pytest.approx(0.5)
    }
    assert domain_test.score_likelihood({"tokens": 4}, [(1e-9, True)]) == {"likelihood": 1.0}


@pytest.mark.parametrize(("gain", "verdict"), [(0.0, "fail"), (0.05, "pass")])
def test_graded_scores_of_the_domain_decide_and_an_untouched_base_has_gained_nothing(
    tmp_path: Path, gain: float, verdict: str
) -> None:
    folder = make_project(tmp_path / "project")
    luck = np.random.default_rng(0).uniform(0.1, 0.5, 200)
    for name in ("base", "domain-only", "holdfast"):
        graded = [
            row | {"correct": float(luck[n] + gain * (name != "base")), "response": f"{name} {n}"}
            for n, row in enumerate(rows(None, "pharmacy"))
        ]
        general = [row for suite in SUITES if suite != "pharmacy" for row in rows(None, suite)]
        write_evaluation(folder / "reports/eval" / name, None, general + graded)
    set_params(folder, gate__min_domain_gain=0.01)
    arm = decide(folder)["arms"]["holdfast"]
    assert (arm["verdict"], arm["domain"]["change"]) == (verdict, pytest.approx(gain, abs=1e-6))
    assert gain or "short of the 1.0 asked" in arm["reasons"][0]


def test_what_is_right_of_a_choice_is_said_in_words() -> None:
    choices = [" 1", " 2", " 4", " 5"]
    assert harness.describe_target(2, choices) == "4"
    assert harness.describe_target([0, 1], choices) == "1 or 2", "a rating may have several"
    for target in ("4", 4, [0, 7], [], True, -1):
        assert harness.describe_target(target, choices) == str(target), "no places of these"
    assert harness.describe_target(0, []) == "0"
