"""What a verdict was computed from, and whether that is what is checked out: thresholds, code, evaluations, models.

`gate` writes it into gate.json; `holdfast gate` compares it, without items, with params.yaml, dvc.lock, the manifests and
the settings of the evaluations. What does not match is refused: a pass speaks of one run and of no other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.core import fingerprint, storage
from holdfast.core.errors import UserError
from holdfast.evaluation import settings
from holdfast.params.base import PARAMS
from holdfast.params.evaluate import Evaluate
from holdfast.params.gate import Gate
from holdfast.params.models import load_trainings
from holdfast.verdict import decision, run, summary
from holdfast.verdict.fields import Json
from holdfast.verdict.lock import LOCK, PIPELINE, changed_params, entry, read_lock, read_pipeline

SCRIPT = Path("stages/gate.py")
REPORTS = Path("reports")
MANIFEST = Path("models/manifest/base.json")
FILES = ("items.parquet", "settings.json")
REPEAT = "base-repeat"  # an evaluation of the base once more, where someone made one
CLOSE = 2e-6  # by how much numbers may differ that were rounded on the way


def describe(params: Gate, names: list[str], evaluations: Path) -> Json:
    """What the verdict on these arms is computed from, as gate.json holds it."""
    repeat = [REPEAT] if (evaluations / REPEAT).is_dir() else []
    described = {name: describe_evaluation(evaluations / name) for name in ("base", *names, *repeat)}
    return {"gate": params.model_dump(), "code": fingerprint.of_file(SCRIPT), "evaluations": described}


def describe_evaluation(folder: Path) -> dict[str, str | None]:
    """md5 of its files, as DVC has it, and the fingerprint of the model; null where there is none."""
    hashes = {file: md5(folder / file) if (folder / file).is_file() else None for file in FILES}
    try:
        weights = settings.read(folder).get("weights")
    except UserError:
        weights = None
    return hashes | {"weights": weights}


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def find_mismatches(content: Json, any_code: bool = False) -> list[str]:
    """Why gate.json is not the verdict on what is checked out; empty where it is. `any_code`: whatever code decided. Raises
    UserError where params.yaml or dvc.lock cannot be read."""
    params, trainings, lock = Gate.load(), load_trainings(), read_lock()
    arms = [name for several in trainings.values() for name in several]
    reasons = [*changed_thresholds(content, params), *changed_arms(content, arms)]
    other_code = list(changed_code(content))
    reasons += [] if any_code else other_code
    if not reasons and not other_code:  # other code may well decide otherwise
        reasons += contradictions(content, params, trainings)
    reasons += [*missing_records(lock), *changed_evaluations(content, lock), *same_models(content)]
    settings_file = REPORTS / "eval/base/settings.json"
    if settings_file.is_file():
        reasons += changed_suites(content, arms)
    elif content["provenance"]["evaluations"].get("base", {}).get(FILES[1]) is not None:
        reasons.append(f"{settings_file} is missing: which suites were to be judged is not known")
    reasons += changed_params(lock, arms)
    reasons += changed_models(content, lock, trainings)
    reasons += changed_reports(content, lock)
    return list(dict.fromkeys(reasons))


def missing_records(lock: Json) -> Iterator[str]:
    """Files without which nobody knows with which parameters, and from which models, the verdict came about."""
    if "gate" not in lock:
        yield f"{LOCK} is missing, or does not hold the stage gate: what the verdict was run with is not known"
    if "gate" not in read_pipeline():
        yield f"{PIPELINE} is missing, or has no stage gate: which stages lead to the verdict is not known"


def same_models(content: Json) -> Iterator[str]:
    """Evaluations of which nobody knows which model was asked, or that were asked of one model under two names: an arm that is the
    base, or another arm, or counts twice."""
    first: dict[str, str] = {}
    evaluations = content["provenance"]["evaluations"]
    for name in ("base", *content["arms"]):
        evaluation, folder = evaluations.get(name, {}), REPORTS / "eval" / name
        weights = evaluation.get("weights")
        if weights is None and evaluation.get(FILES[1]) is not None:
            yield f"{folder / FILES[1]} does not say which model was asked (weights)"
        if weights is not None and first.setdefault(weights, name) != name:
            yield f"{folder} is of the same model as {REPORTS / 'eval' / first[weights]}"
        if (folder / FILES[1]).is_file() and (model := settings.read(folder).get("model")) != name:
            yield f"{folder / FILES[1]} is of another evaluation, that of {quote(model)}"


def changed_thresholds(content: Json, params: Gate) -> Iterator[str]:
    written, present = content["provenance"]["gate"], params.model_dump()
    for key in sorted(written.keys() | present.keys()):
        if written.get(key) != present.get(key):
            yield f"gate.{key} is {present.get(key)} in {PARAMS}, and the verdict was decided with {written.get(key)}"


def changed_arms(content: Json, arms: list[str]) -> Iterator[str]:
    for name in sorted(set(arms) - set(content["arms"])):
        yield f"the arm '{name}' of {PARAMS} has no verdict"
    for name in sorted(set(content["arms"]) - set(arms)):
        yield f"the verdict is on an arm '{name}', which {PARAMS} does not name"


def changed_code(content: Json) -> Iterator[str]:
    if not SCRIPT.is_file():
        yield f"{SCRIPT} is missing: what decided cannot be compared"
        return
    written, present = content["provenance"]["code"], fingerprint.of_file(SCRIPT)
    changed = sorted(name for name in written.keys() | present.keys() if written.get(name) != present.get(name))
    if changed:
        yield f"the code of the gate changed since: {', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}"


def contradictions(content: Json, params: Gate, trainings: dict[str, list[str]]) -> Iterator[str]:
    """Each word and each number that follows from others, derived anew from what was measured."""
    derived = {name: decision.decide_arm(params, arm, content["noise"]) for name, arm in content["arms"].items()}
    whole = run.decide_run(params, derived, content["noise"], trainings)
    for path, written, expected in differences(content | {"provenance": None}, storage.round_floats(whole)):
        if path != "provenance":
            yield f"{path} is {quote(written)}, where its own numbers and the thresholds give {quote(expected)}"


def differences(written: Any, expected: Any, path: str = "", close: float = 0.0) -> Iterator[tuple[str, Any, Any]]:
    """(path, value, expected value) wherever two JSON values differ; numbers may by `close`."""
    if isinstance(written, dict) and isinstance(expected, dict):
        for key in sorted(written.keys() | expected.keys()):
            below = f"{path}.{key}" if path else str(key)
            yield from differences(written.get(key), expected.get(key), below, close)
    elif isinstance(written, float | int) and isinstance(expected, float | int) and close:
        if not math.isclose(written, expected, rel_tol=close, abs_tol=close):
            yield path, written, expected
    elif written != expected:
        yield path, written, expected


def quote(value: Any) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{text[:200]}'"


def changed_evaluations(content: Json, lock: Json) -> Iterator[str]:
    """Items and settings that are other files than the verdict was computed from, here or in dvc.lock."""
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs") or [] if "md5" in out}
    for name, written in sorted(content["provenance"]["evaluations"].items()):
        for file in FILES:
            place = REPORTS / "eval" / name / file
            recorded = outs.get(place.as_posix())
            present = md5(place) if place.is_file() else recorded
            if present is None and written[file] is not None:
                yield f"{place} is neither here nor in {LOCK}: what was computed from it is not known"
            elif present != written[file]:
                yield f"{place} is another file than the verdict was computed from"
            elif recorded not in (None, present):
                yield f"{place} is another file than {LOCK} says"
    for name in sorted({"base", *content["arms"]} - set(content["provenance"]["evaluations"])):
        yield f"the verdict does not say from which evaluation of '{name}' it was computed"


def changed_suites(content: Json, arms: list[str]) -> Iterator[str]:
    """Suites that were not judged, or not as params.yaml and the settings of the evaluations have them."""
    base, params = settings.read(REPORTS / "eval/base"), Evaluate.load()
    wanted: Json = dict(params.all_suites())
    if params.self_suite.rows:  # its suites are not named in params.yaml, and absent where nothing could be held out
        wanted |= {name: None for name, suite in base["suites"].items() if suite["role"] == "self"}
    excused = base.get("left_out", {}).keys() & params.own_suites().keys()  # the chat template cannot express them
    for name in sorted(wanted.keys() - base["suites"].keys() - excused):
        yield f"the suite '{name}' of {PARAMS} was not evaluated"
    for name in sorted(base["suites"].keys() - wanted.keys()):
        yield f"the suite '{name}' was evaluated, and {PARAMS} does not name it"
    for name in sorted(base["suites"].keys() & wanted.keys()):
        for key in ("role", "chance"):
            if wanted[name] and base["suites"][name][key] != getattr(wanted[name], key):
                yield f"{key} of the suite '{name}' is another in {PARAMS} than in its evaluation"
    for arm in sorted(set(arms) & set(content["arms"])):
        judged = content["arms"][arm]["suites"]
        if missing := sorted(base["suites"].keys() - judged.keys()):
            yield f"{arm}: the verdict leaves out {', '.join(missing)}"
        if surplus := sorted(judged.keys() - base["suites"].keys()):
            yield f"{arm}: the verdict is on {', '.join(surplus)}, which was not evaluated"
        for name in sorted(judged.keys() & base["suites"].keys()):
            for key in ("role", "chance", "items"):
                if judged[name].get(key) != base["suites"][name][key]:
                    yield f"{arm}: {key} of the suite '{name}' is not that of its evaluation"
        folder = REPORTS / "eval" / arm
        if not (folder / FILES[1]).is_file():
            if (content["provenance"]["evaluations"].get(arm) or {}).get(FILES[1]) is not None:
                yield f"{folder / FILES[1]} is missing: whether the arm was evaluated like the base is not known"
        else:
            for part, keys in settings.differences(base, settings.read(folder)).items():
                if not any(f"{part} ({', '.join(keys)})" in problem for problem in content["arms"][arm]["problems"]):
                    yield f"{arm}: evaluated with another {part} ({', '.join(keys)}), which the verdict does not say"


def changed_models(content: Json, lock: Json, trainings: dict[str, list[str]]) -> Iterator[str]:
    """Another base than was evaluated, and arms of which another model was evaluated than was trained."""
    written = content["provenance"]["evaluations"].get("base", {}).get("weights")
    if written is not None and MANIFEST.is_file():
        manifest = storage.read_json(MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("fingerprint") != written:
            yield f"the base in {MANIFEST} is not the model that was evaluated"
    for name, again in [(name, name != arm) for arm, several in trainings.items() for name in several]:
        cell = f"-retrain@{name}" if again else f"@{name}"
        trained = entry(lock.get(f"finetune{cell}"), "outs", f"models/{name}")
        evaluated = entry(lock.get(f"evaluate{cell}"), "deps", f"models/{name}")
        if trained != evaluated:
            yield f"{LOCK}: models/{name} was evaluated as another model than was trained"


def changed_reports(content: Json, lock: Json) -> Iterator[str]:
    """gate.json and metrics.json that were edited since the stage wrote them."""
    recorded = entry(lock.get("gate"), "outs", "reports/gate.json")
    if recorded is not None and recorded != md5(REPORTS / "gate.json"):
        yield f"{REPORTS / 'gate.json'} is another file than {LOCK} says"
    metrics = REPORTS / "metrics.json"
    if not metrics.is_file():
        yield f"{metrics} is missing, which is written with the verdict"
        return
    written = storage.read_json(metrics)
    for path, value, expected in differences(written, summary.compute_metrics(content["arms"]), close=CLOSE):
        yield f"{metrics}: {path} is {quote(value)}, where the verdict gives {quote(expected)}"
