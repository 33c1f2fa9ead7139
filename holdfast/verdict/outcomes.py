"""Base and tuned outcomes of the same items, side by side: what was lost, what was gained, and which of it to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from holdfast.core import records
from holdfast.evaluation.settings import AGREEMENT, OVERLAP

LOST, GAINED, RIGHT, WRONG = KINDS = ("lost", "gained", "same-right", "same-wrong")
HASHES = ("item_hash", "prompt_hash")  # an item that was asked in another way is not the same item
TEMPLATE_SUITES, TEMPLATE_PROMPTS = 8, 1000  # suites, and prompts of each, from which the chat template is inferred


@dataclass(frozen=True)
class Item:
    """One item with both answers, as the models wrote them."""

    arm: str
    suite: str
    item_id: str
    kind: str
    prompt: str
    target: str
    before: str
    after: str


class Pairs:
    """All pairs of base and arms. Only the kind of each is kept in memory, since files may hold millions of items and a
    page shows a few: texts are read when items are chosen. Raises UserError where a file is missing or holds something else."""

    def __init__(self, base: Path, arms: dict[str, Path]) -> None:
        self.base, self.arms = base, arms
        names = pc.unique(records.read_table("items", base, ["suite"])["suite"]).to_pylist()
        self.suites = sorted(set(names) - {AGREEMENT, OVERLAP})  # their answers are those of self_likelihood
        spread = self.suites[:: max(1, len(self.suites) // TEMPLATE_SUITES)]
        prompts = [read_suite(base, suite, ["prompt"]).slice(0, TEMPLATE_PROMPTS) for suite in spread]
        self.opening, self.closing = infer_template(
            pa.concat_tables(prompts)["prompt"] if prompts else pa.chunked_array([[]])
        )
        self.kinds: dict[tuple[str, str], NDArray[np.int8]] = {}  # (arm, suite) -> per item of the base, place in KINDS
        for suite in self.suites:
            before = read_suite(base, suite, ["item_id", *HASHES, "correct"])
            for arm, file in arms.items():
                self.kinds[arm, suite] = classify(before, read_suite(file, suite, ["item_id", *HASHES, "correct"]))

    def count(self, wanted: Iterable[str] = KINDS, arm: str | None = None) -> int:
        """How many pairs there are of these kinds, of one arm or of all."""
        places = [KINDS.index(kind) for kind in wanted]
        return sum(int(np.isin(kinds, places).sum()) for (name, _), kinds in self.kinds.items() if arm in (None, name))

    def first(self, most: int, wanted: Iterable[str] = KINDS, arm: str | None = None) -> list[Item]:
        """At most `most` items, lost and gained before the rest, suites in turn; then in reading order."""
        parts = []
        for number, name in enumerate(self.arms):
            for suite in self.suites if arm in (None, name) else ():
                for kind in wanted:
                    place = KINDS.index(kind)
                    rows = np.flatnonzero(self.kinds[name, suite] == place)[:most]
                    # its turn within the suite: choosing by it, no suite crowds out the others
                    part = {"row": rows, "turn": np.arange(len(rows)), "rank": int(kind not in (LOST, GAINED))}
                    parts.append(pd.DataFrame(part | {"order": number, "arm": name, "suite": suite, "place": place}))
        if not parts:
            return []
        chosen = pd.concat(parts).sort_values(["rank", "turn", "order", "suite", "place"], kind="stable").head(most)
        items = self._read_items(chosen)
        return sorted(items, key=lambda i: (list(self.arms).index(i.arm), KINDS.index(i.kind), i.suite, i.item_id))

    def _read_items(self, chosen: pd.DataFrame) -> list[Item]:
        items = []
        for suite, of_suite in chosen.groupby("suite", sort=False):
            ids = read_suite(self.base, str(suite), ["item_id"])["item_id"].take(pa.array(of_suite["row"]))
            base_rows = read_texts(self.base, str(suite), ids, ["prompt", "target", "response"])
            ids = pd.Series(ids.to_pylist(), index=of_suite.index)
            for arm, part in of_suite.assign(item_id=ids.values).groupby("arm", sort=False):
                answers = read_texts(self.arms[str(arm)], str(suite), pa.array(part["item_id"]), ["response"])
                for item_id, place in zip(part["item_id"], part["place"], strict=True):
                    old = base_rows[item_id]
                    prompt = old["prompt"].removeprefix(self.opening).removesuffix(self.closing)
                    responses = (old["response"], answers[item_id]["response"])
                    items.append(Item(str(arm), str(suite), item_id, KINDS[place], prompt, old["target"], *responses))
        return items


def read_suite(file: Path, suite: str, columns: list[str]) -> pa.Table:
    """Rows are sorted by suite, so little else is read."""
    return records.read_table("items", file, columns, [("suite", "==", suite)])


def classify(before: pa.Table, after: pa.Table) -> NDArray[np.int8]:
    """For each item of `before` its place in KINDS; -1 where `after` does not hold the same item. (N,)"""
    ids, others = before["item_id"], after["item_id"]
    kinds = np.full(len(ids), -1, np.int8)
    if ids.equals(others):  # the usual case, and much cheaper
        both, mine, theirs = np.arange(len(ids)), before, after
    else:
        order = pc.index_in(ids, value_set=others.combine_chunks()).combine_chunks()
        both = np.flatnonzero(pc.is_valid(order).to_numpy(zero_copy_only=False))
        mine, theirs = before.take(both), after.take(order.drop_null())
    before_right, after_right = (side["correct"].to_numpy() > 0.5 for side in (mine, theirs))  # as the gate counts
    kind = np.select(
        [before_right & ~after_right, ~before_right & after_right, before_right & after_right], [0, 1, 2], 3
    )
    for key in HASHES:
        kind[pc.not_equal(mine[key], theirs[key]).to_numpy()] = -1
    kinds[both] = kind
    return kinds


def read_texts(file: Path, suite: str, ids: pa.Array, columns: list[str]) -> dict[str, dict[str, str]]:
    """These columns of some items of a suite, by item id."""
    ends = pc.min_max(ids).as_py()  # by which whole row groups are passed over
    wanted = [("item_id", "in", ids.to_pylist()), ("item_id", ">=", ends["min"]), ("item_id", "<=", ends["max"])]
    rows = records.read_table("items", file, ["item_id", *columns], [("suite", "==", suite), *wanted])
    return {row["item_id"]: row for row in rows.to_pylist()}


def infer_template(prompts: pa.ChunkedArray) -> tuple[str, str]:
    """What every prompt begins and ends with, the chat template: a reader need not see it again with every item.

    Cut back to a line, a bracket or a space, since questions may begin or end alike too.
    """
    if pc.count_distinct(prompts).as_py() < 2:
        return "", ""
    opening, closing = _find_shared(prompts), _find_shared(pc.utf8_reverse(prompts))[::-1]
    opening = opening[: max((opening.rfind(end) + 1 for end in "\n>] "), default=0)]
    starts = [at for start in "\n<[" if (at := closing.find(start)) >= 0]
    closing = closing[min(starts) :] if starts else ""
    shortest = pc.min(pc.utf8_length(prompts)).as_py()
    return (opening, closing) if len(opening) + len(closing) < shortest else ("", "")


def _find_shared(texts: pa.ChunkedArray) -> str:
    """The longest common prefix: that of the first and the last in sorted order."""
    first, last = pc.min_max(texts).as_py().values()
    return first[
        : next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    ]
