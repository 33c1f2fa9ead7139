"""stages/balance.py: even quotas by hand, nothing lost, the same choice for the same rows and seed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from conftest import candidate

from stages import balance
from stages.core import records
from stages.core.params import Balance


def run(folder: Path, candidates: list[dict], **params) -> tuple[list[dict], list[dict], dict]:
    """(replay, surplus, summary)"""
    records.write("candidates", folder / "replay" / "candidates.parquet", candidates)
    balance.main(Balance(**params), folder / "replay", folder / "balance.json")
    chosen, surplus = (records.read("replay", folder / "replay" / f"{name}.parquet") for name in ("replay", "surplus"))
    assert {row["id"] for row in chosen} | {row["id"] for row in surplus} == {row["id"] for row in candidates}
    assert len(chosen) + len(surplus) == len(candidates)
    return chosen, surplus, records.read_json(folder / "balance.json")


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
    found = balance.quotas({(0, i): n for i, n in enumerate(available)}, rows)
    assert sorted(found.values()) == sorted(expected)
    assert all(found[0, i] <= n for i, n in enumerate(available))
    assert sum(found.values()) == min(rows, sum(available))


def test_difficulty_bins_are_quantiles_of_the_base_s_surprise(tmp_path):
    rows = [candidate(f"r{n:02d}", logprob=-0.1 * n) for n in range(12)]
    chosen, _, _ = run(tmp_path, rows, rows=12, difficulty_bins=4)
    assert [row["difficulty"] for row in chosen] == [0] * 3 + [1] * 3 + [2] * 3 + [
        3
    ] * 3  # by id, which is by difficulty


def test_equal_difficulties_share_a_bin(tmp_path):
    chosen, _, summary = run(tmp_path, [candidate(f"r{n}") for n in range(8)], rows=8, difficulty_bins=4)
    assert {row["difficulty"] for row in chosen} == {0}
    assert summary["cells"] == {"0/0": {"available": 8, "taken": 8}}


def test_a_rare_cluster_is_kept_whole_and_a_large_one_is_thinned(tmp_path):
    rows = [candidate(f"a{n:02d}", cluster=0) for n in range(40)] + [candidate(f"b{n}", cluster=1) for n in range(5)]
    chosen, surplus, summary = run(tmp_path, rows, rows=15, difficulty_bins=1)
    assert sum(row["cluster"] == 1 for row in chosen) == 5
    assert sum(row["cluster"] == 0 for row in chosen) == 10
    assert len(surplus) == 30
    assert summary["cells"] == {"0/0": {"available": 40, "taken": 10}, "1/0": {"available": 5, "taken": 5}}
    assert summary["entropy"] > summary["entropy_before"]


def test_the_same_seed_chooses_the_same_rows_and_another_seed_others(tmp_path):
    rows = [candidate(f"r{n:03d}", cluster=n % 3) for n in range(90)]
    first = run(tmp_path / "a", rows, rows=30, seed=1)[0]
    again = run(tmp_path / "b", rows[::-1], rows=30, seed=1)[0]
    other = run(tmp_path / "c", rows, rows=30, seed=2)[0]
    assert first == again
    assert (tmp_path / "a/replay/replay.parquet").read_bytes() == (tmp_path / "b/replay/replay.parquet").read_bytes()
    assert {row["id"] for row in first} != {row["id"] for row in other}


def test_entropy_by_hand():
    assert balance.entropy([5, 5, 5]) == pytest.approx(1)
    assert balance.entropy([3, 1]) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert balance.entropy([4, 0]) == 0
    assert balance.entropy([7]) == balance.entropy([]) == 1
