"""Which rule chooses right answers? Every strategy of `consensus`, and simpler ones, against the pocket world's truth.

    python benchmarks/consensus.py [questions]        (about two minutes for 1,500; needs nothing but the repository)

Questions are drawn from the base's own training mixture (judging left out: its answers are scores themselves), three
responses per model at temperature 0.8, all judged by all. Intervals: 95 %, normal, over questions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))

from pocket import MODELS, chat, engine, world

from stages import consensus
from stages.core.params import Consensus
from stages.engines.local import seed_of
from stages.judge import filled
from stages.pocket.recipe import MIXTURES

K, TEMPERATURE = 3, 0.8


def gather(items: list[world.Item]) -> pd.DataFrame:
    """One row per response: instruction_id, model, sample, text, score, base_logprob, agreement, right."""
    engines = {name: engine(name) for name in MODELS}
    rows = []
    for name, model in engines.items():
        asked = [(n, k) for n in range(len(items)) for k in range(K)]
        prompts = [chat.prompt_ids(model.tokenizer, [{"role": "user", "content": items[n].prompt}]) for n, _ in asked]
        done = model.complete(
            prompts, [seed_of(name, n, k) for n, k in asked], temperatures=[TEMPERATURE] * len(asked), top_p=1.0, max_tokens=48,
            stop_ids=chat.assistant_stop_ids(model.tokenizer),
        )  # fmt: skip
        rows += [
            dict(id=f"{n}/{name}/{k}", instruction_id=n, model=name, sample=k, text=d.text.strip())
            for (n, k), d in zip(asked, done, strict=True)
        ]
    table = pd.DataFrame(rows).set_index("id")
    pairs = sorted(set(zip(table["instruction_id"], table["text"], strict=True)))
    for name, model in engines.items():
        ids = [
            chat.prompt_ids(model.tokenizer, [{"role": "user", "content": filled(world.RUBRIC, items[n].prompt, t)}])
            for n, t in pairs
        ]
        p = model.next_token(ids, [chat.tokenise(model.tokenizer, digit)[0] for digit in "12345"])
        score = dict(zip(pairs, (p @ np.arange(1, 6)) / p.sum(1), strict=True))
        table[f"by_{name}"] = [score[key] for key in zip(table["instruction_id"], table["text"], strict=True)]
    base = engines["base"]
    end = chat.assistant_stop_ids(base.tokenizer)[:1]
    asked_ids = [chat.prompt_ids(base.tokenizer, [{"role": "user", "content": items[n].prompt}]) for n, _ in pairs]
    fit = dict(
        zip(pairs, base.logprob(asked_ids, [chat.tokenise(base.tokenizer, t) + end for _, t in pairs]), strict=True)
    )
    keys = list(zip(table["instruction_id"], table["text"], strict=True))
    table["base_logprob"] = [fit[key] for key in keys]
    table["score"] = table[[f"by_{name}" for name in MODELS]].mean(axis=1)
    same = table.groupby(["instruction_id", "text"])["model"].transform("size")
    table["agreement"] = same / table.groupby("instruction_id")["model"].transform("size")
    table["right"] = [items[n].answer == text for n, text in keys]
    return table


def line(what: str, right: pd.Series) -> str:
    mean = float(right.mean())
    return f"{what:58} {mean:.3f} ± {1.96 * np.sqrt(mean * (1 - mean) / len(right)):.3f}"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    weights = {skill: share for skill, share in MIXTURES["base"].items() if skill != "judging"}
    table = gather(world.draw(weights, count, "benchmark/consensus"))
    base = table[table["model"] == "base"]
    print(line("base, one sample", base[base["sample"] == 0]["right"]))
    for name in MODELS[1:]:
        print(line(f"{name}, one sample", table[(table["model"] == name) & (table["sample"] == 0)]["right"]))
    print(
        line(
            "base best-of-3 by its own score",
            base.sort_values("by_base", ascending=False).groupby("instruction_id").head(1)["right"],
        )
    )
    for strategy in ("mean_score", "agreement"):
        for tie in (0.0, 0.05, 0.25):
            chosen = consensus.choose(table, Consensus(strategy=strategy, tie=tie))
            print(line(f"{strategy}, ties within {tie} to the base's likelihood", chosen["right"]))
    print(line("the best of the nine, if one knew", table.groupby("instruction_id")["right"].max()))
    for name in MODELS:
        right = (table[f"by_{name}"] > 3) == table["right"]
        print(f"{name} as judge of these responses: right in {right.mean():.3f}")


if __name__ == "__main__":
    main()
