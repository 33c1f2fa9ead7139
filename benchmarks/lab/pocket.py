"""What the pocket lab's three models can do, measured on the suites that the pipeline evaluates with.

    python -m benchmarks.lab.pocket        (about a minute; needs nothing but the repository)

Prints chance-adjusted accuracy per suite and model, and how often each model, as a judge, tells a right response from a
wrong one: expected score above 3 for a right one, below 3 for a wrong one, on the held-out items of the judging suite.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from holdfast.chat import encoding
from holdfast.engines.inspection import inspect_model
from holdfast.engines.interface import Sampling
from holdfast.engines.local import Engine
from holdfast.params.models import Model
from holdfast.pocket import pharmacy, world

ROOT = Path(__file__).parents[2]

MODELS = ("base", "abacus", "lexicon")


def engine(name: str, folder: Path = ROOT / "models" / "pocket") -> Engine:
    return Engine(inspect_model(name, Model(path=name), folder), batch=256)


def items(suite: str) -> list[dict[str, str]]:
    file = ROOT / "data" / "pocket" / "suites" / f"{suite}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def answers(model: Engine, prompts: list[str]) -> list[str]:
    ids = [encoding.prompt_ids(model.tokenizer, [{"role": "user", "content": p}]) for p in prompts]
    sampling = Sampling(0.0, 1.0, 48, encoding.assistant_stop_ids(model.tokenizer))
    done = model.complete(ids, [0] * len(ids), sampling)
    return [d.text for d in done]


def expected_scores(model: Engine, prompts: list[str]) -> np.ndarray:
    ids = [encoding.prompt_ids(model.tokenizer, [{"role": "user", "content": p}]) for p in prompts]
    p = model.next_token(ids, [encoding.tokenise(model.tokenizer, digit)[0] for digit in "12345"])
    return (p @ np.arange(1, 6)) / p.sum(1)


def adjust_for_chance(accuracy: float, suite: str) -> float:
    chance = world.CHANCE.get(suite, 0.0)
    return (accuracy - chance) / (1 - chance)


def measure(model: Engine) -> dict[str, float]:
    """Accuracy per suite; 'judging' is how often the judge tells right from wrong."""
    accuracies = {}
    for suite in world.GENERAL | pharmacy.DOMAIN:
        rows = items(suite)
        prompts = [row["prompt"] for row in rows]
        if suite == "judging":
            right = [
                (s > 3) == (row["answer"] == "5") for s, row in zip(expected_scores(model, prompts), rows, strict=True)
            ]
        else:
            right = [a == row["answer"] for a, row in zip(answers(model, prompts), rows, strict=True)]
        accuracies[suite] = float(np.mean(right))
    return accuracies


def general(scores: dict[str, float]) -> float:
    return float(np.mean([adjust_for_chance(scores[s], s) for s in world.GENERAL]))


def main() -> None:
    measured = {name: measure(engine(name)) for name in MODELS}
    print(f"{'suite':16}" + "".join(f"{name:>10}" for name in MODELS) + "    (chance-adjusted)")
    for suite in world.GENERAL | pharmacy.DOMAIN:
        print(f"{suite:16}" + "".join(f"{adjust_for_chance(measured[n][suite], suite):10.3f}" for n in MODELS))
    print(f"{'general':16}" + "".join(f"{general(measured[n]):10.3f}" for n in MODELS))
    print(
        f"{'judge is right':16}"
        + "".join(f"{measured[n]['judging']:10.3f}" for n in MODELS)
        + "    (of all held-out judgements)"
    )


if __name__ == "__main__":
    main()
