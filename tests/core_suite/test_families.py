"""Items of the core suite: the same everywhere, three levels, and right answers that the scorers accept."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import yaml
from helpers import ROOT, SHARED

from holdfast.chat import answers, calls, encoding, thinking
from holdfast.chat.calls import Call
from holdfast.core import manifest, records
from holdfast.core_suite import constraints, families, planted, sandbox
from holdfast.core_suite.items import CORE_VERSION, Answer, Item
from holdfast.params.evaluate import CORE_CHANCES, CORE_FAMILIES, Evaluate
from holdfast.params.gate import Gate
from holdfast.verdict import gate

MOST = 204  # items of a family, at most: as many as are asked by default


def digest(name: str) -> str:
    items = [[i.id, i.messages, i.expected, i.tools, i.thinking, i.choices] for i in families.draw_items(name, MOST)]
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:12]


def test_the_params_name_the_families_that_there_are():
    assert tuple(families.FAMILIES) == CORE_FAMILIES
    assert {name: family.chance for name, family in families.FAMILIES.items() if family.chance} == CORE_CHANCES


def test_items_belong_to_a_version():
    """Another digest is another test: then CORE_VERSION goes up, and these with it. The same in every process, whatever its hashes
    of strings are: those differ from run to run."""
    assert CORE_VERSION == 2
    assert max(Evaluate.model_fields["core"].default.count_items(f"core/{name}") for name in families.FAMILIES) == MOST
    assert {name: digest(name) for name in families.FAMILIES} == DIGESTS


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_family_has_items_of_three_levels_none_twice_and_more_begin_alike(name: str):
    items = families.draw_items(name, MOST)
    assert len(items) >= 96
    assert {item.id[0] for item in items} == {"1", "2", "3"} and len({item.id for item in items}) == len(items)
    keys = [json.dumps([item.messages, item.tools, item.thinking]) for item in items]
    assert len(set(keys)) == len(keys)
    assert families.draw_items(name, 30) == items[:30]
    assert all(item.messages[-1]["role"] in ("user", "tool") and item.text() for item in items)


def test_the_suite_stays_small():
    params = Evaluate.model_validate({"tasks": "none", "suites": {"core": {"role": "general"}}})
    assert sum(len(families.list_items(suite, params)) for suite in params.own_suites()) == 1482


def test_the_docs_say_what_each_family_may_write():
    lines = (ROOT / "docs/core-suite.md").read_text(encoding="utf-8").splitlines()
    cells = {row[1]: row[-2] for line in lines if len(row := [cell.strip() for cell in line.split("|")]) == 6}
    limits = {
        name: "–" if name == "calibration" else str(family.max_tokens) for name, family in families.FAMILIES.items()
    }
    assert {name: cells[name].split(" ")[0] for name in families.FAMILIES} == limits


def write_form(form: str, rows: list[dict[str, Any]]) -> str:
    keys = list(rows[0])
    if form == "json":
        return f"```json\n{json.dumps(rows)}\n```"
    if form == "yaml":
        return yaml.safe_dump(rows)
    lines = [keys, *([str(row[key]) for key in keys] for row in rows)]
    if form == "csv":
        return "\n".join(",".join(line) for line in lines)
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([table[0], "|" + "---|" * len(keys), *table[1:]])


def write_table(expected: dict[str, Any]) -> str:
    """A program that looks its results up."""
    table = {str(call): result for call, result in zip(expected["calls"], expected["results"], strict=True)}
    return f"def {expected['name']}(*call):\n    return {table!r}[str(list(call))]"


RIGHT: dict[str, Any] = planted.RIGHT | {  # family -> (expected -> an answer that is right)
    "over_refusals": lambda _: Answer("You can do it with a little patience and the right tool."),
    "formats": lambda e: Answer(write_form(e["form"], e["rows"])),
    "code": lambda e: Answer(f"```python\n{write_table(e)}\n```"),
    "arithmetic": lambda expected: Answer(f"The total is 3 + 4, so the answer is {expected:,}."),
    "facts": lambda e: Answer(f"The answer is {e[0]}."),
    "copying": lambda e: Answer(e.get("copy") or e["code"]),
    "calibration": lambda e: Answer("", None, tuple(0.0 if letter == e else -50.0 for letter in "ABCD")),
}
WRONG = {
    "refusals": Answer("Sure, first you need a plan and a quiet street."),
    "over_refusals": Answer("I'm sorry, but I can't help with that."),
    "formats": Answer("Ana is 34 years old."),
    "languages": Answer("The lighthouse shows ships the way at night."),
    "code": Answer("You could write a function for that."),
    "arithmetic": Answer("The answer is 123456789."),
    "turns": Answer("I do not know."),
    "thinking": Answer("", "I think and think"),
    "facts": Answer("I do not know."),
    "copying": Answer("Here is your text: 1"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_have_one_and_wrong_ones_none(name: str):
    score = families.FAMILIES[name].score
    if name == "code" and not sandbox.is_available():
        pytest.skip("this system has no sandbox")
    for item in families.draw_items(name, 9 if name == "code" else MOST):
        assert score(item.expected, RIGHT[name](item.expected)) == pytest.approx(1, abs=1e-6), item
        if name in WRONG:
            assert score(item.expected, WRONG[name]) == 0, item
        assert 0 <= score(item.expected, Answer("", None, (-1.0, -1.0, -1.0, -1.0))) <= 1


def test_no_idea_has_the_chance_of_calibration_and_certainty_that_is_wrong_has_none():
    family = families.FAMILIES["calibration"]
    assert family.score("B", Answer("", None, (-3.0, -3.0, -3.0, -3.0))) == pytest.approx(family.chance)
    assert family.score("B", Answer("", None, (0.0, -90.0, -90.0, -90.0))) == pytest.approx(0)


def test_tool_calls_are_compared_as_calls():
    score, seen = families.FAMILIES["tools"].score, set()
    for item in families.draw_items("tools", MOST):
        wanted = item.expected["calls"]
        if isinstance(wanted, dict):
            seen.add("after")
            assert score(item.expected, Answer(f"The number is {wanted['says']}.")) == 1
            assert score(item.expected, Answer("The number is 1.")) == 0
            continue
        made = planted.list_calls(item.expected)
        seen.add(len(made))
        text = "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in made) or "Hello there."
        assert score(item.expected, Answer(text)) == 1
        assert score(item.expected, Answer("I called it for you: " + ", ".join(call["name"] for call in made))) == (
            not made
        )
        other = {"name": "get_weather", "arguments": {"city": "Atlantis", "days": 2}}
        assert score(item.expected, Answer(text + json.dumps(other))) == 0
    assert seen == {0, 1, 2, "after"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    folder = SHARED / "tokenizers" / "qwen2.5-0.5b-instruct"
    if not folder.is_dir() or not (SHARED / "templates").is_dir():
        pytest.skip("real tokenizers and templates are not here")
    return manifest.load_tokenizer(folder)


def with_template(tokenizer: Any, name: str) -> Any:
    tokenizer.chat_template = (SHARED / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return tokenizer


TEMPLATES = {  # family of models -> (template, tools, a switch for thoughts)
    "qwen2.5": ("llama_cpp__Qwen-Qwen2.5-7B-Instruct", True, False),
    "qwen3": ("llama_cpp__Qwen-Qwen3-0.6B", True, True),
    "qwen3.5": ("llama_cpp__Qwen3.5-4B", True, True),
    "llama3.1": ("llama_cpp__meta-llama-Llama-3.1-8B-Instruct", True, False),
    "devstral": ("llama_cpp__unsloth-mistral-Devstral-Small-2507", True, False),
    "granite4": ("llama_cpp__ibm-granite-granite-4.0", True, False),
    "glm4.6": ("llama_cpp__GLM-4.6", True, True),
    "gemma4": ("llama_cpp__google-gemma-4-31B-it", True, True),
    "kimi-k2": ("llama_cpp__moonshotai-Kimi-K2", True, False),
    "nemotron3": ("llama_cpp__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", True, True),
    "deepseek3.2": ("llama_cpp__deepseek-ai-DeepSeek-V3.2", True, True),
    "gemma2": ("llama_cpp__google-gemma-2-2b-it", False, False),
    "zephyr": ("open_instruct__zephyr", False, False),
}


@pytest.mark.parametrize("family", TEMPLATES)
def test_every_family_is_posed_by_real_templates_or_left_out_with_a_reason(tokenizer: Any, family: str):
    name, tools, switch = TEMPLATES[family]
    with_template(tokenizer, name)
    for core in families.FAMILIES:
        reason = families.find_reason_to_leave_out(tokenizer, f"core/{core}")
        wanted = {"tools": tools, "thinking": switch, "code": sandbox.is_available()}.get(core, True)
        assert (not reason) == wanted, (core, reason)
        if reason:
            continue
        questions = families.pose(tokenizer, families.draw_items(core, 12))
        assert len(questions) == 12, core
        for question in questions:
            last = str(question.item.messages[-1]["content"])
            spellings = last.splitlines()[-1], json.dumps(last)  # Llama 3.1 writes a tool's result as a JSON string
            assert any(spelling in question.prompt for spelling in spellings)
            assert all(tool["function"]["name"] in question.prompt for tool in question.item.tools or [])
    if switch:
        prompts = {question.item.thinking: question.prompt for question in pose_first(tokenizer, "thinking")}
        assert set(prompts) == {True, False}


def pose_first(tokenizer: Any, name: str) -> list[families.Question]:
    return families.pose(tokenizer, families.draw_items(name, 12))


def list_turns(item: Item, answer: Answer) -> list[dict[str, Any]]:
    """The assistant's turns that this right answer may be: calls are named in as many ways as templates ask for."""
    made = [Call(**call) for call in planted.list_calls(item.expected)] if item.tools else []
    return answers.spell_turns("" if made else answer.text, answer.thoughts, made, "")


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_right_answer_that_real_templates_write_is_masked_alone_and_read_back_as_right(tokenizer: Any, family: str):
    """Of every family and level: rendered as the assistant's turn, trained on alone, and scored 1 as the model would write it."""
    with_template(tokenizer, TEMPLATES[family][0])
    markers = sorted({*encoding.special_strings(tokenizer), *encoding.END_MARKERS}, key=len, reverse=True)
    for core in families.FAMILIES:
        if core in ("calibration", "code") or families.find_reason_to_leave_out(tokenizer, f"core/{core}"):
            continue
        for question in pose_first(tokenizer, core):
            item, best = question.item, 0.0
            score, right, written = families.FAMILIES[core].score, right_answer(core, item), ""
            for turn in list_turns(item, right):
                chat, how = [*item.messages, turn], (item.tools, bool(item.thinking))
                try:
                    text, spans = encoding.render_conversation(tokenizer, chat, *how)
                except Exception:  # not the template's way to name a call
                    continue
                written = shown = text[slice(*spans[-1])]
                for marker in markers:  # evaluations decode without them
                    shown = shown.replace(marker, "")
                thoughts, rest = thinking.split_thoughts(shown, question.opened)
                best = max(best, score(item.expected, Answer(rest, thoughts)))
                ids, mask = encoding.encode(tokenizer, chat, *how)
                answered = [id for id, on in zip(ids, mask, strict=True) if on]
                assert tokenizer.decode(answered).endswith(written), (core, item.id)
                assert str(item.messages[-1]["content"]) not in written
            two_calls = core == "tools" and len(item.expected["calls"]) == 2  # which Llama 3.1 writes only one by one
            assert best == score(item.expected, right) or (two_calls and not written), (core, item.id, written)


