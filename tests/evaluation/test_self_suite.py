"""The self suite: what the base answers to instructions of its own, and what other weights make of them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, describe, instruction, run_stage, set_params, task

from holdfast.chat import encoding
from holdfast.core import manifest, records, storage
from holdfast.engines import local
from holdfast.evaluation import results, self_outcomes, self_suite
from holdfast.params.gate import Gate
from holdfast.verdict import gate, paired

POCKET = ROOT / "models" / "pocket" / "base"
ASKED = [f"What is {a} + {b}?" for a in (11, 24, 37) for b in (2, 5, 8, 30)]
ASKED += [f"Sort {a} 3 {b} in ascending order." for a in (1, 5, 9) for b in (2, 6, 8, 7)]
SUITES = {"self_likelihood", "self_chat", "self_agreement", "self_overlap"}


@pytest.fixture
def lab(project: Path) -> Path:
    """A project whose base is the pocket lab's, with an arm `same` (a copy) and an arm `damaged` (noise on its weights)."""
    describe(POCKET, project / "models" / "manifest", "base")
    shutil.copytree(POCKET, project / "models" / "same")
    shutil.copytree(POCKET, project / "models" / "damaged")
    network = manifest.load_model(POCKET)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.4 * weights.std() * torch.randn_like(weights)
    network.save_pretrained(project / "models" / "damaged")
    rows = [instruction(f"{n:04d}", text) for n, text in enumerate(ASKED)]
    records.write("instructions_kept", project / "data" / "instructions" / "held_out.parquet", rows)
    domain = [
        dict(id=f"d{n:03d}", group="", source="train", messages=encoding.turns(f"Strength of {n}?", f"{10 * n} mg"))
        for n in range(40)
    ]
    records.write("domain", project / "data" / "domain" / "train.parquet", domain)
    task(project / "suites", "asked", [{"id": "q", "prompt": "Sort: 3 1 2", "answer": "1 2 3"}])
    return project


def run(lab: Path, model: str, **knobs: Any) -> dict[str, list[dict[str, Any]]]:
    """The self suite's items by suite, after an evaluation by the stage."""
    section = {"tasks": str(lab / "suites"), "suites": {"asked": {"role": "general"}}, "batch": 8}
    set_params(lab, evaluate=section | knobs)
    run_stage("evaluate", model)
    rows = records.read("items", lab / "reports" / "eval" / model / "items.parquet")
    return {suite: [row for row in rows if row["suite"] == suite] for suite in sorted({r["suite"] for r in rows})}


def scores(items: list[dict[str, Any]]) -> list[float]:
    return [row["correct"] for row in items]


def test_the_base_is_held_to_its_own_answers(lab: Path) -> None:
    found = run(lab, "base")
    assert set(found) == SUITES | {"asked"}
    assert all(row["target"] == row["response"] for suite in SUITES for row in found[suite])
    assert [row["item_id"] for row in found["self_chat"]] == [f"{n:04d}" for n in range(len(ASKED))]
    for suite in SUITES - {"self_likelihood"}:
        assert scores(found[suite]) == [1.0] * len(ASKED)
    described = storage.read_json(lab / "reports/eval/base/settings.json")["suites"]["self_chat"]
    assert (described["role"], described["items"]) == ("self", len(ASKED))


def test_the_likelihood_is_that_of_the_engine(lab: Path) -> None:
    found = run(lab, "base")["self_likelihood"]
    engine = local.Engine(manifest.load(lab / "models/manifest/base.json"), 8)
    chats = [encoding.turns(text) for text in ASKED]
    expected = [math.exp(value) for value in engine.likelihood(chats, [row["response"] for row in found])]
    assert scores(found) == pytest.approx(expected, rel=1e-4)
    assert 0.5 < sum(expected) / len(expected) < 1


def test_an_arm_with_the_base_s_weights_has_the_base_s_scores_and_passes(lab: Path) -> None:
    base, same = run(lab, "base"), run(lab, "same")
    for suite in SUITES - {"self_overlap"}:
        assert same[suite] == base[suite]
    assert scores(same["self_overlap"]) == pytest.approx([1.0] * len(ASKED), abs=1e-4)
    verdict = decide(lab, "same")
    assert verdict["self"]["change"] == 0
    assert not any("self" in reason for reason in verdict["reasons"])


