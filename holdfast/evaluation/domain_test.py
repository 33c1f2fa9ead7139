"""The domain's test split as a suite: asked as it would be trained on, and scored by answer or likelihood."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from holdfast.chat import encoding
from holdfast.data import answers
from holdfast.params.evaluate import DOMAIN_TEST, Evaluate

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def make_test_split_task(params: Evaluate, rows: list[dict], tokenizer: Any = None) -> Task:
    """The domain's test split as an lm-eval task: every turn before the last trained answer is asked.

    With `tokenizer`, each item is asked and compared exactly as it would be trained on: roles, system turns and tools by the
    chat template, special tokens escaped alike. Without it the task's texts alone are of use.
    """
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    items = [make_item(row, tokenizer) for row in rows]
    rendered = {item["id"]: item.pop("rendered") for item in items}

    class DomainTest(ConfigurableTask):
        def fewshot_context(self, doc: dict, *_: Any, **__: Any) -> str:
            return rendered[doc["id"]]

    likelihood = params.domain_test == "likelihood"
    if likelihood:
        for one in items:
            one["tokens"] = max(1, len(encoding.tokenise(tokenizer, one["answer"]))) if tokenizer is not None else 1
    config = {
        "task": DOMAIN_TEST,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(items)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": params.max_tokens},
        "metric_list": [
            {"metric": "likelihood" if likelihood else "exact_match", "aggregation": "mean", "higher_is_better": True}
        ],
        "process_results": SCORERS[params.domain_test],
    }
    if likelihood:
        config = {k: v for k, v in config.items() if k != "generation_kwargs"} | {"output_type": "loglikelihood"}
    return DomainTest(config=config)


def make_item(row: dict, tokenizer: Any) -> dict[str, Any]:
    """id, prompt (the texts of the turns that are asked), answer, and rendered: the prompt as the model is given it."""
    messages, tools = row["messages"], row.get("tools")
    if tokenizer is not None:
        controls = encoding.control_strings(tokenizer)
        messages, tools = (encoding.escape_controls(controls, part) for part in (messages, tools))
    last = max(n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("train") is not False)
    answer, rendered = messages[last]["content"].strip(), ""
    if tokenizer is not None:
        rendered = encoding.render(tokenizer, messages[:last], respond=True, tools=tools)
        if "tool_calls" in messages[last]:
            answer = spell_calls(tokenizer, messages[: last + 1], tools)
    return {
        "id": row["id"],
        "prompt": "\n\n".join(m["content"] for m in messages[:last]),
        "answer": answer,
        "rendered": rendered,
    }


def spell_calls(tokenizer: Any, messages: list[dict], tools: list | None) -> str:
    """The last turn as the model writes it, without the special tokens that lm-eval leaves out of a response."""
    text, spans = encoding.render_conversation(tokenizer, messages, tools)
    start, end = spans[-1]
    written = text[start:end]
    for token in encoding.special_strings(tokenizer):
        written = written.replace(token, "")
    return written.strip()


def score_final_answer(doc: dict, results: list[str]) -> dict[str, float]:
    return {"exact_match": float(answers.same_answer(strip_thoughts(results[0]), strip_thoughts(doc["answer"])))}


def score_exact_answer(doc: dict, results: list[str]) -> dict[str, float]:
    return {"exact_match": float(strip_thoughts(results[0]) == strip_thoughts(doc["answer"]))}


def strip_thoughts(text: str) -> str:
    """What follows the thoughts, without outer blank space: no two chains of thought are equal."""
    return text.rpartition("</think>")[2].strip()


def score_likelihood(doc: dict, results: list[tuple[float, bool]]) -> dict[str, float]:
    """The geometric mean of the probabilities of the answer's tokens, (prod p)^(1/n): 1 / perplexity."""
    return {"likelihood": math.exp(min(0.0, results[0][0]) / doc["tokens"])}


SCORERS = {"exact_match": score_exact_answer, "answer": score_final_answer, "likelihood": score_likelihood}
