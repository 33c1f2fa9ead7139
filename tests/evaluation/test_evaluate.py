"""evaluate: the same questions for base and arm, lm-eval's back ends, and outcomes item by item."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_completions import Completions, serve
from helpers import SHARED, run_stage, set_params, task

from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.evaluation import backends, spot
from holdfast.params.base import parse
from holdfast.params.evaluate import Evaluate

ASKED = ["What is the capital of Velkan?", "Sort: 3 1 2", "Reverse: abc", "Count: a b c d", "How many legs has a cat?"]


@pytest.fixture
def lab(project: Path, base: Path, tiny: Path) -> Path:
    """A working directory with the tiny base, an arm that is a copy of it, and one suite of each kind."""
    shutil.copytree(tiny, project / "models" / "arm")
    rows = [{"id": f"q{n}", "prompt": text, "answer": "x"} for n, text in enumerate(ASKED)]
    task(project / "suites", "free", rows)
    choice = {"output_type": "multiple_choice", "doc_to_choice": ["1", "2", "4"], "doc_to_target": 0}
    accuracy = {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    task(project / "suites", "choice", rows, **choice, **accuracy)
    return project


def run(lab: Path, model: str, suites: dict[str, Any] | None = None, **knobs: Any) -> dict[str, Any]:
    """settings.json of an evaluation by the stage."""
    named = suites or {"free": {"role": "general"}, "choice": {"role": "general", "chance": 0.333}}
    section = {"tasks": str(lab / "suites"), "suites": named, "batch": 4, "seed": 1, "self_suite": {"rows": 0}}
    set_params(lab, evaluate=section | knobs)
    run_stage("evaluate", model)
    return storage.read_json(lab / "reports" / "eval" / model / "settings.json")


def items(lab: Path, model: str) -> list[dict[str, Any]]:
    return records.read("items", lab / "reports" / "eval" / model / "items.parquet")


def test_every_item_has_its_outcome_and_everything_that_may_change_one_is_recorded(lab: Path) -> None:
    found = run(lab, "base")
    rows = items(lab, "base")
    assert [row["item_id"] for row in rows if row["suite"] == "free"] == [f"q{n}" for n in range(5)]
    assert all(row["response"] in ("1", "2", "4") for row in rows if row["suite"] == "choice")
    assert all(question in row["prompt"] and row["prompt"] != question for row, question in zip(rows[5:], ASKED))  # noqa: B905
    engine = found["engine"]
    assert (engine["backend"], engine["batch"], engine["dtype"], engine["seed"]) == ("transformers", 4, "float32", 1)
    assert {"lm_eval", "transformers", "torch", "device", "max_length", "limit", "options", "chat_template"} < set(
        engine
    )
    described = {"role": "general", "chance": 0.0, "metric": "exact_match", "filter": "none", "items": 5}
    described |= {"written": True}
    assert found["suites"]["choice"]["written"] is False
    assert found["suites"]["free"] == described
    assert not any(str(lab) in text for text in (json.dumps(found), *(row["prompt"] for row in rows)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch": 2}, "batch 4, here 2"),
        ({"seed": 2}, "seed 1, here 2"),
        ({"limit": 3}, "limit None, here 3"),
        ({"suites": {"free": {"role": "general"}}}, "choice"),
        ({"suites": {"free": {"role": "general"}, "choice": {"role": "general", "chance": 0.25}}}, "choice"),
    ],
)
def test_an_arm_is_not_asked_otherwise_than_the_base(lab: Path, change: dict[str, Any], told: str) -> None:
    run(lab, "base")
    with pytest.raises(UserError, match="the base was evaluated with other settings") as error:
        run(lab, "arm", **change)
    assert told in str(error.value) and "evaluate-base" in str(error.value)
    assert not (lab / "reports" / "eval" / "arm").exists()


def test_other_engine_settings_are_refused_before_anything_is_asked(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval

    run(lab, "base")
    monkeypatch.setattr(lm_eval, "simple_evaluate", lambda **_: pytest.fail("it asked"))
    with pytest.raises(UserError, match="other settings"):
        run(lab, "arm", batch=2)


def test_items_that_changed_since_the_base_was_asked_are_refused(lab: Path) -> None:
    run(lab, "base")
    task(lab / "suites", "free", [{"id": "q0", "prompt": "One?", "answer": "1"}])
    with pytest.raises(UserError, match="other settings"):
        run(lab, "arm")


def test_an_arm_without_a_base_to_compare_with_says_so(lab: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run(lab, "arm")


def test_an_arm_with_the_base_s_weights_answers_as_the_base(lab: Path) -> None:
    assert run(lab, "base") | {"model": "arm"} == run(lab, "arm")
    assert items(lab, "base") == items(lab, "arm")


def test_forged_outcomes_are_found_when_the_model_is_asked_again(lab: Path) -> None:
    """All else fits: only the model itself can tell."""
    evaluation, nowhere = lab / "reports/eval/arm", lab / "nowhere"
    run(lab, "base")
    run(lab, "arm")
    honest = spot.ask_again(Evaluate.load(), "arm", evaluation, 10, nowhere)
    assert (honest.items, honest.worse, honest.tolerated, honest.engine) == (10, [], 0, [])
    forged = [row | {"correct": 1.0} for row in items(lab, "arm")]
    wrong = sum(row["correct"] == 0 for row in items(lab, "arm"))
    records.write("items", evaluation / "items.parquet", forged)
    assert len(spot.ask_again(Evaluate.load(), "arm", evaluation, 10, nowhere).worse) == wrong > 0
    records.write("items", evaluation / "items.parquet", [row | {"prompt_hash": "x"} for row in forged])
    with pytest.raises(UserError, match="is not what the suite asks"):
        spot.ask_again(Evaluate.load(), "arm", evaluation, 10, nowhere)
    records.write("items", evaluation / "items.parquet", [row | {"item_id": f"y{row['item_id']}"} for row in forged])
    with pytest.raises(UserError, match="has no item 'yq"):
        spot.ask_again(Evaluate.load(), "arm", evaluation, 10, nowhere)
    (lab / "models/arm/extra.json").write_text("{}")
    with pytest.raises(UserError, match="is not the model that was evaluated"):
        spot.ask_again(Evaluate.load(), "arm", evaluation, 10, nowhere)


AWKWARD = [
    ("So the total is \\boxed{12}.", "12", True),
    ("```\n12\n```\nLet me know if you need anything else!", "12", True),
    ("It doesn’t matter.\n#### don’t", "don't", True),
    ("The answer is **12**. I added both.", "12", True),
    ("The answer is 13. I had 12 first.", "12", False),
]


def domain(lab: Path) -> None:
    rows = []
    for n, (_, answer, _) in enumerate(AWKWARD):
        turns = [{"role": "user", "content": f"question {n}?"}, {"role": "assistant", "content": answer}]
        rows.append({"id": f"d{n}", "messages": turns, "group": "", "source": "test"})
    records.write("domain", lab / "data" / "domain" / "test.parquet", rows)


def says(lab: Path, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the model answers the prompt that holds a key with its text."""
    from holdfast.evaluation.engine_model import EngineModel

    def answer(self: Any, requests: list[Any], **_: Any) -> list[str]:
        return [next(text for key, text in texts.items() if key in request.args[0]) for request in requests]

    monkeypatch.setattr(EngineModel, "generate_until", answer)


