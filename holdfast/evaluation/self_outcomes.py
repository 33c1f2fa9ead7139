"""What the self suite shows of one arm beyond its scores: figures over all answers, and the answers that lost most."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from holdfast.core import records
from holdfast.evaluation.settings import AGREEMENT, CHAT, LIKELIHOOD, OVERLAP


class Figures(NamedTuple):
    answers: int
    likelihood: tuple[float, float]  # geometric mean probability per token of the base's answer, before and after
    chat: float  # part of the instructions that the arm answers at all
    equal: float  # part of its answers that are the base's, word for word
    chrf: float  # 0..1
    kl: float | None  # nats per token; None where it was not measured
    length: float  # characters of all its answers, over the base's
    distinct: tuple[float, float]  # distinct answers over all answers, before and after


class Answer(NamedTuple):
    prompt: str
    before: str
    after: str
    likelihood: tuple[float, float]
    collapsed: bool


def describe(base: Path, arm: Path) -> Figures | None:
    """None where the self suite was not asked. Raises UserError where a file of items is missing or damaged."""
    before, after = (read_scores(file, LIKELIHOOD, ["response"]) for file in (base, arm))
    if not len(before) or len(before) != len(after):
        return None
    old, new = (table["response"].to_pylist() for table in (before, after))
    chat, agreement, overlap = (read_scores(arm, suite)["correct"].to_numpy() for suite in (CHAT, AGREEMENT, OVERLAP))
    return Figures(
        answers=len(before),
        likelihood=(float(before["correct"].to_numpy().mean()), float(after["correct"].to_numpy().mean())),
        chat=float(chat.mean()),
        equal=float(np.mean([one == other for one, other in zip(old, new, strict=True)])),
        chrf=float(agreement.mean()),
        kl=abs(float(np.log(overlap).mean())) if len(overlap) else None,
        length=sum(map(len, new)) / max(1, sum(map(len, old))),
        distinct=(len(set(old)) / len(old), len(set(new)) / len(new)),
    )


def find_worst(base: Path, arm: Path, most: int) -> list[Answer]:
    """At most `most` answers: collapsed ones first, then by how much less probable the base's answer became."""
    before = read_scores(base, LIKELIHOOD, ["prompt", "response"]).to_pylist()
    after = {row["item_id"]: row for row in read_scores(arm, LIKELIHOOD, ["response"]).to_pylist()}
    chat = {row["item_id"]: row["correct"] for row in read_scores(arm, CHAT).to_pylist()}
    answers = [
        Answer(
            row["prompt"],
            row["response"],
            after[row["item_id"]]["response"],
            (row["correct"], after[row["item_id"]]["correct"]),
            chat.get(row["item_id"], 1.0) < 0.5,
        )
        for row in before
        if row["item_id"] in after
    ]
    changed = [answer for answer in answers if answer.before != answer.after]
    changed.sort(key=lambda answer: (not answer.collapsed, answer.likelihood[1] - answer.likelihood[0]))
    return changed[:most]


def read_scores(file: Path, suite: str, columns: list[str] | None = None) -> pa.Table:
    return records.read_table("items", file, ["item_id", "correct", *(columns or [])], [("suite", "==", suite)])
