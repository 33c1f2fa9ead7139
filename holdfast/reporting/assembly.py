"""Reads what the stages left into one Run, which the page, the Markdown report and the model cards are composed of."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import yaml

from holdfast.core import manifest, records, storage, yaml_text
from holdfast.core.errors import UserError
from holdfast.reporting.findings import Json, Run, part
from holdfast.reporting.markup import VERDICTS
from holdfast.verdict.outcomes import Pairs

REPLAY_ROWS = 8  # shown as examples


def load_run(data: Path, models: Path, reports: Path, lock: Path) -> Run:
    """Verdict and evaluations are required; of whatever else is missing, the report says so in its place.

    Raises UserError where a file is missing that is required, or one holds something else.
    """
    gate = read_gate(reports / "gate.json")
    evaluations = reports / "eval"
    # the control last, as everywhere in the report
    names = sorted(gate["arms"], key=lambda arm: arm == gate.get("control"))
    arms = {arm: evaluations / arm / "items.parquet" for arm in names}
    ledgers = {arm: read_optional(reports / "training" / arm / "ledger.json") for arm in arms}
    return Run(
        gate=gate,
        pairs=Pairs(evaluations / "base" / "items.parquet", arms),
        settings=read_optional(evaluations / "base" / "settings.json"),
        calibration=read_calibration(evaluations, names),
        reconstruct=read_optional(reports / "reconstruct.json"),
        consensus=read_optional(reports / "consensus.json"),
        quality=read_optional(reports / "quality" / "quality.json"),
        drift=read_optional(reports / "drift" / "drift.json"),
        ingest=read_optional(reports / "ingest.json"),
        curate=read_optional(reports / "curate.json"),
        balance=read_optional(reports / "balance.json"),
        ledgers={arm: ledger for arm, ledger in ledgers.items() if ledger},
        costs={
            file.relative_to(reports / "costs").with_suffix("").as_posix(): read_optional(file)
            for file in sorted((reports / "costs").rglob("*.json"))
        },
        pilots={arm: read_optional(reports / "pilot" / f"{arm}.json") for arm in arms},
        mixes={arm: read_optional(reports / "mix" / f"{arm}.json") for arm in arms},
        curves=read_curves(reports / "training", list(arms)),
        replay=read_replay(data / "replay" / "replay.parquet"),
        models=read_models(models / "manifest"),
        base=read_optional(models / "manifest" / "base.json"),
        lock=read_lock(lock),
        links=find_links(reports, list(arms)),
    )


def load_comparison(folder: Path, models: list[manifest.Manifest]) -> Run:
    """What `holdfast compare` left of models that were tuned elsewhere; `models`: the base first. Raises UserError."""
    gate, evaluations = read_gate(folder / "gate.json"), folder / "eval"
    described = [asdict(model) for model in models]
    return Run(
        gate=gate,
        pairs=Pairs(
            evaluations / "base" / "items.parquet", {n: evaluations / n / "items.parquet" for n in gate["arms"]}
        ),
        settings=read_optional(evaluations / "base" / "settings.json"),
        calibration=read_calibration(evaluations, list(gate["arms"])),
        models=described,
        base=described[0],
        trained_here=False,
    )


def read_calibration(evaluations: Path, arms: list[str]) -> dict[str, Json]:
    """By model what its evaluation says of its calibration."""
    described = {name: read_optional(evaluations / name / "settings.json") for name in ("base", *arms)}
    return {name: part(settings, "calibration") for name, settings in described.items()}


def read_gate(path: Path) -> Json:
    gate = storage.read_json(path)
    arms = gate.get("arms") if isinstance(gate, dict) else None
    if not (
        arms
        and isinstance(arms, dict)
        and all(isinstance(a, dict) for a in arms.values())
        and gate.get("verdict") in VERDICTS
    ):
        raise UserError("holds no verdict", where=path, do="remove it and run `dvc repro gate`")
    if gate.get("schema") != 2:
        raise UserError(
            f"has schema {gate.get('schema')!r}, not 2", where=path, do="remove it and run `dvc repro gate`"
        )
    return gate


def read_optional(path: Path) -> Json:
    """A JSON object, or an empty one where there is no such file."""
    content = storage.read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise UserError("is not a JSON object", where=path, do="remove it and run `dvc repro`")
    return content


def read_curves(training: Path, arms: list[str]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """DVCLive's step metrics: metric -> arm -> (step, value)."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for arm in arms:
        folder = training / arm / "plots" / "metrics"
        for file in sorted(folder.rglob("*.tsv")):
            metric = file.relative_to(folder).with_suffix("").as_posix()
            with file.open(encoding="utf-8", newline="") as opened:
                rows = list(csv.DictReader(opened, delimiter="\t"))
            curves.setdefault(metric, {})[arm] = [p for row in rows if (p := point(row, metric))]
    return curves


def point(row: dict[str, str], metric: str) -> tuple[float, float] | None:
    """A step and its value; None for a line that a killed training left half-written."""
    value = row.get(metric, row.get(metric.rsplit("/", 1)[-1]))
    try:
        return float(row["step"]), float(value or "")
    except (KeyError, ValueError, TypeError):
        return None


def read_replay(path: Path) -> list[Json]:
    """A few rows, evenly spaced over the file: ids are hashes, so that is a fair sample."""
    if not path.is_file():
        return []
    table = records.read_table("replay", path)
    wanted = min(REPLAY_ROWS, len(table))
    return table.take([i * len(table) // wanted for i in range(wanted)]).to_pylist()


def read_models(folder: Path) -> list[Json]:
    """The manifests of the models; base.json and embedder.json are copies of one of them unless it has that name."""
    manifests = [read_optional(file) for file in sorted(folder.glob("*.json"))]
    return list({str(m.get("name")): m for m in manifests}.values())


def read_lock(path: Path) -> Json:
    """dvc.lock. Of it only stages before this one are read: DVC has written their entries when this one runs."""
    try:
        content = yaml_text.parse(path.read_text(encoding="utf-8"), yaml_text.FAST) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise yaml_text.describe(error, path, do="take it back from git, or remove it and run `dvc repro`") from None
    return content if isinstance(content, dict) else {}


def find_links(reports: Path, arms: list[str]) -> list[tuple[str, str]]:
    pages = [
        ("Great Expectations: data quality", "quality/data_docs/index.html"),
        ("Evidently: instructions", "drift/html/instructions.html"),
    ]
    pages += [(f"Evidently: {arm}", f"drift/html/{arm}.html") for arm in arms]
    return [(words, path) for words, path in pages if (reports / path).is_file()]
