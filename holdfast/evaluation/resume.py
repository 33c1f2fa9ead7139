"""lm-eval's requests through the cache, shard by shard: an evaluation that was killed goes on where it was.

The shards are cut from lm-eval's own order, longest first, at whole batches. So a batch holds the same rows whatever was
answered before, and its answers are the same to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.core import cache, meter
from holdfast.evaluation import backends

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

METHODS = ("generate_until", "loglikelihood", "loglikelihood_rolling")  # all that lm-eval asks a model for
SHARD = 512  # requests, at least: a server or vLLM is kept busy by as many


def resumable(model: LM, batch: int, identity: Any, parameters: int = 0) -> LM:
    """The model, whose answers are on disk shard by shard. `identity`: weights and engine, all that decides an answer.
    `parameters` of the model, for the cost ledger."""
    size, code = -(-SHARD // batch) * batch, cache.code_version(__file__, backends.__file__)
    for method in METHODS:
        ask = partial(answers, getattr(model, method), method, model.tok_encode, parameters)  # type: ignore[attr-defined]
        setattr(model, method, partial(in_shards, ask, model.tok_encode, size, [method, batch, code, identity]))  # type: ignore[attr-defined]
    return model


def in_shards(
    ask: Callable[[list[Any]], list[Any]], encode: Callable[[str], Sequence[int]], size: int, identity: Any,
    requests: Sequence[Instance], **_: Any,
) -> list[Any]:  # fmt: skip
    """One answer per request, in order. Requests of other generation settings are never in one shard."""
    asked = [list(request.args) for request in requests]
    length = {text: len(encode(text)) for text in {str(row[0]) for row in asked}}
    groups: dict[str, list[int]] = {}
    for n, row in enumerate(asked):
        settings = json.dumps(row[1], sort_keys=True) if len(row) > 1 and isinstance(row[1], dict) else ""
        groups.setdefault(settings, []).append(n)
    found: list[Any] = [None] * len(asked)
    for group in groups.values():
        group.sort(key=lambda n: (-length[str(asked[n][0])], str(asked[n][0])))
        rows = cache.shards("evaluate", [asked[n] for n in group], size, identity, ask, "requests")
        for n, row in zip(group, rows, strict=True):
            found[n] = tuple(row) if isinstance(row, list) else row
    return found


def answers(
    method: Callable[..., list[Any]], kind: Any, encode: Callable[[str], Sequence[int]], parameters: int, part: list[list[Any]]
) -> list[Any]:  # fmt: skip
    """One shard, asked as lm-eval asks; what it samples does not hang on the shards before it."""
    import torch
    from lm_eval.api.instance import Instance

    torch.manual_seed(int(cache.key(part)[:15], 16))
    requests = [Instance(request_type=kind, doc={}, arguments=tuple(row), idx=0) for row in part]
    found = list(method(requests, disable_tqdm=True))
    read = sum(
        len(encode(text)) for row in part for text in row if isinstance(text, str)
    )  # a choice is read, not written
    meter.count(parameters, read=read, written=sum(len(encode(text)) + 1 for text in found if isinstance(text, str)))
    return found
