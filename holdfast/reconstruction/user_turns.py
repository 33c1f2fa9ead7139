"""User turns that the base writes: it is given what its chat template puts before a user's text, and nothing else.

This is how Magpie (arXiv 2406.08464) and Ding & Wang (arXiv 2506.09428, step 1) recover an instruction distribution. On
request the base writes under system prompts, and goes on to further turns (docs/reconstruction.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from holdfast.chat import encoding, templates
from holdfast.chat.encoding import Messages, PreQuery
from holdfast.core import manifest, records, shards
from holdfast.core.errors import UserError
from holdfast.core.rows import Family, RawInstruction
from holdfast.data.filters import is_bait
from holdfast.data.instructions import family_of, normalise
from holdfast.data.refusals import refuses_throughout
from holdfast.engines import registry
from holdfast.engines.answering import Prompt, answer_chats
from holdfast.engines.interface import Engine, Sampling, seed_of
from holdfast.params.reconstruct import Reconstruct
from holdfast.reconstruction import lookalikes, tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("languages", "tools", "thinking", "lookalikes")  # of rows with a part of their own, in this order
NOT_SAMPLING = {"samples", "keep", "folder", "corpus"}  # params that a row does not depend on


class PromptParts(NamedTuple):
    """What the base is given beside its template."""

    system_prompts: list[str]
    openings: dict[str, list[str]]  # language -> first words of user turns
    functions: Sequence[tools.Schema] = ()  # that the assistant may be offered
    form: lookalikes.Form = lookalikes.ANY  # of the domain's user turns


@dataclass(frozen=True, slots=True)
class UserTurn:
    """One sample: the settings it is drawn with, the turns before it, and what the base wrote."""

    sample: int
    seed: int
    temperature: float
    top_p: float
    context: Messages
    max_tokens: int
    kind: str = ""  # "languages", "tools", "thinking", "lookalikes", or ""
    opening: str = ""  # first words that the base goes on from
    text: str = ""
    finish_reason: str = ""  # "stop": the base ended its turn; "length": it ran into max_tokens
    n_tokens: int = 0
    tools: list[dict[str, Any]] | None = None  # that the assistant may call
    results: dict[str, dict[str, Any]] | None = None  # what each of them returns, by name; None: a call has no result
    thinking: bool | None = None  # the switch for thoughts; None: as the template has it


def derive_pre_query(params: Reconstruct, tokenizer: PreTrainedTokenizerBase, where: str) -> PreQuery:
    """What the template puts before a user's text. Raises UserError where it has no room for what params ask."""
    query = encoding.find_pre_query(tokenizer, where)
    if params.systems and not templates.find_dialect(templates.template_of(tokenizer)).system:
        what, do = "the chat template has no system turn", "remove reconstruct.systems from params.yaml"
        raise UserError(what, where=where, do=do)
    if params.turns:
        try:
            encoding.find_pre_query(tokenizer, where, encoding.turns("a", "b"))
        except UserError as error:
            what, do = f"a second user turn: {error.what}", "remove reconstruct.turns from params.yaml"
            raise UserError(what, where=where, do=do) from None
    return query


def sample_user_turns(
    samples: range, params: Reconstruct, base: manifest.Manifest, query: PreQuery, parts: PromptParts
) -> list[RawInstruction]:
    """A row for each sample number, in order. Finished shards come from the cache."""
    identity = [
        query.prefix,
        parts.system_prompts,
        parts.openings,
        parts.functions,
        *([parts.form] if params.lookalikes else []),
        params.model_dump(exclude=NOT_SAMPLING),
        *registry.engine_identity(base, __file__),
    ]
    work = partial(sample_shard, params=params, base=base, query=query, parts=parts)
    return shards.run_shards(
        "reconstruct", samples, params.shard, identity, work, "user turns", registry.choose_spread(base)
    )


