"""`reconstruct.samples: auto`: what the arms will replay decides how much is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import run_stage, set_params

from holdfast.core import records, storage
from holdfast.params.mix import Mix
from holdfast.params.pilot import Pilot
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction import amount


def mixing(**shares: object) -> Mix:
    return Mix(arms={name: {"share": share} for name, share in shares.items()}, epochs=2)  # type: ignore[arg-type]


def test_replay_rows_by_hand():
    arms = mixing(plain=0.0, quarter=0.25, half=0.5, auto="auto")
    counts = amount.count_replay_rows(arms, Pilot(shares=[0.1, 0.75]), list(arms.arms), 300)
    assert counts == {"plain": 0, "quarter": 200, "half": 600, "auto": 1800}


@pytest.mark.parametrize(("replay", "drawn"), [(0, 0), (1, 500), (800, 500), (801, 600), (8000, 5000)])
def test_each_row_is_replayed_about_twice_and_a_quarter_is_to_spare(replay, drawn):
    assert amount.count_instructions({"plain": 0, "arm": replay}) == drawn


def test_the_stage_writes_the_amount_and_reconstruct_takes_it(project: Path, base: Path, capsys):
    turns = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "That."}]
    rows = [dict(id=f"{n:04d}", messages=turns, group="", source=f"train.jsonl:{n + 1}") for n in range(3000)]
    records.write("domain", project / "data/domain/train.parquet", rows)
    set_params(project, arms=["domain-only", "holdfast"], reconstruct={"samples": "auto"})
    set_params(project, mix={"epochs": 2, "arms": {"domain-only": {"share": 0.0}, "holdfast": {"share": 0.25}}})
    run_stage("amount")
    assert storage.read_json(project / "reports/amount.json")["instructions"] == 1300
    assert "holdfast: 2,000 replay rows beside 3,000 rows of the domain" in capsys.readouterr().out
    filled = amount.fill_in(Reconstruct.load(), project / "reports/amount.json")
    assert (filled.keep, filled.samples) == (1300, 13_000)


def test_with_a_number_the_domain_does_not_move_the_amount(project: Path, base: Path):
    turns = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "That."}]
    records.write(
        "domain", project / "data/domain/train.parquet", [dict(id="a", messages=turns, group="", source="x:1")]
    )
    set_params(project, reconstruct={"samples": 700})
    run_stage("amount")
    assert storage.read_json(project / "reports/amount.json")["instructions"] is None
    params = Reconstruct.load()
    assert amount.fill_in(params, project / "absent.json") == params
