"""What several test files share: rows by contract, a miniature project, commands run as a user runs them."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import warm_start
import yaml

from holdfast.core import manifest, records

ROOT = Path(__file__).resolve().parents[1]


SHARED = ROOT.parent / "shared"  # real tokenizers, templates and data where they are; tests that need them skip without


BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """No network, no telemetry, the tools of this interpreter first on the path (see warm_start.py)."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(warm_start.start()), str(BIN), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def run_stage(name: str, *cell: str) -> None:
    """Calls `main` of stages/NAME.py of this repository, in the working directory."""
    spec = importlib.util.spec_from_file_location(f"stages.{name}", ROOT / "stages" / f"{name}.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(*cell)


def repro(folder: Path, *options: str) -> tuple[list[str], str]:
    """(stages that ran, all output) of `dvc repro`, which must succeed. Without `code`, which looks every time."""
    done = run(folder, "dvc", "repro", *options)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return [stage for stage in re.findall(r"Running stage '([^']+)'", output) if stage != "code"], output


def holdfast(folder: Path, *arguments: str) -> str:
    """Runs the real command, which must stop with exit code 3 and one to three lines, and returns them."""
    command = [str(warm_start.start() / "holdfast"), *arguments]
    done = subprocess.run(command, cwd=folder, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 3, done.stderr
    assert done.stdout == ""
    return done.stderr


def set_params(folder: Path, **changes: object) -> None:
    """Sets dotted keys (`gate__margin=0.1`) in params.yaml; ... removes one."""
    file = folder / "params.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *path, leaf = key.split("__")
        inner = content
        for part in path:
            inner = inner[part]
        if value is ...:
            del inner[leaf]
        else:
            inner[leaf] = value
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def checkout(folder: Path) -> Path:
    """A git repository with the project's files, as a clone would have them, and a miniature profile."""
    listed = run(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines()
    for name in listed:
        if name.split("/")[0] not in ("tests", "docs", "benchmarks") and name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for stale in (folder / "reports").glob("*"):  # committed results of the real run
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    make_miniature(folder)
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
        done = run(folder, *command)
        assert done.returncode == 0, done.stderr
    return folder


def make_miniature(folder: Path) -> None:
    """Sets the pocket lab's params.yaml to a size that runs in about a minute."""
    set_params(
        folder,
        panel=["base", "lexicon"],
        reconstruct__samples=700,
        respond__k=2,
        curate__clusters=8,
        balance__rows=200,
        quality__min_rows=20,
        quality__min_clusters=2,
        consensus__min_score=1.5,
        mix__epochs=0.25,
        mix__arms__holdfast__epochs=0.25,
        mix__arms__holdfast__share=0.1,
        evaluate__limit=20,
        gate__resamples=500,
        gate__margin=0.3,
        gate__self_margin=0.3,
    )


def describe(folder: Path, out: Path, name: str = "base", **changes: Any) -> Path:
    """Writes the manifest of the model in `folder` to out/<name>.json, as `acquire` does, and returns its path."""
    from holdfast.engines.inspection import inspect_model
    from holdfast.params.models import Model

    entry = inspect_model(name, Model(path=folder.name, **changes), folder.parent)
    manifest.save(entry, out / f"{name}.json")
    return out / f"{name}.json"


def perturb(model: Path, into: Path, part: float, seed: int = 0) -> Path:
    """A copy of a model in the new folder `into`, each weight moved by noise of this part of its tensor's deviation."""
    import torch

    shutil.copytree(model, into)
    network, draws = manifest.load_model(model, "float32", device="cpu"), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn(weight.shape, generator=draws) * part * weight.std())
    network.save_pretrained(into)
    return into


def instruction(id: str, text: str, cluster: int = 0) -> dict:
    """A row of instructions_kept."""
    origin = dict(
        finish_reason="stop", n_tokens=3, temperature=1.0, top_p=1.0, sample=0, seed=0, model="base", revision="0"
    )
    return dict(id=id, family="plain", context=[], text=text, cluster=cluster, bait=False, **origin)


def response(instruction_id: str, model: str, sample: int, text: str, finish_reason: str = "stop") -> dict:
    """A row of responses."""
    id = f"{instruction_id}/{model}/{sample}"
    origin = dict(sample=sample, seed=0, model=model, revision="0")
    return dict(id=id, instruction_id=instruction_id, text=text, finish_reason=finish_reason, n_tokens=3, **origin)


def candidate(
    id: str, text: str = "What?", answer: str = "That.", cluster: int = 0, logprob: float | None = -1.0
) -> dict:
    """A row of candidates; with a difficulty it is one of replay."""
    return dict(
        id=id,
        family="plain",
        context=[],
        instruction=text,
        response=answer,
        response_id=f"{id}/base/0",
        model="base",
        revision="0",
        score=4.0,
        score_std=0.0,
        n_judges=1,
        agreement=1.0,
        base_logprob=logprob,
        refusal=False,
        cluster=cluster,
    )


def task(folder: Path, name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """A local lm-eval task: YAML and JSONL."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "generation_kwargs": {"until": ["<|end|>"], "do_sample": False, "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    } | more
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def set_evaluation_items(project: Path, items: list[str]) -> None:
    """Makes these items the project's evaluation: one suite, `asked`, in params.yaml and the folder suites/."""
    task(project / "suites", "asked", [{"prompt": item, "answer": "x"} for item in items])
    evaluate = {"tasks": str(project / "suites"), "suites": {"asked": {"role": "general"}}}
    set_params(project, evaluate=evaluate | {"self_suite": {"rows": 0}})  # nothing is held out: every row is judged


def raw(row: dict) -> dict:
    """A row of instructions_kept as one of instructions_raw."""
    return {name: row[name] for name in records.SCHEMAS["instructions_raw"].names}


QUESTIONS = [
    "Hi",
    "What is 7 + 2?",
    "Reverse: a b c d e",
    "Name the river of Tresa.",
    "x " * 40,
    "Sort 3 1 2 in ascending order.",
    "?",
]


ANSWERS = ["yes", "the red fox", "1 2 3 4 5 6", "apple, pear, plum", "no", "a b", "nine", "three green boats"]


MIXTURE = Path("data/mixes/arm.parquet")  # in a test's project: what `train_arm` trains on


def mixture(project: Path, domain: int = 4, replay: int = 4, epochs: int = 2) -> list[dict]:
    """Writes MIXTURE, and returns its rows in the order of training."""
    rows = []
    for epoch in range(epochs):
        for source, count in (("domain", domain), ("replay", replay)):
            for n in range(count):
                turns = [
                    {"role": "user", "content": f"{source} {n}: what is {n} + 1?"},
                    {"role": "assistant", "content": ANSWERS[n % 8]},
                ]
                row = dict(id=f"{epoch}-{n}-{source}", source=source, source_id=str(n), epoch=epoch, repeat=epoch)
                rows.append({**row, "messages": turns, "trained_tokens": 4})
    records.write("mix", project / MIXTURE, rows)
    return records.read("mix", project / MIXTURE)


def train_arm(project: Path, section: dict[str, Any]) -> dict[str, list[float]]:
    """Runs the stage `finetune` on the arm "arm" in the working directory, with this section of params.yaml; its curves."""
    set_params(project, finetune=section)
    run_stage("finetune", "arm")
    return read_curves(project)


def read_curves(project: Path) -> dict[str, list[float]]:
    """The curves of the arm "arm" by metric."""
    return {
        file.stem: [float(line.split("\t")[-1]) for line in file.read_text().splitlines()[1:]]
        for file in (project / "reports/training/arm/plots/metrics/train").glob("*.tsv")
    }


def shell(folder: Path, environment: dict[str, str], *command: str) -> str:
    """Runs a command that must succeed, in another environment than this one, and returns all that it prints."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


NASTY: list[Any] = [None, True, -1, 0, 10**40, 0.5, "", "x" * 300, "\x1b]0;t\x07", [], {}, [[]], {"a": 1}, [None]]


def damage_tree(rng: random.Random, content: Any) -> Any:
    """Parsed JSON or YAML with one value replaced, removed or wrapped."""
    content = copy.deepcopy(content)
    place = content
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.75:
            place = place[key]
            continue
        kind = rng.randrange(5)
        if kind == 0:
            del place[key]
        elif kind == 1:
            place[key] = [place[key]]
        elif kind == 2 and isinstance(place, dict):
            place[rng.choice(["new", "", "a.b", "__class__"])] = rng.choice(NASTY)
        else:
            place[key] = rng.choice(NASTY)
        return content
