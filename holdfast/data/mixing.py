"""Builds what one arm trains on: domain rows, with the base's own words where the arm asks for them, and replay rows.

holdfast mix --arm NAME        (writes data/mixes/NAME.parquet and reports/mix/NAME.json)

How the rows are put together is in holdfast/data/mixture.py, how the base rewrites answers in holdfast/data/rewriting.py. A
share that is `auto` was found by `holdfast pilot`.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.data import mixture
from holdfast.params.mix import Mix, MixArm


def main(params: Mix, arm: str, model: Path, data: Path, out: Path, reports: Path | None = None) -> None:
    """`reports`: where the pilot's choice stands and the counts go; none: the mixture alone, with the share as given."""
    if arm not in params.arms:
        raise UserError(
            f"arm '{arm}' has no entry in mix.arms", where="params.yaml", do=f"add mix.arms.{arm}: {{share: ...}}"
        )
    how = params.arms[arm]
    share, epochs = given_share(how, arm, reports), how.epochs or params.epochs
    tokenizer = manifest.tokenizer(manifest.load(model).folder())
    rows, rewritten = records.read("domain", data / "domain" / "train.parquet"), None
    if how.targets == "rewritten":
        from holdfast.data import rewriting

        rows, rewritten = rewriting.rewritten(params.rewrite, model, rows)
    domain = mixture.domain(tokenizer, rows)
    replay = mixture.replay(tokenizer, records.read("replay", data / "replay" / "replay.parquet")) if share else []
    rows = mixture.mixed(domain, replay, share, epochs, params.max_repeats, params.seed, arm)
    used = [row for row in rows if row["source"] == "replay"]
    trained = {source: mixture.tokens([r for r in rows if r["source"] == source]) for source in ("domain", "replay")}
    most = 1 + max((row["repeat"] for row in used), default=-1)
    distinct = len({row["source_id"] for row in used})
    found = {
        "schema": 1,
        "arm": arm,
        "epochs": epochs,
        "share": {"wanted": share, "chosen_by": "pilot" if how.share == "auto" else "params", "got": part(trained)},
        "rows": {"domain": len(rows) - len(used), "replay": len(used)},
        "trained_tokens": trained,
        "replay": {"rows": len(replay), "used": distinct, "most_uses": most},
        "rewritten": rewritten,
    }
    records.write("mix", out, rows)
    if reports:
        records.write_json(reports / "mix" / f"{arm}.json", found)
    print(
        f"{arm}: {len(rows):,} rows in {epochs:g} epochs, {sum(trained.values()):,} trained tokens, {part(trained):.1%} of them "
        f"replay (wanted {share:.1%}), {distinct:,} replay rows used up to {most} times"
    )
    if rewritten:
        print(f"{arm}: {rewritten['rewritten']:,} of {rewritten['answers']:,} answers are now the base's own words")


def part(trained: dict[str, int]) -> float:
    return trained["replay"] / max(sum(trained.values()), 1)


def given_share(how: MixArm, arm: str, reports: Path | None) -> float:
    if how.share != "auto":
        return how.share
    pilot = (reports or Path("reports")) / "pilot" / f"{arm}.json"
    share = records.read_json(pilot).get("share")
    if share is None:
        raise UserError("holds no share", where=pilot, do="run `dvc repro`: an arm's pilot comes before its mixture")
    return share
