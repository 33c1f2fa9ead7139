"""Asks a model the core suite and its public relatives, through its own template, and scores what it writes. docs/core-suite.md.

A family is left out, and the settings say why, where the template cannot express it. One that the base is at chance on is set
aside by the verdict.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from holdfast.chat import encoding, thinking
from holdfast.core import records
from holdfast.core.progress import Progress
from holdfast.core_suite import calibration, families
from holdfast.core_suite.families import Question
from holdfast.core_suite.items import CORE_VERSION, Answer, Family
from holdfast.core_suite.refusing import shorten
from holdfast.evaluation import resume
from holdfast.evaluation.self_suite import end_strings
from holdfast.params.evaluate import Evaluate

if TYPE_CHECKING:
    from lm_eval.api.model import LM


LONGEST = 50_000  # characters of an answer that are scored: a server may send more than it was asked for


class Asked(NamedTuple):
    """The suite's part of an evaluation."""

    items: list[dict[str, Any]]  # rows of the contract `items`
    suites: dict[str, dict[str, Any]]  # as settings.json describes them
    left_out: dict[str, str]  # suite -> why
    calibration: dict[str, float]  # of choices: "ece", "brier"; {} where none were asked


def ask(model: LM, params: Evaluate, tokenizer: Any, context: int, only: dict[str, list[str]] | None = None) -> Asked:
    """`context`: tokens that base and arms read, at most; longer items are not asked. `only`: no more than these items, by suite."""
    rows: list[dict[str, Any]] = []
    suites: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    names = [name for name in params.own_suites() if only is None or name in only]
    calibrated: dict[str, float] = {}
    progress = Progress("evaluate", len(names), "families of the core suite")
    for done, suite in enumerate(names):
        progress.advance(done - progress.done)
        if reason := families.find_reason_to_leave_out(tokenizer, suite):
            left_out[suite] = reason
            continue
        family, items = families.find_family(suite), families.list_items(suite, params, context)
        questions = families.pose(tokenizer, [item for item in items if only is None or item.id in only[suite]])
        questions = [question for question in questions if fits(params, tokenizer, family, question, context)]
        if not questions:
            left_out[suite] = (
                "its items cannot be expressed by the chat template, or are longer than the model's context"
            )
            continue
        answers = answer(model, params, tokenizer, family, questions)
        rows += score(suite, family, questions, answers)
        suites[suite] = {"role": "general", "chance": family.chance, "metric": "score", "filter": "none"}
        suites[suite] |= {"items": len(questions), "written": not questions[0].item.choices, "version": CORE_VERSION}
        if questions[0].item.choices:
            calibrated = measure_calibration(questions, answers)
    progress.close()
    return Asked(rows, suites, left_out, calibrated)


def measure_calibration(questions: list[Question], answers: list[tuple[str, Answer]]) -> dict[str, float]:
    """Expected calibration error and mean Brier score over all choices of all questions."""
    probabilities = np.array([calibration.normalise(read.likelihoods) for _, read in answers])  # (items, choices)
    right = np.array([question.item.choices.index(question.item.expected) for question in questions])
    return {
        "ece": calibration.expected_error(probabilities, right),
        "brier": calibration.brier_score(probabilities, right),
    }


def answer(
    model: LM, params: Evaluate, tokenizer: Any, family: Family, questions: list[Question]
) -> list[tuple[str, Answer]]:
    """What the model writes, and how it is read, one for each question."""
    from lm_eval.api.instance import Instance

    if questions[0].item.choices:
        pairs = [(question.prompt, choice) for question in questions for choice in question.item.choices]
        values = [
            value
            for value, _ in model.loglikelihood([Instance("loglikelihood", {}, p, n) for n, p in enumerate(pairs)])
        ]
        answers, start = [], 0
        for question in questions:
            choices = question.item.choices
            of_item = tuple(values[start : start + len(choices)])
            answers.append((choices[of_item.index(max(of_item))], Answer("", None, of_item)))
            start += len(choices)
        return answers
    requests, ends = [], end_strings(tokenizer)
    for n, question in enumerate(questions):
        how = {"until": ends, "do_sample": False, "max_gen_toks": count_tokens(params, family, question)}
        requests.append(Instance("generate_until", {}, (question.prompt, how), n))
    generate = getattr(model, resume.WITHOUT_CACHE, model.generate_until) if family.harmful else model.generate_until
    written = generate(requests)
    answers = []
    for question, text in zip(questions, written, strict=True):
        thoughts_of, rest = thinking.split_thoughts(text[:LONGEST], question.opened)
        answers.append((text, Answer(rest, thoughts_of)))
    return answers


def count_tokens(params: Evaluate, family: Family, question: Question) -> int:
    """Tokens that the model may write."""
    thinks = question.opened or bool(question.item.thinking)
    return family.max_tokens + thinks * params.core.thought_tokens


def fits(params: Evaluate, tokenizer: Any, family: Family, question: Question, context: int) -> bool:
    read = len(encoding.tokenise(tokenizer, question.prompt))
    return context == 0 or read + count_tokens(params, family, question) <= context


def score(
    suite: str, family: Family, questions: list[Question], answers: list[tuple[str, Answer]]
) -> list[dict[str, Any]]:
    rows = []
    for question, (written, read) in zip(questions, answers, strict=True):
        item = question.item
        content = [item.messages, item.tools, item.expected, item.thinking, item.choices]
        rows.append(
            dict(
                id=f"{suite}/{item.id}",
                suite=suite,
                item_id=item.id,
                item_group=None,
                item_hash=records.text_id(json.dumps(content, sort_keys=True, ensure_ascii=False)),
                prompt_hash=records.text_id(question.prompt),
                correct=family.score(item.expected, read),
                prompt=question.prompt,
                target=families.describe(item.expected),
                response=shorten(read) if family.harmful else written,
            )
        )
    return rows