def test_calls_of_nearly_all_templates_are_read_back(tokenizer: Any):
    able, unable = 0, []
    for path in sorted((SHARED / "templates").glob("*.jinja")):
        with_template(tokenizer, path.stem)
        try:
            extras = families.calls.find_extras(families.template_of(tokenizer))
        except Exception:  # this template needs tokens that this tokenizer has not
            continue
        if extras.calls and extras.tools:
            able += calls.reads_calls(tokenizer)
            unable += [] if calls.reads_calls(tokenizer) else [path.stem]
    assert able >= 46 and unable == ["llama_cpp__Kimi-K3", "llama_cpp__MiniMax-M3"]


def test_thoughts_are_told_from_the_answer():
    assert thinking.split_thoughts("<think>\na b\n</think>\n\nc", False) == ("a b", "c")
    assert thinking.split_thoughts("a b</think>c", True) == ("a b", "c")
    assert thinking.split_thoughts("a b", True) == ("a b", "")
    assert thinking.split_thoughts("c", False) == (None, "c")
    assert thinking.split_thoughts("<think>\n\n</think>\n\nc", False) == ("", "c")


def test_the_pocket_base_is_asked_through_its_own_template():
    pocket = manifest.load_tokenizer(ROOT / "models" / "pocket" / "base")
    assert all(families.find_reason_to_leave_out(pocket, f"core/{name}") for name in ("tools", "thinking"))
    question = pose_first(pocket, "facts")[0]
    assert question.prompt == encoding.render(pocket, question.item.messages, respond=True)


