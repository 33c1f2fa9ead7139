"""Lets one panel member answer every kept instruction k times.

holdfast respond --model NAME        (writes data/responses/NAME.parquet)
"""

from __future__ import annotations

from pathlib import Path

from stages.core import cache, chat, manifest, records
from stages.core.params import Respond
from stages.engines import local


def main(params: Respond, model: Path, kept: Path, out: Path) -> None:
    entry = manifest.load(model)
    instructions = records.read("instructions_kept", kept)
    requests = [[row["id"], row["text"], k] for row in instructions for k in range(params.k)]
    engine: local.Engine | None = None

    def work(part: list[list]) -> list[dict]:
        nonlocal engine
        engine = engine or local.Engine(entry, params.batch)
        prompts = [chat.prompt_ids(engine.tokenizer, [{"role": "user", "content": text}]) for _, text, _ in part]
        seeds = [local.seed_of(params.seed, entry.name, instruction, k) for instruction, _, k in part]
        completions = engine.complete(
            prompts, seeds, temperatures=[params.temperature] * len(part), top_p=params.top_p,
            max_tokens=params.max_tokens, stop_ids=chat.assistant_stop_ids(engine.tokenizer),
        )  # fmt: skip
        return [
            dict(
                id=f"{instruction}/{entry.name}/{k}", instruction_id=instruction, text=done.text.strip(), finish=done.finish,
                n_tokens=done.n_tokens, sample=k, seed=seed, model=entry.name, revision=entry.revision,
            )
            for (instruction, _, k), seed, done in zip(part, seeds, completions, strict=True)
        ]  # fmt: skip

    code = cache.code_version(__file__, local.__file__, chat.__file__)
    identity = [entry.name, entry.fingerprint, entry.dtype, params.model_dump(exclude={"k"}), code]
    rows = cache.shards("respond", requests, params.shard * params.k, identity, work, "responses")
    records.write("responses", out, rows)
    print(f"{entry.name}: {len(rows):,} responses to {len(instructions):,} instructions")
