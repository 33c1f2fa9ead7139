"""Builds the training mixture of one arm: domain rows, and replay rows until they have their share."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.data import mixture
from holdfast.data.rewriting import rewrite_answers
from holdfast.params.mix import Mix


def main(arm: str) -> None:
    params = Mix.load()
    mix_config = mixture.arm_config(params, arm)
    epochs = mix_config.epochs or params.epochs
    share = mixture.find_share(mix_config, Path(f"reports/pilot/{arm}.json"))
    base = manifest.load(Path("models/manifest/base.json"))

    rows, rewritten = records.read("domain", Path("data/domain/train.parquet")), None
    if mix_config.targets == "rewritten":
        rows, rewritten = rewrite_answers(rows, base, params.rewrite)
    tokenizer = manifest.load_tokenizer(base.folder())
    domain = mixture.domain_rows(tokenizer, rows)
    stored = records.read("replay", Path("data/replay/replay.parquet")) if share else []
    replay = mixture.replay_rows(tokenizer, stored)

    mixed = mixture.build_mixture(domain, replay, share, epochs, params.max_repeats, params.seed, arm)
    summary = mixture.summarise(mixed, replay, stored, arm, mix_config, share, epochs, rewritten)
    records.write("mix", Path(f"data/mixes/{arm}.parquet"), mixed)
    storage.write_json(Path(f"reports/mix/{arm}.json"), summary)
    print(mixture.sentence(summary))
