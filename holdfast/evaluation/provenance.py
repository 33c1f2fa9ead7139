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

import yaml

from holdfast.core import fingerprint, storage, yaml_text
from holdfast.core.errors import UserError
from holdfast.evaluation import measured, settings, verdict
from holdfast.params.base import PARAMS, parse, read_yaml
from holdfast.params.evaluate import Evaluate
from holdfast.params.gate import Gate
from holdfast.params.models import load_arms, load_panel

Json = dict[str, Any]
SCRIPT, LOCK, PIPELINE = Path("stages/gate.py"), Path("dvc.lock"), Path("dvc.yaml")
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


def find_mismatches(content: Json) -> list[str]:
    """Why gate.json is not the verdict on what is checked out; empty where it is. Raises UserError where params.yaml or
    dvc.lock cannot be read."""
    params, arms, lock = Gate.load(), load_arms(), read_lock()
    reasons = [*changed_thresholds(content, params, arms), *changed_arms(content, arms), *changed_code(content)]
    if not reasons:
        reasons += contradictions(content, params)
    reasons += changed_evaluations(content, lock)
    if (REPORTS / "eval/base/settings.json").is_file():
        reasons += changed_suites(content, arms)
    reasons += changed_params(lock, arms)
    reasons += changed_models(content, lock, arms)
    reasons += changed_reports(content, lock)
    return list(dict.fromkeys(reasons))


def changed_thresholds(content: Json, params: Gate, arms: list[str]) -> Iterator[str]:
    written, present = content["provenance"]["gate"], params.model_dump()
    if fault := params.find_fault_of_replicas(arms):
        yield fault
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


def contradictions(content: Json, params: Gate) -> Iterator[str]:
    """Each word and each number that follows from others, derived anew from what was measured."""
    derived = {name: verdict.decide_arm(params, arm, content["noise"]) for name, arm in content["arms"].items()}
    whole = verdict.decide_run(params, derived, content["noise"])
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
    excused = base.get("left_out", {}).keys() & set(params.core_suites())  # the chat template cannot express them
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
        if (folder / FILES[1]).is_file():
            for part, keys in settings.differences(base, settings.read(folder)).items():
                if not any(f"{part} ({', '.join(keys)})" in problem for problem in content["arms"][arm]["problems"]):
                    yield f"{arm}: evaluated with another {part} ({', '.join(keys)}), which the verdict does not say"


