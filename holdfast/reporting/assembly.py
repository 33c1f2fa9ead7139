"""Writes what a reviewer reads: reports/report.md for a pull request, reports/index.html to open offline, a model card per
arm in reports/cards, and the tables behind `dvc plots` in reports/plots.

holdfast report        (reads the verdict, the evaluations and whatever the other stages left; runs nothing)
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import yaml

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.evaluation.outcomes import Pairs
from holdfast.params.report import Report
from holdfast.reporting import card, markdown_report, page
from holdfast.reporting.charts import thinned
from holdfast.reporting.findings import Json, Run, part
from holdfast.reporting.markup import VERDICTS

REPLAY_ROWS = 8  # shown as examples


def main(params: Report, data: Path, models: Path, reports: Path, lock: Path) -> None:
    run = load(data, models, reports, lock)
    markdown = markdown_report.compose(run, params.title, params.lost_items)
    html = page.compose(run, params.title, params.page_items)
    cards = {f"{arm}.md": card.compose(run, arm) for arm in run.arms()}
    with (
        records.replacing_folder(reports / "plots") as plots,
        records.replacing_folder(reports / "cards") as folder,
        records.replacing(reports / "report.md") as brief,
        records.replacing(reports / "index.html") as full,
    ):
        brief.write_text(markdown, encoding="utf-8")
        full.write_text(html, encoding="utf-8")
        for name, text in cards.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, table in plot_tables(run).items():
            (plots / name).parent.mkdir(exist_ok=True)
            (plots / name).write_text(table, encoding="utf-8")
    print(
        f"{reports / 'report.md'}: {len(markdown):,} characters; {reports / 'index.html'}: {len(html.encode()) / 1e6:.1f} MB"
    )


def load(data: Path, models: Path, reports: Path, lock: Path) -> Run:
    """Verdict and evaluations are required; whatever else is missing, the report says so in its place."""
    gate = read_gate(reports / "gate.json")
    evaluations = reports / "eval"
    # the control last, as everywhere in the report
    names = sorted(gate["arms"], key=lambda arm: arm == gate.get("control"))
    arms = {arm: evaluations / arm / "items.parquet" for arm in names}
    ledgers = {arm: optional(reports / "training" / arm / "ledger.json") for arm in arms}
    run = Run(
        gate=gate,
        pairs=Pairs(evaluations / "base" / "items.parquet", arms),
        settings=optional(evaluations / "base" / "settings.json"),
        reconstruct=optional(reports / "reconstruct.json"),
        consensus=optional(reports / "consensus.json"),
        quality=optional(reports / "quality" / "quality.json"),
        drift=optional(reports / "drift" / "drift.json"),
        curate=optional(reports / "curate.json"),
        balance=optional(reports / "balance.json"),
        ledgers={arm: ledger for arm, ledger in ledgers.items() if ledger},
        costs={
            file.relative_to(reports / "costs").with_suffix("").as_posix(): optional(file)
            for file in sorted((reports / "costs").rglob("*.json"))
        },
        pilots={arm: optional(reports / "pilot" / f"{arm}.json") for arm in arms},
        mixes={arm: optional(reports / "mix" / f"{arm}.json") for arm in arms},
        curves=read_curves(reports / "training", list(arms)),
        replay=read_replay(data / "replay" / "replay.parquet"),
        models=read_models(models / "manifest"),
        base=optional(models / "manifest" / "base.json"),
        lock=read_lock(lock),
        links=find_links(reports, list(arms)),
    )
    return run


def read_gate(path: Path) -> Json:
    gate = records.read_json(path)
    arms = gate.get("arms") if isinstance(gate, dict) else None
    if not (
        arms
        and isinstance(arms, dict)
        and all(isinstance(a, dict) for a in arms.values())
        and gate.get("verdict") in VERDICTS
    ):
        raise UserError("holds no verdict", where=path, do="remove it and run `dvc repro gate`")
    if gate.get("schema") != 1:
        raise UserError(
            f"has schema {gate.get('schema')!r}, not 1", where=path, do="remove it and run `dvc repro gate`"
        )
    return gate


def optional(path: Path) -> Json:
    """A JSON object, or an empty one where there is no such file."""
    content = records.read_json(path) if path.is_file() else {}
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
    """A step and its value; a line that a killed training left half-written has none."""
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
    manifests = [optional(file) for file in sorted(folder.glob("*.json"))]
    return list({str(m.get("name")): m for m in manifests}.values())


def read_lock(path: Path) -> Json:
    """dvc.lock. Of it only stages before this one are read: DVC has written their entries when this one runs."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def plot_tables(run: Run) -> dict[str, str]:
    """CSV files that `dvc plots diff` compares between revisions; dvc.yaml says how they are drawn."""
    change = [
        [f"{arm}: {suite}", entry.get("change"), entry.get("lost"), entry.get("gained")]
        for arm, found in run.arms().items()
        for suite, entry in sorted(part(found, "suites").items())
    ]
    losses = run.curves.get("train/loss", {})
    tables = {"suites.csv": [["suite", "change", "lost", "gained"], *change]}
    tables |= {f"loss/{arm}.csv": [["step", "loss"], *map(list, thinned(pairs, 300))] for arm, pairs in losses.items()}
    return {name: as_csv(records.rounded(rows)) for name, rows in tables.items()}


def as_csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def find_links(reports: Path, arms: list[str]) -> list[tuple[str, str]]:
    pages = [
        ("Great Expectations: data quality", "quality/data_docs/index.html"),
        ("Evidently: instructions", "drift/html/instructions.html"),
    ]
    pages += [(f"Evidently: {arm}", f"drift/html/{arm}.html") for arm in arms]
    return [(words, path) for words, path in pages if (reports / path).is_file()]
