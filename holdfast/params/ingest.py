"""The section `ingest`: where the domain data lie and how they are written."""

from __future__ import annotations

import codecs
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from holdfast.params.base import Fraction, Positive, Section, Seed, check_source


class Source(Section):
    """One domain data set: files below `ingest.folder`, or a hub data set pinned to a revision."""

    path: str | list[str] | None = None
    """File below the section's folder, a folder of shards, a glob, or a list of these. JSONL, JSON, CSV, TSV or Parquet,
    also .gz, .bz2, .xz, .zst; a folder of `save_to_disk`."""
    hub: str | None = None
    """Id of a data set on the hub, in place of path."""
    revision: str | None = None
    """Full commit hash (40 hex digits), needed with hub."""
    split: str = "train"
    """Split of the hub data set, or of a folder whose files are named for splits (train-..., test-...)."""
    config: str | None = None
    """Configuration of the hub data set; null: its default."""

    @model_validator(mode="after")
    def one_source(self) -> Source:
        if self.path == []:
            raise ValueError("'path' names no file")
        check_source(str(self.path) if self.path else None, self.hub, self.revision)
        return self


class Columns(Section):
    """Mapping for format 'columns': which fields hold what; dots reach into nested objects. Either prompt and response,
    or messages."""

    prompt: str | None = None
    """Field with the user's turn; dots reach into nested objects."""
    response: str | None = None
    """Field with the assistant's turn."""
    messages: str | None = None
    """Field with a list of turns, in place of prompt and response."""
    role: str | None = None
    """Field of a turn that says who speaks; null: role or from."""
    content: str | None = None
    """Field of a turn with its text; null: content or value."""
    context: str | None = None
    """Field put before the prompt, separated by a blank line; a list is joined by blank lines."""
    system: str | None = None
    """Field with a system turn."""
    reasoning: str | None = None
    """Field with the assistant's thoughts before its response."""
    tools: str | None = None
    """Field with the tools that the assistant may call: a list of JSON schemas, or its text."""
    group: str | None = None
    """Field that names the domain suite of a test row."""

    @model_validator(mode="after")
    def one_way(self) -> Columns:
        if self.messages is None and (self.prompt is None or self.response is None):
            raise ValueError("name 'prompt' and 'response', or 'messages'")
        if self.messages is not None and (self.prompt or self.response or self.context or self.reasoning):
            raise ValueError("'messages' holds all turns: leave prompt, response, context and reasoning out")
        if self.messages is None and (self.role or self.content):
            raise ValueError("'role' and 'content' are fields of a turn: they go with 'messages'")
        return self


class Ingest(Section):
    section: ClassVar[str] = "ingest"

    folder: str
    """Folder with the domain's files, tracked by DVC."""
    train: Source
    """Training rows: a file below folder, or a hub data set."""
    test: Source | None = None
    """Test rows; null: test_fraction of the training rows is split off."""
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "preference", "columns"] = "auto"
    """How a row is written; auto: found by its keys. Of preference data the chosen side is trained on."""
    columns: Columns | None = None
    """Which fields hold what, for format: columns."""
    encoding: str = "utf-8"
    """Encoding of text files, as Python names it (cp1252, shift_jis, ...); a byte order mark goes before it."""
    same_role: Literal["reject", "join"] = "reject"
    """Two turns of one role in a row: the row is rejected, or they are joined by a blank line, and counted."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of the training rows that is split off where there is no test source."""
    split_by: str | None = None
    """Field whose rows stay on one side of the split (a customer, a document); dots reach into nested objects."""
    near_duplicates: Fraction = 0.8
    """Similarity of two conversations from which both stay on one side of the split, and from which a training row is left
    out for a test row of a file of its own (Jaccard, of the word 3-grams that few rows share); 1: only equal questions."""
    max_rejected: Fraction = 0.05
    """Part of the rows that may be unreadable; with more the stage stops."""
    max_chars: Positive = 100_000
    """Characters of a row, all turns together, at most; longer rows are rejected."""
    seed: Seed = 0
    """Seed of the split."""

    @field_validator("encoding")
    @classmethod
    def known_encoding(cls, name: str) -> str:
        try:
            codecs.lookup(name)
            b"text".decode(name)  # of lookup's, some turn bytes into bytes
        except UnicodeError:
            return name
        except LookupError:
            raise ValueError("no such encoding; give utf-8, utf-16, cp1252, latin-1, shift_jis, gb18030, ...") from None
        return name

    @model_validator(mode="after")
    def columns_with_format(self) -> Ingest:
        if (self.format == "columns") != (self.columns is not None):
            raise ValueError("'columns' goes with format: columns")
        return self
