"""The rows of the data contracts as types; holdfast/core/records.py has their schemas, and a test compares the two."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

# What a replay row is to keep: a plain answer; a system prompt obeyed; earlier turns remembered; a refusal, of a request that is
# asked for it; an answer in another language; a call of a tool, or an answer beside tools;
# thoughts before an answer; what only looks like the domain's
Family = Literal["plain", "system", "turns", "refusals", "languages", "tools", "thinking", "lookalikes"]
Messages = list[dict[str, Any]]  # role and content of each turn; more of it: holdfast/data/conversations.py


class Rendering(TypedDict, total=False):
    """What few rows are rendered with; a file keeps it in its column `extra`."""

    tools: list[Any]  # JSON schemas of the tools that the assistant may call
    thinking: bool  # how the template's switch for thoughts stands; absent: as the template has it
    results: dict[str, dict[str, Any]]  # by name of a tool, what a call of it returns; absent: a call has no result
    after: Messages  # turns that follow the response: results of its calls, and the base's answer to them


class DomainRow(Rendering):
    """One conversation of the domain."""

    id: str
    messages: Messages
    group: str  # the domain suite of a test row; "": none
    source: str


class RawInstruction(Rendering):
    """One user turn that the base wrote, or that a corpus holds."""

    id: str
    family: Family
    context: Messages  # the turns before it
    text: str
    finish_reason: str  # "stop" or "length"
    n_tokens: int
    temperature: float | None  # None: from a corpus, whose file, hash and row are model, revision and sample
    top_p: float | None
    sample: int
    seed: int
    model: str
    revision: str


class Instruction(RawInstruction):
    """One that `curate` kept."""

    cluster: int
    bait: bool  # asks for what deserves a refusal


class Response(Rendering):
    """One panel member's answer to an instruction."""

    id: str
    instruction_id: str
    text: str
    finish_reason: str  # "stop", "length", "withheld", "unreadable" or "misfit"
    n_tokens: int
    sample: int
    seed: int
    model: str
    revision: str


class Candidate(Rendering):
    """An instruction and the response that was chosen for it."""

    id: str  # the instruction's
    family: Family  # the instruction's
    context: Messages
    instruction: str
    response: str
    response_id: str
    model: str  # who wrote the response
    revision: str
    score: float | None  # mean over the judges' valid scores, 1 to 5
    score_std: float | None
    n_judges: int
    agreement: float
    base_logprob: float | None  # nats per token of the response
    refusal: bool  # the response turns the request down
    cluster: int


class ReplayRow(Candidate):
    """A candidate that `balance` chose, or left over."""

    difficulty: int  # quantile bin, 0 the easiest


class TrainingRow(Rendering):
    """A conversation that an arm may be trained on."""

    source: str  # "domain" or "replay"
    source_id: str
    messages: Messages  # with escaped contents
    trained_tokens: int


class MixRow(TrainingRow):
    """One that it is trained on, in its place."""

    id: str  # in the order of training
    epoch: int
    repeat: int  # uses of the same row before this one
