"""A small project with a verdict, as the gate's own stage wrote it, and a dvc.lock that fits: to be tampered with."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from helpers import ROOT, run_stage

from holdfast.core import records, storage
from holdfast.verdict import provenance

SUITES = {  # role, chance, parts right before
    "facts": ("general", 0.0, 0.9),
    "judging": ("general", 0.5, 0.9),
    "sorting": ("general", 0.0, 0.8),
    "pharmacy": ("domain", 0.0, 0.0),
}
ITEMS = 200
GATE = {"margin": 0.05, "min_domain_gain": 0.2, "resamples": 1000, "control": "domain-only", "seed": 1}
# by arm: part of the general items lost, part of the domain's gained
ARMS = {"domain-only": (0.3, 0.5), "holdfast": (0.01, 0.6)}


def outcomes(arm: str | None, suite: str, items: int = ITEMS) -> Any:
    """Right or wrong by item, the same on every call."""
    role, _, right = SUITES[suite]
    correct = np.arange(items) < right * items
    if arm is None:
        return correct
    lost, gained = ARMS[arm]
    moved = np.arange(items) < (lost if role == "general" else gained) * items
    return correct & ~moved if role == "general" else correct | moved


def rows(arm: str | None, suite: str, items: int = ITEMS) -> list[dict[str, Any]]:
    found = []
    for number, right in enumerate(outcomes(arm, suite, items)):
        item = f"{suite}-{number:04d}"
        texts = {"prompt": f"question {number}", "target": f"answer {number}"}
        texts["response"] = texts["target"] if right else f"wrong {number}"
        hashes = {"item_hash": f"i{item}", "prompt_hash": f"p{item}"}
        found.append(
            {"id": f"{suite}/{item}", "suite": suite, "item_id": item, "correct": float(right)} | texts | hashes
        )
    return found


def write_evaluation(folder: Path, arm: str | None, items: list[dict[str, Any]] | None = None, **more: Any) -> None:
    """items.parquet and settings.json of the base (None) or an arm; `items` instead of the usual ones."""
    written = items if items is not None else [row for suite in SUITES for row in rows(arm, suite)]
    records.write("items", folder / "items.parquet", written)
    described = {
        name: {
            "role": role,
            "chance": chance,
            "metric": "exact_match",
            "items": sum(r["suite"] == name for r in written),
        }
        for name, (role, chance, _) in SUITES.items()
    }
    content = {
        "schema": 1,
        "model": folder.name,
        "engine": {"seed": 1},
        "suites": described,
        "weights": folder.name * 4,
    }
    storage.write_json(folder / "settings.json", content | more)


def make_project(folder: Path) -> Path:
    """The project in `folder`: evaluations, params.yaml, the verdict on them, and a dvc.lock as DVC would write it."""
    folder.mkdir(exist_ok=True)
    for name in ("base", *ARMS):
        write_evaluation(folder / "reports/eval" / name, None if name == "base" else name)
    evaluate = {"tasks": "tasks", "suites": {n: {"role": r, "chance": c} for n, (r, c, _) in SUITES.items()}}
    params = {"arms": list(ARMS), "panel": ["base"], "mix": {"epochs": 2}, "evaluate": evaluate, "gate": GATE}
    params["ingest"] = {"folder": "data/local", "train": {"path": "domain.jsonl"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (folder / "stages").mkdir()
    for name in ("gate", "report"):
        (folder / f"stages/{name}.py").write_text(
            (ROOT / f"stages/{name}.py").read_text(encoding="utf-8"), encoding="utf-8"
        )
    manifest = {"schema": 1, "name": "base", "fingerprint": "base" * 4}
    storage.write_json(folder / "models/manifest/base.json", manifest)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}, sort_keys=False), encoding="utf-8")
    decide(folder)
    write_lock(folder)
    return folder


CELLS = {"matrix": {"arm": "${arms}"}}
RETRAINED = {"matrix": {"arm": "${retrain.arms}", "seed": "${retrain.seeds}"}}
PIPELINE: dict[str, Any] = {
    "mix": {**CELLS, "cmd": "true", "params": ["mix.epochs"], "outs": ["data/mixes/${item.arm}.parquet"]},
    "finetune": {**CELLS, "cmd": "true", "deps": ["data/mixes/${item.arm}.parquet"], "outs": ["models/${item.arm}"]},
    "evaluate-base": {"cmd": "true", "outs": ["reports/eval/base/items.parquet"]},
    "evaluate": {
        **CELLS,
        "cmd": "true",
        "deps": ["models/${item.arm}"],
        "outs": ["reports/eval/${item.arm}/items.parquet"],
    },
    "finetune-retrain": {
        **RETRAINED,
        "cmd": "true",
        "deps": ["data/mixes/${item.arm}.parquet"],
        "outs": ["models/${item.arm}-${item.seed}"],
    },
    "evaluate-retrain": {
        **RETRAINED,
        "cmd": "true",
        "deps": ["models/${item.arm}-${item.seed}"],
        "outs": ["reports/eval/${item.arm}-${item.seed}/items.parquet"],
    },
    "gate": {
        "cmd": "true",
        "deps": ["reports/eval"],
        "outs": ["reports/gate.json"],
        "metrics": ["reports/metrics.json"],
    },
}


def decide(folder: Path) -> dict[str, Any]:
    """Runs the stage; returns gate.json."""
    with contextlib.chdir(folder):
        run_stage("gate")
        return json.loads(Path("reports/gate.json").read_text(encoding="utf-8"))


def write_lock(folder: Path) -> None:
    """dvc.lock of the project as it is: what an honest run, or a forger with `dvc commit --force`, leaves."""
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))

    def files(*names: str) -> list[dict[str, str]]:
        return [{"path": name, "md5": provenance.md5(folder / name)} for name in names if (folder / name).is_file()]

    stages: dict[str, Any] = {
        "gate": {
            "deps": [{"path": "reports/eval", "md5": "0" * 32 + ".dir"}],
            "params": {"params.yaml": {key: params[key] for key in ("arms", "retrain", "gate") if key in params}},
            "outs": files("reports/gate.json", "reports/metrics.json"),
        },
        "evaluate-base": {
            "params": {"params.yaml": {"evaluate": params["evaluate"]}},
            "outs": files("reports/eval/base/items.parquet", "reports/eval/base/settings.json"),
        },
    }
    for arm in params["arms"]:
        model = {"path": f"models/{arm}", "md5": f"{arm}.dir"}
        mix = {"path": f"data/mixes/{arm}.parquet", "md5": arm}
        stages |= {
            f"mix@{arm}": {"params": {"params.yaml": {"mix.epochs": params["mix"]["epochs"]}}, "outs": [dict(mix)]},
            f"finetune@{arm}": {"deps": [mix], "outs": [dict(model)]},
            f"evaluate@{arm}": {
                "deps": [model],
                "params": {"params.yaml": {"evaluate": params["evaluate"]}},
                "outs": files(f"reports/eval/{arm}/items.parquet", f"reports/eval/{arm}/settings.json"),
            },
        }
    retrain = params.get("retrain", {"arms": [], "seeds": []})
    for arm, seed in [(arm, seed) for arm in retrain["arms"] for seed in retrain["seeds"]]:
        model = {"path": f"models/{arm}-{seed}", "md5": f"{arm}-{seed}.dir"}
        evaluation = f"reports/eval/{arm}-{seed}"
        stages |= {
            f"finetune-retrain@{arm}-{seed}": {
                "deps": [{"path": f"data/mixes/{arm}.parquet", "md5": arm}],
                "outs": [model],
            },
            f"evaluate-retrain@{arm}-{seed}": {
                "deps": [dict(model)],
                "params": {"params.yaml": {"evaluate": params["evaluate"]}},
                "outs": files(f"{evaluation}/items.parquet", f"{evaluation}/settings.json"),
            },
        }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}), encoding="utf-8")


def edit_json(file: Path, edit: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    storage.write_json(file, content)


def edit_items(folder: Path, edit: Any) -> None:
    """`edit` takes and returns the rows of an evaluation."""
    records.write("items", folder / "items.parquet", edit(records.read("items", folder / "items.parquet")))
