"""Base and tuned outcomes of the same items, side by side: what was lost, what was gained, and which of it to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

LOST, GAINED, RIGHT, WRONG = KINDS = ("lost", "gained", "same-right", "same-wrong")
KEY = ["suite", "item_id", "item_hash", "prompt_hash"]  # an item that was asked in another way is not the same item


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
    """All pairs of base and arms. Texts stay in Arrow until chosen: a run may hold far more of them than a page shows."""

    def __init__(self, base: pa.Table, arms: dict[str, pa.Table]) -> None:
        self.base, self.arms = base, arms
        self.opening, self.closing = template(base["prompt"])
        before = _outcomes(base)
        frames = []
        for number, (arm, table) in enumerate(arms.items()):
            both = before.merge(_outcomes(table), on=KEY, suffixes=("_before", "_after"), sort=False)
            frames.append(both.assign(arm=arm, order=number))
        pairs = pd.concat(frames, ignore_index=True)
        was, now = pairs["correct_before"] > 0.5, pairs["correct_after"] > 0.5  # as the gate counts
        pairs["kind"] = WRONG
        pairs.loc[was & now, "kind"] = RIGHT
        pairs.loc[was & ~now, "kind"] = LOST
        pairs.loc[~was & now, "kind"] = GAINED
        pairs = pairs.sort_values(["order", "suite", "item_id"], kind="stable")
        # position within its suite: choosing by it takes turns between suites, so that no suite crowds out the others
        pairs["turn"] = pairs.groupby(["arm", "suite", "kind"], sort=False).cumcount()
        self.frame = pairs

    def __len__(self) -> int:
        return len(self.frame)

    def changed(self) -> int:
        return int(self.frame["kind"].isin([LOST, GAINED]).sum())

    def first(self, most: int, kinds: Iterable[str] = KINDS, arm: str | None = None) -> list[Item]:
        """At most `most` items, lost and gained before the rest, suites in turn; then in reading order."""
        frame = self.frame[self.frame["kind"].isin(list(kinds))]
        if arm is not None:
            frame = frame[frame["arm"] == arm]
        rank = frame["kind"].isin([LOST, GAINED]).map({True: 0, False: 1})
        chosen = (
            frame.assign(rank=rank).sort_values(["rank", "turn", "order", "suite", "item_id"], kind="stable").head(most)
        )
        place = chosen["kind"].map({kind: number for number, kind in enumerate(KINDS)})
        chosen = chosen.assign(place=place).sort_values(["order", "place", "suite", "item_id"], kind="stable")
        return self._texts(chosen)

    def _texts(self, chosen: pd.DataFrame) -> list[Item]:
        items = []
        for arm, part in chosen.groupby("arm", sort=False):
            base = self.base.take(pa.array(part["row_before"])).select(["prompt", "target", "response"]).to_pylist()
            after = self.arms[str(arm)].take(pa.array(part["row_after"])).column("response").to_pylist()
            keys = part[["suite", "item_id", "kind"]].itertuples(index=False)
            for key, old, new in zip(keys, base, after, strict=True):
                prompt = old["prompt"][len(self.opening) : len(old["prompt"]) - len(self.closing)]
                items.append(
                    Item(str(arm), key.suite, key.item_id, key.kind, prompt, old["target"], old["response"], new)
                )
        return items


def template(prompts: pa.ChunkedArray) -> tuple[str, str]:
    """What every prompt begins and ends with: the chat template, which a reader need not see again with every item.

    Cut back to a line, a bracket or a space, since questions may begin or end alike too.
    """
    if pc.count_distinct(prompts).as_py() < 2:
        return "", ""
    opening, closing = _shared(prompts), _shared(pc.utf8_reverse(prompts))[::-1]
    opening = opening[: max((opening.rfind(end) + 1 for end in "\n>] "), default=0)]
    starts = [at for start in "\n<[" if (at := closing.find(start)) >= 0]
    closing = closing[min(starts) :] if starts else ""
    shortest = pc.min(pc.utf8_length(prompts)).as_py()
    return (opening, closing) if len(opening) + len(closing) < shortest else ("", "")


def _shared(texts: pa.ChunkedArray) -> str:
    """The longest common prefix: that of the first and the last in sorted order."""
    first, last = pc.min_max(texts).as_py().values()
    return first[
        : next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    ]


def _outcomes(table: pa.Table) -> pd.DataFrame:
    frame = table.select([*KEY, "correct"]).to_pandas()
    return frame.assign(row=range(len(frame)))
