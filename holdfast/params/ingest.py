"""The section `ingest`: where the domain data lie and how they are written."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from holdfast.params.base import Fraction, Positive, Section, Seed, check_source


class Source(Section):
    """One domain data set: a file below `ingest.folder`, or a hub data set pinned to a revision."""

    path: str | None = None  # JSONL, JSON, CSV or Parquet, below ingest.folder
    hub: str | None = None  # data set id
    revision: str | None = None  # full commit hash, needed with hub
    split: str = "train"  # hub only
    config: str | None = None  # hub only: the data set's configuration

    @model_validator(mode="after")
    def one_source(self) -> Source:
        check_source(self.path, self.hub, self.revision)
        return self


class Columns(Section):
    """Mapping for format 'columns': which fields hold what; dots reach into nested objects."""

    prompt: str  # the user's turn
    response: str  # the assistant's turn
    context: str | None = None  # put before the prompt, separated by a blank line; a list is joined by blank lines
    system: str | None = None  # a system turn
    group: str | None = None  # names the domain suite that a test row belongs to


class Ingest(Section):
    section: ClassVar[str] = "ingest"

    folder: str  # where the domain's files lie; DVC tracks the folder
    train: Source
    test: Source | None = None  # none: `test_fraction` of the training rows is split off
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "columns"] = "auto"
    columns: Columns | None = None  # needed for format 'columns'
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # used when there is no test source
    max_rejected: Fraction = 0.05  # stop when a larger part of the rows cannot be read
    max_chars: Positive = 100_000  # longer rows are rejected (characters, all turns together)
    seed: Seed = 0

    @model_validator(mode="after")
    def columns_with_format(self) -> Ingest:
        if (self.format == "columns") != (self.columns is not None):
            raise ValueError("'columns' goes with format: columns")
        return self
