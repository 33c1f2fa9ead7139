"""User turns that look like the domain's at first sight: no longer, and with the same first words.

A model that is tuned on short questions learns to tell them by what they look like. A replay set whose turns are all longer, or
all begin otherwise, as those of a small base do ("Can you provide"), does not say what becomes of a short question that is none of
the domain's, and those are lost first (docs/evidence/real-model.md). So a part of the turns is drawn in the domain's form; what
they ask for is up to the base.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.chat import encoding
from holdfast.core import storage
from holdfast.core.rows import DomainRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OFTEN = 0.01  # of the domain's rows begin with a word, at least, so that it is one of its openings
LONGEST = 24  # characters of an opening
QUARTER = 0.75  # of the domain's user turns are no longer than a look-alike may be
STEP = 4  # tokens; so that a few rows more of the domain do not move the length


class Form(NamedTuple):
    """What the domain's user turns look like."""

    openings: Mapping[str, float]  # first word -> part of the rows that begin with it; the sum may be below 1
    tokens: int  # of a turn, at most

    def draw_opening(self, drawn: float) -> str:
        """The opening that a number in [0, 1) falls on; "": the base begins as it likes."""
        before = 0.0
        for opening, part in self.openings.items():
            if drawn < (before := before + part):
                return opening
        return ""


ANY = Form({}, 2**31)


def describe_form(rows: Sequence[DomainRow], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The openings and the length of the domain's user turns, the first of each row, for reports/amount.json.

    `tokens`: their upper quartile, by the base's tokenizer. Only words that begin at least OFTEN of the rows, and two of them, are
    told, so that none says who wrote a row.
    """
    texts = [next((turn["content"] for turn in row["messages"] if turn["role"] == "user"), "") for row in rows]
    first = Counter(text.split(maxsplit=1)[0] for text in texts if isinstance(text, str) and text.strip())
    openings = {
        word: round(n / len(rows), 3)
        for word, n in sorted(first.items(), key=lambda item: (-item[1], item[0]))
        if n >= max(2, OFTEN * len(rows)) and is_plain(word, tokenizer)
    }
    lengths = sorted(len(encoding.tokenise(tokenizer, text)) for text in texts if isinstance(text, str))
    quartile = lengths[math.ceil(QUARTER * len(lengths)) - 1] if lengths else 0
    return {"openings": openings, "tokens": max(STEP, math.ceil(quartile / STEP) * STEP)}


def is_plain(word: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    return len(word) <= LONGEST and word.isprintable() and encoding.escape_special_tokens(tokenizer, word) == word


def read_form(amount: Path) -> Form:
    """What the stage `amount` wrote of the domain."""
    form = storage.read_json(amount)["form"]
    return Form(form["openings"], form["tokens"])
