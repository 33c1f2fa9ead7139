"""Surveys domain data before any parameter is set: format, rows, turns, lengths, language, duplicates. Changes nothing."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data import filters, ingestion
from holdfast.data.ingestion import DUPLICATE
from holdfast.data.ingestion_report import remarks
from holdfast.data.splitting import contexts, find_copies
from holdfast.data.streams import ENCODING_HELP
from holdfast.data.template_fit import TemplateFit
from holdfast.data.turn_order import JOINED
from holdfast.params.ingest import Columns, Ingest, Source

Conversation = list[dict[str, Any]]
Measure = Callable[
    [Conversation, list | None], tuple[int, int]
]  # tokens of a conversation: all, and those of its answers
CHARS_PER_TOKEN = 4  # characters per token where no tokenizer is at hand: English text under a vocabulary of 100,000
LANGUAGE_SAMPLE_ROWS = 500  # rows whose language is looked at
ENCODINGS = ("utf-8", "cp1252", "latin-1")  # tried in this order where no byte order mark says it


@dataclass(frozen=True, slots=True)
class Survey:
    form: str  # of ingest.format
    rows: int
    rejected: Counter[str]  # reason -> rows, duplicates not among them
    duplicates: int
    conversations: list[Conversation]
    lengths: list[int]  # tokens of each conversation
    answers: list[int]  # tokens of its assistant's turns
    languages: list[tuple[str, float]]  # part of the rows recognised as it, most frequent first
    remarks: list[str]  # what a user should know of fields and texts
    encoding: str = "utf-8"
    joined: bool = False  # turns of one role follow one another, and were joined

    @property
    def systems(self) -> int:
        return sum(c[0]["role"] == "system" for c in self.conversations)

    @property
    def many_turns(self) -> int:
        return sum(sum(m["role"] == "user" for m in c) > 1 for c in self.conversations)


def read_leniently(path: Path, columns: Columns | None, **more: Any) -> Ingest:
    """How `ingest` reads a file or folder that no params name: turns of one role are joined. `more`: other fields of its params."""
    form = "columns" if columns else "auto"
    names: dict[str, Any] = {
        "folder": str(path.parent),
        "train": Source(path=path.name),
        "format": form,
        "columns": columns,
    }
    return Ingest(**names, same_role="join", **more)


def survey_path(path: Path, columns: Columns | None, measure: Measure, tokenizer: Any = None) -> Survey:
    """Reads a file or folder that no params name yet: its encoding is found by trying, turns of one role are joined.

    Raises UserError where it cannot be read, has no known format, or no usable row."""
    path = path if path.name not in ("", "..") else Path(os.path.abspath(path))
    ingest = read_leniently(path, columns)
    for encoding in ENCODINGS:
        try:
            return survey_rows(ingest.model_copy(update={"encoding": encoding}), measure, tokenizer)
        except UserError as error:
            if error.do == ENCODING_HELP and encoding != ENCODINGS[-1]:
                continue
            where = path if str(error.where).startswith("params.yaml") else error.where
            do = error.do or ""
            if "fit" in error.what and "format" in error.what:
                do = "say which fields hold what: --columns prompt=FIELD,response=FIELD[,context=FIELD]"
            elif error.what.startswith("empty domain set: no row can be used"):
                do = "fix the rows, or map fields with --columns"
            raise UserError(error.what, where=where, do=do) from None
    raise AssertionError("the last encoding reads or raises")


def survey_rows(ingest: Ingest, measure: Measure, tokenizer: Any = None) -> Survey:
    """Reads the training rows that params name, and measures them. Raises UserError as `ingest` does."""
    lenient = ingest.model_copy(update={"max_rejected": 1.0, "max_chars": 10**9})
    split = ingestion.read_split("train", ingest.train, lenient, TemplateFit(tokenizer) if tokenizer else None)
    rejected = Counter(row.reason for row in split.rejected)
    duplicates = rejected.pop(DUPLICATE, 0)
    conversations = [row.turns() for row in split.kept]
    measured = [
        measure(turns, json.loads(row.tools) if row.tools else None)
        for turns, row in zip(conversations, split.kept, strict=True)
    ]
    user_texts = [
        "\n".join(m["content"] for m in c if m["role"] == "user") for c in conversations[:LANGUAGE_SAMPLE_ROWS]
    ]
    spoken = Counter(filters.recognise_language(text) or "not recognised" for text in user_texts)
    return Survey(
        form=split.report["format"],
        rows=split.report["read"],
        rejected=rejected,
        duplicates=duplicates,
        conversations=conversations,
        lengths=[whole for whole, _ in measured],
        answers=[answers for _, answers in measured],
        languages=[(name, n / len(user_texts)) for name, n in spoken.most_common(3)],
        remarks=remarks(split.report),
        encoding=ingest.encoding,
        joined=JOINED in split.report["changed"],
    )


def estimate_tokens(conversation: Conversation, tools: list | None = None) -> tuple[int, int]:
    """A guess at the tokens of a conversation, and of its answers, without a tokenizer."""
    answers = sum(len(m["content"]) for m in conversation if m["role"] == "assistant")
    return sum(len(m["content"]) for m in conversation) // CHARS_PER_TOKEN + 1, answers // CHARS_PER_TOKEN + 1


def count_overlap(train: list[Conversation], test: list[Conversation], near_duplicates: float) -> int:
    """Conversations of `train` that answer what one of `test` asks, or are near-duplicates of it, as `ingest` compares them."""

    def texts(conversations: list[Conversation]) -> Iterator[str]:
        return ("\n".join(turn["content"] for turn in conversation) for conversation in conversations)

    in_test = {contexts(conversation)[-1] for conversation in test}
    same = {n for n, conversation in enumerate(train) if not in_test.isdisjoint(contexts(conversation))}
    return len(same | find_copies(texts(test), texts(train), near_duplicates))
