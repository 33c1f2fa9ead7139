"""Lets one panel member answer every kept instruction k times: the stage `respond`.

An answer to bait that is no refusal is not kept, neither in the cache nor in the file: only that it was given. Only the base
answers beside tools: a call in another model's spelling is nothing to keep.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from holdfast.chat import encoding
from holdfast.chat.answers import read_answer
from holdfast.chat.templates import Messages
from holdfast.core import manifest, shards
from holdfast.core.rows import Instruction, Response
from holdfast.data.refusals import is_refusal
from holdfast.engines import registry
from holdfast.engines.interface import Completion, Engine, Sampling, seed_of
from holdfast.params.respond import Respond


class Request(NamedTuple):
    """One response to one instruction. In JSON, as the cache keeps and sends it, a list."""

    instruction_id: str
    context: Messages  # the turns before the instruction
    text: str  # the instruction
    sample: int  # 0 to k - 1
    bait: bool = False  # asks for what deserves a refusal
    tools: list[Any] | None = None  # that may be called


def answer_instructions(instructions: list[Instruction], member: manifest.Manifest, params: Respond) -> list[Response]:
    """k responses to each instruction. Finished shards come from the cache."""
    requests = [
        Request(row["id"], row["context"], row["text"], n, row["bait"], row.get("tools"))
        for row in instructions
        if not row.get("tools") or row["model"] == member.name
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
    completions = answer_requests(engine, requests, seeds, params, member)
    tokenizer = manifest.load_tokenizer(member.folder()) if any(request.tools for request in requests) else None
    reasons = [judge_answer(tokenizer, *pair) for pair in zip(requests, completions, strict=True)]
    return [
        dict(
            id=f"{request.instruction_id}/{member.name}/{request.sample}",
            instruction_id=request.instruction_id,
            text="" if reason == "withheld" else done.text.rstrip() if request.tools else done.text.strip(),
            finish_reason=reason,
            n_tokens=done.n_tokens,
            sample=request.sample,
            seed=seed,
            model=member.name,
            revision=member.revision,
        )
        for request, seed, done, reason in zip(requests, seeds, completions, reasons, strict=True)
    ]


def chat_of(request: Request) -> Messages:
    return [*request.context, {"role": "user", "content": request.text}]


def answer_requests(
    engine: Engine, requests: list[Request], seeds: list[int], params: Respond, member: manifest.Manifest
) -> list[Completion]:
    """The engine's answer to each request; those beside tools go on from the prompt that the template writes with them."""
    answers: dict[int, Completion] = {}
    sampling = Sampling(temperature=params.temperature, top_p=params.top_p, max_tokens=params.max_tokens)
    plain, with_tools = ([n for n, one in enumerate(requests) if bool(one.tools) == wanted] for wanted in (False, True))
    if plain:
        done = engine.answer([chat_of(requests[n]) for n in plain], [seeds[n] for n in plain], sampling)
        answers |= zip(plain, done, strict=True)
    if with_tools:
        tokenizer = manifest.load_tokenizer(member.folder())
        prompts = [
            encoding.prompt_ids(tokenizer, encoding.escape_messages(tokenizer, chat_of(requests[n])), requests[n].tools)
            for n in with_tools
        ]
        limits = replace(sampling, stop_ids=encoding.assistant_stop_ids(tokenizer), max_tokens=params.tools_max_tokens)
        answers |= zip(with_tools, engine.complete(prompts, [seeds[n] for n in with_tools], limits), strict=True)
    return [answers[n] for n in range(len(requests))]


def judge_answer(tokenizer: Any, request: Request, done: Completion) -> str:
    """The `finish_reason` of the response."""
    if request.bait and not is_refusal(done.text):
        return "withheld"
    if request.tools:
        chat = encoding.escape_messages(tokenizer, chat_of(request))
        if read_answer(tokenizer, chat, done.text, request.tools) is None:
            return "unreadable"
    return done.finish_reason