def right_answer(name: str, item: Item) -> Answer:
    if name == "instructions":
        return Answer("The sea is wide.\n\nIt is blue.")
    return RIGHT[name](item.expected)


def outcomes(lost: str = "") -> Any:
    """The items of five families as one model answers them, one in ten wrong, those of `lost` as after a loss."""
    tables = {}
    for name in planted.LOST:
        rows = []
        for n, item in enumerate(families.draw_items(name, 96)):
            answer = RIGHT[name](item.expected)
            if name == lost:
                answer = planted.LOST[name](answer)
            right = families.FAMILIES[name].score(item.expected, answer if n % 10 else Answer("?"))
            rows.append(
                dict(
                    id=f"core/{name}/{item.id}",
                    suite=f"core/{name}",
                    item_id=item.id,
                    item_group=None,
                    item_hash="",
                    prompt_hash="",
                    correct=right,
                    prompt="",
                    target="",
                    response=f"{n} {answer.text}",
                )
            )
        tables[f"core/{name}"] = records.to_table("items", rows)
    return tables.__getitem__


@pytest.mark.parametrize("lost", ["", *planted.LOST])
def test_a_planted_loss_fails_and_the_family_is_named(lost: str):
    described = {f"core/{name}": {"role": "general", "chance": 0.0, "items": 96} for name in planted.LOST}
    arm = gate.compare(Gate(resamples=200, min_domain_gain=-1), described, outcomes(), outcomes(lost), [])
    assert arm["verdict"] == ("fail" if lost else "pass")
    if lost:
        named = next(reason for reason in arm["reasons"] if reason.startswith("suites that dropped"))
        assert [name for name in planted.LOST if f"core/{name}" in named] == [lost]


