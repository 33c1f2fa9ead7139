"""The section `ingest`: where the domain data lie and how they are written."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from holdfast.params.base import Fraction, Positive, Section, Seed, check_source


class Source(Section):
    """One domain data set: a file below `ingest.folder`, or a hub data set pinned to a revision."""

    path: str | None = None
    """JSONL, JSON, CSV or Parquet file, below the section's folder."""
    hub: str | None = None
    """Id of a data set on the hub, in place of path."""
    revision: str | None = None
    """Full commit hash (40 hex digits), needed with hub."""
    split: str = "train"
    """Split of the hub data set."""
    config: str | None = None
    """Configuration of the hub data set; null: its default."""

    @model_validator(mode="after")
    def one_source(self) -> Source:
        check_source(self.path, self.hub, self.revision)
        return self


class Columns(Section):
    """Mapping for format 'columns': which fields hold what; dots reach into nested objects."""

    prompt: str
    """Field with the user's turn; dots reach into nested objects."""
    response: str
    """Field with the assistant's turn."""
    context: str | None = None
    """Field put before the prompt, separated by a blank line; a list is joined by blank lines."""
    system: str | None = None
    """Field with a system turn."""
    group: str | None = None
    """Field that names the domain suite of a test row."""


class Ingest(Section):
    section: ClassVar[str] = "ingest"

    folder: str
    """Folder with the domain's files, tracked by DVC."""
    train: Source
    """Training rows: a file below folder, or a hub data set."""
    test: Source | None = None
    """Test rows; null: test_fraction of the training rows is split off."""
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "columns"] = "auto"
    """How a row is written; auto: found by its keys."""
    columns: Columns | None = None
    """Which fields hold what, for format: columns."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of the training rows that is split off where there is no test source."""
    max_rejected: Fraction = 0.05
    """Part of the rows that may be unreadable; with more the stage stops."""
    max_chars: Positive = 100_000
    """Characters of a row, all turns together, at most; longer rows are rejected."""
    seed: Seed = 0
    """Seed of the split."""

    @model_validator(mode="after")
    def columns_with_format(self) -> Ingest:
        if (self.format == "columns") != (self.columns is not None):
            raise ValueError("'columns' goes with format: columns")
        return self