def sample_shard(
    samples: list[int], params: Reconstruct, base: manifest.Manifest, query: PreQuery, parts: PromptParts
) -> list[RawInstruction]:
    """One shard: write each user turn, then go on with the conversations that are meant to have several."""
    engine = registry.load_engine(base, params.batch)  # loaded only if a shard is not in the cache
    writer = Writer(engine, manifest.load_tokenizer(base.folder()), query, params, base.context)
    turns = writer.write([draw_settings(sample, params, parts) for sample in samples], number=0)
    by_sample = {turn.sample: turn for turn in turns}

    going_on = [turn for turn in turns if goes_on(params, turn.seed)]
    further = params.turns.extra if params.turns else 0
    for number in range(1, further + 1):
        going_on = writer.answer(going_on, number)
        if number == further:
            going_on = [take_form(turn, params, parts.form) for turn in going_on]
        going_on = writer.write(going_on, number)
        by_sample |= {turn.sample: turn for turn in going_on}
    return [as_row(turn, base) for turn in by_sample.values()]


def draw_settings(sample: int, params: Reconstruct, parts: PromptParts) -> UserTurn:
    """How a sample is drawn; all draws derive from its seed. Every temperature meets every top_p."""
    seed = seed_of(params.seed, "reconstruct", sample)
    temperature = params.temperatures[sample % len(params.temperatures)]
    top_p = params.top_p[sample // len(params.temperatures) % len(params.top_p)]
    kind = find_kind(params, seed)
    thinking = None if params.thinking is None else kind == "thinking"
    turn = UserTurn(sample, seed, temperature, top_p, [], params.max_tokens, kind, thinking=thinking)
    match kind:
        case "languages":
            openings = parts.openings[draw_language(params, seed)]
            return replace(turn, opening=openings[int(uniform(seed, "opening") * len(openings))])
        case "lookalikes":
            return replace(turn, kind="") if goes_on(params, seed) else take_form(turn, params, parts.form)
        case "tools":
            offered = tools.draw_tools(parts.functions, seed)
            has_results = params.tools and uniform(seed, "results") < params.tools.results
            results = tools.draw_results(parts.functions, offered, seed) if has_results else None
            return replace(turn, tools=offered, results=results)
        case "thinking":
            return turn
    if params.systems and (drawn := uniform(seed, "system") / params.systems.share) < 1:
        system = parts.system_prompts[int(drawn * len(parts.system_prompts))]
        return replace(turn, context=[{"role": "system", "content": system}])
    return turn


def take_form(turn: UserTurn, params: Reconstruct, form: lookalikes.Form) -> UserTurn:
    """The turn, to be written in the domain's form where its row is a look-alike: of a conversation the last one is."""
    if find_kind(params, turn.seed) != "lookalikes":
        return turn
    opening = form.draw_opening(uniform(turn.seed, "opening"))
    return replace(turn, kind="lookalikes", opening=opening, max_tokens=min(params.max_tokens, form.tokens))


def uniform(seed: int, decision: str) -> float:
    """A row's own uniform number in [0, 1) for one decision."""
    return seed_of(seed, decision) / 2**63


def find_kind(params: Reconstruct, seed: int) -> str:
    """One of KINDS where the row of this seed is of that kind, otherwise "": parts of one uniform number."""
    drawn, before = uniform(seed, "languages"), 0.0
    for kind in KINDS:
        part = getattr(params, kind)
        if part and before <= drawn < before + part.share:
            return kind
        before += part.share if part else 0.0
    return ""


def draw_language(params: Reconstruct, seed: int) -> str:
    """The language of a row that speaks one of params."""
    assert params.languages
    return params.languages.codes[int(uniform(seed, "language") * len(params.languages.codes))]


def goes_on(params: Reconstruct, seed: int) -> bool:
    """Whether the row of this seed is meant to be a conversation of several turns."""
    several = params.turns is not None and uniform(seed, "turns") < params.turns.share
    return several and find_kind(params, seed) in ("", "lookalikes")


@dataclass(frozen=True, slots=True)
class Writer:
    """The base in both parts: it writes user turns, and answers them."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    query: PreQuery
    params: Reconstruct
    context_length: int  # tokens; 0: unknown

    def write(self, turns: Sequence[UserTurn], number: int) -> list[UserTurn]:
        """Give each sample the user turn that follows its context. `number` counts a row's user turns from 0."""
        written: dict[int, UserTurn] = {}
        for top_p, max_tokens in dict.fromkeys((turn.top_p, turn.max_tokens) for turn in turns):
            part = [turn for turn in turns if (turn.top_p, turn.max_tokens) == (top_p, max_tokens)]
            prompts = [self.prefix(turn) for turn in part]
            seeds = [seed_of(turn.seed, "user", number) if number else turn.seed for turn in part]
            sampling = Sampling(
                temperature=[turn.temperature for turn in part],
                top_p=top_p,
                max_tokens=max_tokens,
                stop_ids=self.query.stop_ids,
                stop_strings=self.query.stop_strings,
                min_p=self.params.min_p,
            )
            completions = self.engine.complete(prompts, seeds, sampling)
            for turn, done in zip(part, completions, strict=True):
                written[turn.sample] = replace(
                    turn, text=turn.opening + done.text, finish_reason=done.finish_reason, n_tokens=done.n_tokens
                )
        return [written[turn.sample] for turn in turns]

    def answer(self, turns: Sequence[UserTurn], number: int) -> list[UserTurn]:
        """The samples whose conversation goes on, with their user turn and the base's answer in the context.

        It ends where either side did not end its turn, where it gets too long, or where the base obeyed what deserves a
        refusal.
        """
        assert self.params.turns
        longest = self.longest_chat()
        chats = {
            turn.sample: [*turn.context, *encoding.turns(normalise(turn.text))]
            for turn in turns
            if turn.finish_reason == "stop" and turn.text.strip()
        }
        fitting = [turn for turn in turns if turn.sample in chats and self.length(chats[turn.sample]) <= longest]
        sampling = Sampling(
            temperature=self.params.turns.temperature, top_p=1.0, max_tokens=self.params.turns.max_tokens
        )
        answers = answer_chats(
            self.engine,
            self.tokenizer,
            [Prompt(chats[turn.sample], turn.tools, turn.thinking) for turn in fitting],
            [seed_of(turn.seed, "answer", number) for turn in fitting],
            sampling,
        )
        return [
            replace(turn, context=[*chats[turn.sample], {"role": "assistant", "content": normalise(done.text)}])
            for turn, done in zip(fitting, answers, strict=True)
            if done.finish_reason == "stop"
            and done.text.strip()
            and (refuses_throughout(done.text) or not is_bait(turn.text))
        ]

    def longest_chat(self) -> float:
        """Tokens that leave room for this answer, the next user turn, and the answer that `respond` will ask for."""
        assert self.params.turns
        return (self.context_length or math.inf) - 2 * self.params.turns.max_tokens - self.params.max_tokens

    def length(self, chat: Messages) -> int:
        thinking = None if self.params.thinking is None else False
        return len(encoding.prompt_ids(self.tokenizer, self.escape(chat), None, thinking))

    def prefix(self, turn: UserTurn) -> list[int]:
        """Tokens that the template puts before a user's text after the turns before it, and the first words of that text."""
        query = self.query
        if turn.context or turn.tools or turn.thinking is not None:
            how = turn.tools, turn.thinking
            query = encoding.find_pre_query(self.tokenizer, "base", self.escape(turn.context), *how)
        return encoding.tokenise(self.tokenizer, query.prefix + turn.opening) if turn.opening else query.prefix_ids

    def escape(self, chat: Messages) -> Messages:
        return encoding.escape_messages(self.tokenizer, chat)


def as_row(turn: UserTurn, base: manifest.Manifest) -> RawInstruction:
    id = f"{turn.sample:08d}-{records.text_id(base.fingerprint, turn.seed, turn.text)}"
    row: RawInstruction = {
        "id": id,
        "family": cast("Family", turn.kind) if turn.kind else family_of(turn.context),
        "context": turn.context,
        "text": turn.text,
        "finish_reason": turn.finish_reason,
        "n_tokens": turn.n_tokens,
        "temperature": turn.temperature,
        "top_p": turn.top_p,
        "sample": turn.sample,
        "seed": turn.seed,
        "model": base.name,
        "revision": base.revision,
    }
    if turn.tools:
        row["tools"] = turn.tools
    if turn.results:
        row["results"] = turn.results
    if turn.thinking is not None:
        row["thinking"] = turn.thinking
    return row
