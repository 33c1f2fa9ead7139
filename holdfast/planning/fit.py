"""Do the lengths in params.yaml fit a model's context? Used by `holdfast init`, `holdfast plan` and the profiles' test.

The longest sequence is a judge's: the rubric, an instruction and a response to it.
"""

from __future__ import annotations

from holdfast.core import manifest
from holdfast.params.whole import Params

TEMPLATE_TOKENS = (
    64  # tokens that a chat template puts around the turns, with a default system turn; more than any known one
)
MIN_TURN_TOKENS = 16  # tokens; shorter turns hold nothing


def device_memory() -> int:
    """Bytes of one device: a GPU's own, or on a CPU the machine's."""
    import psutil
    import torch

    gpu = manifest.find_device().type == "cuda"
    return int(torch.cuda.get_device_properties(0).total_memory if gpu else psutil.virtual_memory().total)


def lengths(context: int, rubric: int, ask: int, answer: int) -> tuple[int, int] | None:
    """The given lengths of an instruction and of a response (tokens), cut down to what `context` holds beside a rubric of
    `rubric` tokens: an instruction keeps at least a third of the room. None if there is no room."""
    room = context - rubric - TEMPLATE_TOKENS - 1
    if room < 3 * MIN_TURN_TOKENS:
        return None
    ask = min(ask, max(room // 3, room - answer))
    return ask, min(answer, room - ask)


def problems(params: Params, contexts: dict[str, int], rubric: int) -> list[str]:
    """What does not fit, in one sentence each. `contexts`: tokens by model name; 0 or no entry: unknown, so not checked."""
    ask, answer, sentences = params.reconstruct.max_tokens, params.respond.max_tokens, []
    for name in params.panel:
        context = contexts.get(name, 0)
        needed = rubric + ask + answer + TEMPLATE_TOKENS + 1
        if context and needed > context:
            parts = f"{rubric} for the rubric, {ask} for an instruction, {answer} for a response, {TEMPLATE_TOKENS + 1} around them"
            sentences.append(f"'{name}' has a context of {context:,} tokens; judging needs up to {needed:,}: {parts}")
    base = contexts.get(params.base, 0)
    if base and params.finetune.max_length > base:
        sentences.append(
            f"finetune.max_length {params.finetune.max_length:,} is above the base's context of {base:,} tokens"
        )
    if base and params.evaluate.domain_test != "off" and params.evaluate.max_tokens >= base:
        sentences.append(
            f"evaluate.max_tokens {params.evaluate.max_tokens:,} leaves no room in the base's context of {base:,}"
        )
    if params.models[params.base].endpoint and params.evaluation_backend == "transformers":
        sentences.append(
            "evaluate runs base and arms on this machine's weights: the base's endpoint does not serve the arms; a server that "
            "serves all of them goes into evaluate.url"
        )
    return sentences
