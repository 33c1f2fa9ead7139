"""Finds the share of replay of an arm that says `share: auto`: a few short runs, a fit, the smallest share that keeps enough.

holdfast pilot --arm NAME        (writes reports/pilot/NAME.json)

Every run trains on a part of the arm's rows with the arm's own objective and settings, and is measured on rows of both
sources that no run has seen: how far the tuned model has moved from the base on the replay answers, and how likely it finds
the domain's. The fit is in holdfast/training/share_fit.py. An arm whose share is a number costs nothing here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core import manifest, meter, records
from holdfast.core.errors import UserError
from holdfast.data import mixture
from holdfast.params.finetune import Finetune
from holdfast.params.mix import Mix
from holdfast.params.pilot import Pilot
from holdfast.training import share_fit

LEAST = 10  # held-out rows of a source with which anything can be said
Rows = list[dict[str, Any]]


def main(params: Pilot, mixing: Mix, tuning: Finetune, arm: str, model: Path, data: Path, out: Path) -> None:
    if arm not in mixing.arms or arm not in tuning.arms:
        raise UserError(f"arm '{arm}' needs entries in mix.arms and finetune.arms", where="params.yaml", do="add them")
    if mixing.arms[arm].share != "auto":
        records.write_json(out, {"schema": 1, "arm": arm, "asked": False, "share": None})
        print(f"{arm}: its share stands in params.yaml, so no pilot runs")
        return
    entry, epochs = manifest.load(model), mixing.arms[arm].epochs or mixing.epochs
    where = f"mix.arms.{arm}: share: auto"
    domain, replay = read(mixing, arm, model, entry, data)
    supply = mixture.tokens(replay) * mixing.max_repeats
    most = min(params.max_share, supply / (supply + mixture.tokens(domain) * epochs))
    shares = sorted({share for share in params.shares if share <= most})
    held, train = {}, {}
    for source, rows in (("replay", replay), ("domain", domain)):
        rows = sorted(rows, key=lambda row: records.text_id(params.seed, "held out", row["source_id"]))
        count = min(params.held_out, len(rows) // 5)
        held[source], train[source] = rows[:count], rows[count:]
        if count < LEAST:
            what = f"{count} rows of the {source} set can be held out (a fifth of {len(rows)}), {LEAST} are needed"
            raise UserError(what, where=where, do="give more rows, or a share as a number")
    if len(shares) < 2:
        raise UserError(
            f"the replay set is enough for a share of {most:.3f} at most, so fewer than two of pilot.shares can be tried",
            where=where,
            do="raise reconstruct.samples and balance.rows, raise mix.max_repeats, or try smaller shares",
        )

    # torch and TRL: an arm with a share of its own need not wait for them
    from holdfast.training import launch, pilot_runs

    if launch.started():
        raise UserError("the pilot starts its own processes", where="torchrun", do="run `holdfast pilot` by itself")

    plan = pilot_runs.Plan(
        arm=arm, how=tuning.arms[arm], tuning=tuning, entry=entry, epochs=epochs, max_repeats=mixing.max_repeats,
        seed=mixing.seed, train=train, held=held,
    )  # fmt: skip
    points = [[share, part, rate] for part in params.parts for rate in params.learning_rates for share in shares]
    base, *runs = pilot_runs.measured(plan, points)
    share, part, rate = np.array(points).T
    before = column([base], "domain", "logprob")
    tried = share_fit.Runs(
        share, part, rate, lost=column(runs, "replay", "moved"), weight=column([base], "replay", "tokens")[0],
        gained=column(runs, "domain", "logprob") - before, worth=column([base], "domain", "tokens")[0],
    )  # fmt: skip
    fits = {
        r: share_fit.fitted(tried, params.retention_target, most, params.seed, r) for r in {1.0, *params.learning_rates}
    }
    chosen, met = share_fit.choice(fits[1.0], params.confidence)
    trained = sum(one["trained_on"] for one in runs)
    forward = sum(one["forward_only"] for one in runs)
    meter.count(entry.parameters, trained=trained, read=forward)
    found = {
        "schema": 1, "arm": arm, "asked": True, "share": chosen, "met": met, "most": most,
        "settings": params.model_dump(exclude={"seed"}),
        "held_out": {source: len(rows) for source, rows in held.items()},
        "runs": [{"share": s, "part": p, "rate": r, **summary(one, tried, n)} for n, ((s, p, r), one) in enumerate(zip(points, runs, strict=True))],
        "fits": {f"{r:g}": share_fit.described(fit, params.confidence) for r, fit in sorted(fits.items())},
        "tokens": {"trained_on": trained, "forward_only": forward},
        "flops": entry.parameters * (6 * trained + 2 * forward),
    }  # fmt: skip
    records.write_json(out, found)
    print(share_fit.sentence(found))


def read(mixing: Mix, arm: str, model: Path, entry: manifest.Manifest, data: Path) -> tuple[Rows, Rows]:
    """Domain and replay rows as the arm's mixture has them."""
    tokenizer = manifest.tokenizer(entry.folder())
    rows = records.read("domain", data / "domain" / "train.parquet")
    if mixing.arms[arm].targets == "rewritten":
        from holdfast.data import rewriting

        rows, _ = rewriting.rewritten(mixing.rewrite, model, rows)
    replay = records.read("replay", data / "replay" / "replay.parquet")
    return mixture.domain(tokenizer, rows), mixture.replay(tokenizer, replay)


def column(runs: list[dict[str, Any]], source: str, name: str) -> np.ndarray:
    """One number of every held-out row, (runs, rows)."""
    return np.array([[row[name] for row in one["outcomes"][source]] for one in runs], dtype=float)


def summary(one: dict[str, Any], tried: share_fit.Runs, n: int) -> dict[str, Any]:
    """What one run came to; per token of the held-out answers."""
    replay, domain = (one["outcomes"][source] for source in ("replay", "domain"))
    tokens = tried.weight.sum()
    return {
        "steps": one["steps"],
        "retention": 1 - tried.lost[n].sum() / tokens,
        "same_choice": sum(row["same"] for row in replay) / tokens,  # tokens at which the likeliest is still the base's
        "kl": sum(row["kl"] for row in replay) / tokens,
        "gain": tried.gained[n].sum() / tried.worth.sum(),
        "domain_right": sum(row["right"] == row["tokens"] for row in domain)
        / len(domain),  # answers that greedy decoding gives
    }
