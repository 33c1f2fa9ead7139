"""Tools beside which a part of the rows is written and answered: which functions a row is offered, and whether a base can use any.

The functions are invented (data/prompts/tools.json); nobody runs them. What one returns is invented as well, typed by its schema
`returns`, which the base is not shown.
"""

from __future__ import annotations

import datetime
import json
import random
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
RESULT_ROOM = 96  # of the results of a call
Schema = dict[str, Any]  # of a function: name, description, parameters


def read_functions(params: Reconstruct) -> list[Schema]:
    """The functions of the file that params name, of all fields. Raises UserError where one is no function with a name of its own,
    a description and parameters that are a JSON Schema of an object, or where a result cannot be invented."""
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
    if not isinstance(function, dict) or set(function) - {"returns"} != {"name", "description", "parameters"}:
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
    if not all(isinstance(one, dict) for one in properties.values()) or not is_schema(parameters):
        return "a parameter is no JSON Schema"
    try:
        draw_result(function, 0)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return "no result can be drawn from its schema 'returns': see data/prompts/README.md"
    return ""


def is_schema(content: Any) -> bool:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(content)
    except SchemaError:
        return False
    return True


def draw_tools(functions: Sequence[Schema], seed: int) -> list[dict[str, Any]]:
    """FEWEST to MOST of the functions as chat templates take them, in an order of the row's own. `seed`: the row's."""
    number = FEWEST + seed_of(seed, "tools") % (MOST - FEWEST + 1)
    drawn = sorted(functions, key=lambda function: seed_of(seed, "tool", function["name"]))[:number]
    return [show_function(function) for function in drawn]


def show_function(function: Schema) -> dict[str, Any]:
    """A function as chat templates take it."""
    return {"type": "function", "function": {key: value for key, value in function.items() if key != "returns"}}


def draw_results(
    functions: Sequence[Schema], offered: Sequence[dict[str, Any]], seed: int
) -> dict[str, dict[str, Any]]:
    """By name, what each of the offered functions returns if it is called; those without `returns` are left out. `seed`: the row's."""
    names = {one["function"]["name"] for one in offered}
    return {one["name"]: draw_result(one, seed) for one in functions if one["name"] in names and "returns" in one}


def draw_result(function: Schema, seed: int) -> dict[str, Any]:
    """Values of the types that the schema `returns` of a function names."""
    properties = function.get("returns", {}).get("properties", {})
    rng = random.Random(seed_of(seed, "result", function["name"]))
    return {key: draw_value(schema, rng) for key, schema in properties.items()}


def draw_value(schema: Schema, rng: random.Random) -> Any:
    """A value of a schema: an `enum`, a `boolean`, an `integer` or a `number` from minimum to maximum, a `string` in the format date or
    time, or an `array` of these. Raises KeyError, TypeError or ValueError for others."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema["type"]
    if kind == "boolean":
        return rng.random() < 0.8
    if kind == "integer":
        return rng.randint(schema["minimum"], schema["maximum"])
    if kind == "number":
        return round(rng.uniform(schema["minimum"], schema["maximum"]), 1)
    if kind == "array":
        drawn = [draw_value(schema["items"], rng) for _ in range(rng.randint(1, 3))]
        return list(dict.fromkeys(drawn))
    if schema["format"] == "time":
        return f"{rng.randint(6, 22):02d}:{rng.randrange(0, 60, 5):02d}"
    if schema["format"] == "date":
        return (datetime.date(2025, 1, 1) + datetime.timedelta(rng.randrange(365))).isoformat()
    raise ValueError("a string takes an enum, or the format date or time")


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
    if (
        context
        and measure_longest_prompt(tokenizer, functions) + params.max_tokens + count_answer_room(params) > context
    ):
        return f"a context of {context:,} tokens has no room for tools, a user turn and an answer"
    return ""


def count_answer_room(params: Reconstruct) -> int:
    """Tokens of an answer beside tools; with results, of a call, its results, and an answer to them."""
    return ANSWER_ROOM + (ANSWER_ROOM + RESULT_ROOM if params.tools and params.tools.results else 0)


def find_reason_against_thinking(params: Reconstruct, tokenizer: PreTrainedTokenizerBase, context: int) -> str:
    """Why the base cannot be asked with thoughts switched on and off; "" where it can."""
    if not answers.keeps_thoughts(tokenizer):
        return "the base's chat template has no switch for thoughts, or they cannot be kept as the base writes them"
    if context and params.max_tokens + THOUGHTS_ROOM > context:
        return f"a context of {context:,} tokens has no room for a user turn, thoughts and an answer"
    return ""


def measure_longest_prompt(tokenizer: PreTrainedTokenizerBase, functions: list[Schema]) -> int:
    """Tokens of a prompt with an empty user turn and the MOST longest functions."""
    shown = sorted(map(show_function, functions), key=lambda function: -len(json.dumps(function)))[:MOST]
    return len(encoding.prompt_ids(tokenizer, encoding.turns(""), shown))
