"""Rows beside tools: the same tokens in every stage, and calls that come back from a template as they were written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
from helpers import ROOT, SHARED, describe, run_stage, set_evaluation_items, set_params
from ruamel.yaml import YAML

from holdfast.chat import answers, calls, encoding
from holdfast.chat.calls import PROBE_TOOL
from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.core_suite.calling import FUNCTIONS
from holdfast.data import mixture
from holdfast.engines import embedder, registry
from holdfast.engines.answering import Prompt, answer_chats
from holdfast.engines.interface import Completion, Sampling
from holdfast.evaluation import self_suite
from holdfast.panel import consensus, responses
from holdfast.params.finetune import Arm
from holdfast.params.reconstruct import Reconstruct
from holdfast.planning import replay_kinds
from holdfast.reconstruction import tools
from holdfast.training import fine_tuning

QWEN, QWEN3 = "llama_cpp__Qwen-Qwen2.5-7B-Instruct", "llama_cpp__Qwen-Qwen3-0.6B"
DONE = "It is done."  # what the base says to a result
NO_THOUGHTS = "<think>\n\n</think>\n\n"  # what Qwen 3's template writes when they are switched off
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


def make_model(folder: Path, tokenizer: Any, template: str) -> Path:
    """A tiny random model with a real tokenizer and template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer.chat_template = read_template(template)
    tokenizer.save_pretrained(folder)
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def read_template(name: str) -> str:
    return (SHARED / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def try_templates(tokenizer: Any, keeps: Callable[[Any], bool]) -> Iterator[Path]:
    """The public templates of which this holds, each set in turn."""
    for path in sorted((SHARED / "templates").glob("*.jinja")):
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        try:
            if not keeps(tokenizer):
                continue
        except Exception:
            continue
        yield path


def call_of(function: dict) -> calls.Call:
    """A call of a function with all its arguments."""
    properties = function["parameters"]["properties"]
    values = {key: one["enum"][0] if "enum" in one else VALUES[one["type"]] for key, one in properties.items()}
    return calls.Call(function["name"], values)


class Base:
    """A base that asks for errands, answers as `say` does, and says DONE to a tool's result. What it was asked and said is kept."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.exchanges: dict[str, Said] = {}  # by the user's text
        self.with_results: dict[str, list[int]] = {}  # by the user's text: the prompt that ends with results

    def complete(self, prompts, seeds, sampling):
        return [self.write(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def write(self, prompt, seed):
        text = self.tokenizer.decode(prompt)
        before, _, after = text.rpartition("<|im_start|>assistant\n")
        if not before or after not in ("", NO_THOUGHTS):
            return Completion(f"Please do errand {seed % 9999991} for me.", "stop", 5)
        *_, earlier, user_text = [part.partition("<|im_end|>")[0] for part in text.split("<|im_start|>user\n")]
        if "<tool_response>" in user_text:
            self.with_results[earlier] = prompt
            return Completion(DONE, "stop", 3)
        offered = [json.loads(line)["function"] for line in text.splitlines() if line.startswith('{"type": "function"')]
        assert len(offered) in (0, 2, 3, 4)
        number = sum(bool(said.offered) == bool(offered) for said in self.exchanges.values())
        written, good = say(offered, number) if offered else ("Fine.", True) if after else think(number)
        self.exchanges[user_text] = Said(prompt, written, good, offered)
        return Completion(written, "stop", 5)

    def answer(self, chats, seeds, sampling):
        return [Completion("Fine.", "stop", 2) for _ in chats]


class Said(NamedTuple):
    prompt: list[int]
    written: str
    good: bool  # it can be read
    offered: list[dict]


def spell(function: dict) -> str:
    """A call as Qwen's models write it."""
    call = json.dumps(call_of(function)._asdict(), ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def say(offered: list[dict], number: int) -> tuple[str, bool]:
    """In turn a call, two calls with a text before them, prose, a call that is cut, one of a function that is not there, one with
    an argument that is not there, and one with a value of another type."""
    stranger = spell({"name": "get_moon", "parameters": {"properties": {}}})
    two = f"I do both.\n{spell(offered[0])}\n{spell(offered[1])}"
    good = spell(offered[0]), two, "I have no tool for that."
    invented = spell(offered[0]).replace('"arguments": {', '"arguments": {"colour": 1, ')
    first = next(iter(offered[0]["parameters"]["properties"]))
    other_type = f"<tool_call>\n{json.dumps({'name': offered[0]['name'], 'arguments': call_of(offered[0]).arguments | {first: {}}}, ensure_ascii=False)}\n</tool_call>"
    bad = spell(offered[1])[:-30], stranger, invented, other_type
    return [*((one, True) for one in good), *((one, False) for one in bad)][number % 7]


def think(number: int) -> tuple[str, bool]:
    """In turn thoughts and an answer, thoughts that do not end, and none."""
    good = "<think>\nAn errand.\n</think>\n\nDone."
    return [(good, True), ("<think>\nAn errand.", False), ("<think>\n\n</think>\n\nDone.", False)][number % 3]


@pytest.mark.parametrize("template", [QWEN, QWEN3])
def test_a_row_has_the_same_tokens_in_every_stage(project, loaded, monkeypatch, tmp_path, template):
    model = make_model(tmp_path / "model" / "base", loaded, template)
    data, models, thinks = project / "data", project / "models" / "manifest", template == QWEN3
    for name in ("base", "embedder"):
        describe(model, models, name)
    tokenizer = manifest.load_tokenizer(model)
    base = Base(tokenizer)
    monkeypatch.setattr(registry, "load_engine", lambda entry, batch: base)
    monkeypatch.setattr(embedder, "load_embedder", lambda *_: embed)
    set_evaluation_items(project, ["What is the capital of Tresa?"])
    Path("rubric.txt").write_text("Q: {instruction} A: {response}", encoding="utf-8")
    kinds = {"tools": {"share": 0.4}, "thinking": {"share": 0.3}}
    settings = dict(samples=40, folder=str(ROOT / "data/prompts"), shard=20, **kinds)
    set_params(project, reconstruct=settings, curate={"min_kept": 1, "clusters": 2, "near_duplicate": 1.0})
    set_params(project, panel=["base"], respond={"k": 1}, consensus={"strategy": "first"}, balance={"rows": 40})
    set_params(project, judge={"rubric": "rubric.txt"})
    for stage in (["reconstruct"], ["curate"], ["respond", "base"], ["judge"], ["consensus"], ["balance"]):
        run_stage(*stage)
    drawn = records.read("instructions_raw", data / "instructions" / "raw.parquet")
    families = Counter(row["family"] for row in drawn)
    report = storage.read_json(Path("reports/reconstruct.json"))
    assert set(families) == {"plain", "tools", *(["thinking"] if thinks else [])}
    assert all(("tools" in row) == (row["family"] == "tools") for row in drawn)
    assert all(row.get("thinking") == ((row["family"] == "thinking") if thinks else None) for row in drawn)
    assert report["sources"]["self"]["tools"]["rows"] == families["tools"] >= 8
    assert "tools_off" not in report and ("thinking_off" in report) == (not thinks)

    replay = records.read("replay", data / "replay" / "replay.parquet")
    rejected = records.read("candidates_rejected", data / "replay" / "rejected.parquet")
    bad = {text for text, said in base.exchanges.items() if not said.good}
    assert bad == {row["instruction"] for row in rejected} and len(replay) == 40 - len(bad)
    assert {row["reason"] for row in rejected} == {consensus.UNREADABLE, consensus.MISFIT}
    assert storage.read_json(Path("reports/consensus.json"))["rejected"][consensus.MISFIT] >= 2
    shares = storage.read_json(Path("reports/replay.json"))["families"]
    with_calls = sum(bool(said.offered) and said.good for said in base.exchanges.values())
    assert shares["tools"] == pytest.approx(with_calls / len(replay), abs=1e-4) and with_calls > 0
    assert (shares.get("thinking", 0) > 0) == thinks

    mixed = [{**row, "id": row["source_id"], "epoch": 0, "repeat": 0} for row in mixture.replay_rows(tokenizer, replay)]
    records.write("mix", data / "mixes" / "arm.parquet", mixed)
    rows = records.read("mix", data / "mixes" / "arm.parquet")
    encoded, _ = fine_tuning.encode_rows(tokenizer, rows, Arm())
    by_id = {row["id"]: row for row in replay}
    compared = Counter()
    for row, one in zip(rows, encoded, strict=True):
        source = by_id[row["id"]]
        if source["instruction"] not in base.exchanges:  # the engine's own answer
            continue
        compared[source["family"]] += 1
        prompt, written, *_ = base.exchanges[source["instruction"]]
        answer, end = encoding.tokenise(tokenizer, written + "<|im_end|>"), encoding.tokenise(tokenizer, "\n")
        last, done = base.with_results.get(source["instruction"], []), encoding.tokenise(tokenizer, DONE + "<|im_end|>")
        assert one.input_ids == ([*last, *done, *end] if last else [*prompt, *answer, *end])
        trained = [n for n, label in enumerate(one.labels[:-1]) if label != -100]
        spans = [range(len(prompt), len(prompt) + len(answer)), range(len(last), len(last) + len(done) * bool(last))]
        if last and thinks:  # Qwen 3 leaves empty thoughts out of a history: the call is only shown
            spans = spans[1:]
        else:
            assert one.input_ids[: len(prompt) + len(answer)] == [*prompt, *answer], "the call is as the base wrote it"
        assert trained == [n for span in spans for n in span]
        how = source.get("tools"), source.get("thinking")
        questions = [self_suite.Question("q", encoding.turns(source["instruction"]), *how)]
        shown = self_suite.render_prompts(tokenizer, self_suite.Inputs(questions, [], None))
        assert encoding.tokenise(tokenizer, shown[0]) == prompt
    assert set(compared) == (set(families) if thinks else {"tools"})
    follow_ups = {row["instruction"]: row["after"] for row in replay if "after" in row}
    assert set(follow_ups) == set(base.with_results) and follow_ups
    for text, (*results, last) in follow_ups.items():
        source = next(row for row in replay if row["instruction"] == text)
        assert last == {"role": "assistant", "content": DONE}
        assert [json.loads(one["content"]) for one in results] == [source["results"][one["name"]] for one in results]
    calling = [row for row in replay if "<tool_call>" in row["response"]]
    assert all(("after" in row) == ("results" in row) for row in calling) and len(calling) > len(follow_ups)


def test_init_turns_on_what_the_base_can(loaded, tokenizer):
    loaded.chat_template = read_template(QWEN3)
    for model, context, able in (
        (loaded, 32768, True),
        (loaded, 600, False),
        (tokenizer, 32768, False),
        (None, 32768, False),
    ):
        content = YAML().load((ROOT / "profiles/qwen2.5-0.5b.yaml").read_text(encoding="utf-8"))
        content["finetune"]["max_length"] = 300
        shape: Any = SimpleNamespace(context=context)
        notes = [*replay_kinds.fit_tools(content, shape, model), *replay_kinds.fit_thinking(content, shape, model)]
        written = {key: content["reconstruct"].get(key) for key in ("tools", "thinking")}
        assert written == dict.fromkeys(written, {"share": 0.1} if able else None) and len(notes) == 2 * able
        assert (content["finetune"]["max_length"] > 1000) == able, "rows beside tools fit into the training length"
        Reconstruct.model_validate(content["reconstruct"])


def test_a_real_engine_answers_as_it_is_asked(base, tokenizer, loaded, tmp_path):
    """A switch that a template has not changes nothing; one that it has changes the prompt of answers and likelihoods."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=6)
    chats = [encoding.turns("What is 7 + 2?"), encoding.turns("Hi")]
    engine = registry.load_engine(manifest.load(base), 2)
    prompts = [Prompt(chat, None, False) for chat in chats]
    assert answer_chats(engine, tokenizer, prompts, [3, 4], sampling) == engine.answer(chats, [3, 4], sampling)
    assert engine.likelihood(chats, ["9", "Hi"], False) == engine.likelihood(chats, ["9", "Hi"])

    model = make_model(tmp_path / "thinker" / "base", loaded, QWEN3)
    engine = registry.load_engine(manifest.load(describe(model, tmp_path / "manifest")), 2)
    ways = [
        Prompt(chats[0], tools_of, on)
        for tools_of in (None, [{"type": "function", "function": PROBE_TOOL}])
        for on in (True, False)
    ]
    prompts = [encoding.prompt_ids(loaded, *way) for way in ways]
    limits = replace(sampling, stop_ids=encoding.assistant_stop_ids(loaded))
    assert len({tuple(prompt) for prompt in prompts}) == 4
    assert answer_chats(engine, loaded, ways, [5] * 4, sampling) == engine.complete(prompts, [5] * 4, limits)
    assert engine.likelihood(chats[:1], ["9"], False) != engine.likelihood(chats[:1], ["9"], True)


def embed(texts):
    return np.array([[len(text) % 7, len(text) % 5, 1.0] for text in texts], dtype=np.float32)


def test_calls_come_back_from_real_templates_as_they_were_written(loaded, pool):
    """Of each template that shows tools: what it writes for a call is read as that call, and written again byte for byte."""
    count = after_results = 0
    chat = encoding.turns("Please do it.")
    for path in try_templates(loaded, answers.keeps_calls):
        count += 1
        after_results += keeps_results(loaded, pool)
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
    assert (count, after_results) == (38, 17), "docs/reconstruction.md says how many"


def keeps_results(loaded, pool):
    """Whether a row whose call has a result becomes a conversation that ends with the answer to it, and is trained on that."""
    offered = tools.draw_tools(pool, 5)
    request = responses.Request(
        "i", [], "Please do it.", 0, False, offered, False, tools.draw_results(pool, offered, 5)
    )
    chat, call = request.prompt().chat, call_of(offered[0]["function"])
    prompt = encoding.render(loaded, chat, respond=True, tools=offered, thinking=False)
    for turn in answers.spell_turns("", None, [call], ""):
        written = answers.spell_written(loaded, chat, turn, offered, prompt, False)
        whole = responses.add_results(loaded, request, Completion(written, "stop", 5)) if written else None
        if not whole or not answers.read_answer(loaded, whole, DONE, offered, False):
            continue
        after = [*whole[2:], {"role": "assistant", "content": DONE}]
        row = dict(id="r", context=[], instruction=request.text, response=written, tools=offered, thinking=False)
        (mixed,) = mixture.replay_rows(loaded, [{**row, "after": after}])  # type: ignore[typeddict-item]
        ids, mask = encoding.encode(loaded, mixed["messages"], offered, False)
        trained = loaded.decode([id for id, on in zip(ids, mask, strict=True) if on])
        assert DONE in trained and (call.name in trained) == (mixed["messages"][1].get("train") is not False)
        return True
    return False


def test_thoughts_come_back_from_real_templates_as_they_were_written(loaded):
    """Of each template with a switch: what it writes for thoughts is read as them, on and off, and written again byte for byte."""
    count, chat = 0, encoding.turns("How many are left?")
    for path in try_templates(loaded, answers.keeps_thoughts):
        count += 1
        prompts = [encoding.render(loaded, chat, respond=True, thinking=on) for on in (True, False)]
        assert prompts[0] != prompts[1], path.stem
        turn = {"role": "assistant", "content": "Two of them.", "reasoning_content": "Four less two."}
        written = answers.spell_written(loaded, chat, turn, None, prompts[0], True)
        assert answers.read_answer(loaded, chat, written, None, True) == turn, path.stem
        whole, spans = encoding.render_conversation(loaded, [*chat, turn], None, True)
        assert whole.startswith(prompts[0] + written) and "Four less two." in whole[slice(*spans[-1])], path.stem
        for cut in (written[: written.index("two.")], written.replace("Two of them.", "")):
            assert answers.read_answer(loaded, chat, cut, None, True) is None, path.stem
        plain = {"role": "assistant", "content": "Two of them."}
        written = answers.spell_written(loaded, chat, plain, None, prompts[1], False)
        assert answers.read_answer(loaded, chat, written, None, False) == plain, path.stem
    assert count == 14, "docs/reconstruction.md says how many"


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
    assert len(fields) == 12 and len(pool) >= 60 and all("returns" in function for function in pool)
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


def test_results_are_typed_by_what_a_function_returns_and_the_template_never_shows_it(pool):
    for function in pool:
        offered = [tools.show_function(function)]
        drawn = [tools.draw_results(pool, offered, seed)[function["name"]] for seed in range(20)]
        for result in drawn:
            jsonschema.validate(result, function["returns"] | {"additionalProperties": False})
            assert set(result) == set(function["returns"]["properties"])
        assert (
            drawn[3] == tools.draw_results(pool, offered, 3)[function["name"]]
            and "returns" not in offered[0]["function"]
        )


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ({"date": "today"}, True),
        ({"date": "today", "days": 3, "kinds": ["a"]}, True),
        ({}, False),
        ({"date": 3}, False),
        ({"date": "today", "days": "3"}, False),
        ({"date": "today", "days": 2.5}, False),
        ({"date": "today", "kinds": "a"}, False),
        ({"date": "today", "mode": "loud"}, False),
        ({"date": "today", "colour": "red"}, False),
        ({"date": None}, False),
    ],
)
def test_arguments_are_checked_against_the_schema(arguments, fits):
    properties = {
        "date": {"type": "string"},
        "days": {"type": "integer"},
        "mode": {"type": "string", "enum": ["quiet"]},
    }
    properties["kinds"] = {"type": "array", "items": {"type": "string"}}
    schema = {"name": "f", "parameters": {"type": "object", "properties": properties, "required": ["date"]}}
    assert calls.fits_schema(calls.Call("f", arguments), [{"type": "function", "function": schema}]) == fits


FUNCTION = {"name": "a", "description": "d", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ({"name": "a b", "description": "d", "parameters": {"type": "object", "properties": {}}}, "its name is not"),
        ({"name": "a", "description": "d"}, "it has not the keys"),
        ({"name": "a", "description": " ", "parameters": {"type": "object", "properties": {}}}, "it has no desc"),
        ({"name": "a", "description": "d", "parameters": {"type": "object"}}, "its parameters are no"),
        (
            {"name": "a", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "dict"}}}},
            "a parameter is no",
        ),
        ({**FUNCTION, "returns": {"properties": {"x": {"type": "string"}}}}, "no result can be drawn"),
        ({**FUNCTION, "returns": []}, "no result can be drawn"),
    ],
)
def test_a_pool_with_a_broken_function_is_refused(project, function, says):
    Path("tools.json").write_text(json.dumps({"field": [function]}), encoding="utf-8")
    with pytest.raises(UserError, match=f"function 1: {says}"):
        tools.read_functions(Reconstruct(tools={"share": 0.1}, folder="."))


def test_tools_are_off_where_the_template_shows_none_or_the_context_has_no_room(loaded, tokenizer, pool):
    wanted = Reconstruct(tools={"share": 0.1})
    loaded.chat_template = read_template(QWEN)
    assert tools.turn_off_unusable(wanted, loaded, pool, 4096) == (wanted, {})
    params, reasons = tools.turn_off_unusable(wanted, loaded, pool, 512)
    assert params.tools is None and reasons["tools"].startswith("a context of 512 tokens")
    both = Reconstruct(tools={"share": 0.1}, thinking={"share": 0.1})
    params, reasons = tools.turn_off_unusable(both, tokenizer, pool, 4096)  # the pocket lab's
    assert params.tools is None and "shows no tools" in reasons["tools"]
    assert params.thinking is None and "no switch for thoughts" in reasons["thinking"]
    with pytest.raises(ValueError, match="no row is of two"):
        Reconstruct(tools={"share": 0.6}, languages={"share": 0.5, "codes": ["de"]})
