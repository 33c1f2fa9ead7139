"""Tools beside which a part of the rows is written and answered: which functions a row is offered, and whether a base can use any.

The functions are invented (data/prompts/tools.json); nobody runs them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.chat import answers, encoding
from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.engines.interface import seed_of
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction import prompt_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEWEST, MOST = 2, 4  # tools that a row is offered
FEWEST_FUNCTIONS = 8  # in the pool
THOUGHTS_ROOM = (
    640  # tokens of a context that are left for thoughts and answer (respond.thinking_max_tokens), and a template
)
ANSWER_ROOM = 256  # tokens of a context that are left for an answer (respond.tools_max_tokens)
Schema = dict[str, Any]  # of a function: name, description, parameters


def read_functions(params: Reconstruct) -> list[Schema]:
    """The functions of the file that params name, of all fields. Raises UserError where one is no function with a name of its own,
    a description and parameters that are a JSON Schema of an object."""
    if not params.tools:
        return []
    path = prompt_files.resolve_below(params.folder, params.tools.file, "tools.file")
    content = storage.read_json(path)
    fields = list(content.values()) if isinstance(content, dict) else []
    functions: list[Any] = [one for field in fields for one in (field if isinstance(field, list) else [None])]
    names: set[str] = set()
    for number, function in enumerate(functions, start=1):
        if fault := find_schema_fault(function, names):
            do = 'write {"name": "...", "description": "...", "parameters": {"type": "object", "properties": {...}}}'
            raise UserError(f"function {number}: {fault}", where=path, do=do)
        names.add(function["name"])
    if len(functions) < FEWEST_FUNCTIONS:
        what = f"{len(functions)} functions, {FEWEST_FUNCTIONS} are needed"
        raise UserError(what, where=path, do="add some, or remove reconstruct.tools")
    return functions


def find_schema_fault(function: Any, names: set[str]) -> str:
    """What is wrong with a function of the pool, beside functions of these names; "" where nothing is."""
    if not isinstance(function, dict) or set(function) != {"name", "description", "parameters"}:
        return "it has not the keys name, description and parameters"
    if not isinstance(function["name"], str) or not re.fullmatch(r"[A-Za-z_]\w{0,63}", function["name"]):
        return "its name is not made of letters, digits and underscores"
    if function["name"] in names:
        return f"the name '{function['name']}' is used twice"
    if not isinstance(function["description"], str) or not function["description"].strip():
        return "it has no description"
    parameters = function["parameters"]
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not isinstance(properties, dict) or parameters.get("type") != "object":
        return "its parameters are no JSON Schema of an object with properties"
    return "" if all(isinstance(one, dict) for one in properties.values()) else "a parameter is no JSON Schema"


def draw_tools(functions: Sequence[Schema], seed: int) -> list[dict[str, Any]]:
    """FEWEST to MOST of the functions as chat templates take them, in an order of the row's own. `seed`: the row's."""
    number = FEWEST + seed_of(seed, "tools") % (MOST - FEWEST + 1)
    drawn = sorted(functions, key=lambda function: seed_of(seed, "tool", function["name"]))[:number]
    return [{"type": "function", "function": function} for function in drawn]


def turn_off_unusable(
    params: Reconstruct, tokenizer: PreTrainedTokenizerBase, functions: list[Schema], context: int
) -> tuple[Reconstruct, dict[str, str]]:
    """(the params, without tools and thoughts where the base cannot use them; why not, by parameter). `context`: tokens; 0:
    unknown."""
    reasons: dict[str, str] = {}
    if params.tools and (reason := find_reason_against_tools(params, tokenizer, functions, context)):
        reasons["tools"] = reason
    if params.thinking and (reason := find_reason_against_thinking(params, tokenizer, context)):
        reasons["thinking"] = reason
    return params.model_copy(update=dict.fromkeys(reasons)), reasons


def find_reason_against_tools(
    params: Reconstruct, tokenizer: PreTrainedTokenizerBase, functions: list[Schema], context: int
) -> str:
    """Why the base cannot use tools; "" where it can."""
    if not answers.keeps_calls(tokenizer):
        return "the base's chat template shows no tools, or its calls cannot be read and kept as the base writes them"
    if context and measure_longest_prompt(tokenizer, functions) + params.max_tokens + ANSWER_ROOM > context:
        return f"a context of {context:,} tokens has no room for tools, a user turn and an answer"
    return ""


def find_reason_against_thinking(params: Reconstruct, tokenizer: PreTrainedTokenizerBase, context: int) -> str:
    """Why the base cannot be asked with thoughts switched on and off; "" where it can."""
    if not answers.keeps_thoughts(tokenizer):
        return "the base's chat template has no switch for thoughts, or they cannot be kept as the base writes them"
    if context and params.max_tokens + THOUGHTS_ROOM > context:
        return f"a context of {context:,} tokens has no room for a user turn, thoughts and an answer"
    return ""


def measure_longest_prompt(tokenizer: PreTrainedTokenizerBase, functions: list[Schema]) -> int:
    """Tokens of a prompt with an empty user turn and the MOST longest functions."""
    longest = sorted(functions, key=lambda function: -len(json.dumps(function)))[:MOST]
    tools = [{"type": "function", "function": function} for function in longest]
    return len(encoding.prompt_ids(tokenizer, encoding.turns(""), tools))
