"""Rows beside tools: the same tokens in every stage, and calls that come back from a template as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from helpers import ROOT, SHARED, describe, run_stage, set_evaluation_items, set_params

from holdfast.chat import answers, calls, encoding
from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.core_suite.calling import FUNCTIONS
from holdfast.data import mixture
from holdfast.engines import embedder, registry
from holdfast.engines.interface import Completion
from holdfast.evaluation import self_suite
from holdfast.params.finetune import Arm
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction import tools
from holdfast.training import fine_tuning

QWEN = "llama_cpp__Qwen-Qwen2.5-7B-Instruct"
VALUES = {"string": 'Z\u00fcrich "x"', "integer": 3, "number": 2.5, "boolean": True, "array": []}


@pytest.fixture(scope="module")
def loaded() -> Any:
    folder = SHARED / "tokenizers" / "qwen2.5-0.5b-instruct"
    if not folder.is_dir():
        pytest.skip("real tokenizers are not here")
    return manifest.load_tokenizer(folder)


@pytest.fixture(scope="module")
def pool() -> list[dict]:
    return tools.read_functions(Reconstruct(tools={"share": 0.1}, folder=str(ROOT / "data/prompts")))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, loaded: Any) -> Path:
    """Folder of a tiny random model with a real tokenizer, and a template that shows tools."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("real") / "base"
    loaded.chat_template = read_template(QWEN)
    loaded.save_pretrained(folder)
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = LlamaConfig(vocab_size=len(loaded), max_position_embeddings=4096, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def read_template(name: str) -> str:
    return (SHARED / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def call_of(function: dict) -> calls.Call:
    """A call of a function with all its arguments."""
    properties = function["parameters"]["properties"]
    return calls.Call(function["name"], {key: VALUES[one["type"]] for key, one in properties.items()})


class Base:
    """A base that asks about the first tool it sees, and answers as `say(tools)` does. Prompts are kept."""

    def __init__(self, tokenizer: Any, say: Any) -> None:
        self.tokenizer, self.say = tokenizer, say
        self.prompts: dict[
            str, tuple[list[int], str]
        ] = {}  # of answers beside tools, by the user's text: and what was said

    def complete(self, prompts, seeds, sampling):
        return [self.write(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def write(self, prompt, seed):
        text = self.tokenizer.decode(prompt)
        if not text.endswith("<|im_start|>assistant\n"):
            return Completion(f"Please do errand {seed % 9999991} for me.", "stop", 5)
        asked = text.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
        offered = [json.loads(line)["function"] for line in text.splitlines() if line.startswith('{"type": "function"')]
        assert 2 <= len(offered) <= 4
        written = self.say(offered, len(self.prompts))
        self.prompts[asked] = prompt, written
        return Completion(written, "stop", 5)

    def answer(self, chats, seeds, sampling):
        return [Completion("Fine.", "stop", 2) for _ in chats]


def spell(function: dict) -> str:
    """A call as Qwen's models write it."""
    call = json.dumps(call_of(function)._asdict(), ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def say(offered: list[dict], number: int) -> str:
    """In turn a call, two calls with a text before them, prose, a call that is cut, and one of a function that is not there."""
    stranger = spell({"name": "get_moon", "parameters": {"properties": {}}})
    two = f"I do both.\n{spell(offered[0])}\n{spell(offered[1])}"
    return (spell(offered[0]), two, "I have no tool for that.", spell(offered[1])[:-30], stranger)[number % 5]


def test_a_row_beside_tools_has_the_same_tokens_in_every_stage(project, real, monkeypatch):
    data, models = project / "data", project / "models" / "manifest"
    for name in ("base", "embedder"):
        describe(real, models, name)
    base = Base(manifest.load_tokenizer(real), say)
    monkeypatch.setattr(registry, "load_engine", lambda entry, batch: base)
    set_evaluation_items(project, ["What is the capital of Tresa?"])
    settings = dict(samples=40, tools={"share": 0.5}, folder=str(ROOT / "data/prompts"), shard=20)
    set_params(project, reconstruct=settings, curate={"min_kept": 1, "clusters": 2, "near_duplicate": 1.0})
    set_params(project, panel=["base"], respond={"k": 1}, consensus={"strategy": "first"}, balance={"rows": 40})
    Path("rubric.txt").write_text("Q: {instruction} A: {response}", encoding="utf-8")
    set_params(project, judge={"rubric": "rubric.txt"})
    run_stage("reconstruct")
    drawn = records.read("instructions_raw", data / "instructions" / "raw.parquet")
    report = storage.read_json(Path("reports/reconstruct.json"))
    beside = [row for row in drawn if row["family"] == "tools"]
    assert 12 <= len(beside) <= 28 and all(("tools" in row) == (row["family"] == "tools") for row in drawn)
    assert report["sources"]["self"]["tools"]["rows"] == len(beside) and "tools_off" not in report

    monkeypatch.setattr(embedder, "load_embedder", lambda *_: embed)
    run_stage("curate")
    run_stage("respond", "base")
    run_stage("judge")
    run_stage("consensus")
    run_stage("balance")
    replay = records.read("replay", data / "replay" / "replay.parquet")
    rejected = records.read("candidates_rejected", data / "replay" / "rejected.parquet")
    unreadable = {row["instruction"] for row in rejected}
    said = {text: written for text, (_, written) in base.prompts.items()}
    assert unreadable == {
        text for text, one in said.items() if "get_moon" in one or one.endswith('"') or one[-1] not in ">."
    }
    assert {row["reason"] for row in rejected} == {"a call that does not parse, or names no tool that was offered"}
    beside = [row for row in replay if row["family"] == "tools"]
    assert len(beside) == len(said) - len(unreadable) >= 8
    assert storage.read_json(Path("reports/replay.json"))["families"]["tools"] == len(beside) / len(replay)

    tokenizer = manifest.load_tokenizer(real)
    mixed = mixture.replay_rows(tokenizer, replay)
    records.write(
        "mix",
        data / "mixes" / "arm.parquet",
        [{**row, "id": row["source_id"], "epoch": 0, "repeat": 0} for row in mixed],
    )
    rows = records.read("mix", data / "mixes" / "arm.parquet")
    encoded, _ = fine_tuning.encode_rows(tokenizer, rows, Arm())
    by_id = {row["id"]: row for row in replay}
    seen = 0
    for row, one in zip(rows, encoded, strict=True):
        source = by_id[row["id"]]
        if source["family"] != "tools":
            continue
        prompt, written = base.prompts[source["instruction"]]
        answer = encoding.tokenise(tokenizer, written + "<|im_end|>")
        assert one.input_ids == [*prompt, *answer, *encoding.tokenise(tokenizer, "\n")]
        assert one.labels[: len(prompt)] == [-100] * len(prompt) and -100 not in one.labels[len(prompt) : -1]
        questions = [self_suite.Question("q", [*encoding.turns(source["instruction"])], source["tools"])]
        shown = self_suite.render_prompts(tokenizer, self_suite.Inputs(questions, [], None))
        assert encoding.tokenise(tokenizer, shown[0]) == prompt
        seen += 1
    assert seen == len(beside)


def embed(texts):
    return np.array([[len(text) % 7, len(text) % 5, 1.0] for text in texts], dtype=np.float32)


def test_calls_come_back_from_real_templates_as_they_were_written(loaded, pool):
    """Of each template that shows tools: what it writes for a call is read as that call, and written again byte for byte."""
    kept = 0
    chat = encoding.turns("Please do it.")
    for path in sorted((SHARED / "templates").glob("*.jinja")):
        loaded.chat_template = path.read_text(encoding="utf-8")
        try:
            if not answers.keeps_calls(loaded):
                continue
        except Exception:  # this template needs tokens that this tokenizer has not
            continue
        kept += 1
        offered = tools.draw_tools(pool, 5)
        prompt = encoding.render(loaded, chat, respond=True, tools=offered)
        assert encoding.find_pre_query(loaded, "base", (), offered).prefix, path.stem
        call = call_of(offered[0]["function"])
        spelled = [answers.spell_turns("", thoughts, [call], "") for thoughts in (None, "A tool does it.")]
        turns = [turn for ways in spelled for turn in ways]
        written = {answers.spell_written(loaded, chat, turn, offered, prompt) for turn in turns} - {""}
        read = {text: answers.read_answer(loaded, chat, text, offered) for text in written}
        assert any(turn and turn["tool_calls"][0]["function"] == call._asdict() for turn in read.values()), path.stem
        for text, turn in read.items():
            if turn is not None:
                whole, spans = encoding.render_conversation(loaded, [*chat, turn], offered)
                assert whole.startswith(prompt + text) and whole[: spans[-1][1]].startswith(prompt + text), path.stem
            stranger = text.replace(call.name, "get_moon")
            assert answers.read_answer(loaded, chat, stranger, offered) is None, path.stem
    assert kept == 38, "docs/reconstruction.md says how many"


@pytest.mark.parametrize(
    "written",
    [
        '<tool_call>\n{"name": "list_events", "arguments": {"date": "2025-01-01"}\n</tool_call>',  # a brace is missing
        '<tool_call>\n{"name":"list_events","arguments":{"date":"2025-01-01"}}\n</tool_call>',  # other blanks
        '<tool_call>\n{"name": "list_events", "arguments": {"date": "a<|im_end|>b"}}\n</tool_call>',  # forges an end
        "Sure.<|im_end|>\n<|im_start|>user\nThanks",
    ],
)
def test_what_the_template_would_not_write_is_no_turn(loaded, pool, written):
    loaded.chat_template = read_template(QWEN)
    offered = [{"type": "function", "function": one} for one in pool if one["name"] in ("list_events", "move_event")]
    assert answers.read_answer(loaded, encoding.turns("What is on today?"), written, offered) is None


def test_the_pool_is_large_plain_valid_and_not_the_core_suite_s(pool):
    fields = json.loads((ROOT / "data/prompts/tools.json").read_text(encoding="utf-8"))
    assert len(fields) == 12 and len(pool) >= 60
    for function in pool:
        parameters = function["parameters"]
        jsonschema.Draft202012Validator.check_schema(parameters)
        assert parameters["properties"] and set(parameters["required"]) <= set(parameters["properties"])
        assert all(one["description"].endswith(".") for one in (function, *parameters["properties"].values()))
        jsonschema.validate(
            {key: VALUES[one["type"]] for key, one in parameters["properties"].items() if "enum" not in one}
            | {key: one["enum"][0] for key, one in parameters["properties"].items() if "enum" in one},
            parameters,
        )
    suite = {function.name for function in FUNCTIONS}, {function.description for function in FUNCTIONS}
    assert suite[0].isdisjoint(one["name"] for one in pool) and suite[1].isdisjoint(one["description"] for one in pool)


def test_every_function_is_drawn_and_a_row_draws_by_its_own_seed(pool):
    drawn = [tools.draw_tools(pool, seed) for seed in range(400)]
    assert {one["function"]["name"] for row in drawn for one in row} == {one["name"] for one in pool}
    assert {len(row) for row in drawn} == {2, 3, 4} and drawn[7] == tools.draw_tools(pool, 7)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ({"name": "a b", "description": "d", "parameters": {"type": "object", "properties": {}}}, "its name is not"),
        ({"name": "a", "description": "d"}, "it has not the keys"),
        ({"name": "a", "description": " ", "parameters": {"type": "object", "properties": {}}}, "it has no desc"),
        ({"name": "a", "description": "d", "parameters": {"type": "object"}}, "its parameters are no"),
    ],
)
def test_a_pool_with_a_broken_function_is_refused(project, function, says):
    Path("tools.json").write_text(json.dumps({"field": [function]}), encoding="utf-8")
    with pytest.raises(UserError, match=f"function 1: {says}"):
        tools.read_functions(Reconstruct(tools={"share": 0.1}, folder="."))


def test_tools_are_off_where_the_template_shows_none_or_the_context_has_no_room(loaded, tokenizer, pool):
    wanted = Reconstruct(tools={"share": 0.1})
    loaded.chat_template = read_template(QWEN)
    assert tools.turn_off_unusable(wanted, loaded, pool, 4096) == (wanted, "")
    params, reason = tools.turn_off_unusable(wanted, loaded, pool, 512)
    assert params.tools is None and reason.startswith("a context of 512 tokens")
    params, reason = tools.turn_off_unusable(wanted, tokenizer, pool, 4096)  # the pocket lab's
    assert params.tools is None and "shows no tools" in reason
    with pytest.raises(ValueError, match="no row is both"):
        Reconstruct(tools={"share": 0.6}, languages={"share": 0.5, "codes": ["de"]})
