"""Lets one panel member answer every kept instruction k times: the stage `respond`.

An answer to bait that is no refusal is not kept, neither in the cache nor in the file: only that it was given. Only the base
answers beside tools and with thoughts: what another model writes then is in another spelling, and nothing to keep.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from holdfast.chat import encoding
from holdfast.chat.answers import read_answer
from holdfast.chat.templates import Messages
from holdfast.core import manifest, shards
from holdfast.core.rows import Instruction, Response
from holdfast.data.instructions import needs_base
from holdfast.data.refusals import is_refusal
from holdfast.engines import registry
from holdfast.engines.answering import Prompt, answer_chats
from holdfast.engines.interface import Completion, Sampling, seed_of
from holdfast.params.respond import Respond


class Request(NamedTuple):
    """One response to one instruction. In JSON, as the cache keeps and sends it, a list."""

    instruction_id: str
    context: Messages  # the turns before the instruction
    text: str  # the instruction
    sample: int  # 0 to k - 1
    bait: bool = False  # asks for what deserves a refusal
    tools: list[Any] | None = None  # that may be called
    thinking: bool | None = None  # the switch for thoughts; None: as the template has it

    def prompt(self) -> Prompt:
        return Prompt([*self.context, {"role": "user", "content": self.text}], self.tools, self.thinking)

    def limit(self, params: Respond) -> int:
        """Tokens of the response, at most."""
        if self.thinking:
            return params.thinking_max_tokens
        return params.tools_max_tokens if self.tools else params.max_tokens


def answer_instructions(instructions: list[Instruction], member: manifest.Manifest, params: Respond) -> list[Response]:
    """k responses to each instruction. Finished shards come from the cache."""
    requests = [
        Request(row["id"], row["context"], row["text"], n, row["bait"], row.get("tools"), row.get("thinking"))
        for row in instructions
        if not needs_base(row) or row["model"] == member.name
        for n in range(params.k)
    ]
    work = partial(answer_shard, params=params, member=member)
    identity = [params.model_dump(exclude={"k"}), *registry.engine_identity(member, __file__)]
    workers = registry.choose_spread(member)
    return shards.run_shards("respond", requests, params.shard * params.k, identity, work, "responses", workers)


def answer_shard(rows: list[Any], params: Respond, member: manifest.Manifest) -> list[Response]:
    """A response for each Request."""
    engine, requests = registry.load_engine(member, params.batch), [Request(*row) for row in rows]
    seeds = [seed_of(params.seed, member.name, request.instruction_id, request.sample) for request in requests]
    as_it_is = all(request.prompt().as_it_is() for request in requests)
    tokenizer = None if as_it_is or not member.files else manifest.load_tokenizer(member.folder())
    completions: dict[int, Completion] = {}
    for limit in sorted({request.limit(params) for request in requests}):
        part = [n for n, request in enumerate(requests) if request.limit(params) == limit]
        sampling = Sampling(temperature=params.temperature, top_p=params.top_p, max_tokens=limit)
        prompts = [requests[n].prompt() for n in part]
        done = answer_chats(engine, tokenizer, prompts, [seeds[n] for n in part], sampling)
        completions |= zip(part, done, strict=True)
    written = [completions[n] for n in range(len(requests))]
    reasons = [find_reason(tokenizer, *pair) for pair in zip(requests, written, strict=True)]
    return [
        dict(
            id=f"{request.instruction_id}/{member.name}/{request.sample}",
            instruction_id=request.instruction_id,
            text=""
            if reason == "withheld"
            else done.text.rstrip()
            if needs_base(request._asdict())
            else done.text.strip(),
            finish_reason=reason,
            n_tokens=done.n_tokens,
            sample=request.sample,
            seed=seed,
            model=member.name,
            revision=member.revision,
        )
        for request, seed, done, reason in zip(requests, seeds, written, reasons, strict=True)
    ]


def find_reason(tokenizer: Any, request: Request, done: Completion) -> str:
    """The `finish_reason` of the response."""
    if request.bait and not is_refusal(done.text):
        return "withheld"
    if needs_base(request._asdict()):
        chat = encoding.escape_messages(tokenizer, request.prompt().chat)
        if read_answer(tokenizer, chat, done.text, request.tools, request.thinking) is None:
            return "unreadable"
    return done.finish_reason
