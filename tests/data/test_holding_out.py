"""The instructions that are held out for the self suite: which they are, and that nothing near them is replayed."""

from __future__ import annotations

import random
from collections import Counter

import pyarrow as pa
import pytest
from helpers import instruction, raw

from holdfast.core import records
from holdfast.data import holding_out, screening
from holdfast.params.curate import Curate

PARAMS = Curate(overlap_ngram=4)
WORDS = [f"word{letter}{other}" for letter in "abcdefghij" for other in "abcdefghij"]


def screened(texts: list[str]) -> screening.ScreenedRows:
    rows = [raw(instruction(f"{n:04d}", text)) for n, text in enumerate(texts)]
    return screening.ScreenedRows(pa.Table.from_pylist(rows, schema=records.SCHEMAS["instructions_raw"]))


def many(count: int = 200) -> list[str]:
    return [" ".join(random.Random(n).sample(WORDS, 9)) for n in range(count)]


def test_each_cluster_gives_its_part_and_every_row_is_accounted_for() -> None:
    rows = screened(many())
    clusters = {row: 0 if row < 120 else 1 if row < 180 else 2 for row in range(200)}
    holding_out.hold_out(rows, clusters, 20, PARAMS)
    assert Counter(clusters[row] for row in rows.held_out) == {0: 12, 1: 6, 2: 2}
    kept, held_out, rejected = rows.split(clusters)
    assert (len(kept), len(held_out), len(rejected)) == (180, 20, 0)
    assert set(kept["id"].to_pylist()).isdisjoint(held_out["id"].to_pylist())


def test_the_same_rows_are_held_out_every_time() -> None:
    one, other = screened(many()), screened(many())
    for rows in (one, other):
        holding_out.hold_out(rows, dict.fromkeys(range(200), 0), 20, PARAMS)
    assert one.held_out == other.held_out


@pytest.mark.parametrize(("wanted", "held_out"), [(250, 40), (30, 30), (0, 0)])
def test_no_more_than_a_fifth_is_held_out(wanted: int, held_out: int) -> None:
    rows = screened(many())
    holding_out.hold_out(rows, dict.fromkeys(range(200), 0), wanted, PARAMS)
    assert len(rows.held_out) == held_out
    assert len(rows.kept_rows()) == 200 - held_out


def test_what_comes_near_a_held_out_row_is_rejected_and_says_why() -> None:
    texts = many()
    rows = screened(texts)
    holding_out.hold_out(rows, dict.fromkeys(range(200), 0), 20, PARAMS)
    chosen = min(rows.held_out)
    near = f"please {texts[chosen]} now"
    rows = screened([*texts, near])
    # the same rows are held out, since the new one sorts behind them into a cluster of its own
    holding_out.hold_out(rows, dict.fromkeys(range(200), 0) | {200: 1}, 20, PARAMS)
    assert chosen in rows.held_out and 200 not in rows.held_out
    assert rows.faults[200].reason == "evaluation_overlap"
    assert rows.faults[200].detail.startswith("self: ")
    summary = screening.summarise(rows, dict.fromkeys(range(201), 0), {"facts": []})
    assert summary["evaluation_overlap"] == {"facts": 0, "self": 1}
    assert summary["held_out"] + summary["kept"] + 1 == 201


def test_what_deserves_a_refusal_is_not_held_out() -> None:
    rows = screened(many())
    rows.bait = set(range(0, 200, 2))
    holding_out.hold_out(rows, dict.fromkeys(range(200), 0), 200, PARAMS)
    assert len(rows.held_out) == 20 and not rows.held_out & rows.bait
    assert rows.split(dict.fromkeys(range(200), 0)).kept["bait"].to_pylist().count(True) == 100
