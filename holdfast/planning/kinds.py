"""How long prompts and answers of special kinds are: suites that Holdfast asks itself, and rows beside tools or with thoughts."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from holdfast.chat import encoding
from holdfast.core.errors import UserError
from holdfast.core_suite import families, public
from holdfast.engines.interface import seed_of
from holdfast.params.evaluate import Evaluate
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction import tools

SAMPLE = 12  # items, or rows, whose prompts are measured
AROUND = 40  # tokens that a template puts around a prompt, where there is none to measure
PUBLIC_TOKENS = {"xstest": 40, "bfcl": 330}  # of a prompt, by Qwen 2.5's template; their files need not be here yet


class OwnSuite(NamedTuple):
    items: int
    prompt: float  # tokens, on average
    answer: float  # tokens that an item may have, at most, on average; 0: choices are scored by likelihood


def measure_suites(evaluate: Evaluate, tokenizer: Any) -> dict[str, OwnSuite]:
    """The suites that Holdfast asks itself, without those that the template cannot express. `tokenizer`: the base's, or None."""
    measured = {}
    for suite, items in evaluate.own_suites().items():
        family = families.find_family(suite)
        if tokenizer and tokenizer.chat_template and families.find_reason_to_leave_out(tokenizer, suite):
            continue
        thoughts = evaluate.core.thought_tokens / 2 if family.needs == "thinking" else 0.0  # half the items have them
        answer = family.max_tokens + thoughts if family.max_tokens > 1 else 0.0
        measured[suite] = OwnSuite(items, measure_prompt(suite, evaluate, tokenizer), answer)
    return measured


def measure_prompt(suite: str, evaluate: Evaluate, tokenizer: Any) -> float:
    """Mean tokens of the prompts of a suite."""
    if suite in public.SUITES:
        return PUBLIC_TOKENS[suite.partition("/")[0]]
    sample = families.list_items(suite, evaluate)[:SAMPLE]
    if tokenizer and tokenizer.chat_template and (posed := families.pose(tokenizer, sample)):
        return sum(len(encoding.tokenise(tokenizer, one.prompt)) for one in posed) / len(posed)
    return AROUND + sum(len(json.dumps([one.messages, one.tools])) for one in sample) / len(sample) / 4


def measure_tools(reconstruct: Reconstruct, tokenizer: Any) -> float:
    """Tokens that the tools of a row add to its prompt, on average; 0 where no row has any."""
    if not reconstruct.tools:
        return 0.0
    try:
        functions = tools.read_functions(reconstruct)
    except UserError:  # `reconstruct` says what is wrong with the file
        return 0.0
    drawn = [tools.draw_tools(functions, seed_of(reconstruct.seed, n)) for n in range(SAMPLE)]
    if not (tokenizer and tokenizer.chat_template):
        return sum(len(json.dumps(offered)) for offered in drawn) / SAMPLE / 4
    chat = encoding.turns("Hello")
    if tools.find_reason_against_tools(reconstruct, tokenizer, functions, 0):
        return 0.0
    lengths = [len(encoding.prompt_ids(tokenizer, chat, offered)) for offered in drawn]
    return sum(lengths) / SAMPLE - len(encoding.prompt_ids(tokenizer, chat))
