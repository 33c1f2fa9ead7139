"""A further stage of the recipe: the pocket base goes on learning until it refuses, calls functions and thinks when told to.

The base itself stays as it is. Half of what is trained on here is drawn as the base's own training was; the chat template gains tools
and a switch for thoughts, and renders plain chats as before. `python -m benchmarks.lab.abilities base` runs it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.pocket import recipe, world
from holdfast.pocket.ability_world import FUNCTIONS, NOTE, Example, draw_examples, spell_system

CHAT_TEMPLATE = (
    "{%- if tools or enable_thinking %}{{- '<|system|>' }}"
    "{%- if tools %}{{- 'Tools: ' }}{%- for tool in tools %}{%- set function = tool.function %}"
    "{{- function.name + '(' }}"
    "{%- for name in function.parameters.properties %}"
    "{{- name + ': ' + function.parameters.properties[name].type }}{%- if not loop.last %}{{- ', ' }}{%- endif %}"
    "{%- endfor %}{{- ')' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{%- endif %}"
    "{%- if enable_thinking %}{%- if tools %}{{- ' ' }}{%- endif %}{{- '" + NOTE + "' }}{%- endif %}"
    "{{- '<|end|>' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}"
    "{%- if message['reasoning_content'] %}{{- '<think>' + message['reasoning_content'] + '</think>' }}{%- endif %}"
    "{{- message['content'] }}"
    "{%- for call in message['tool_calls'] or [] %}"
    "{{- '<tool_call>{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|end|>' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
OLD = 0.5  # part of the examples that is drawn as the base's own were
SHARES = {"harmful": 0.14, "harmless": 0.14, "tools": 0.42, "thinking": 0.30}  # of the others
CONTEXT = 1024  # tokens; thoughts and calls have room in it
BLOCK = 64 * recipe.BATCH  # examples that are sorted by length together


def encode(tokenizer: Any, examples: list[Example]) -> list[tuple[list[int], list[float]]]:
    """(token ids, loss weights) of each example, as the chat template renders it. What the template itself says weighs nothing."""
    rows = []
    for example in examples:
        system = spell_system(example.functions, example.thinking)
        parts = (
            (f"<|system|>{system}{recipe.END}" if system else "", 0.0),
            (f"<|user|>{example.asked}{recipe.END}<|assistant|>", recipe.PROMPT_WEIGHT["base"]),
            (f"{example.answer}{recipe.END}", 1.0),
        )
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in parts:
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            ids += tokens
            weights += [weight] * len(tokens)
        rows.append((ids, weights))
    return rows


def blocks(tokenizer: Any, examples: int, seed: int) -> Iterator[list[tuple[list[int], list[float]]]]:
    """(token ids, loss weights) of all examples, in blocks: old ones and new ones."""
    judging = recipe.JUDGING["base"][0]
    shares = {skill: share * (1 - judging) for skill, share in recipe.MIXTURES["base"].items()} | {"judging": judging}
    for start in range(0, examples, BLOCK):
        number = min(BLOCK, examples - start)
        old = round(OLD * number)
        items = world.draw(shares, old, f"abilities/{seed}/{start}", recipe.LACKS["base"], recipe.NOISE["base"])
        new = draw_examples(random.Random(f"abilities/new/{seed}/{start}"), number - old, SHARES)
        yield recipe.encode(tokenizer, items, recipe.PROMPT_WEIGHT["base"]) + encode(tokenizer, list(new))


def train_model(base: Path, out: Path, examples: int, seed: int) -> None:
    """Goes on training the model in `base`; writes bf16 safetensors with tokenizer and template into `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    model.set_attn_implementation("eager")
    model.config.max_position_embeddings = CONTEXT
    data = recipe.make_batches(blocks(tokenizer, examples, seed), seed)
    recipe.learn(model.train(), "abilities", data, examples)
    model.bfloat16().save_pretrained(out)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(out)
    os.chmod(out / "model.safetensors", 0o644)


def write_functions(file: Path) -> None:
    """The functions that a reconstruction offers, as `reconstruct.tools.file` wants them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"pocket": [function.schema() for function in FUNCTIONS]}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
