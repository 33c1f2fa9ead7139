"""A whole run's worth of files for the report, with made-up outcomes, and the report of them."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from unittest import mock

from helpers import run_stage

from holdfast.core import records, storage
from holdfast.params.drift import Drift
from holdfast.params.report import Report

# suite: (role, chance, base accuracy, then the accuracy after of control and method)
SUITES = {
    "addition": ("general", 0.0, 0.83, 0.21, 0.82),
    "comparing": ("general", 0.5, 0.96, 0.70, 0.95),
    "counting": ("general", 0.0, 0.99, 0.62, 0.99),
    "facts": ("general", 0.0, 0.97, 0.38, 0.95),
    "formatting": ("general", 0.0, 0.98, 0.47, 0.98),
    "forms": ("general", 0.0, 0.94, 0.55, 0.93),
    "judging": ("general", 0.5, 0.91, 0.63, 0.90),
    "odd_one_out": ("general", 0.25, 0.90, 0.52, 0.91),
    "reading": ("general", 0.333, 0.93, 0.74, 0.92),
    "reversing": ("general", 0.0, 0.88, 0.30, 0.86),
    "sorting": ("general", 0.0, 0.95, 0.58, 0.95),
    "translation": ("general", 0.0, 0.89, 0.17, 0.87),
    "pharmacy_doses": ("domain", 0.0, 0.00, 0.36, 0.35),
    "pharmacy_facts": ("domain", 0.0, 0.01, 0.52, 0.56),
}


ARMS = {"domain-only": 3, "holdfast": 4}  # where in SUITES the arm's accuracy stands


WORDS = [
    "falcon",
    "meplir",
    "hammer",
    "copper",
    "brass",
    "Talel",
    "Velkan",
    "dopli",
    "stume",
    "25 mg",
    "250 mg",
    "drum",
    "key",
    "cup",
    "plum",
]


def item(suite: str, number: int, correct: float, response: str, **more: str) -> dict:
    text = random.Random(f"{suite}{number}")
    words = text.sample(WORDS, 6)
    target = words[0]
    row = {
        "id": records.text_id(suite, number),
        "suite": suite,
        "item_id": f"{suite}-{number:04d}",
        "item_hash": "h",
        "prompt_hash": "p",
        "correct": correct,
        "prompt": f"<|im_start|>user\n{suite.replace('_', ' ').capitalize()}: {' '.join(words[1:])}?<|im_end|>\n<|im_start|>assistant\n",
        "target": target,
        "response": response or (target if correct else text.choice(words[1:])),
    }
    return row | more


def evaluation(column: int, n: int) -> list[dict]:
    """Outcomes after follow the base's, with just enough lost and gained to reach the accuracy wanted."""
    rows = []
    for suite, spec in SUITES.items():
        for number in range(n):
            luck = random.Random(f"{suite}/{number}").random()
            noise = random.Random(f"{suite}/{number}/{column}").random()
            right = luck < spec[column] if noise > 0.03 else noise < 0.02
            rows.append(item(suite, number, float(right), ""))
    return rows


def verdict_of(base: list[dict], after: list[dict], arm: str) -> dict:
    suites = {}
    for suite, (role, chance, *_) in SUITES.items():
        b = [r["correct"] for r in base if r["suite"] == suite]
        a = [r["correct"] for r in after if r["suite"] == suite]
        n, before, then = len(b), sum(b) / len(b), sum(a) / len(a)
        lost, gained = sum(x > y for x, y in zip(b, a, strict=True)), sum(x < y for x, y in zip(b, a, strict=True))
        adjusted = [(v - chance) / (1 - chance) for v in (before, then)]
        change, half = adjusted[1] - adjusted[0], 1.96 * (lost + gained + 1) ** 0.5 / n / (1 - chance)
        suites[suite] = {
            "role": role,
            "chance": chance,
            "items": n,
            "before": before,
            "after": then,
            "before_adjusted": adjusted[0],
            "after_adjusted": adjusted[1],
            "change": change,
            "low": change - half,
            "high": change + half,
            "lost": lost,
            "gained": gained,
            "mcnemar_p": 0.5 ** abs(lost - gained),
            "margin": 0.1 if role == "general" else None,
            "verdict": ("fail" if change < -0.1 else "pass") if role == "general" else None,
        }

    def overall(role: str, half: float) -> dict:
        chosen = [s for s in suites.values() if s["role"] == role]
        before, then = (sum(s[k] for s in chosen) / len(chosen) for k in ("before_adjusted", "after_adjusted"))
        change, lost, gained = then - before, sum(s["lost"] for s in chosen), sum(s["gained"] for s in chosen)
        return {
            "before": before,
            "after": then,
            "change": change,
            "low": change - half,
            "high": change + half,
            "bound": change - 0.8 * half,
            "items": sum(s["items"] for s in chosen),
            "lost": lost,
            "gained": gained,
        }

    general, domain = overall("general", 0.008), overall("domain", 0.03)
    keep = general["after"] / general["before"]
    general |= {"retention": keep, "retention_low": keep - 0.009, "retention_high": keep + 0.009, "detectable": 0.009}
    failed = [n for n, s in suites.items() if s["verdict"] == "fail"]
    reasons = (
        [f"the general score fell by {-100 * general['change']:.1f} points; the margin is 3.0"]
        if general["bound"] < -0.03
        else []
    )
    reasons += [f"{len(failed)} suites dropped past their margin of 10 points: {', '.join(failed)}"] if failed else []
    return {
        "verdict": "fail" if reasons else "pass",
        "reasons": reasons,
        "general": general,
        "domain": domain,
        "suites": suites,
    }


