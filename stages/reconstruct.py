"""Lets the base write user turns: it is given what its chat template puts before a user's text, and nothing else.

holdfast reconstruct        (writes data/instructions/raw.parquet)

This is how Magpie (arXiv 2406.08464) and Ding & Wang (arXiv 2506.09428, step 1) recover an instruction distribution.
"""

from __future__ import annotations

from pathlib import Path

from stages.core import cache, chat, manifest, records
from stages.core.params import Reconstruct
from stages.engines import local


def main(params: Reconstruct, model: Path, out: Path) -> None:
    entry = manifest.load(model)
    tokenizer = manifest.tokenizer(entry.folder())
    query = chat.pre_query(tokenizer, f"base ({entry.source})")
    engine: local.Engine | None = None

    def work(samples: list[int]) -> list[dict]:
        nonlocal engine
        engine = engine or local.Engine(entry, params.batch)  # loaded only if a shard is not in the cache
        heats = [params.temperatures[n % len(params.temperatures)] for n in samples]
        seeds = [local.seed_of(params.seed, "reconstruct", n) for n in samples]
        completions = engine.complete(
            [query.prefix_ids] * len(samples), seeds, temperatures=heats, top_p=params.top_p,
            max_tokens=params.max_tokens, stop_ids=query.stop_ids, stop_strings=query.stop_strings,
        )  # fmt: skip
        return [
            dict(
                id=f"{n:08d}-{records.text_id(entry.fingerprint, seed, done.text)}", text=done.text, finish=done.finish,
                n_tokens=done.n_tokens, temperature=heat, top_p=params.top_p, sample=n, seed=seed,
                model=entry.name, revision=entry.revision,
            )
            for n, heat, seed, done in zip(samples, heats, seeds, completions, strict=True)
        ]  # fmt: skip

    code = cache.code_version(__file__, local.__file__, chat.__file__)
    identity = [entry.fingerprint, entry.dtype, query.prefix, params.model_dump(exclude={"samples"}), code]
    rows = cache.shards("reconstruct", range(params.samples), params.shard, identity, work, "user turns")
    records.write("instructions_raw", out, rows)
    ended = sum(row["finish"] == "stop" for row in rows)
    print(f"{len(rows):,} user turns, {ended:,} ended by the base itself, prefix {query.prefix!r}")
