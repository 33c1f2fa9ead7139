"""Passes lm-eval's requests through the cache, shard by shard, so that a killed evaluation resumes where it was.

The shards are cut from lm-eval's own order, longest first, at whole batches. So a batch holds the same rows whatever was
answered before, and its answers are the same to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.core import cache, fingerprint, meter, shards

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

WITHOUT_CACHE = "generate_without_cache"  # the method of a resumable model whose answers are on no disk
METHODS = ("generate_until", "loglikelihood", "loglikelihood_rolling")  # all that lm-eval asks a model for
MIN_SHARD_REQUESTS = 512  # requests, at least: a server or vLLM is kept busy by as many


def make_resumable(model: LM, batch: int, identity: Any, parameters: int = 0) -> LM:
    """Replaces the model's methods by ones that keep answers on disk, shard by shard. `identity`: weights and engine, all that decides an answer.
    `parameters` of the model, for the cost ledger."""
    size, code = (
        -(-MIN_SHARD_REQUESTS // batch) * batch,
        fingerprint.of_modules(__name__, "holdfast.evaluation.backends"),
    )
    for method in METHODS:
        ask = partial(answer_shard, getattr(model, method), method, model.tok_encode, parameters)  # type: ignore[attr-defined]
        if method == "generate_until":
            setattr(model, WITHOUT_CACHE, partial(answer_at_once, ask))
        setattr(model, method, partial(answer_in_shards, ask, model.tok_encode, size, [method, batch, code, identity]))  # type: ignore[attr-defined]
    return model


def answer_in_shards(
    ask: Callable[[list[Any]], list[Any]],
    encode: Callable[[str], Sequence[int]],
    size: int,
    identity: Any,
    requests: Sequence[Instance],
    **_: Any,
) -> list[Any]:
    """Returns one answer per request, in order. A shard holds requests of equal generation settings only."""
    rows = [list(request.args) for request in requests]
    length = {text: len(encode(text)) for text in {str(row[0]) for row in rows}}
    groups: dict[str, list[int]] = {}
    for n, row in enumerate(rows):
        settings = json.dumps(row[1], sort_keys=True) if len(row) > 1 and isinstance(row[1], dict) else ""
        groups.setdefault(settings, []).append(n)
    answers: list[Any] = [None] * len(rows)
    for group in groups.values():
        group.sort(key=lambda n: (-length[str(rows[n][0])], str(rows[n][0])))
        results = shards.run_shards("evaluate", [rows[n] for n in group], size, identity, ask, "requests")
        for n, result in zip(group, results, strict=True):
            answers[n] = tuple(result) if isinstance(result, list) else result
    return answers


def answer_at_once(ask: Callable[[list[Any]], list[Any]], requests: Sequence[Instance]) -> list[Any]:
    """Returns one answer per request, in order; a run that is killed asks again."""
    shard = shards.do_shard(ask, [list(request.args) for request in requests])
    meter.total.add(meter.Spent(**shard["spent"], rows=len(requests)))
    return list(shard["results"])


def answer_shard(
    method: Callable[..., list[Any]],
    kind: Any,
    encode: Callable[[str], Sequence[int]],
    parameters: int,
    part: list[list[Any]],
) -> list[Any]:
    """Asks one shard as lm-eval would; what is sampled does not depend on the shards before it."""
    import torch
    from lm_eval.api.instance import Instance

    torch.manual_seed(int(cache.key(part)[:15], 16))
    requests = [Instance(request_type=kind, doc={}, arguments=tuple(row), idx=0) for row in part]
    answers = list(method(requests, disable_tqdm=True))
    read = sum(
        len(encode(text)) for row in part for text in row if isinstance(text, str)
    )  # a choice is read, not written
    meter.count(parameters, read=read, written=sum(len(encode(text)) + 1 for text in answers if isinstance(text, str)))
    return answers
