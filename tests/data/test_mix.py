"""The stage `mix`: the share is counted in rows, replay rows repeat evenly, the same rows and seed give the same bytes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import candidate, describe, run_stage, set_params

from holdfast.chat import encoding
from holdfast.core import records
from holdfast.core.errors import UserError

ANSWERS = ["yes", "the red fox", "1 2 3 4 5 6", "apple, pear, plum", "no"]


@pytest.fixture
def run(project: Path, base: Path):
    """run(domain rows, replay rows, share, params) -> rows of the mixture."""

    def mix(domain: int, replay: int, share: float, epochs: float = 1, **params) -> list[dict]:
        data = project / "data"
        rows = []
        for n in range(domain):
            turns = [{"role": "user", "content": f"Domain {n}?"}, {"role": "assistant", "content": ANSWERS[n % 5]}]
            rows.append(dict(id=f"d{n:03d}", messages=turns, group="", source=f"train.jsonl:{n + 1}"))
        records.write("domain", data / "domain" / "train.parquet", rows)
        chosen = [
            {**candidate(f"r{n:03d}", f"Replay {n}?", ANSWERS[n % 4] + " indeed"), "difficulty": 0}
            for n in range(replay)
        ]
        records.write("replay", data / "replay" / "replay.parquet", chosen)
        return mix_again(project, share, epochs=epochs, **params)

    return mix


def mix_again(project: Path, share: float, **params) -> list[dict]:
    """The stage on what lies in data/ already."""
    set_params(project, mix={"arms": {"arm": {"share": share}}, **params})
    run_stage("mix", "arm")
    return records.read("mix", project / "data/mixes/arm.parquet")


def tokens(rows: list[dict], source: str) -> int:
    return sum(row["trained_tokens"] for row in rows if row["source"] == source)


def count(rows: list[dict], source: str) -> int:
    return sum(row["source"] == source for row in rows)


@pytest.mark.parametrize(("share", "replay"), [(0.05, 1), (0.3, 9), (0.5, 20), (0.8, 80)])
def test_the_share_is_a_part_of_the_rows(run, share, replay):
    rows = run(20, 60, share)
    assert count(rows, "domain") == 20  # all of the domain, once
    assert count(rows, "replay") == replay == round(20 * share / (1 - share))
    assert {row["repeat"] for row in rows if row["source"] == "domain"} == {0}


def test_the_replayed_families_and_refusals_are_counted(run, project):
    run(20, 60, 0.5)
    file = project / "data/replay/replay.parquet"
    stored = records.read("replay", file)
    kinds = {row["id"]: dict(family="refusals", refusal=True) for row in stored[:30]}
    records.write("replay", file, [row | kinds.get(row["id"], {}) for row in stored])
    rows = mix_again(project, 0.5)
    refused = sum(row["source_id"] in kinds for row in rows if row["source"] == "replay")
    summary = json.loads((project / "reports/mix/arm.json").read_text(encoding="utf-8"))
    assert 0 < refused < 20
    assert summary["refusals"] == summary["families"]["refusals"] == refused / 20
    assert summary["families"]["plain"] == (20 - refused) / 20


def test_long_answers_of_the_base_do_not_make_the_rows_fewer(run, project):
    """A share of tokens would leave a domain of one-word answers next to no replay."""
    run(20, 60, 0.5)
    long = [{**candidate(f"r{n:03d}", f"Replay {n}?", "so it goes on " * 30), "difficulty": 0} for n in range(60)]
    records.write("replay", project / "data/replay/replay.parquet", long)
    rows = mix_again(project, 0.5)
    assert count(rows, "replay") == 20
    assert tokens(rows, "replay") > 10 * tokens(rows, "domain")


def test_trained_tokens_are_the_answer_s_and_the_end_of_the_turn(run, tokenizer):
    for row in run(5, 5, 0.5):
        answer = row["messages"][-1]["content"]
        assert row["trained_tokens"] == len(encoding.tokenise(tokenizer, answer)) + 1


def test_share_zero_needs_no_replay_set(run, project, base):
    assert {row["source"] for row in run(4, 4, 0.0)} == {"domain"}
    (project / "data/replay/replay.parquet").unlink()
    mix_again(project, 0.0)


def test_no_row_is_used_twice_before_every_row_was_used_once(run):
    rows = run(20, 10, 0.6)
    uses = Counter(row["source_id"] for row in rows if row["source"] == "replay")
    assert len(uses) == 10
    assert max(uses.values()) - min(uses.values()) <= 1
    assert max(uses.values()) > 1
    for id, count in uses.items():
        assert sorted(row["repeat"] for row in rows if row["source_id"] == id) == list(range(count))
    assert len({row["id"] for row in rows}) == len(rows)


def test_how_often_replay_rows_are_repeated_is_said(run, capsys):
    run(20, 60, 0.3)
    assert "replay rows used up to 1 times" in capsys.readouterr().out
    rows = run(20, 10, 0.6)
    most = max(Counter(row["source_id"] for row in rows if row["source"] == "replay").values())
    assert most > 1
    assert f"10 replay rows used up to {most} times" in capsys.readouterr().out


def test_every_epoch_holds_the_domain_once_and_its_share_of_replay(run):
    rows = run(20, 60, 0.4, epochs=3)
    assert [row["epoch"] for row in rows] == sorted(row["epoch"] for row in rows)  # stored in the order of training
    domain = [sorted(r["source_id"] for r in rows if r["source"] == "domain" and r["epoch"] == n) for n in range(3)]
    assert domain == [domain[0]] * 3
    assert len(set(domain[0])) == len(domain[0]) == 20
    for epoch in range(3):
        part = [row for row in rows if row["epoch"] == epoch]
        assert count(part, "domain") == 20
        assert count(part, "replay") in (13, 14)  # 40 in all
    assert count(rows, "replay") == 40
    orders = [[row["source_id"] for row in rows if row["source"] == "domain" and row["epoch"] == n] for n in range(3)]
    assert orders[0] != orders[1] != orders[2]  # shuffled anew


def test_epochs_take_new_replay_rows_while_there_are_any(run):
    rows = [row for row in run(10, 100, 0.5, epochs=3) if row["source"] == "replay"]
    assert len({row["source_id"] for row in rows}) == len(rows) < 100
    rows = [row for row in run(10, 12, 0.5, epochs=3) if row["source"] == "replay"]
    uses = Counter(row["source_id"] for row in rows)
    assert len(uses) == 12
    assert max(uses.values()) - min(uses.values()) <= 1


def test_a_part_of_an_epoch_takes_a_part_of_the_domain(run):
    assert sum(row["source"] == "domain" for row in run(20, 60, 0.4, epochs=0.25)) == 5
    rows = run(20, 60, 0.4, epochs=1.5)
    uses = Counter(row["source_id"] for row in rows if row["source"] == "domain")
    assert Counter(uses.values()) == {1: 10, 2: 10}


def test_an_arm_may_have_its_own_number_of_epochs(run, project, base):
    run(4, 4, 0.0)
    set_params(project, mix={"arms": {"arm": {"share": 0.0, "epochs": 3}}, "epochs": 1})
    run_stage("mix", "arm")
    assert len(records.read("mix", project / "data/mixes/arm.parquet")) == 12


def test_too_small_a_replay_set_stops_with_what_would_help(run, project):
    with pytest.raises(UserError, match=r"needs 80 replay rows[\s\S]*each used at most\s+2 times") as caught:
        run(20, 3, 0.8, max_repeats=2)
    assert "mix.arms.arm" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(UserError, match="there are 0"):
        run(20, 0, 0.5)
    assert not (project / "data" / "mixes").exists()


def test_an_arm_without_an_entry_is_named(run, project, base):
    with pytest.raises(UserError, match="'other' has no entry in mix.arms"):
        run_stage("mix", "other")


def test_the_same_rows_and_seed_give_the_same_bytes(run, project):
    file = project / "data/mixes/arm.parquet"
    run(20, 60, 0.3)
    first = file.read_bytes()
    run(20, 60, 0.3)
    assert file.read_bytes() == first
    chosen = {row["source_id"] for row in records.read("mix", file) if row["source"] == "replay"}
    other = {row["source_id"] for row in run(20, 60, 0.3, seed=7) if row["source"] == "replay"}
    assert len(chosen) == len(other)
    assert chosen != other


def test_sources_are_shuffled_into_one_another(run):
    """Rows are stored by id: a mixture with one source after the other would train in two phases."""
    sources = [row["source"] for row in run(50, 60, 0.5)]
    assert sum(a != b for a, b in pairwise(sources)) > 10


def test_control_tokens_spelled_in_the_data_stay_text(run, project, base, tokenizer):
    run(3, 3, 0.0)
    end = tokenizer.eos_token
    attack = [{"role": "user", "content": f"a{end}b"}, {"role": "assistant", "content": f"yes{end}more"}]
    rows = [dict(id="d", messages=attack, group="", source="train.jsonl:1")]
    records.write("domain", project / "data/domain/train.parquet", rows)
    (row,) = mix_again(project, 0.0)
    ids, mask = encoding.encode(tokenizer, row["messages"])
    assert ids.count(tokenizer.eos_token_id) == 2  # the two that the template wrote
    assert sum(mask) == row["trained_tokens"]
    assert [i for i, on in zip(ids, mask, strict=True) if on][-1] == tokenizer.eos_token_id


def test_a_conversation_that_the_template_refuses_is_named(run, project, tiny):
    folder = project / "strict"
    shutil.copytree(tiny, folder)
    text = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    refusal = "{%- if 'Domain 2' in messages[0]['content'] %}{{ raise_exception('no\\nsuch\\nquestions\\nhere') }}{%- endif %}"
    (folder / "chat_template.jinja").write_text(refusal + text, encoding="utf-8")
    describe(folder, project / "models/manifest")
    with pytest.raises(UserError, match="cannot render") as caught:
        run(4, 4, 0.0)
    assert "train.jsonl:3" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert json.loads((project / "models/manifest/base.json").read_text())["source"].endswith("strict")
