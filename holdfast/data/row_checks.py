"""What makes an instruction unfit by itself, or as an exact copy of an earlier one.

`curate` rejects rows by these checks; `reconstruct` counts by them until enough rows are fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.chat import encoding
from holdfast.data import filters, instructions
from holdfast.data.overlap import words
from holdfast.params.row_checks import RowChecks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Checks of turns that no user wrote: a short answer, or one that refuses, is a good answer.
CHECKS_OF_OTHER_TURNS = ("template_leak", "control_characters", "broken_text", "personal_data", "repetition")


class Fault(NamedTuple):
    """Why a row is rejected."""

    reason: str
    detail: str


class RowChecker:
    """Finds what is wrong with a row by itself."""

    def __init__(self, params: RowChecks, tokenizer: PreTrainedTokenizerBase, where: object) -> None:
        """`tokenizer`: the base's; `where` names the model in an error. Raises UserError if its template is unusable."""
        special = encoding.special_strings(tokenizer)
        built_in = encoding.find_pre_query(tokenizer, where).prefix
        for token in special:
            built_in = built_in.replace(token, "\n")
        self.finished_only = params.finished_only
        self.filters = filters.filters_by_reason(params, special, built_in.splitlines())
        self.filters_of_other_turns = {
            reason: self.filters[reason] for reason in CHECKS_OF_OTHER_TURNS if reason in self.filters
        }

    def find_fault(self, row: Mapping[str, Any]) -> Fault | None:
        """The first thing that is wrong with a row of instructions_raw, or None."""
        if self.finished_only and row["finish_reason"] != "stop":
            return Fault("unfinished", f"{row['n_tokens']} tokens")
        text = instructions.normalise(row["text"])
        if fault := first_fault(self.filters, text):
            return fault
        for turn in row["context"]:
            by_user = turn["role"] == "user"
            if fault := first_fault(self.filters if by_user else self.filters_of_other_turns, turn["content"]):
                return Fault(fault.reason, f"earlier turn: {fault.detail}")
            if turn["role"] == "system" and (shared := filters.find_echo(text, [words(turn["content"])])):
                return Fault("system_echo", shared)
        return None


def first_fault(checks: Mapping[str, filters.Filter], text: str) -> Fault | None:
    for reason, check in checks.items():
        if detail := check(text):
            return Fault(reason, detail)
    return None


class FitRows:
    """Tells fit rows from the others, exact copies included: it remembers which instructions were fit."""

    def __init__(self, checker: RowChecker) -> None:
        self.checker, self.keys = checker, set[bytes]()

    def reason_against(self, row: Mapping[str, Any]) -> str:
        """Why a row of instructions_raw is not fit; "" for one that is."""
        if fault := self.checker.find_fault(row):
            return fault.reason
        key = instructions.key(row["text"], row["context"])
        if key in self.keys:
            return "duplicate"
        self.keys.add(key)
        return ""

    def reasons_against(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        return [self.reason_against(row) for row in rows]
