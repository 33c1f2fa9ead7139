"""Short runs that find the replay share of an arm with `share: auto`, the learning rate of one with `learning_rate: auto`; for
others it writes that none ran."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.data import mixture
from holdfast.data.rewriting import rewrite_answers
from holdfast.params.finetune import Finetune
from holdfast.params.mix import Mix
from holdfast.params.pilot import Pilot
from holdfast.training import job, pilot_plan, rate_choice, share_fit


def main(arm: str) -> None:
    params, mixing, tuning = Pilot.load(), Mix.load(), Finetune.load()
    mix_config, is_rate_open = mixture.arm_config(mixing, arm), job.is_rate_open(tuning, job.arm_config(tuning, arm))
    report = Path(f"reports/pilot/{arm}.json")
    if mix_config.share != "auto" and not is_rate_open:
        storage.write_json(report, {"schema": 1, "arm": arm, "asked": False, "share": None})
        print(f"{arm}: its share and learning rate are numbers in params.yaml, so no pilot runs")
        return

    base = manifest.load(Path("models/manifest/base.json"))
    rows = records.read("domain", Path("data/domain/train.parquet"))
    if mix_config.targets == "rewritten":
        rows, _ = rewrite_answers(rows, base, mixing.rewrite)
    tokenizer = manifest.load_tokenizer(base.folder())
    domain = mixture.domain_rows(tokenizer, rows)
    replay = mixture.replay_rows(tokenizer, records.read("replay", Path("data/replay/replay.parquet")))
    plan = pilot_plan.plan_pilot(params, mixing, tuning, arm, base, domain, replay)

    from holdfast.training import pilot_runs  # torch and TRL: an arm with a share of its own need not wait for them

    pilots = pilot_runs.run_pilots(plan)
    summary = pilot_runs.report(params, plan, pilots)
    storage.write_json(report, summary)
    if is_rate_open:
        print(rate_choice.rate_sentence(summary))
    if mix_config.share == "auto":
        print(share_fit.sentence(summary))
