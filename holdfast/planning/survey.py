"""Surveys domain data before any parameter is set: format, rows, turns, lengths, language, duplicates. Changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.data import filters, formats
from holdfast.data.formats import Unreadable
from holdfast.params.ingest import Columns

Conversation = list[dict[str, str]]
Measure = Callable[[Conversation], tuple[int, int]]  # tokens of a conversation: all, and those of its answers
CHARS_PER_TOKEN = 4  # characters per token where no tokenizer is at hand: English text under a vocabulary of 100,000
LANGUAGE_SAMPLE_ROWS = 500  # rows whose language is looked at


@dataclass(frozen=True, slots=True)
class Survey:
    form: str  # of domain_formats
    rows: int
    rejected: Counter[str]  # reason -> rows, duplicates not among them
    duplicates: int
    conversations: list[Conversation]
    lengths: list[int]  # tokens of each conversation
    answers: list[int]  # tokens of its assistant's turns
    languages: list[tuple[str, float]]  # part of the rows recognised as it, most frequent first

    @property
    def systems(self) -> int:
        return sum(c[0]["role"] == "system" for c in self.conversations)

    @property
    def many_turns(self) -> int:
        return sum(sum(m["role"] == "user" for m in c) > 1 for c in self.conversations)


def survey_file(path: Path, columns: Columns | None, measure: Measure) -> Survey:
    """Reads a file and measures its conversations. Raises UserError where the file cannot be read, has no known format, or no usable row."""
    rows = [row for _, row in formats.read_file(path)]
    if not rows:
        raise UserError("empty domain set: no rows", where=path, do="give a file with at least one row")
    form = "columns" if columns else detect(rows, path)
    formats.check_fields(rows, form, columns, path)
    by_content: dict[str, Conversation] = {}
    rejected: Counter[str] = Counter()
    duplicates = 0
    for row in rows:
        try:
            conversation = formats.parse_conversation(row, form, columns)
        except Unreadable as error:
            rejected[str(error)] += 1
            continue
        key = json.dumps(conversation)
        duplicates += key in by_content
        by_content[key] = conversation
    if not by_content:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in rejected.most_common(3))
        raise UserError(f"no row can be used ({reasons})", where=path, do="fix the rows, or map fields with --columns")
    conversations = list(by_content.values())
    measured = [measure(c) for c in conversations]
    user_texts = [
        "\n".join(m["content"] for m in c if m["role"] == "user") for c in conversations[:LANGUAGE_SAMPLE_ROWS]
    ]
    spoken = Counter(filters.recognise_language(text) or "not recognised" for text in user_texts)
    return Survey(
        form=form,
        rows=len(rows),
        rejected=rejected,
        duplicates=duplicates,
        conversations=conversations,
        lengths=[whole for whole, _ in measured],
        answers=[answers for _, answers in measured],
        languages=[(name, n / len(user_texts)) for name, n in spoken.most_common(3)],
    )


def detect(rows: list, path: Path) -> str:
    try:
        return formats.detect_format(rows, path)
    except UserError as error:
        do = "say which fields hold what: --columns prompt=FIELD,response=FIELD[,context=FIELD]"
        raise UserError(error.what, where=error.where, do=do) from None


def estimate_tokens(conversation: Conversation) -> tuple[int, int]:
    """A guess at the tokens of a conversation, and of its answers, without a tokenizer."""
    answers = sum(len(m["content"]) for m in conversation if m["role"] == "assistant")
    return sum(len(m["content"]) for m in conversation) // CHARS_PER_TOKEN + 1, answers // CHARS_PER_TOKEN + 1


def shared_questions(one: list[Conversation], other: list[Conversation]) -> int:
    """Conversations of `one` with a question of `other`, letter case and whitespace aside."""

    def questions(conversation: Conversation) -> set[str]:
        return {" ".join(m["content"].casefold().split()) for m in conversation if m["role"] == "user"}

    known = {text for conversation in other for text in questions(conversation)}
    return sum(bool(questions(conversation) & known) for conversation in one)
