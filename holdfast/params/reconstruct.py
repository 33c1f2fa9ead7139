"""The section `reconstruct`: what the base is asked to write."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from holdfast.params.base import Positive, Section, Seed, auto_or_count
from holdfast.params.ingest import Source
from holdfast.params.row_checks import Language

Part = Annotated[float, Field(gt=0, lt=1)]


TopP = Annotated[float, Field(gt=0, le=1)]


class Systems(Section):
    """System prompts under which a part of the user turns is written."""

    file: str
    """File below folder, one prompt per line; or JSONL, each line a string or an object with the field system."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Part of the self-written rows that gets a system prompt, drawn by the seed."""


class Turns(Section):
    """Conversations of several turns: the base answers itself, then plays the user again."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Part of the self-written rows that is continued."""
    extra: Positive = 1
    """Further user turns; the row is the last, the others are its context."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.8
    """Sampling temperature of the base's answers."""
    max_tokens: Positive = 512
    """Tokens of an answer, at most; where it does not end, the conversation ends before it."""


class Languages(Section):
    """User turns in several languages: the base goes on from the first words of one."""

    file: str = "openings.json"
    """JSON file below folder: an object with a list of first words of user turns for each language."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Part of the self-written rows that begins so, drawn by the seed."""
    codes: Annotated[list[Language], Field(min_length=1)]
    """Languages, each with the same part: those that the base answers in."""


class Tools(Section):
    """User turns beside tools that the assistant may call, as the template shows them."""

    file: str = "tools.json"
    """JSON file below folder: an object with a list of functions (name, description, parameters) for each field."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Part of the self-written rows that is written and answered so, drawn by the seed."""
    results: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Part of these rows in which a call is followed by an invented result, and the base's answer to it; functions say what they
    return by `returns`."""


class Thinking(Section):
    """Answers with thoughts, where the template has a switch for them."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Part of the self-written rows that is answered with thoughts switched on, drawn by the seed; all other rows are answered
    with thoughts switched off."""


class Lookalikes(Section):
    """User turns that look like the domain's at first sight: no longer than most of them, and with the same first words."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Part of the self-written rows that is written so, drawn by the seed; of the fit rows it is a smaller one, since turns
    that do not end in time are unfinished."""


class CorpusSource(Source):
    """Prompts of other people: a file below `folder`, or a hub data set pinned to a revision."""

    path: str | None = None
    """JSONL, JSON, CSV or Parquet file, below the section's folder."""
    share: Part
    """Part of samples, and of keep, that this source supplies."""
    field: str | None = None
    """Field with the user's text, dots reach into nested objects; null: found by the row's format."""


class Corpus(Section):
    sources: Annotated[list[CorpusSource], Field(min_length=1)]
    """Where prompts come from."""
    clusters: Positive = 24
    """k of mini-batch k-means on the self-written rows, whose histogram each source is to match."""
    pool: Positive = 100_000
    """Usable rows of a source that are embedded, at most, drawn by the seed."""

    @model_validator(mode="after")
    def named_once(self) -> Corpus:
        named = [(s.path, s.hub, s.config, s.split) for s in self.sources]
        if len(set(named)) < len(named):
            raise ValueError("a source of the corpus is named twice: name it once")
        return self


class Amount(Section):
    """How much is drawn: the part of `reconstruct` that `amount` depends on too."""

    section: ClassVar[str] = "reconstruct"
    partial: ClassVar[bool] = True

    samples: Literal["auto"] | Positive = "auto"
    """Instructions to draw; with keep the most that may be drawn. auto: until as many are fit as the arms' shares and
    epochs need, each replayed about twice."""

    @field_validator("samples", mode="before")
    @classmethod
    def auto_or_number(cls, value: Any) -> Any:
        return auto_or_count(value, "instructions")


class Reconstruct(Amount):
    partial: ClassVar[bool] = False

    keep: Positive | None = None
    """Instructions that must pass curate's checks of single rows; null: all samples are drawn, or what auto counts."""
    folder: str = "data/prompts"
    """Folder of system prompts and corpora, tracked by DVC."""
    temperatures: Annotated[list[Annotated[float, Field(gt=0, le=5)]], Field(min_length=1)] = [1.0]
    """Sampling temperatures, used in turn."""
    top_p: Annotated[
        list[TopP], Field(min_length=1), BeforeValidator(lambda value: value if isinstance(value, list) else [value])
    ] = [1.0]
    """Nucleus sampling: one probability mass or a list; every temperature meets every top_p in turn."""
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Tokens less probable than this part of the most probable one are never drawn: less gibberish, less variety. 0: off."""
    max_tokens: Positive = 256
    """Tokens of a user turn, at most; a longer one is unfinished, and curate rejects it."""
    systems: Systems | None = None
    """System prompts for a part of the rows; null: what the template itself puts before a user's text."""
    turns: Turns | None = None
    """Conversations of several turns; null: one turn."""
    languages: Languages | None = None
    """User turns in several languages; null: in those that the base writes by itself. Such a row has one turn and no
    system prompt."""
    tools: Tools | None = None
    """User turns and answers beside a few tools; null: none. Off where the base's template shows no tools. Such a row has one
    turn and no system prompt."""
    thinking: Thinking | None = None
    """Answers with thoughts, and without; null: as the template has it by itself. Off where the base's template has no switch. A
    row with thoughts has one turn, no system prompt and no tools."""
    lookalikes: Lookalikes | None = None
    """User turns in the form of the domain's, so that the model goes on telling its questions from others; null: none. Such a
    row has no system prompt; of a conversation the last turn is in that form."""
    corpus: Corpus | None = None
    """Prompts from corpora; null: everything is written by the base."""
    shard: Positive = 512
    """Rows per unit of work and of caching."""
    batch: Positive = 256
    """Rows at once on the device."""
    seed: Seed = 0
    """Seed of all draws."""

    @model_validator(mode="after")
    def parts_fit(self) -> Reconstruct:
        if self.keep and self.samples != "auto" and self.keep > self.samples:
            raise ValueError(f"keep ({self.keep}) is more than samples ({self.samples}), which is the budget")
        parts = (self.languages, self.tools, self.thinking, self.lookalikes)
        if sum(part.share for part in parts if part) > 1 + 1e-9:
            what = "the shares of languages, tools, thinking and lookalikes are more than 1 together"
            raise ValueError(f"{what}: no row is of two")
        if self.corpus and sum(source.share for source in self.corpus.sources) >= 1:
            raise ValueError(
                "the shares of corpus.sources leave nothing for the base, whose histogram they are to match"
            )
        return self
