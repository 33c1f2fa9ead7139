"""How fast a model writes and scores on this machine: a few seconds of each, with the settings of params.yaml.

Used by `holdfast plan`. Rates are tokens per second of one process; what is written is looked at for its lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.engines import local, registry
from holdfast.engines.interface import Completion, Sampling, seed_of
from holdfast.params.whole import Params
from holdfast.planning.costs import Means, Rates
from holdfast.planning.devices import MEASURE_SECONDS, clock, limit_threads

MAX_ROWS = 128  # at once, at most; fewer where the batch is smaller


def measure_generation(
    model_manifest: manifest.Manifest, params: Params, rubric: str, instructions: Sequence[str]
) -> tuple[Rates, Means, list[str], list[str]]:
    """(rates, means, instructions, answers) of a model whose weights are here. `instructions`: for the answers, k each;
    none: those that the model itself writes. Rates of training are left out: holdfast/planning/training_speed.py."""
    with limit_threads(1 if registry.count_workers(model_manifest) > 1 else None):
        engine = registry.load_engine(model_manifest, params.reconstruct.batch)
        assert isinstance(engine, local.Engine)
        rows = min(MAX_ROWS, params.reconstruct.batch)
        query = encoding.find_pre_query(engine.tokenizer, model_manifest.source)
        heats = [params.reconstruct.temperatures[n % len(params.reconstruct.temperatures)] for n in range(rows)]

        def turns(length: int) -> list[Completion]:
            return engine.complete(
                [query.prefix_ids] * rows,
                [seed_of("plan", n) for n in range(rows)],
                Sampling(
                    heats,
                    min(params.reconstruct.top_p),
                    length,
                    query.stop_ids,
                    query.stop_strings,
                    params.reconstruct.min_p,
                ),
            )

        written, seconds, turn, ended = time_writing(turns, params.reconstruct.max_tokens)
        texts = [done.text.strip() for done in written if done.text.strip()] or ["?"]
        instructions = list(instructions) or texts[: max(1, MAX_ROWS // 4)]
        chats = [[{"role": "user", "content": text}] for text in instructions for _ in range(params.respond.k)]

        def answers(length: int) -> list[Completion]:
            seeds = [seed_of("plan", model_manifest.name, n) for n in range(len(chats))]
            return engine.answer(chats, seeds, Sampling(params.respond.temperature, params.respond.top_p, length))

        answered, more, answer, _ = time_writing(answers, params.respond.max_tokens)
        prefix = sum(len(encoding.prompt_ids(engine.tokenizer, c)) for c in chats) / len(chats) - length_of(
            engine, instructions
        )
        judge_chats = [[{"role": "user", "content": f"{rubric}\n{c[0]['content']}"}] for c in chats]
        start = clock()
        engine.scores(judge_chats)
        read = clock() - start
        tokens = sum(len(encoding.prompt_ids(engine.tokenizer, c)) for c in judge_chats)
    write = sum(done.n_tokens + 1 for done in [*written, *answered]) / (seconds + more)
    whole = [done.text for done in written if done.finish_reason == "stop"]
    kept_part = ended * len(set(whole)) / max(len(whole), 1)
    means = Means(turn=turn, answer=answer, prefix=max(prefix, 0.0), kept=kept_part or Means().kept)
    return Rates(write, tokens / read), means, instructions, [done.text.strip() for done in answered]


def length_of(engine: local.Engine, texts: Sequence[str]) -> float:
    return sum(len(encoding.tokenise(engine.tokenizer, text)) for text in texts) / len(texts)


def time_writing(
    write: Callable[[int], list[Completion]], longest: int
) -> tuple[list[Completion], float, float, float]:
    """(completions, seconds, mean length in tokens, part that ends by itself) of writing for about MEASURE_SECONDS. Where time cuts
    the texts short, lengths are taken to be geometric, cut off at `longest`: their mean is tokens written by ends seen."""
    start = clock()
    write(min(4, longest))  # also warms up
    step = max(clock() - start, 1e-9) / min(4, longest)
    length = max(min(longest, int(MEASURE_SECONDS / step)), min(8, longest))
    start = clock()
    done = write(length)
    seconds = clock() - start
    ends = sum(one.finish_reason == "stop" for one in done)
    if length == longest:
        return done, seconds, sum(one.n_tokens for one in done) / len(done), ends / len(done)
    mean = sum(one.n_tokens + 1 for one in done) / max(1, ends)
    ended = 1 - math.exp(-longest / mean)
    return done, seconds, mean * ended, ended
