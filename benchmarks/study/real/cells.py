"""Trains one arm after the other on a real model and measures what is learnt and what is lost; one line of JSON a cell.

    python -m benchmarks.study.real.cells PROJECT OUT.jsonl CELL...     a cell: name:key=value,key=value
        [--test FILE.jsonl]     conversations to test instead of the project's split
        [--held-out]            compare on the instructions that the project holds out for its self suite

    python -m benchmarks.study.real.cells --table OUT.jsonl [--answers CELL...]

PROJECT is a folder made by `holdfast init`, run up to `balance`; its test split is the domain's. A cell's keys are fields of
mix.arms and finetune.arms, and `epochs`, `seed`, `cut` (tokens of a replay answer, at most); or `trained`, the folder of an arm that
`dvc repro` has trained in a project, from PROJECT: then it is only measured. Cells that OUT holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

HELD_OUT = 60  # instructions that no cell replays; their greedy answers are compared
ANSWER_TOKENS = 128
EVERYDAY = [
    "What is the capital of France?", "Write a short poem about the sea.", "What is 12 + 7?", "Who wrote Romeo and Juliet?",
    "Explain photosynthesis in two sentences.", "Give me three tips for sleeping better.", "How do I boil an egg?",
    "What is the largest planet of the solar system?", "Translate 'good morning' into Spanish.", "Name five fruits.",
    "Why is the sky blue?", "Write a polite email that declines an invitation.", "What does a doctor do?",
    "Tell me a joke.", "How many days are in a week?", "What is a noun?", "Suggest a name for a cat.",
    "What is the opposite of hot?", "Summarise the story of Cinderella in one sentence.", "Hello, how are you?",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("cells", nargs="*")
    parser.add_argument("--table", type=Path)
    parser.add_argument(
        "--answers", nargs="*", default=[], help="cells whose everyday answers are printed beside the base's"
    )
    parser.add_argument("--items", type=int, default=200, help="items of the domain's test split")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--held-out", action="store_true")
    given = parser.parse_args()
    if given.table:
        return print_tables([json.loads(line) for line in given.table.read_text().splitlines()], given.answers)
    out, test = given.out.absolute(), given.test and given.test.absolute()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1"}
    os.chdir(given.project)
    done = {cell["cell"] for cell in map(json.loads, out.read_text().splitlines())} if out.is_file() else set()
    study = Study(given.items, test, given.held_out)
    for cell in ["base", *given.cells]:
        name, _, settings = cell.partition(":")
        if name in done:
            continue
        values = {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in settings.split(",") if pair)}
        result = {"cell": name, "settings": values, **study.run(values, name == "base")}
        with out.open("a") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
        print(json.dumps({k: v for k, v in result.items() if k not in ("answers", "settings")}), flush=True)
        print(
            *(f"    {q} -> {a[:90]!r}" for q, a in list(zip(EVERYDAY, result["answers"], strict=True))[:6]),
            sep="\n",
            flush=True,
        )


def print_tables(cells: list[dict[str, Any]], shown: list[str]) -> None:
    base = cells[0]
    plain = min((c["flops"] for c in cells if c["settings"].get("share") == 0), default=None)
    print("| cell | rows, domain + replay | domain | probability | chrF | short | everyday short | FLOPs |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for cell in cells:
        rows = f"{cell['rows']['domain']:,} + {cell['rows']['replay']:,}" if "rows" in cell else "-"
        cost = f"{cell['flops'] / plain:.1f} ×" if plain and "flops" in cell else "-"
        print(
            f"| {cell['cell']} | {rows} | {cell['domain']:.1f} | {cell['probability']:.3f} | {cell['chrf']:.0f} | "
            f"{cell['short']} of {HELD_OUT} | {cell['everyday_short']} of {len(EVERYDAY)} | {cost} |"
        )
    if shown:
        picked = [base, *(cell for name in shown for cell in cells if cell["cell"] == name)]
        print(
            "\n| question | "
            + " | ".join(cell["cell"] for cell in picked)
            + " |\n|---" * 1
            + "|---" * len(picked)
            + "|"
        )
        for n, question in enumerate(EVERYDAY):
            print("| " + " | ".join([question, *(brief(cell["answers"][n]) for cell in picked)]) + " |")


def brief(text: str, most: int = 110) -> str:
    line = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return line if len(line) <= most else line[:most] + " ..."


class Study:
    def __init__(self, items: int, test: Path | None, held_out: bool) -> None:
        from holdfast.core import manifest, records
        from holdfast.data import mixture
        from holdfast.params.finetune import Finetune
        from holdfast.params.mix import Mix

        self.base, self.tuning, self.mix = manifest.load(Path("models/manifest/base.json")), Finetune.load(), Mix.load()
        tokenizer = manifest.load_tokenizer(self.base.folder())
        self.domain = mixture.domain_rows(tokenizer, records.read("domain", Path("data/domain/train.parquet")))
        rows = map(json.loads, test.read_text().splitlines()) if test else None
        self.test: list[Any] = list(rows or records.read("domain", Path("data/domain/test.parquet")))[:items]
        self.tokenizer = tokenizer
        replay = records.read("replay", Path("data/replay/replay.parquet"))
        order: list[Any] = sorted(replay, key=lambda row: records.text_id("held out", row["id"]))
        self.held_out, self.replay = order[:HELD_OUT], order[HELD_OUT:]
        if held_out:
            own = records.read("instructions_kept", Path("data/instructions/held_out.parquet"))
            self.held_out = [{**r, "instruction": r["text"]} for r in own if r["family"] != "refusals"][:HELD_OUT]
        chats = [[*row["context"], {"role": "user", "content": row["instruction"]}] for row in self.held_out]
        self.chats = [*chats, *([{"role": "user", "content": text}] for text in EVERYDAY)]
        self.base_answers = self.answer(self.base, self.chats)

    def cut(self, tokens: int | None) -> list[dict[str, Any]]:
        """The replay rows with answers of so many tokens at most."""
        if tokens is None:
            return self.replay
        ids = [self.tokenizer(row["response"], add_special_tokens=False)["input_ids"][:tokens] for row in self.replay]
        return [{**row, "response": self.tokenizer.decode(some)} for row, some in zip(self.replay, ids, strict=True)]

    def answer(self, model: Any, chats: list[Any], max_tokens: int = ANSWER_TOKENS) -> list[str]:
        from holdfast.engines import registry
        from holdfast.engines.interface import Sampling

        engine = registry.load_engine(model, 32)
        done = engine.answer(chats, [0] * len(chats), Sampling(temperature=0, top_p=1.0, max_tokens=max_tokens))
        return [one.text.strip() for one in done]

    def run(self, values: dict[str, Any], base_only: bool) -> dict[str, Any]:
        if base_only:
            return self.measure(self.base)
        from holdfast.data import mixture
        from holdfast.params.finetune import Arm
        from holdfast.training import results
        from holdfast.training.fine_tuning import train_arm

        if "trained" in values:
            folder = Path(values["trained"])
            ledger = json.loads((folder.parents[1] / "reports/training" / folder.name / "ledger.json").read_text())
            return {"rows": ledger["rows"], "flops": ledger["flops"], **self.measure(self.describe(folder, values))}
        arm = Arm(**{key: values[key] for key in Arm.model_fields if key in values})
        share, epochs, seed = values["share"], values.get("epochs", self.mix.epochs), values.get("seed", 1)
        own = {"arms": {"cell": arm}, "seed": seed, **{k: values[k] for k in ("batch_size", "warmup") if k in values}}
        tuning = self.tuning.model_copy(update=own)
        replay = mixture.replay_rows(self.tokenizer, self.cut(values.get("cut"))) if share else []
        rows = mixture.build_mixture(self.domain, replay, share, epochs, self.mix.max_repeats, seed, "cell")
        with tempfile.TemporaryDirectory() as scratch:
            began = time.monotonic()
            with train_arm(tuning, "cell", arm, self.base, rows, Path("data/mixes")) as trained:
                assert trained is not None
                ledger = results.training_ledger(trained, self.base)
                results.save_tuned_model(trained, self.base, Path(scratch) / "cell")
            seconds = time.monotonic() - began
            tuned = self.describe(Path(scratch) / "cell", values)
            return {"seconds": round(seconds), "rows": ledger["rows"], "flops": ledger["flops"], **self.measure(tuned)}

    def describe(self, folder: Path, values: dict[str, Any]) -> Any:
        return replace(self.base, source=str(folder), hub=False, fingerprint=f"{values}", files={})

    def measure(self, model: Any) -> dict[str, Any]:
        import math

        import sacrebleu

        from holdfast.engines import registry

        asked = [row["messages"][:-1] for row in self.test]
        gold = [row["messages"][-1]["content"].strip() for row in self.test]
        said = self.answer(model, asked, 48)
        right = sum(a == b for a, b in zip(said, gold, strict=True))
        answers = self.answer(model, self.chats)
        engine = registry.load_engine(model, 32)
        likelihood = engine.likelihood(self.chats[:HELD_OUT], self.base_answers[:HELD_OUT])
        chrf = [sacrebleu.sentence_chrf(a, [b]).score for a, b in zip(answers, self.base_answers, strict=True)]
        short = [len(a) < len(b) / 5 for a, b in zip(answers, self.base_answers, strict=True)]
        return {
            "domain": 100 * right / len(gold),
            "probability": sum(map(math.exp, likelihood)) / len(likelihood),
            "chrf": sum(chrf[:HELD_OUT]) / HELD_OUT,
            "short": sum(short[:HELD_OUT]),
            "everyday_short": sum(short[HELD_OUT:]),
            "answers": answers[HELD_OUT:],
        }


if __name__ == "__main__":
    sys.exit(main())
