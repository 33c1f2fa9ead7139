"""Runs the suites with lm-eval on the base or on one arm, and keeps the outcome of every item.

holdfast evaluate --model base|ARM        (writes reports/eval/<model>/{items.parquet,settings.json,scores.json})

An arm is asked exactly as the base was: with other settings than the base's it refuses, before it asks anything.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.evaluation import backends, resume, settings, suites
from holdfast.params.evaluate import Evaluate, Suite


def main(params: Evaluate, model: str, base: Path, models: Path, domain_test: Path, out: Path) -> None:
    entry = manifest.load(base)
    folder = entry.folder() if model == "base" else models / model
    if not (folder / "config.json").is_file():
        raise UserError("no such model", where=folder, do=f"run `dvc repro finetune@{model}`")
    before = settings.read(out.parent / "base") if model != "base" else None
    tasks = suites.load(params, domain_test)
    import lm_eval  # after suites.load, which may have closed the net
    from lm_eval.tasks import TaskManager

    language_model, facts = backends.load(params, model, folder, entry)
    engine = facts | {  # whatever may change an outcome and is not the model
        "lm_eval": lm_eval.__version__,
        "batch": params.batch,
        "max_length": entry.context,
        "seed": params.seed,
        "limit": params.limit,
        "chat_template": digest(facts["chat_template"]),
    }
    if before:
        refuse(before, {"engine": engine, "suites": before["suites"]}, out)
    speaker = [params.url, model] if params.url else []  # a server knows the model by its name
    language_model = resume.resumable(
        language_model, params.batch, [weights(folder), *speaker, engine], entry.parameters
    )
    with backends.explained(params):
        results = lm_eval.simple_evaluate(
            model=language_model, tasks=list(tasks.values()), apply_chat_template=True, log_samples=True, bootstrap_iters=0,
            limit=params.limit, random_seed=params.seed, numpy_random_seed=params.seed, torch_random_seed=params.seed,
            fewshot_random_seed=params.seed, task_manager=TaskManager(include_defaults=False),  # else it lists 14,000 names
        )  # fmt: skip

    rows, used = [], {}
    for name, suite in suites.lineup(params).items():
        samples = one_filter(name, suite, results["samples"][name])
        metric = suite.metric or samples[0]["metrics"][0]
        if metric not in samples[0]:
            known = ", ".join(samples[0]["metrics"])
            raise UserError(f"suite '{name}' has no metric '{metric}'", where="evaluate.suites", do=f"it has: {known}")
        rows += [item(name, sample, metric) for sample in samples]
        used[name] = {"role": suite.role, "chance": suite.chance, "metric": metric, "items": len(samples)}
        used[name] |= {"filter": samples[0]["filter"]}
    found = {"schema": 1, "model": model, "suites": used, "engine": engine}
    if before:
        refuse(before, found, out)
    scores = {name: sum(r["correct"] for r in rows if r["suite"] == name) / used[name]["items"] for name in used}
    records.write("items", out / "items.parquet", rows)
    records.write_json(out / "settings.json", found)
    records.write_json(out / "scores.json", scores)
    print(f"{model}: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))


def weights(folder: Path) -> list[str]:
    """Every file of the model and its hash: another model's answers are never taken for this one's."""
    return [f"{file.name} {records.file_sha256(file)}" for file in sorted(folder.iterdir()) if file.is_file()]


def refuse(before: dict[str, Any], found: dict[str, Any], out: Path) -> None:
    """Raises UserError where an arm would be asked otherwise than the base was."""
    found = records.rounded(found)  # as they are read back
    for part, keys in settings.different(before, found).items():
        was, now = (content[part].get(keys[0]) for content in (before, found))
        what = f"the base was evaluated with other settings: {keys[0]} {was}, here {now}"
        do = "evaluate both alike: `dvc repro --force evaluate-base` here, or go where the base was evaluated"
        raise UserError(what, where=out.parent / "base" / "settings.json", do=do)


def one_filter(name: str, suite: Suite, samples: list[dict]) -> list[dict]:
    """lm-eval repeats each item for every answer filter of its task; the one that the params name counts, or the first."""
    wanted = suite.filter or samples[0]["filter"]
    found = [sample for sample in samples if sample["filter"] == wanted]
    if not found:
        known = ", ".join(dict.fromkeys(sample["filter"] for sample in samples))
        raise UserError(f"suite '{name}' has no filter '{wanted}'", where="evaluate.suites", do=f"it has: {known}")
    return found


def item(suite: str, sample: dict[str, Any], metric: str) -> dict[str, Any]:
    """One item's outcome, with hashes of the item and of the prompt as the model saw it."""
    doc = sample["doc"]
    key = str(doc.get("id", sample["doc_id"])) if isinstance(doc, dict) else str(sample["doc_id"])
    requests = [
        list(argument.values()) if isinstance(argument, dict) else list(argument) for argument in arguments_of(sample)
    ]
    prompt = str(requests[0][0])
    answer = sample["filtered_resps"][0]
    if len(requests) > 1:  # multiple choice: the response is the choice with the highest likelihood
        likelihoods = [float(r[0]) for r in sample["filtered_resps"]]
        answer = str(requests[likelihoods.index(max(likelihoods))][1])
    return dict(
        id=f"{suite}/{key}",
        suite=suite,
        item_id=key,
        item_hash=digest(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)),
        prompt_hash=digest("\x1f".join(str(r[0]) + "\x1e" + str(r[1]) for r in requests)),
        correct=float(sample[metric]),
        prompt=prompt,
        target=str(sample["target"]),
        response=str(answer),
    )


def arguments_of(sample: dict[str, Any]) -> list:
    arguments = sample["arguments"]
    return list(arguments.values()) if isinstance(arguments, dict) else list(arguments)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
