"""Lets one panel member answer every kept instruction k times: the stage `respond`.

An answer to bait that is no refusal is not kept, neither in the cache nor in the file: only that it was given.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from holdfast.chat.templates import Messages
from holdfast.core import shards
from holdfast.core.manifest import Manifest
from holdfast.core.rows import Instruction, Response
from holdfast.data.refusals import is_refusal
from holdfast.engines import registry
from holdfast.engines.interface import Sampling, seed_of
from holdfast.params.respond import Respond


class Request(NamedTuple):
    """One response to one instruction. In JSON, as the cache keeps and sends it, a list."""

    instruction_id: str
    context: Messages  # the turns before the instruction
    text: str  # the instruction
    sample: int  # 0 to k - 1
    bait: bool = False  # asks for what deserves a refusal


def answer_instructions(instructions: list[Instruction], member: Manifest, params: Respond) -> list[Response]:
    """k responses to each instruction. Finished shards come from the cache."""
    requests = [
        Request(row["id"], row["context"], row["text"], n, row["bait"]) for row in instructions for n in range(params.k)
    ]
    work = partial(answer_shard, params=params, member=member)
    identity = [params.model_dump(exclude={"k"}), *registry.engine_identity(member, __file__)]
    workers = registry.choose_spread(member)
    return shards.run_shards("respond", requests, params.shard * params.k, identity, work, "responses", workers)


def answer_shard(rows: list[Any], params: Respond, member: Manifest) -> list[Response]:
    """A response for each Request."""
    engine, requests = registry.load_engine(member, params.batch), [Request(*row) for row in rows]
    chats = [[*request.context, {"role": "user", "content": request.text}] for request in requests]
    seeds = [seed_of(params.seed, member.name, request.instruction_id, request.sample) for request in requests]
    sampling = Sampling(temperature=params.temperature, top_p=params.top_p, max_tokens=params.max_tokens)
    completions = engine.answer(chats, seeds, sampling)
    withheld = [request.bait and not is_refusal(done.text) for request, done in zip(requests, completions, strict=True)]
    return [
        dict(
            id=f"{request.instruction_id}/{member.name}/{request.sample}",
            instruction_id=request.instruction_id,
            text="" if hide else done.text.strip(),
            finish_reason="withheld" if hide else done.finish_reason,
            n_tokens=done.n_tokens,
            sample=request.sample,
            seed=seed,
            model=member.name,
            revision=member.revision,
        )
        for request, seed, done, hide in zip(requests, seeds, completions, withheld, strict=True)
    ]
