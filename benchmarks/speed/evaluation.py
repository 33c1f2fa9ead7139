"""Evaluation with our engine against lm-eval's own model class: same requests, same weights, one run.

    python -m benchmarks.speed.evaluation MODEL TASKS [--suites a b] [--limit 100] [--batch 32] [--dtype bfloat16]

MODEL: the folder of a chat model; TASKS: a folder of lm-eval task files. For each suite: CPU seconds of both, their ratio, and
how far the answers differ (texts that are not the same; largest difference of log-probabilities, nats).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--suites", nargs="*")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()

    from lm_eval.models.huggingface import HFLM

    from holdfast.chat import encoding
    from holdfast.core import manifest
    from holdfast.engines.inspection import inspect_model
    from holdfast.evaluation import suites
    from holdfast.evaluation.engine_model import EngineModel
    from holdfast.params.evaluate import Evaluate
    from holdfast.params.models import Model

    entry = inspect_model("base", Model(path=given.model.name, dtype=given.dtype), given.model.parent)
    tokenizer = manifest.load_tokenizer(given.model)
    tokenizer.chat_template = encoding.template_of(tokenizer).source
    names = given.suites or sorted(file.stem for file in given.tasks.glob("*.yaml"))
    params = Evaluate(suites={name: {"role": "general"} for name in names}, tasks=str(given.tasks))  # type: ignore[arg-type]
    network = manifest.load_model(given.model, given.dtype)
    theirs = HFLM(
        pretrained=network,
        tokenizer=tokenizer,
        batch_size=given.batch,
        max_length=entry.context,
        device=str(network.device),
    )
    ours = EngineModel(entry, given.batch, tokenizer)
    print(
        "| suite | requests | HFLM, CPU s | ours, CPU s | ratio | answers that differ |\n|---|---:|---:|---:|---:|---|"
    )
    for name, (task, *_) in suites.load_tasks(params, Path("none")).items():
        task.build_all_requests(
            limit=given.limit, apply_chat_template=True, chat_template=theirs.apply_chat_template, tokenizer_name="x"
        )
        requests = task.instances
        kind = requests[0].request_type
        results, seconds = [], []
        for model in (theirs, ours):
            began = time.process_time()
            results.append(getattr(model, kind)(requests, disable_tqdm=True))
            seconds.append(time.process_time() - began)
        print(
            f"| {name} | {len(requests)} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[0] / seconds[1]:.1f} | {differ(kind, *results)} |",
            flush=True,
        )


def differ(kind: str, theirs: list[Any], ours: list[Any]) -> str:
    if kind == "generate_until":
        return f"{sum(a != b for a, b in zip(theirs, ours, strict=True))} of {len(ours)} texts"
    furthest = max(abs(a[0] - b[0]) for a, b in zip(theirs, ours, strict=True))
    greedy = sum(a[1] != b[1] for a, b in zip(theirs, ours, strict=True))
    return f"at most {furthest:.1e} nats, {greedy} greedy"


if __name__ == "__main__":
    main()
