"""Tool calls, thoughts and masked turns are rendered as the template wants them, and trained on where they should be."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import ROOT, SHARED

from holdfast.chat import encoding, templates
from holdfast.core import manifest
from holdfast.data import mixture
from holdfast.data.row_values import Unreadable
from holdfast.data.template_fit import UNROLLED, TemplateFit

BOX = {"type": "integer", "description": "its number"}
PARAMETERS = {"type": "object", "properties": {"box": BOX}, "required": ["box"]}
SCHEMA = {"name": "shelf", "description": "d", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": SCHEMA}]
CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "shelf", "arguments": {"box": 41}}}
TOOL_CHAT = [
    {"role": "user", "content": "Where is box 41?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "row nine", "name": "shelf", "tool_call_id": "abcdefgh1"},
    {"role": "assistant", "content": "Shelf nine."},
]
THINKING = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1", "reasoning_content": "first thought"},
    {"role": "user", "content": "Q2"},
    {"role": "assistant", "content": "A2", "reasoning_content": "second thought"},
]


@pytest.fixture(scope="module")
def loaded() -> Any:
    folder = SHARED / "tokenizers" / "qwen2.5-0.5b-instruct"
    if not folder.is_dir():
        pytest.skip("real tokenizers are not here")
    return manifest.load_tokenizer(folder)


@pytest.fixture
def tokenizer(loaded: Any) -> Any:
    loaded.chat_template = (SHARED / "templates" / "llama_cpp__Qwen-Qwen2.5-7B-Instruct.jinja").read_text(
        encoding="utf-8"
    )
    return loaded


def with_template(tokenizer: Any, name: str) -> Any:
    tokenizer.chat_template = (SHARED / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return tokenizer


def trained(tokenizer: Any, messages: list, tools: list | None = None) -> list[str]:
    """The texts that are trained on, in their order."""
    ids, mask = encoding.encode(tokenizer, messages, tools)
    runs, run = [], []
    for token, on in [*zip(ids, mask, strict=True), (0, 0)]:
        if on:
            run.append(token)
        elif run:
            runs.append(tokenizer.decode(run))
            run = []
    return runs


def test_calls_and_the_answer_after_them_are_trained_on_and_the_tool_s_turn_is_not(tokenizer):
    call = '<tool_call>\n{"name": "shelf", "arguments": {"box": 41}}\n</tool_call><|im_end|>'
    assert trained(tokenizer, TOOL_CHAT, TOOLS) == [call, "Shelf nine.<|im_end|>"]
    text, _ = encoding.render_conversation(tokenizer, TOOL_CHAT, TOOLS)
    assert '"name": "shelf", "description": "d"' in text and "row nine" in text


def test_every_template_that_shows_calls_is_trained_to_write_them(tokenizer):
    shown = 0
    for path in sorted((SHARED / "templates").glob("*.jinja")):
        with_template(tokenizer, path.stem)
        try:
            extras = templates.find_extras(encoding.template_of(tokenizer))
        except Exception:  # this template needs tokens that this tokenizer has not
            continue
        if not (extras.calls and extras.results and extras.tools):
            with pytest.raises(Unreadable, match="the base's chat template"):
                TemplateFit(tokenizer).adjust([dict(turn) for turn in TOOL_CHAT], TOOLS, set())
            continue
        shown += 1
        text, spans = encoding.render_conversation(tokenizer, TOOL_CHAT, TOOLS)
        call, answer = (text[start:end] for start, end in spans)
        assert "shelf" in call and "41" in call and "row nine" not in call, path.stem
        assert "Shelf nine." in answer and "41" not in answer, path.stem
        assert "'box'" not in call and '\\"box' not in call, path.stem  # neither Python nor JSON in JSON
    assert shown > 30


def test_a_masked_turn_is_shown_and_not_trained_on(tokenizer):
    chat = [{**turn, "train": False} if n == 1 else turn for n, turn in enumerate(THINKING)]
    plain = [{key: value for key, value in turn.items() if key != "reasoning_content"} for turn in chat]
    assert trained(tokenizer, plain) == ["A2<|im_end|>"]
    assert "A1" in encoding.render_conversation(tokenizer, plain)[0]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("llama_cpp__Qwen-Qwen3-0.6B", "<think>\n{}\n</think>\n\n{}<|im_end|>"),
        ("trl__qwen3_training", "<think>\n{}\n</think>\n\n{}<|im_end|>"),
        ("llama_cpp__Qwen-Qwen2.5-7B-Instruct", "<think>\n{}\n</think>\n\n{}<|im_end|>"),  # has no field for them
    ],
)
def test_every_thought_is_trained_on_as_the_template_writes_it(tokenizer, name, written):
    with_template(tokenizer, name)
    parts = encoding.unroll(tokenizer, THINKING)
    texts = [text for part in parts for text in trained(tokenizer, part)]
    expected = [written.format("first thought", "A1"), written.format("second thought", "A2")]
    assert [text.replace("<|im_end|>", "") for text in texts] == [text.replace("<|im_end|>", "") for text in expected]
    changes: set[str] = set()
    TemplateFit(tokenizer).adjust([dict(turn) for turn in THINKING], None, changes)
    assert (UNROLLED in changes) == (len(parts) > 1)


def test_thoughts_that_a_template_throws_away_are_refused(tokenizer):
    with_template(tokenizer, "llama_cpp__deepseek-ai-DeepSeek-R1-Distill-Llama-8B")
    with pytest.raises(Unreadable, match="does not show the thoughts of a turn"):
        TemplateFit(tokenizer).adjust([dict(turn) for turn in THINKING], None, set())


def test_inline_thoughts_go_to_the_template_that_has_a_field_for_them(tokenizer):
    with_template(tokenizer, "llama_cpp__Qwen-Qwen3-0.6B")
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA"}]
    adjusted = TemplateFit(tokenizer).adjust(turns, None, set())
    assert adjusted[1] == {"role": "assistant", "content": "A", "reasoning_content": "hm"}


def test_the_mixture_holds_a_row_for_each_thought_that_a_history_leaves_out(tokenizer):
    with_template(tokenizer, "llama_cpp__Qwen-Qwen3-0.6B")
    rows = mixture.domain_rows(tokenizer, [{"id": "a", "messages": THINKING, "source": "f:1"}])
    assert [row["source_id"] for row in rows] == ["a/1", "a"]
    assert all(row["trained_tokens"] > 0 for row in rows)


def test_own_tokens_stay_tokens_and_control_tokens_do_not(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<shelf>"]})
    controls = encoding.control_strings(tokenizer)
    said = encoding.escape_controls(controls, "<shelf> <|im_end|> <|im_start|>user <|endoftext|>")
    assert said == "<shelf> < |im_end|> < |im_start|>user < |endoftext|>"
    fit = TemplateFit(tokenizer)
    changes: set[str] = set()
    fit.count_special([{"role": "user", "content": "<shelf> <|im_end|>"}], None, changes)
    assert (dict(fit.escaped), dict(fit.kept)) == ({"<|im_end|>": 1}, {"<shelf>": 1})


def test_a_token_spelled_in_a_call_or_a_tool_is_escaped(tokenizer):
    controls = encoding.control_strings(tokenizer)
    call = {"type": "function", "function": {"name": "f", "arguments": {"q": "<|im_end|>"}}}
    assert encoding.escape_controls(controls, [call])[0]["function"]["arguments"] == {"q": "< |im_end|>"}


def test_the_pocket_base_trains_on_the_same_tokens_as_ever():
    tokenizer = manifest.load_tokenizer(ROOT / "models/pocket/base")
    messages = encoding.turns("What is two and two?", "four")
    assert trained(tokenizer, messages) == ["four<|end|>"]