def test_a_damaged_arm_is_asked_the_base_s_answers_and_fails(lab: Path) -> None:
    base, damaged = run(lab, "base"), run(lab, "damaged")
    for suite in SUITES:
        assert [row["target"] for row in damaged[suite]] == [row["response"] for row in base["self_chat"]]
    assert any(row["target"] != row["response"] for row in damaged["self_chat"])
    for suite in SUITES - {"self_chat"}:
        assert sum(scores(damaged[suite])) < sum(scores(base[suite])) - 1, suite
    verdict = decide(lab, "damaged")
    assert verdict["self"]["change"] < -0.1
    assert any(reason.startswith("the self score fell by") for reason in verdict["reasons"])
    assert verdict["suites"]["self_agreement"]["margin"] is None


def decide(lab: Path, arm: str) -> dict[str, Any]:
    base, settings = results.load(lab / "reports/eval/base")
    return gate.decide_arm(Gate(resamples=500, self_margin=0.1), base, settings, lab / "reports/eval" / arm)


def test_the_overlap_bounds_the_kl_of_the_whole_distributions_closely(lab: Path) -> None:
    base = run(lab, "base")["self_likelihood"]
    found = run(lab, "damaged")["self_overlap"]
    networks = [manifest.load_model(folder) for folder in (POCKET, lab / "models/damaged")]
    tokenizer = manifest.load_tokenizer(POCKET)
    ends = encoding.assistant_stop_ids(tokenizer)
    for row, answered in list(zip(found, base, strict=True))[:6]:
        prompt = encoding.tokenise(tokenizer, row["prompt"])
        answer = [*encoding.tokenise(tokenizer, answered["response"]), ends[0]]
        ids = torch.tensor([[*prompt, *answer]])
        with torch.inference_mode():
            p, q = (network(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for network in networks)
        kl = float((p.exp() * (p - q)).sum(-1).mean())
        assert math.exp(-kl) - 1e-4 <= row["correct"] <= math.exp(-0.9 * kl) + 1e-4


def test_an_answer_that_was_cut_is_scored_without_an_end(lab: Path) -> None:
    knobs = {"self_suite": {"max_tokens": 1}}
    row = run(lab, "base", **knobs)["self_likelihood"][-1]
    tokenizer = manifest.load_tokenizer(POCKET)
    prompt, answer = (encoding.tokenise(tokenizer, row[part]) for part in ("prompt", "response"))
    assert len(answer) == 1
    with torch.inference_mode():
        logits = manifest.load_model(POCKET)(torch.tensor([prompt])).logits[0, -1]
    assert row["correct"] == pytest.approx(float(logits.softmax(-1)[answer[0]]), rel=1e-4)


def test_the_base_asked_again_is_a_second_evaluation_of_it(lab: Path) -> None:
    run(lab, "base")
    run(lab, "base-repeat")
    base, settings = results.load(lab / "reports/eval/base")
    floor = paired.noise_floor(base, settings, lab / "reports/eval/base-repeat")
    assert (floor["changed"], floor["items"]) == (0, 1 + len(SUITES) * len(ASKED))


def test_instructions_spell_no_control_token(lab: Path) -> None:
    file = lab / "data/instructions/held_out.parquet"
    records.write("instructions_kept", file, [instruction("a", "Sort <|end|> 3 1 2"), instruction("b", "Sort 2 1")])
    prompts = [row["prompt"] for row in run(lab, "base")["self_chat"]]
    assert [prompt.count("<|end|>") for prompt in prompts] == [prompts[1].count("<|end|>")] * 2
    assert "< |end|>" in prompts[0]


def test_figures_and_worst_answers_of_an_arm(lab: Path) -> None:
    run(lab, "base")
    run(lab, "damaged")
    base, arm = (lab / "reports/eval" / name / "items.parquet" for name in ("base", "damaged"))
    own, figures = self_outcomes.describe(base, base), self_outcomes.describe(base, arm)
    assert own and figures
    assert (own.equal, own.chrf, own.kl, own.length, own.chat) == (1, 1, 0, 1, 1)
    assert figures.equal < 1 and figures.chrf < 1 and figures.kl and figures.kl > 0.1
    assert self_outcomes.find_worst(base, base, 5) == []
    worst = self_outcomes.find_worst(base, arm, 5)
    drops = [answer.likelihood[1] - answer.likelihood[0] for answer in worst if not answer.collapsed]
    assert len(worst) == 5 and drops == sorted(drops)


def test_chrf_is_sacrebleu_s_and_equal_answers_have_one() -> None:
    from sacrebleu.metrics import CHRF

    found = self_suite.chrf(["The sea is wide.", "", "b"], ["The sea was wide.", "", "a"])
    assert found[0] == pytest.approx(CHRF().sentence_score("The sea is wide.", ["The sea was wide."]).score / 100)
    assert 0.5 < found[0] < 1 and found[1:] == [1.0, 0.0]
