"""Lets one panel member answer every kept instruction k times: the stage `respond`.

An answer to bait that does not refuse, in its thoughts too, is not kept, neither in the cache nor in the file: only that it was
given. Only the base answers beside tools and with thoughts: what another model writes then is in another spelling, and nothing to
keep. Where an instruction that is no bait has results for its tools, the base reads those of its calls and answers once more.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any, NamedTuple

from holdfast.chat import encoding
from holdfast.chat.answers import read_answer
from holdfast.chat.calls import Call, fits_schema
from holdfast.chat.templates import Messages
from holdfast.core import manifest, shards
from holdfast.core.rows import Instruction, Response
from holdfast.data.instructions import needs_base
from holdfast.data.refusals import refuses_throughout
from holdfast.engines import registry
from holdfast.engines.answering import Prompt, answer_chats
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
    thinking: bool | None = None  # the switch for thoughts; None: as the template has it
    results: dict[str, Any] | None = None  # what each tool returns, by name

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
        Request(
            row["id"],
            row["context"],
            row["text"],
            n,
            row["bait"],
            row.get("tools"),
            row.get("thinking"),
            row.get("results"),
        )
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
    responses: list[Response] = [
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
    for n, turns in read_results(engine, tokenizer, params, requests, written, reasons, seeds).items():
        responses[n]["after"] = turns
    return responses


def find_reason(tokenizer: Any, request: Request, done: Completion) -> str:
    """The `finish_reason` of the response."""
    if request.bait and not refuses_throughout(done.text):
        return "withheld"
    if needs_base(request._asdict()):
        chat = encoding.escape_messages(tokenizer, request.prompt().chat)
        turn = read_answer(tokenizer, chat, done.text, request.tools, request.thinking)
        if turn is None:
            return "unreadable"
        if not calls_fit(turn, request.tools):
            return "misfit"
    return done.finish_reason


def calls_fit(turn: dict[str, Any], tools: list[Any] | None) -> bool:
    return all(fits_schema(Call(**call["function"]), tools or []) for call in turn.get("tool_calls", ()))


def read_results(
    engine: Engine,
    tokenizer: Any,
    params: Respond,
    requests: list[Request],
    written: list[Completion],
    reasons: list[str],
    seeds: list[int],
) -> dict[int, Messages]:
    """By place of a request, the turns after its response: results of its calls, and the base's answer to them. None where the
    response calls nothing, where a result is missing, or where the answer does not end or cannot be read."""
    chats: dict[int, Messages] = {}
    for n, (request, done, reason) in enumerate(zip(requests, written, reasons, strict=True)):
        if request.results and reason == "stop" and not request.bait:
            chat = add_results(tokenizer, request, done)
            chats |= {n: chat} if chat else {}
    if not chats:
        return {}
    prompts = [Prompt(chat, requests[n].tools, requests[n].thinking) for n, chat in chats.items()]
    sampling = Sampling(temperature=params.temperature, top_p=params.top_p, max_tokens=params.tools_max_tokens)
    answers = answer_chats(engine, tokenizer, prompts, [seed_of(seeds[n], "after a result") for n in chats], sampling)
    after = {}
    for (n, chat), done in zip(chats.items(), answers, strict=True):
        turn = read_answer(tokenizer, chat, done.text, requests[n].tools, requests[n].thinking)
        if done.finish_reason == "stop" and done.text.strip() and turn and calls_fit(turn, requests[n].tools):
            results = chat[len(requests[n].context) + 2 :]
            after[n] = [*results, {"role": "assistant", "content": done.text.rstrip()}]
    return after


def add_results(tokenizer: Any, request: Request, done: Completion) -> Messages | None:
    """The chat, escaped, up to the results of the response's calls; None where it has no call, where one has no result, or where the
    template refuses or hides a result."""
    chat = encoding.escape_messages(tokenizer, request.prompt().chat)
    turn = read_answer(tokenizer, chat, done.text, request.tools, request.thinking)
    made = turn.get("tool_calls", []) if turn else []
    if not turn or not made or any(call["function"]["name"] not in (request.results or {}) for call in made):
        return None
    results = [
        {
            "role": "tool",
            "name": call["function"]["name"],
            "tool_call_id": call["id"],
            "content": json.dumps((request.results or {})[call["function"]["name"]]),
        }
        for call in made
    ]
    whole = [*chat, turn, *results]
    try:
        prompt = encoding.render(tokenizer, whole, respond=True, tools=request.tools, thinking=request.thinking)
    except Exception:  # a template is a third-party program: it may refuse a tool's turn
        return None
    shown = all(one["content"] in prompt or json.dumps(one["content"]) in prompt for one in results)
    return whole if shown else None