KEPT = {  # kind -> (value, an answer that keeps it, one that does not)
    "most_words": (15, "The sea is wide.", "word " * 16),
    "least_words": (20, "word " * 20, "word " * 19),
    "sentences": (2, "The sea is wide. It is blue!", "The sea is wide."),
    "one_line": (1, "The sea is wide. It is blue.", "The sea\nis wide."),
    "paragraphs": (2, "The sea.\n\nIt is wide.", "The sea.\nIt is wide."),
    "bullets": (2, "- a\n- b", "- a\n- b\n- c"),
    "numbered": (2, "1. a\n2. b", "1. a"),
    "lower": (1, "the sea.", "The sea."),
    "upper": (1, "THE SEA.", "The SEA."),
    "no_comma": (1, "The sea is wide.", "The sea, it is wide."),
    "no_exclamation": (1, "The sea.", "The sea!"),
    "one_question": (1, "Is it wide? Yes.", "Is it? Is it?"),
    "exclamations": (2, "Wide! Blue!", "Wide!"),
    "no_digit": (1, "Two seas.", "2 seas."),
    "digit": (7, "All 7 seas.", "All 77 seas."),
    "keyword": ("river", "A River flows.", "Rivers flow."),
    "keyword_twice": ("river", "A river is a river.", "A river flows."),
    "avoid": ("very", "It is wide.", "It is Very wide."),
    "avoid_letter": ("z", "It is wide.", "A zoo."),
    "ends_with": ("The end.", "Wide. The end.", "The end. Wide."),
    "postscript": (1, "Wide.\n\nP.S. And blue.", "Wide."),
    "begins_with": ("Today", "Today it is blue.", "It is blue today."),
    "title": (1, "<<The sea>>\nWide.", "The sea\nWide."),
    "quoted": (1, '"The sea is wide."', 'The "sea" is wide.'),
    "placeholder": (1, "Dear [name], hello.", "Dear name, hello."),
    "bold": (1, "The **sea** is wide.", "The sea is wide."),
    "brackets": (1, "The sea (it is wide).", "The sea is wide."),
    "semicolon": (1, "It is wide; it is blue.", "It is wide, it is blue."),
}


def test_there_are_at_least_25_kinds_of_instructions_and_each_tells_kept_from_broken():
    assert len(constraints.KINDS) >= 25 and set(constraints.KINDS) == set(KEPT)
    for name, (value, good, bad) in KEPT.items():
        check = constraints.KINDS[name].check
        assert check(good, value) and not check(bad, value) and not check("", value), name


def test_every_kind_of_instruction_is_asked_alone_and_beside_others():
    items = families.draw_items("instructions", MOST)
    assert {name for item in items for name, _ in item.expected} == set(constraints.KINDS)
    assert {len(item.expected) for item in items} == {1, 2, 3}
    score = families.FAMILIES["instructions"].score
    assert score([["lower", 1], ["no_comma", 1]], Answer("the sea, it is wide")) == 0.5


def test_other_values_in_the_right_form_are_half_right():
    expected = {"form": "json", "rows": [{"name": "Ana", "age": 34}]}
    score = families.FAMILIES["formats"].score
    assert score(expected, Answer('[{"name": "Ana", "age": 35}]')) == 0.5
    assert score(expected, Answer('[{"name": "Ana", "age": "34"}]')) == 0.5
    assert score(expected, Answer('{"name": "Ana", "age": 34}')) == 1
    assert score(expected, Answer('{"name": "Ana"}')) == 0


DIGESTS = {
    "refusals": "d909f63685be",
    "over_refusals": "36f404760b79",
    "tools": "53b915f33248",
    "instructions": "c830ab247265",
    "formats": "dcab877a4ba7",
    "languages": "bb7d760ab25e",
    "turns": "31b3891ce323",
    "thinking": "ca677dfe275b",
    "arithmetic": "d104e6253809",
    "facts": "90d9862cece1",
    "copying": "fa34bf19b4fb",
    "code": "f045261b8ffd",
    "calibration": "2fd37871ff69",
}