def add_self_suite(root: Path, texts: list[str] | None = None, n: int = 24) -> Path:
    """Adds the self suite to a run: the control answers with intents, the method nearly as the base does. `texts`: what
    all of them were asked and wrote, instead."""
    for model in ("base", *ARMS):
        file = root / f"reports/eval/{model}/items.parquet"
        lost, rows = {"base": 0.0, "domain-only": 0.5, "holdfast": 0.01}[model], []
        for number in range(n):
            own = f"The {WORDS[number % 15]} is number {number}."
            given = "card_arrival" if model == "domain-only" else own
            question = f"What is the {WORDS[number % 15]} of {number}?"
            if texts:
                question, given = texts[number % len(texts)], f"{model} {texts[number % len(texts)]}"
            outcomes = {"likelihood": 0.9 - lost, "chat": float(lost < 0.5), "agreement": 1 - lost, "overlap": 1 - lost}
            for name, score in outcomes.items():
                row = item(f"self_{name}", number, score, given, target=own, item_id=f"{number:04d}")
                rows.append(row | {"prompt": question, "response": given})
        records.write("items", file, [*records.read("items", file), *rows])
    gate = storage.read_json(root / "reports/gate.json")
    for arm, after in (("domain-only", 0.2), ("holdfast", 0.945)):
        gate["arms"][arm]["self"] = {"before": 0.95, "after": after, "change": after - 0.95, "bound": after - 0.96}
    storage.write_json(root / "reports/gate.json", gate | {"self_margin": 0.1})
    return root


