"""stages/balance.py: even quotas by hand, nothing lost, the same choice for the same rows and seed."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
import yaml
from helpers import candidate, run_stage

from holdfast.core import records, storage
from holdfast.data import balancing


def run(
    folder: Path, candidates: list[dict], curate: dict | None = None, **params
) -> tuple[list[dict], list[dict], dict]:
    """(replay, surplus, summary)"""
    replay = folder / "data" / "replay"
    records.write("candidates", replay / "candidates.parquet", candidates)
    (folder / "params.yaml").write_text(yaml.safe_dump({"balance": params, "curate": curate or {}}), encoding="utf-8")
    with contextlib.chdir(folder):
        run_stage("balance")
    chosen, surplus = (records.read("replay", replay / f"{name}.parquet") for name in ("replay", "surplus"))
    assert {row["id"] for row in chosen} | {row["id"] for row in surplus} == {row["id"] for row in candidates}
    assert len(chosen) + len(surplus) == len(candidates)
    return chosen, surplus, storage.read_json(folder / "reports" / "balance.json")


@pytest.mark.parametrize(
    ("available", "rows", "expected"),
    [
        ([1, 10, 10], 12, [1, 6, 5]),
        ([5, 5, 5], 9, [3, 3, 3]),
        ([5, 5, 5], 2, [1, 1, 0]),
        ([2, 3, 100], 30, [2, 3, 25]),
        ([1, 2, 3, 4], 8, [1, 2, 3, 2]),
        ([4, 0, 4], 6, [3, 0, 3]),
        ([3, 3], 100, [3, 3]),
        ([], 5, []),
    ],
)
def test_quotas_are_the_evenest_that_the_cells_can_fill(available, rows, expected):
    found = balancing.quotas({(0, i): n for i, n in enumerate(available)}, rows)
    assert sorted(found.values()) == sorted(expected)
    assert all(found[0, i] <= n for i, n in enumerate(available))
    assert sum(found.values()) == min(rows, sum(available))


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(0.0, [10, 10]), (0.5, [6, 14]), (1.0, [4, 16])],  # 20 rows of cells of 20 and 80: square roots 4.47 and 8.94
)
def test_the_temperature_moves_from_even_to_reconstructed(temperature, expected):
    found = balancing.quotas({(0, 0): 20, (1, 0): 80}, 20, temperature)
    assert [found[0, 0], found[1, 0]] == pytest.approx(expected, abs=1)
    assert sum(found.values()) == 20


def test_what_a_cell_lacks_goes_to_the_others_in_proportion():
    # targets 2.07, 5.86, 8.28, 11.7 of 28 rows (square roots of 1, 8, 16, 32); the first can give 1
    assert list(balancing.quotas({(0, i): n for i, n in enumerate((1, 8, 16, 32))}, 28, 0.5).values()) == [1, 6, 9, 12]


def test_every_temperature_fills_all_rows_and_no_cell_twice():
    available = {(c, d): (7 * c + 3 * d) % 11 for c in range(6) for d in range(4)}
    for temperature in (0.0, 0.3, 0.7, 1.0):
        for rows in (0, 1, 17, 60, 10_000):
            found = balancing.quotas(available, rows, temperature)
            assert sum(found.values()) == min(rows, sum(available.values()))
            assert all(0 <= found[cell] <= n for cell, n in available.items())


def test_even_cells_reach_the_entropy_that_rows_allow(tmp_path):
    rows = [
        candidate(f"r{c}-{n:03d}", cluster=c, logprob=-0.01 * n) for c in range(6) for n in range(40 * (c + 1))
    ]  # every cell has at least some rows
    _, _, even = run(tmp_path / "even", rows, rows=160, difficulty_bins=2, temperature=0.0)
    _, _, kept = run(tmp_path / "kept", rows, rows=160, difficulty_bins=2, temperature=1.0)
    assert even["entropy"] >= 0.95 > kept["entropy"]
    assert kept["entropy"] == pytest.approx(kept["entropy_before"], abs=0.01)


def test_difficulty_bins_are_quantiles_of_the_base_s_surprise(tmp_path):
    rows = [candidate(f"r{n:02d}", logprob=-0.1 * n) for n in range(12)]
    chosen, _, _ = run(tmp_path, rows, rows=12, difficulty_bins=4)
    assert [row["difficulty"] for row in chosen] == [0] * 3 + [1] * 3 + [2] * 3 + [
        3
    ] * 3  # by id, which is by difficulty


def test_equal_difficulties_share_a_bin(tmp_path):
    chosen, _, summary = run(tmp_path, [candidate(f"r{n}") for n in range(8)], rows=8, difficulty_bins=4)
    assert {row["difficulty"] for row in chosen} == {0}
    assert summary["cells"] == {"0/0": {"available": 8, "wanted": 8.0, "taken": 8}}


def test_a_rare_cluster_is_kept_whole_and_a_large_one_is_thinned(tmp_path):
    rows = [candidate(f"a{n:02d}", cluster=0) for n in range(40)] + [candidate(f"b{n}", cluster=1) for n in range(5)]
    chosen, surplus, summary = run(tmp_path, rows, rows=15, difficulty_bins=1)
    assert sum(row["cluster"] == 1 for row in chosen) == 5
    assert sum(row["cluster"] == 0 for row in chosen) == 10
    assert len(surplus) == 30
    assert summary["cells"] == {
        "0/0": {"available": 40, "wanted": 7.5, "taken": 10},
        "1/0": {"available": 5, "wanted": 7.5, "taken": 5},
    }
    assert (summary["short_cells"], summary["shortfall"]) == (1, 2.5)
    assert summary["entropy"] > summary["entropy_before"]


def test_the_same_seed_chooses_the_same_rows_and_another_seed_others(tmp_path):
    rows = [candidate(f"r{n:03d}", cluster=n % 3) for n in range(90)]
    first = run(tmp_path / "a", rows, rows=30, seed=1)[0]
    again = run(tmp_path / "b", rows[::-1], rows=30, seed=1)[0]
    other = run(tmp_path / "c", rows, rows=30, seed=2)[0]
    assert first == again
    assert (tmp_path / "a/data/replay/replay.parquet").read_bytes() == (
        tmp_path / "b/data/replay/replay.parquet"
    ).read_bytes()
    assert {row["id"] for row in first} != {row["id"] for row in other}


def test_entropy_by_hand():
    assert balancing.entropy([5, 5, 5]) == pytest.approx(1)
    assert balancing.entropy([3, 1]) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert balancing.entropy([4, 0]) == 0
    assert balancing.entropy([7]) == balancing.entropy([]) == 1


def test_difficulty_by_disagreement_of_the_judges(tmp_path):
    rows = [{**candidate(f"r{n}", logprob=-float(n)), "score_std": 1.0 - n / 10, "n_judges": 2} for n in range(8)]
    chosen, _, summary = run(tmp_path, rows, rows=8, difficulty_bins=2, difficulty="disagreement")
    assert [row["difficulty"] for row in chosen] == [1] * 4 + [0] * 4
    assert summary["difficulty"] == "disagreement"


def test_one_judge_alone_does_not_disagree(tmp_path, capsys):
    rows = [{**candidate(f"r{n}"), "score_std": n / 10, "n_judges": 2 if n < 3 else 1} for n in range(9)]
    _, _, summary = run(tmp_path, rows, rows=9, difficulty="disagreement")
    assert summary["unmeasured"] == 6
    assert "warning: 6 of 9 rows have no measured disagreement" in capsys.readouterr().out


def test_rows_without_a_measurement_are_counted_and_count_as_middling(tmp_path):
    rows = [candidate(f"r{n}", logprob=None if n == 4 else -float(n)) for n in range(9)]
    chosen, _, summary = run(tmp_path, rows, rows=9, difficulty_bins=3)
    assert summary["unmeasured"] == 1
    assert [row["difficulty"] for row in chosen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_difficulty_by_how_little_the_instruction_helps(tmp_path, base, tiny):
    """By hand: two forward passes per row, with and without the instruction."""
    import torch

    from holdfast.chat import encoding
    from holdfast.core import manifest

    texts = [
        ("Sort: 3 1 2", "1 2 3"),
        ("What is 7 + 2?", "9"),
        ("Reverse: a b", "b a"),
        ("The river?", "Tresa, I think."),
    ]
    tokenizer, model = manifest.load_tokenizer(tiny), manifest.load_model(tiny, "float32")

    def surprise(user: str, answer: str) -> float:
        asked = encoding.prompt_ids(tokenizer, [{"role": "user", "content": user}])
        said = encoding.tokenise(tokenizer, answer) + encoding.assistant_stop_ids(tokenizer)[:1]
        with torch.inference_mode():
            logits = model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1].float().log_softmax(-1)
        return -float(logits[range(len(said)), said].mean())

    rows = [candidate(f"r{i}", q, a, logprob=-surprise(q, a)) for i, (q, a) in enumerate(texts)]
    found = balancing.instruction_following(rows, base)
    by_hand = [surprise(q, a) - surprise("", a) for q, a in texts]
    assert found == pytest.approx(by_hand, abs=1e-4)

    chosen, _, _ = run(tmp_path, rows, rows=4, difficulty_bins=2, difficulty="instruction_following")
    bins = {row["id"]: row["difficulty"] for row in chosen}
    hard = sorted(range(4), key=lambda i: by_hand[i])[2:]
    assert bins == {f"r{i}": int(i in hard) for i in range(4)}


def refusals_among(count: int, drawn: int, others: int) -> list[dict]:
    """Rows that the base refused by itself, rows of prompts that were drawn to be refused, and other rows."""
    own = [candidate(f"own{n:02d}") | {"refusal": True} for n in range(count)]
    asked = [candidate(f"drawn{n:02d}") | {"refusal": True, "family": "refusals"} for n in range(drawn)]
    return [*own, *asked, *(candidate(f"r{n:02d}", cluster=n % 3) for n in range(others))]


@pytest.mark.parametrize(
    ("own", "drawn", "others", "rows", "floor", "refused", "replayed"),
    [
        (0, 20, 90, 1000, 0.1, 10, 100),  # 10 of 100, beside all others
        (4, 20, 90, 1000, 0.1, 10, 100),  # 4 of the base's own, 6 drawn
        (15, 20, 90, 1000, 0.1, 15, 105),  # enough came by themselves
        (0, 20, 90, 50, 0.1, 5, 50),  # of 50 rows at most: 5 take the place of others
        (20, 20, 80, 50, 0.5, 25, 50),  # of its own first: 20, then 5 drawn
        (0, 20, 90, 1000, 12, 12, 102),  # a number of rows
        (0, 3, 90, 1000, 0.1, 3, 93),  # the base refuses no more
        (0, 0, 90, 1000, 0.1, 0, 90),  # nor anything at all
        (2, 20, 90, 1000, 0, 2, 92),  # no floor: as many as come
    ],
)
def test_refusals_have_a_floor(tmp_path, own, drawn, others, rows, floor, refused, replayed):
    chosen, _, summary = run(tmp_path, refusals_among(own, drawn, others), {"refusals": floor}, rows=rows)
    of_base = [row for row in chosen if row["refusal"] and row["family"] == "plain"]
    assert (sum(row["refusal"] for row in chosen), len(chosen)) == (refused, replayed)
    assert len(of_base) == min(own, refused), "its own come first"
    assert summary["refusals"]["rows"] == refused
    assert sum(family["rows"] for family in summary["families"].values()) == summary["rows"] == replayed
    metrics = storage.read_json(tmp_path / "reports" / "replay.json")
    assert metrics["refusals"] == pytest.approx(refused / replayed, abs=1e-6)


def test_refusals_that_are_lacking_are_said(tmp_path, capsys):
    run(tmp_path, refusals_among(1, 2, 90), {"refusals": 0.1}, rows=1000)
    assert "warning: curate.refusals asks for 10 refusals, 7 are lacking" in capsys.readouterr().out


def test_every_family_gives_its_part_however_even_the_cells_are_made(tmp_path):
    """Cluster 1 holds all rows under a system prompt beside many plain ones: even cells alone would take what comes."""
    plain = [candidate(f"p{n:03d}", cluster=n % 6) for n in range(270)]
    others = [candidate(f"s{n:03d}", cluster=1) | {"family": "system"} for n in range(30)]
    chosen, _, summary = run(tmp_path, [*plain, *others], rows=100, difficulty_bins=1)
    assert sum(row["family"] == "system" for row in chosen) == 10
    assert summary["families"] == {
        "plain": {"candidates": 270, "rows": 90, "share": 0.9},
        "system": {"candidates": 30, "rows": 10, "share": 0.1},
    }
    assert sum(cell["available"] for cell in summary["cells"].values()) == 300
    assert sum(cell["taken"] for cell in summary["cells"].values()) == 100
    alone, *_ = run(tmp_path, plain, rows=100, difficulty_bins=1)
    assert {row["cluster"]: 0 for row in alone} == dict.fromkeys(range(6), 0)
