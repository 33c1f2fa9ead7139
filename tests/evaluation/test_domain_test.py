"""The domain test asks as training teaches: roles, system turns and tools by the chat template, in the same spelling."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import ROOT

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.data import mixture
from holdfast.evaluation import domain_test
from holdfast.params.evaluate import Evaluate

CHAT = [
    {"role": "system", "content": "You know the depot."},
    {"role": "user", "content": "What does <|end|> mean?"},
    {"role": "assistant", "content": "It closes a turn."},
    {"role": "user", "content": "And box 3?"},
    {"role": "assistant", "content": "<|end|> is on shelf 3"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return manifest.load_tokenizer(ROOT / "models/pocket/base")


def make(rows: list[dict], tokenizer: Any, **changes: Any) -> Any:
    params = Evaluate.model_construct(domain_test="exact_match", max_tokens=16, **changes)
    return domain_test.make_test_split_task(params, rows, tokenizer)


def test_an_item_is_the_training_row_up_to_its_last_answer(tokenizer):
    row = {"id": "a", "messages": CHAT, "group": "", "source": "f:1"}
    task = make([row], tokenizer)
    (doc,) = list(task.eval_docs)
    asked = task.fewshot_context(doc, 0, apply_chat_template=True)
    (trained,) = mixture.domain_rows(tokenizer, [row])
    text, spans = encoding.render_conversation(tokenizer, trained["messages"])
    assert asked == text[: spans[-1][0]]
    assert text[spans[-1][0] :].startswith(doc["answer"])
    assert doc["answer"] == "< |end| > is on shelf 3".replace("| >", "|>")
    assert task.process_results(doc, [" < |end|> is on shelf 3\n"]) == {"exact_match": 1.0}
    assert task.process_results(doc, ["shelf 3"]) == {"exact_match": 0.0}


def test_one_turn_is_asked_as_lm_eval_s_own_chat_template_asks_it(tokenizer):
    task = make([{"id": "a", "messages": encoding.turns("Which shelf?", "Three")}], tokenizer)
    (doc,) = list(task.eval_docs)
    chat = [{"role": "user", "content": task.doc_to_text(doc)}]
    own = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert task.fewshot_context(doc, 0, apply_chat_template=True) == own


def test_a_masked_last_turn_is_not_what_is_tested_and_thoughts_are_not_compared(tokenizer):
    messages = [
        *encoding.turns("Q", "<think>\nso\n</think>\n\nA", "R"),
        {"role": "assistant", "content": "B", "train": False},
    ]
    task = make([{"id": "a", "messages": messages}], tokenizer)
    (doc,) = list(task.eval_docs)
    assert task.process_results(doc, ["<think>\notherwise\n</think>\n\nA"]) == {"exact_match": 1.0}
    assert task.process_results(doc, ["B"]) == {"exact_match": 0.0}