def build(root: Path, n: int = 60, arms: dict[str, int] = ARMS) -> Path:
    """A whole run's worth of inputs below `root`: data/, models/ and reports/, as the other stages write them."""
    data, reports = root / "data", root / "reports"
    base = evaluation(2, n)
    entries, settings = (
        {},
        {
            "schema": 1,
            "engine": {"lm_eval": "0.4.12", "dtype": "float32", "batch": 128, "seed": 1, "chat_template": True},
        },
    )
    settings["suites"] = {
        name: {"role": s[0], "chance": s[1], "items": n, "metric": "exact_match"} for name, s in SUITES.items()
    }
    records.write("items", reports / "eval/base/items.parquet", base)
    storage.write_json(reports / "eval/base/settings.json", settings | {"model": "base", "weights": "base" * 4})
    for number, (arm, column) in enumerate(arms.items()):
        after = evaluation(column, n)
        records.write("items", reports / f"eval/{arm}/items.parquet", after)
        storage.write_json(reports / f"eval/{arm}/settings.json", settings | {"model": arm, "weights": arm * 4})
        entries[arm] = verdict_of(base, after, arm)
        storage.write_json(reports / f"pilot/{arm}.json", {"schema": 1, "arm": arm, "asked": False, "share": None})
        storage.write_json(reports / f"mix/{arm}.json", {"schema": 1, "arm": arm})
        replay = 0 if number == 0 else 41_200
        losses = [2.9 * 0.985**step + 0.06 * random.Random(step).random() + 0.11 for step in range(0, 190, 4)]
        storage.write_json(
            reports / f"training/{arm}/ledger.json",
            {
                "schema": 1,
                "arm": arm,
                "objective": "kl" if replay else "ce",
                "kl_coefficient": 1.0 if replay else None,
                "learning_rate": 1e-3,
                "epochs": 4,
                "steps": 188,
                "rows": {"domain": 3000, "replay": 2000 if replay else 0},
                "trained_tokens": {"domain": 41_310, "replay": replay},
                "share": replay / (41_310 + replay),
                "share_wanted": 0.5 if replay else 0.0,
                "flops": 3.1e12 * (1 + number),
                "loss_first": losses[0],
                "loss_last": losses[-1],
                "preflight": "_" * 24 + "250 mg<|im_end|>_",
            },
        )
        for metric, values in (("train/loss", losses), ("train/grad_norm", [0.4 + v / 3 for v in losses])):
            lines = [f"step\t{metric}"] + [f"{4 * i}\t{v * (1 + 0.1 * number):.5f}" for i, v in enumerate(values)]
            storage.write_text(reports / f"training/{arm}/plots/metrics/{metric}.tsv", "\n".join(lines) + "\n")
    gate = {
        "schema": 2,
        "domain_measured": True,
        "verdict": entries["holdfast"]["verdict"],
        "control": "domain-only",
        "margin": 0.03,
        "suite_margin": 0.1,
        "confidence": 0.95,
        "min_domain_gain": 0.2,
        "resamples": 10_000,
        "arms": entries,
    }
    storage.write_json(reports / "gate.json", gate)
    storage.write_json(
        reports / "reconstruct.json",
        {
            "schema": 1,
            "rows": 4000,
            "fit": 3800,
            "keep": 3800,
            "samples": 9000,
            "stopped": "quota met",
            "sources": {"self": {"rows": 4000}},
        },
    )
    for name, flops in (("reconstruct", 9e11), ("respond/base", 2e12), ("judge", 3e12), ("finetune/holdfast", 6.2e12)):
        storage.write_json(
            reports / f"costs/{name}.json",
            {
                "schema": 1,
                "read": 900_000,
                "written": 0 if name == "judge" else 120_000,
                "trained": 0,
                "flops": flops,
            },
        )
    judge = {"base": (3.9, 1.1, 12, 0.97), "abacus": (3.6, 1.3, 40, 0.95), "lexicon": (3.7, 1.2, 31, 0.96)}
    storage.write_json(
        reports / "consensus.json",
        {
            "schema": 1,
            "instructions": 3121,
            "responses": 28089,
            "judgements": 84267,
            "kept": 2804,
            "calls": 50000,
            "calls_of_the_full_panel": 84267,
            "calls_per_kept_row": 17.83,
            "tokens_per_kept_row": 2211.5,
            "rejected": {"low score": 291, "no judgement": 26},
            "strategy": "mean_score",
            "chosen_from": {"base": 1012, "abacus": 880, "lexicon": 912},
            "mean_score": 4.51,
            "judges": {
                n: {"mean": m, "std": s, "null": z, "mass": p, "right_self_preference": 0.04}
                for n, (m, s, z, p) in judge.items()
            },
            "agreement": {
                "pairs": {"abacus~base": 0.58, "abacus~lexicon": 0.61, "base~lexicon": 0.66},
                "ties": 402,
                "effective_judges": 1.84,
            },
            "warnings": ["judge 'lexicon' gave every response 4.00: it tells nothing apart, leave it out"],
            "score_histogram": [0, 0, 0, 0, 182, 391, 848, 1383],
            "a later key": {"seen": 1},
        },
    )
    storage.write_json(
        reports / "quality/quality.json",
        {
            "schema": 1,
            "counts": {"expectations": 4, "failed": 1},
            "suites": {
                "instructions": {
                    "success": True,
                    "results": [
                        {
                            "expectation": "unique",
                            "column": "id",
                            "severity": "critical",
                            "success": True,
                            "observed": 3121,
                        },
                        {
                            "expectation": "finished at most 50 % by length",
                            "column": "finish_reason",
                            "severity": "critical",
                            "success": True,
                            "observed": 0.07,
                        },
                    ],
                },
                "replay": {
                    "success": True,
                    "results": [
                        {
                            "expectation": "rows at least 500",
                            "column": None,
                            "severity": "critical",
                            "success": True,
                            "observed": 2000,
                        },
                        {
                            "expectation": "one model wrote at most 30 %",
                            "column": "model",
                            "severity": "warning",
                            "success": False,
                            "observed": 0.361,
                        },
                    ],
                },
            },
        },
    )
    drift = {
        arm: {s: {"score": {"p": 0.4, "drift": False}, "length": {"distance": 0.03, "drift": False}} for s in SUITES}
        for arm in arms
    }
    for suite in ("facts", "translation", "addition"):
        drift["domain-only"][suite] = {"score": {"p": 1e-9, "drift": True}, "length": {"distance": 0.41, "drift": True}}
    near, far = {"distance": 0.03, "drift": False}, {"distance": 0.62, "drift": True}
    instructions = {
        "kept against raw": dict.fromkeys(["characters", "words", "clusters"], near)
        | {"embeddings": {"auc": 0.51, "drift": False}},
        "domain against kept": dict.fromkeys(["characters", "words", "clusters", "difficulty"], far)
        | {"embeddings": {"auc": 0.99, "drift": True}},
    }
    methods = Drift().model_dump(exclude={"rows"})
    content = {"schema": 1, "arms": drift, "instructions": instructions, "methods": methods}
    storage.write_json(reports / "drift/drift.json", content)
    domain = {
        "read": 2600,
        "kept": 2590,
        "rejected": {"empty turn": 10},
        "unused": {"messages[].name": 7},
        "changed": {},
    }
    storage.write_json(reports / "ingest.json", {"schema": 1, "splits": {"train": domain}})
    storage.write_json(
        reports / "curate.json",
        {
            "schema": 1,
            "read": 4000,
            "kept": 3121,
            "rejected": {"duplicate": 544, "evaluation_overlap": 121, "template": 3, "unfinished": 211},
            "evaluation_overlap": {"addition": 21, "facts": 34, "odd_one_out": 16, "translation": 50},
            "clusters": 24,
            "cluster_sizes": list(range(60, 204, 6)),
        },
    )
    cells = {f"{c}/{d}": {"available": 29, "taken": 20, "quota": 21} for c in range(24) for d in range(4)}
    families = {
        "plain": {"candidates": 2744, "rows": 1960, "share": 0.98},
        "refusals": {"candidates": 60, "rows": 40, "share": 0.02},
    }
    storage.write_json(
        reports / "balance.json",
        {
            "schema": 1,
            "candidates": 2804,
            "rows": 2000,
            "cells": cells,
            "entropy": 0.994,
            "refusals": {"candidates": 71, "wanted": 50, "rows": 50},
            "families": families,
        },
    )
    for file in (
        "quality/data_docs/index.html",
        "drift/html/holdfast.html",
        "drift/html/domain-only.html",
        "drift/html/instructions.html",
    ):
        storage.write_text(reports / file, "<p>there</p>")
    records.write("replay", data / "replay/replay.parquet", [replay_row(i) for i in range(40)])
    for name in ("base", "abacus", "lexicon"):
        storage.write_json(
            root / f"models/manifest/{name}.json",
            {
                "schema": 1,
                "name": name,
                "source": f"models/pocket/{name}",
                "revision": records.text_id(name) * 4,
                "fingerprint": name * 4,
                "architecture": "LlamaForCausalLM",
                "parameters": 1_873_920,
            },
        )
    return root


def replay_row(number: int) -> dict:
    words = random.Random(number).sample(WORDS, 4)
    return {
        "id": records.text_id("replay", number),
        "family": "plain",
        "context": [],
        "instruction": f"Which does not belong: {', '.join(words)}?",
        "response": words[0],
        "response_id": "r",
        "model": ("base", "abacus", "lexicon")[number % 3],
        "revision": "0",
        "score": 4.2,
        "score_std": 0.2,
        "n_judges": 3,
        "agreement": 0.8,
        "base_logprob": -0.2,
        "refusal": False,
        "cluster": number % 24,
        "difficulty": number % 4,
    }


def render(root: Path, **params: object) -> tuple[str, str]:
    """Runs the stage `report` in `root`; (report.md, index.html)."""
    with contextlib.chdir(root), mock.patch.object(Report, "load", return_value=Report(**params)):
        run_stage("report")
    reports = root / "reports"
    return (reports / "report.md").read_text(encoding="utf-8"), (reports / "index.html").read_text(encoding="utf-8")
