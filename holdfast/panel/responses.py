"""Lets one panel member answer every kept instruction k times.

holdfast respond --model NAME        (writes data/responses/NAME.parquet)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from holdfast.core import cache, manifest, records
from holdfast.engines import registry
from holdfast.engines.interface import seed_of
from holdfast.params.respond import Respond


def main(params: Respond, model: Path, kept: Path, out: Path) -> None:
    entry = manifest.load(model)
    instructions = records.read("instructions_kept", kept)
    requests = [[row["id"], row["context"], row["text"], k] for row in instructions for k in range(params.k)]
    work = partial(answers, params=params, entry=entry)
    identity = [params.model_dump(exclude={"k"}), *registry.identity(entry, __file__)]
    rows = cache.shards(
        "respond", requests, params.shard * params.k, identity, work, "responses", registry.spread(entry)
    )
    records.write("responses", out, rows)
    print(f"{entry.name}: {len(rows):,} responses to {len(instructions):,} instructions")


def answers(part: list[list], params: Respond, entry: manifest.Manifest) -> list[dict]:
    """One shard: an answer to each (instruction id, turns before it, text, sample number)."""
    engine = registry.load(entry, params.batch)
    chats = [[*context, {"role": "user", "content": text}] for _, context, text, _ in part]
    seeds = [seed_of(params.seed, entry.name, instruction, k) for instruction, _, _, k in part]
    completions = engine.answer(
        chats, seeds, temperature=params.temperature, top_p=params.top_p, max_tokens=params.max_tokens
    )
    return [
        dict(
            id=f"{instruction}/{entry.name}/{k}", instruction_id=instruction, text=done.text.strip(), finish=done.finish,
            n_tokens=done.n_tokens, sample=k, seed=seed, model=entry.name, revision=entry.revision,
        )
        for (instruction, _, _, k), seed, done in zip(part, seeds, completions, strict=True)
    ]  # fmt: skip
