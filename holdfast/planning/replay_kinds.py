"""Rows of other kinds than a question that `init` has replayed where the base can: conversations, tool calls, thoughts."""

from __future__ import annotations

from typing import Any

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.params.reconstruct import Reconstruct, Thinking, Tools
from holdfast.planning import fit, scaffold
from holdfast.planning.shapes import Shape
from holdfast.reconstruction import tools

THINKING_SHARE = 0.1  # of the reconstructed rows
TOOLS_SHARE = 0.1  # of the reconstructed rows; 100 traces restored function calling in arXiv 2604.08388
CONVERSATIONS_SHARE = 0.3  # of the reconstructed rows; where an answer does not end in time, the row has one turn


def fit_conversations(content: Any, shape: Shape, tokenizer: Any) -> list[str]:
    """Earlier turns before a part of the replay rows where the base's template has several, and a training length for them.

    Not on a CPU, where writing takes long and they have not been seen to hold anything (docs/evidence/real-model.md).
    """
    content["reconstruct"].pop("turns", None)
    written, answer = content["reconstruct"]["max_tokens"], content["respond"]["max_tokens"]
    length = 3 * written + answer + 2 * fit.TEMPLATE_TOKENS  # two turns of the user, one between, and the last answer
    if tokenizer is None or length > shape.context or manifest.find_device().type == "cpu":
        return []
    try:
        encoding.find_pre_query(tokenizer, "base", encoding.turns("a", "b"))
    except UserError:
        return []
    put(content["reconstruct"], "turns", {"share": CONVERSATIONS_SHARE, "max_tokens": written})
    lengthen_training(content, length, shape)
    return [
        f"{CONVERSATIONS_SHARE:.0%} of the replay rows are meant to be conversations: the base answers itself, and asks again"
    ]


def fit_tools(content: Any, shape: Shape, tokenizer: Any) -> list[str]:
    """Tools beside a part of the replay rows where the base can use them, and a training length that those rows fit into."""
    content["reconstruct"].pop("tools", None)
    if tokenizer is None:
        return []
    written = content["reconstruct"]["max_tokens"]
    folder = str(scaffold.source() / content["reconstruct"]["folder"])
    wanted = Reconstruct(tools=Tools(share=TOOLS_SHARE), folder=folder, max_tokens=written)
    functions = tools.read_functions(wanted)
    if tools.find_reason_against_tools(wanted, tokenizer, functions, shape.context):
        return []
    put(content["reconstruct"], "tools", {"share": TOOLS_SHARE})
    longest = tools.measure_longest_prompt(tokenizer, functions) + written + tools.count_answer_room(wanted)
    lengthen_training(content, longest, shape)
    return [f"the base calls tools: {TOOLS_SHARE:.0%} of what it writes is written and answered beside some"]


def fit_thinking(content: Any, shape: Shape, tokenizer: Any) -> list[str]:
    """Thoughts before a part of the replay answers where the base's template has a switch, and a training length for them."""
    content["reconstruct"].pop("thinking", None)
    wanted = Reconstruct(thinking=Thinking(share=THINKING_SHARE), max_tokens=content["reconstruct"]["max_tokens"])
    if tokenizer is None or tools.find_reason_against_thinking(wanted, tokenizer, shape.context):
        return []
    put(content["reconstruct"], "thinking", {"share": THINKING_SHARE})
    lengthen_training(content, wanted.max_tokens + tools.THOUGHTS_ROOM, shape)
    return [
        f"the base has a switch for thoughts: {THINKING_SHARE:.0%} of the replay answers have some, the others none"
    ]


def lengthen_training(content: Any, tokens: int, shape: Shape) -> None:
    """A training length that rows of so many tokens fit into, within the context."""
    finetune = content["finetune"]
    finetune["max_length"] = min(shape.context, max(finetune["max_length"], tokens))


def put(section: Any, key: str, value: Any) -> None:
    """Sets a key; a new one comes before the last, which the blank line before the next section hangs on."""
    last, new = list(section)[-1], key not in section
    section[key] = value
    if new:
        section.move_to_end(last)
