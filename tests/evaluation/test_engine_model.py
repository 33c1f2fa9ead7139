"""Our engine as lm-eval's model: the same texts and likelihoods as lm-eval's own class, whatever shares a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from holdfast.core import manifest
from holdfast.engines.inspection import inspect_model
from holdfast.evaluation.engine_model import EngineModel
from holdfast.params.models import Model


@pytest.fixture(scope="module")
def models(tiny: Path) -> tuple[HFLM, EngineModel]:
    entry, tokenizer = inspect_model("base", Model(path=tiny.name), tiny.parent), manifest.load_tokenizer(tiny)
    network = manifest.load_model(tiny, entry.dtype)
    theirs = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, max_length=entry.context, device="cpu")
    return theirs, EngineModel(entry, 4, tokenizer)


def ask(kind: Any, *rows: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=row, idx=n) for n, row in enumerate(rows)]


def test_likelihoods_are_those_of_lm_eval_s_class(models):
    theirs, ours = models
    questions = ["What is red?", "Which of these is a fruit, and which is not one at all?", "And?"]
    answers = [" a", " an apple", " the sky, on some days", " b", " no"]
    requests = ask("loglikelihood", *((question, answer) for question in questions for answer in answers))
    expected, found = (model.loglikelihood(requests, disable_tqdm=True) for model in (theirs, ours))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert len({round(value, 3) for value, _ in found}) > 10, "the model tells the answers apart"


def test_what_the_model_writes_itself_counts_as_greedy(models):
    theirs, ours = models
    prompt = "What is red?"
    (written,) = ours.generate_until(
        ask("generate_until", (prompt, {"until": [], "max_gen_toks": 6})), disable_tqdm=True
    )
    (found,) = ours.loglikelihood(ask("loglikelihood", (prompt, written)), disable_tqdm=True)
    (expected,) = theirs.loglikelihood(ask("loglikelihood", (prompt, written)), disable_tqdm=True)
    assert found[1] == expected[1]


@pytest.mark.parametrize("settings", [
    {"until": [], "do_sample": False, "max_gen_toks": 12},
    {"until": ["e"], "do_sample": False, "max_gen_toks": 12},
    {"until": "\n", "max_gen_toks": 5, "temperature": 0.0},
])  # fmt: skip
def test_texts_are_those_of_lm_eval_s_class(models, settings):
    theirs, ours = models
    requests = ask("generate_until", *((f"{'word ' * n}What is {n}?", dict(settings)) for n in range(9)))
    expected, found = (model.generate_until(requests, disable_tqdm=True) for model in (theirs, ours))
    assert found == expected
    assert len(set(found)) > 1


def test_settings_that_the_engine_does_not_know_go_to_transformers(models, monkeypatch):
    _, ours = models
    monkeypatch.setattr(ours, "write", lambda *_: pytest.fail("not by the engine"))
    settings = {"until": [], "do_sample": False, "max_gen_toks": 4, "repetition_penalty": 1.3}
    (text,) = ours.generate_until(ask("generate_until", ("What is red?", settings)), disable_tqdm=True)
    assert isinstance(text, str)


def test_rolling_likelihoods_are_those_of_lm_eval_s_class(models):
    theirs, ours = models
    requests = ask("loglikelihood_rolling", ("The sky is blue and the fox is red.",), ("One two three. " * 30,))
    expected, found = (model.loglikelihood_rolling(requests, disable_tqdm=True) for model in (theirs, ours))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_prompt_longer_than_the_context_is_cut_as_lm_eval_cuts_it(models):
    theirs, ours = models
    long = "word " * 2 * ours.max_length
    requests = ask("loglikelihood", (long, " end"), ("short", " end"))
    expected, found = (model.loglikelihood(requests, disable_tqdm=True) for model in (theirs, ours))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