def changed_models(content: Json, lock: Json, arms: list[str]) -> Iterator[str]:
    """Another base than was evaluated, and arms of which another model was evaluated than was trained."""
    written = content["provenance"]["evaluations"].get("base", {}).get("weights")
    if written is not None and MANIFEST.is_file():
        manifest = storage.read_json(MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("fingerprint") != written:
            yield f"the base in {MANIFEST} is not the model that was evaluated"
    for arm in arms:
        trained = entry(lock.get(f"finetune@{arm}"), "outs", f"models/{arm}")
        evaluated = entry(lock.get(f"evaluate@{arm}"), "deps", f"models/{arm}")
        if trained != evaluated:
            yield f"{LOCK}: models/{arm} was evaluated as another model than was trained"


def entry(stage: Json | None, part: str, path: str) -> str | None:
    return next((one.get("md5") for one in (stage or {}).get(part) or [] if one.get("path") == path), None)


def changed_params(lock: Json, arms: list[str]) -> Iterator[str]:
    """Parameters of params.yaml that are others than those that the stages before the gate ran with."""
    if "gate" not in lock:
        return
    present = read_yaml(PARAMS)
    for name in sorted(before_gate(lock, {*arms, *load_panel()} if "panel" in present else set(arms))):
        for file, keys in sorted((lock[name].get("params") or {}).items()):
            if file != PARAMS.as_posix():
                continue
            for key, value in sorted(keys.items()):
                if lookup(present, key) != value:
                    yield f"{key} changed since {name} ran: the verdict is on another run"


def before_gate(lock: Json, cells: set[str]) -> set[str]:
    """The gate and all stages whose outputs lead to it, of dvc.yaml as it is: dvc.lock keeps entries of former ones."""
    stages = read_pipeline()

    def is_current(name: str) -> bool:
        stem, _, cell = name.partition("@")
        many = isinstance(stages.get(stem), dict) and ("matrix" in stages[stem] or "foreach" in stages[stem])
        return stem in stages and bool(cell) == many and (not cell or cell in cells)

    current, upstream, todo = {name for name in lock if is_current(name)}, set[str](), ["gate"]
    while todo:
        name = todo.pop()
        if name in upstream or name not in lock:
            continue
        upstream.add(name)
        read = [dep["path"] for dep in lock[name].get("deps") or []]
        for other in current - upstream:
            written = [out["path"] for out in lock[other].get("outs") or []]
            if any(overlap(one, out) for one in read for out in written):
                todo.append(other)
    frozen = {name for name in upstream if isinstance(stages.get(name), dict) and stages[name].get("frozen")}
    return upstream - frozen - {"code"}


def read_pipeline() -> Json:
    """The stages of dvc.yaml by name; empty where there is none. Raises UserError."""
    if not PIPELINE.is_file():
        return {}
    try:
        content = yaml_text.parse(PIPELINE.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise yaml_text.describe(error, PIPELINE) from None
    stages = content.get("stages") if isinstance(content, dict) else None
    return stages if isinstance(stages, dict) else {}


def overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def lookup(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


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
    for path, value, expected in differences(written, verdict.compute_metrics(content["arms"]), close=CLOSE):
        yield f"{metrics}: {path} is {quote(value)}, where the verdict gives {quote(expected)}"


def read_lock() -> Json:
    """The stages of dvc.lock by name; empty where there is none. Raises UserError."""
    if not LOCK.is_file():
        return {}
    do = f"take it back from git: git checkout -- {LOCK}"
    try:
        content = yaml_text.parse(LOCK.read_text(encoding="utf-8"), yaml_text.FAST)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError("is not valid YAML", where=LOCK, do=do) from None
    stages = content.get("stages") if isinstance(content, dict) else None
    listed = stages.values() if isinstance(stages, dict) else [None]
    entries = [
        e for stage in listed if isinstance(stage, dict) for part in ("deps", "outs") for e in stage.get(part) or []
    ]
    if not all(isinstance(stage, dict) for stage in listed) or not all(
        isinstance(e, dict) and "path" in e for e in entries
    ):
        raise UserError("is no lock file of DVC", where=LOCK, do=do)
    return stages or {}


def read_gate(path: Path) -> Json:
    """gate.json, of this version and whole enough to be compared. Raises UserError."""
    content, do = (
        storage.read_json(path),
        "remove it and run `dvc repro`: it is written from the evaluations, never by hand",
    )
    try:
        if content["schema"] != 2 or content["verdict"] not in verdict.EXIT_CODES or not content["arms"]:
            raise ValueError
        verdict.table(content)
        parse(Gate, content["provenance"]["gate"], "gate", path)
        whole = all(
            set(verdict.MEASURED_SUITE) <= suite.keys() and suite["problems"] is not None
            for arm in content["arms"].values()
            for suite in arm["suites"].values()
        )
        whole = whole and all(isinstance(arm["problems"], list) and arm["suites"] for arm in content["arms"].values())
        files = all(set(FILES) <= evaluation.keys() for evaluation in content["provenance"]["evaluations"].values())
        if not (whole and files and isinstance(content["provenance"]["code"], dict)):
            raise ValueError
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError("is not a verdict of this version", where=path, do=do) from None
    if not all(map(math.isfinite, numbers(content))):
        raise UserError("holds a number that is not finite", where=path, do=do)
    measured.check(content, path, do)
    return content


def numbers(content: Any) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers(value)
    elif isinstance(content, float):
        yield content