def test_the_domain_s_rows_are_marked_by_their_final_answers(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain(lab)
    says(lab, {f"question {n}?": text for n, (text, _, _) in enumerate(AWKWARD)} | {"": "x"}, monkeypatch)
    suites = {"free": {"role": "general"}}
    run(lab, "base", suites, domain_test="answer")
    marked = {row["item_id"]: row["correct"] for row in items(lab, "base") if row["suite"] == "domain_test"}
    assert marked == {f"d{n}": float(right) for n, (_, _, right) in enumerate(AWKWARD)}
    run(lab, "base", suites, domain_test="exact_match")
    assert not any(row["correct"] for row in items(lab, "base") if row["suite"] == "domain_test")


def test_a_task_file_can_extract_answers_and_the_params_choose_among_its_filters(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = {"name": "final", "filter": [{"function": "final_answer"}, {"function": "take_first"}]}
    plain = {"name": "plain", "filter": [{"function": "take_first"}]}
    rows = [{"id": f"q{n}", "prompt": f"question {n}?", "answer": answer} for n, (_, answer, _) in enumerate(AWKWARD)]
    task(lab / "suites", "awkward", rows, filter_list=[plain, final])
    says(lab, {f"question {n}?": text for n, (text, _, _) in enumerate(AWKWARD)}, monkeypatch)
    found = run(lab, "base", {"awkward": {"role": "general", "filter": "final"}})
    assert [row["correct"] for row in items(lab, "base")] == [float(right) for *_, right in AWKWARD]
    assert found["suites"]["awkward"]["filter"] == "final"
    run(lab, "base", {"awkward": {"role": "general"}})
    assert not any(row["correct"] for row in items(lab, "base"))
    with pytest.raises(UserError, match="has no filter 'last'"):
        run(lab, "base", {"awkward": {"role": "general", "filter": "last"}})


@pytest.fixture
def server(tiny: Path) -> Iterator[tuple[type[Completions], str]]:
    with serve({"base": tiny, "arm": tiny}) as found:
        yield found


def test_a_server_gives_the_outcomes_that_transformers_gives(
    lab: Path, server: tuple[type[Completions], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    handler, url = server
    run(lab, "base")
    here = items(lab, "base")
    found = run(lab, "base", backend="openai", url=url)
    assert items(lab, "base") == here
    assert {body["model"] for body in handler.seen} == {"base"}
    assert found["engine"]["backend"] == "openai" and "sk-secret" not in json.dumps(found)
    run(lab, "arm", backend="openai", url=url)
    assert handler.seen[-1]["model"] == "arm"
    with pytest.raises(UserError, match="other settings: backend openai, here transformers"):
        run(lab, "arm")


def test_a_server_that_is_away_lacks_the_model_or_fails_is_named(
    lab: Path, server: tuple[type[Completions], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = server
    with pytest.raises(UserError, match="no list of models"):
        run(lab, "base", backend="openai", url="http://127.0.0.1:9/v1")
    models = handler.models
    monkeypatch.setattr(handler, "models", {"other": models["base"]})
    with pytest.raises(UserError, match="does not offer 'base' but other"):
        run(lab, "base", backend="openai", url=url)
    monkeypatch.setattr(handler, "models", models)
    monkeypatch.setattr(handler, "broken", True)
    with pytest.raises(UserError, match="the server failed"):
        run(lab, "base", {"free": {"role": "general"}}, backend="openai", url=url, options={"max_retries": 1})
    assert not (lab / "reports" / "eval").exists()


def test_what_vllm_is_given_fits_lm_eval_s_class(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM itself needs an environment of its own; lm-eval's source says what its class takes."""
    import ast

    import lm_eval

    source = (Path(lm_eval.__file__).parent / "models" / "vllm_causallms.py").read_text(encoding="utf-8")
    kind = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "VLLM")
    start = next(n for n in kind.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    entry = manifest.load(lab / "models/manifest/base.json")
    params = Evaluate(
        tasks="t", suites={"free": {"role": "general"}}, backend="vllm", options={"tensor_parallel_size": 2}
    )
    given = backends.vllm_arguments(params, entry.folder(), entry)
    assert set(given) <= {a.arg for a in start.args.args}
    assert given["tensor_parallel_size"] == 2 and given["trust_remote_code"] is False
    assert "self.hf_chat_template" in source  # which load_backend() replaces
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(UserError, match="vLLM is not installed"):
        run(lab, "base", backend="vllm")


@pytest.mark.parametrize(
    ("knobs", "vllm", "backend", "options", "context"),
    [
        ({}, None, "transformers", {}, 512),
        ({"url": "http://localhost:8000/v1"}, None, "openai", {}, 512),
        ({"url": "http://localhost:8000/v1"}, 2, "openai", {}, 512),
        ({}, 2, "vllm", {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "enforce_eager": False}, 256),
        ({"options": {"gpu_memory_utilization": 0.8}}, 2, "vllm", {"gpu_memory_utilization": 0.8}, 256),
        ({"backend": "transformers"}, 2, "transformers", {}, 512),
    ],
)
def test_the_back_end_is_the_one_that_the_base_is_written_with(lab, knobs, vllm, backend, options, context):
    base = manifest.load(lab / "models/manifest/base.json")
    own = manifest.Vllm(vllm, 0.5, 256, enforce_eager=False) if vllm else None
    params = Evaluate(tasks="t", suites={"free": {"role": "general"}}, **knobs)
    settled, entry = backends.settle(params, replace(base, vllm=own, context=512))
    assert settled.backend == backend
    assert settled.options.items() >= options.items()
    assert bool(settled.options) == bool(options)
    assert entry.context == context
    assert backends.settle(settled, entry) == (settled, entry)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"backend": "openai"}, "needs 'url'"),
        ({"backend": "vllm", "url": "http://localhost:8000/v1"}, "take none"),
        ({"url": "localhost:8000"}, "must begin with http"),
        ({"options": {"trust_remote_code": True}}, "'trust_remote_code' is no option"),
        ({"options": {"batch_size": 7}}, "'batch_size' is no option"),
        ({"backend": "tensorrt"}, "'evaluate.backend' = 'tensorrt'"),
    ],
)
def test_a_back_end_that_cannot_be_one_is_refused(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse(Evaluate, {"tasks": "t", "suites": {"free": {"role": "general"}}} | knobs, "evaluate")


IFEVAL = SHARED / "data" / "ifeval"
needs_ifeval = pytest.mark.skipif(not IFEVAL.is_dir(), reason="../shared with IFEval is not there")
# Of the 834 instructions, the two whose mark is no property of the response: they ask for the "letter" # or !, for which the
# scorer (the authors' own, too) draws a random one from the alphabet, once for the strict mark and once for the loose one.
DRAWN = {1122: "keywords:letter_frequency", 1129: "keywords:letter_frequency"}
PUBLISHED = {"strict": (76.89, 83.57), "loose": (79.30, 85.37)}  # per cent of prompts and of instructions


@pytest.fixture
def punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NLTK's sentence splitter is not there (offline, it mostly is not), the two lines of what it learnt that these
    responses need: how often "let" and "please" begin sentences (in Punkt's code), so that "in o. Let's" is no initial."""
    import nltk

    folder = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt"):
        (folder / name).touch()
    (folder / "ortho_context.tab").write_text("let\t46\nplease\t32\n")
    monkeypatch.setattr(nltk.data, "path", [*nltk.data.path, str(tmp_path / "nltk")])


def recorded() -> list[tuple[dict[str, Any], str]]:
    """IFEval's 541 prompts with the responses of GPT-4 that its authors published, in the files' order."""
    files = (IFEVAL / "input_data.jsonl", IFEVAL / "input_response_data_gpt4_20231107_145030.jsonl")
    docs, said = ([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files)
    return [(doc, answer["response"]) for doc, answer in zip(docs, said, strict=True)]


def ifeval_figures(seed: int, followed_if_drawn: bool | None = None) -> dict[str, tuple[float, float]]:
    """Per cent of prompts and instructions followed. `followed_if_drawn`: takes the place of a mark that hangs on a draw."""
    import langdetect
    from lm_eval.tasks.ifeval.utils import process_results

    langdetect.DetectorFactory.seed = 0
    random.seed(seed)
    prompts, instructions = {way: 0 for way in PUBLISHED}, {way: 0 for way in PUBLISHED}
    for doc, text in recorded():
        result = process_results(doc, [text])
        for way in PUBLISHED:
            marks = result[f"inst_level_{way}_acc"]
            if followed_if_drawn is not None and doc["key"] in DRAWN:
                marks[doc["instruction_id_list"].index(DRAWN[doc["key"]])] = followed_if_drawn
            prompts[way] += all(marks)
            instructions[way] += sum(marks)
    return {way: (round(prompts[way] / 5.41, 2), round(instructions[way] / 8.34, 2)) for way in PUBLISHED}


@needs_ifeval
def test_ifeval_s_published_figures_come_out(punkt: None) -> None:
    """GPT-4 in table 3 of Zhou et al. 2023 (arXiv 2311.07911): equal to the last digit for a fourteenth of all draws, of
    which 34 is the first, and within the two drawn marks for every other."""
    assert ifeval_figures(seed=34) == PUBLISHED
    none, both = (ifeval_figures(seed=0, followed_if_drawn=mark) for mark in (False, True))
    assert none == {"strict": (76.71, 83.45), "loose": PUBLISHED["loose"]}  # 415 and 696, 429 and 712
    assert both == {"strict": (77.08, 83.69), "loose": (79.67, 85.61)}  # two more of each


@needs_ifeval
def test_ifeval_runs_as_a_suite_on_local_data(lab: Path, punkt: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recorded()
    (lab / "suites" / "scorer.py").write_text(
        "from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results\n"
    )
    (lab / "suites" / "ifeval.yaml").write_text(f"""
task: ifeval
dataset_path: json
dataset_kwargs: {{data_files: {{test: {IFEVAL / "input_data.jsonl"}}}}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: 0
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: 1280}}
process_results: !function scorer.process_results
metric_list:
  - {{metric: prompt_level_strict_acc, aggregation: mean, higher_is_better: true}}
  - {{metric: inst_level_strict_acc, aggregation: !function scorer.agg_inst_level_acc, higher_is_better: true}}
  - {{metric: prompt_level_loose_acc, aggregation: mean, higher_is_better: true}}
  - {{metric: inst_level_loose_acc, aggregation: !function scorer.agg_inst_level_acc, higher_is_better: true}}
""")
    says(lab, {doc["prompt"]: text for doc, text in asked} | {"": "x"}, monkeypatch)
    suite = {"ifeval": {"role": "general", "metric": "prompt_level_strict_acc"}}
    run(lab, "base", suite)
    first = items(lab, "base")
    right = {int(row["item_id"]) for row in first if row["correct"]}
    drawn = {at for at, (doc, _) in enumerate(asked) if doc["key"] in DRAWN}
    assert (len(first), len(right - drawn)) == (541, 415)
    run(lab, "base", suite)
    assert items(lab, "base") == first  # the letters are drawn alike
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match="needs NLTK's punkt_tab"):
        run(lab, "base", suite)
    run(lab, "base", {"free": {"role": "general"}})  # another suite needs none, though IFEval's code is loaded by now
