"""Rows per second of the transformers engine against plain `model.generate` loops, and against distilabel where it is installed.

    python -m benchmarks.speed.synthesis [--model base] [--rows 1024]        (about ten minutes on one thread)

The same weights, precision and requests for all, one process with one thread. User turns are written from the pre-query
prefix, three answers to each of some and then one, judgements of those answers: with the lab's short rubric, and with that of
the profiles, which has as many words as the paper's. A loop takes fixed batches in the order of the rows, of the
size that suits it best. Contestants take turns, the better of two runs counts. On a CPU seconds are those of the process, so
that other work on the machine weighs less. A judgement as text is measured in three forms: the digit alone, greedily; the
mean of 20 sampled digits, which is how the engine's number (an expectation) is had from text (G-Eval, arXiv 2303.16634,
sec. 3); and 48 tokens, for a rubric that asks for reasons before the score. distilabel (`pip install distilabel==1.5.3
requests`) runs as it comes, row by row, and with its pipeline told to make batches.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
import torch
import transformers

from holdfast.chat import encoding
from holdfast.core import storage
from holdfast.engines import local
from holdfast.engines.inspection import inspect_model
from holdfast.engines.interface import Sampling, seed_of
from holdfast.panel.scoring import fill_rubric, read_rubric
from holdfast.params.models import Model

ROOT = Path(__file__).resolve().parents[2]

BATCHES = (32, 128, 256)  # of the loops; the engine has 256, the default of the stages
TURN, ANSWER, HEAT = (
    96,
    48,
    0.8,
)  # tokens of a user turn and of an answer at most, temperature of answers: as in params.yaml
SAMPLES = 20  # digits of which a mean is taken
Ids = list[list[int]]


def seconds(work: Callable[[], Any]) -> float:
    accelerated = torch.accelerator.is_available()
    clock = time.perf_counter if accelerated else time.process_time
    began = clock()
    work()
    if accelerated:
        torch.accelerator.synchronize()
    return clock() - began


def rates(contestants: dict[str, tuple[int, Callable[[], Any]]], rounds: int = 2) -> dict[str, float]:
    """Rows per second of each (rows, work): the better of two rounds, everybody once in each."""
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, (_, work) in contestants.items():
            best[name] = min(best[name], seconds(work))
    return {name: rows / best[name] for name, (rows, _) in contestants.items()}


def loop(engine: local.Engine, prompts: Ids, batch: int, longest: int, stops: list[int], **options: Any) -> list[str]:
    """The plain way: every batch runs until its last row has ended."""
    texts = []
    for start in range(0, len(prompts), batch):
        ids, attention = engine._pad_left(prompts[start : start + batch])
        out = engine.model.generate(
            input_ids=ids,
            attention_mask=attention,
            max_new_tokens=longest,
            eos_token_id=stops,
            pad_token_id=engine.tokenizer.pad_token_id,
            **options,
        )
        texts += engine.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return texts


def loops(engine: local.Engine, prompts: Ids, longest: int, stops: list[int], **options: Any) -> dict[str, Any]:
    def one(size: int) -> Callable[[], Any]:
        return lambda: loop(engine, prompts, size, longest, stops, **options)

    return {f"loop of {size}": (len(prompts), one(size)) for size in BATCHES}


def sampling_options(temperature: float) -> dict[str, Any]:
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}


def with_distilabel(folder: Path, prefix: str, turns: list[str], asked: list[str]) -> dict[str, dict[str, Any]]:
    """Its own tasks on the same weights: Magpie writes user turns, TextGeneration answers and judges."""
    if importlib.util.find_spec("distilabel") is None:
        print("distilabel is not installed: left out\n")
        return {}
    from distilabel.models import TransformersLLM
    from distilabel.steps.tasks import MagpieGenerator, TextGeneration

    def language_model(longest: int, heat: float, **more: Any) -> Any:
        how = {"max_new_tokens": longest, "temperature": heat, "repetition_penalty": 1.0, "do_sample": heat > 0}
        return TransformersLLM(model=str(folder), torch_dtype="float32", generation_kwargs=how, **more)

    def load(step: Any, size: int) -> Any:
        step.set_runtime_parameters({})
        step.load()
        if size > 1:
            step.llm._pipeline._batch_size = size
        return step

    def write(rows: int, size: int) -> Callable[[], Any]:
        llm = language_model(TURN, 1.0, use_magpie_template=True, magpie_pre_query_template=prefix)
        step = MagpieGenerator(llm=llm, n_turns=1, num_rows=rows, batch_size=rows, only_instruction=True)
        return lambda step=load(step, size): list(step.process())

    def answer(texts: list[str], size: int, longest: int, heat: float) -> Callable[[], Any]:
        step = TextGeneration(llm=language_model(longest, heat), input_batch_size=len(texts))
        rows = [{"instruction": text} for text in texts]
        return lambda step=load(step, size): list(step.process(rows))

    contestants: dict[str, dict[str, Any]] = {"user turns": {}, "answers": {}, "judgements": {}}
    for name, rows, size in (("distilabel", 32, 1), ("distilabel, batches of 32", 256, 32)):
        contestants["user turns"][name] = (rows, write(rows, size))
        contestants["answers"][name] = (len(turns[:rows]), answer(turns[:rows], size, ANSWER, HEAT))
        contestants["judgements"][name] = (len(asked[:rows]), answer(asked[:rows], size, ANSWER, 0.0))
    return contestants


def main(model: str, rows: int, k: int) -> None:
    folder = ROOT / "models" / "pocket" / model
    engine = local.Engine(inspect_model("base", Model(path=model), folder.parent), 256)
    tokenizer, query = engine.tokenizer, encoding.find_pre_query(engine.tokenizer, model)
    seeds, stops = [seed_of("synthesis", n) for n in range(rows)], list(encoding.assistant_stop_ids(tokenizer))
    sampling = Sampling(1.0, 1.0, TURN, query.stop_ids, query.stop_strings)

    def write() -> list[local.Completion]:
        return engine.complete([query.prefix_ids] * rows, seeds, sampling)

    texts = [done.text.strip() for done in write()]
    turns = [text for text in texts[: -(-rows // k)] for _ in range(k)][:rows]
    chats = [[{"role": "user", "content": engine.escape_special_tokens(text)}] for text in turns]

    def answer() -> list[local.Completion]:
        return engine.answer(chats, seeds, Sampling(HEAT, 1.0, ANSWER))

    alone = [
        [{"role": "user", "content": engine.escape_special_tokens(text)}] for text in dict.fromkeys(texts)
    ]  # each once

    def answer_once() -> list[local.Completion]:
        return engine.answer(alone, seeds[: len(alone)], Sampling(HEAT, 1.0, ANSWER))

    said = [engine.escape_special_tokens(done.text.strip()) for done in answer()]
    rubric, long_rubric = (read_rubric(ROOT / file) for file in ("data/pocket/rubric.txt", "profiles/rubric.txt"))
    asked, long_asked = (
        [fill_rubric(form, c[0]["content"], text) for c, text in zip(chats, said, strict=True)]
        for form in (rubric, long_rubric)
    )
    judged, long_judged = ([[{"role": "user", "content": text}] for text in many] for many in (asked, long_asked))
    few = [encoding.prompt_ids(tokenizer, c) for c in judged[: rows // 8]]
    prefixes = [query.prefix_ids] * rows
    answered, once, marked, long_marked = (
        [encoding.prompt_ids(tokenizer, c) for c in many] for many in (chats, alone, judged, long_judged)
    )
    others = with_distilabel(folder, query.prefix, [c[0]["content"] for c in chats], asked)

    device = engine.device.type if engine.device.type == "cpu" else torch.cuda.get_device_name()
    print(f"{model}, {rows:,} rows, one thread, {device}, {engine.model.dtype}, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}, python {platform.python_version()}\n")
    table: dict[str, dict[str, float]] = {}
    cells: dict[str, dict[str, Any]] = {
        "user turns": {
            "Holdfast": (rows, write),
            **loops(engine, prefixes, TURN, list(query.stop_ids), **sampling_options(1.0)),
        },
        "answers": {"Holdfast": (rows, answer), **loops(engine, answered, ANSWER, stops, **sampling_options(HEAT))},
        "answers, k = 1": {
            "Holdfast": (len(alone), answer_once),
            **loops(engine, once, ANSWER, stops, **sampling_options(HEAT)),
        },
        "judgements": {
            "Holdfast": (rows, lambda: engine.scores(judged)),
            **loops(engine, marked, ANSWER, stops, do_sample=False),
        },
        "judgements, rubric of the profiles": {
            "Holdfast": (rows, lambda: engine.scores(long_judged)),
            **loops(engine, long_marked, ANSWER, stops, do_sample=False),
        },
    }
    for what, contestants in cells.items():
        table[what] = rates(contestants | others.get(what, {}))
    table["judgements"] |= rates(
        {
            f"loop, mean of {SAMPLES}": (
                len(few),
                lambda: loop(engine, few, 32, ANSWER, stops, num_return_sequences=SAMPLES, **sampling_options(1.0)),
            ),
            f"loop, {ANSWER} tokens": (
                len(few),
                lambda: loop(engine, few, 32, ANSWER, stops, min_new_tokens=ANSWER, do_sample=False),
            ),
        }
    )
    print("| rows per second | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
    for name in dict.fromkeys(name for column in table.values() for name in column):
        rate = [f"{column[name]:,.1f}" if name in column else "" for column in table.values()]
        print(f"| {name} | " + " | ".join(rate) + " |")
    compare(table)


def compare(table: dict[str, dict[str, float]]) -> None:
    print("\n| Holdfast against | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
    best = {w: max(rate for name, rate in column.items() if name.startswith("loop of")) for w, column in table.items()}
    lines = {"the best loop": best}
    for name in dict.fromkeys(n for column in table.values() for n in column):
        if not name.startswith(("Holdfast", "loop of")):
            lines[name] = {what: column[name] for what, column in table.items() if name in column}
    for name, others in lines.items():
        ratio = [f"{column['Holdfast'] / others[w]:.1f} x" if w in others else "" for w, column in table.items()]
        print(f"| {name} | " + " | ".join(ratio) + " |")
    report = ROOT / "reports" / "consensus.json"
    if not report.is_file():
        return
    consensus = storage.read_json(report)
    kept = consensus["instructions"] / 10_000
    ours = {w: column["Holdfast"] for w, column in table.items()}
    cost = [1 / kept / ours["user turns"], 9 / ours["answers"], consensus["calls_per_kept_row"] / ours["judgements"]]
    plain = [1 / kept / best["user turns"], 9 / best["answers"], 27 / best["judgements"]]
    print(f"\nseconds per kept row, {kept:.0%} kept, panel of three like this one, three answers of each:")
    print(
        f"- the engine and the adaptive panel ({consensus['calls_per_kept_row']} judgements): {1000 * sum(cost):.1f} ms"
    )
    print(f"- loops, and every judge on every answer (27 judgements, arXiv 2506.09428): {1000 * sum(plain):.1f} ms")


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument(
        "--k", type=int, default=3, help="answers to each turn, as respond.k: equal prompts are read once"
    )
    main(**vars(parser.parse_args()))
