"""Great Expectations on instructions, scores and replay set: a failed critical expectation stops the pipeline.

holdfast quality        (writes reports/quality/quality.json and reports/quality/data_docs/)

Both are written before the stage stops, so that one can look. `observed` in quality.json is the measured value; of an
expectation on single rows it is how many rows break it or, where some may, which part of them does.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.data import expectations
from holdfast.data.instructions import transcript
from holdfast.params.quality import Quality

FIXED_TIME = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)  # no clock in what DVC hashes


def main(params: Quality, panel: list[str], data: Path, out: Path) -> None:
    tables = load(panel, data)
    raw, kept, rejected, scores, replay = (tables[name] for name in ("raw", "kept", "rejected", "scores", "replay"))
    stages = flow(panel, tables)
    counted = pd.DataFrame([(name, *both) for name, both in stages.items()], columns=["id", "read", "accounted"])
    models, clusters = sorted(replay["model"].unique()), kept["cluster"].nunique()
    suites = {
        "instructions": (together(kept, rejected), expectations.instructions(params, len(raw))),
        "scores": (scores, expectations.scores(params, panel)),
        "replay": (
            beside(replay, tables["candidates"], tables["responses"]),
            expectations.replay(params, models, clusters),
        ),
        "counts": (counted, expectations.counts()),
    }
    with records.replacing_folder(out / "data_docs") as pages:
        results = validate(suites, pages)

    counts = {
        "raw": len(raw),
        "kept": len(kept),
        "rejected": dict(Counter(rejected["reason"])),
        "scores": len(scores),
        "scores_missing": int(scores["score"].isna().sum()),
        "candidates": len(tables["candidates"]),
        "replay": len(replay),
        "replay_clusters": int(replay["cluster"].nunique()),
        "replay_models": dict(Counter(replay["model"])),
        "stages": {name: {"read": read, "accounted": accounted} for name, (read, accounted) in stages.items()},
    }
    told = {}
    for name, (frame, _) in suites.items():
        found = statistics(results[name])
        told[name] = {"success": not found["failed_critical"], "statistics": found, "results": results[name]}
        warned = [f"warning: {in_words(result)}" for result in results[name] if failed(result, "warning")]
        held = f"{found['held']} of {found['expectations']} expectations hold on {len(frame):,} rows"
        print("; ".join([f"quality: {name}: {held}", *warned]))
    total = statistics([result for found in results.values() for result in found])
    records.write_json(out / "quality.json", {"schema": 1, "counts": counts, "statistics": total, "suites": told})

    broken = [(name, result) for name in suites for result in results[name] if failed(result, "critical")]
    if broken:
        first = "; ".join(f"{name}: {in_words(result)}" for name, result in broken[:3]) + "; ..." * (len(broken) > 3)
        what = f"{len(broken)} critical expectation{'s' * (len(broken) > 1)} failed: {first}"
        remedies = "; ".join(dict.fromkeys(result["remedy"] for _, result in broken[:3]))
        raise UserError(what, where=out / "quality.json", do=f"{remedies}\n  see {out / 'data_docs' / 'index.html'}")


def load(panel: list[str], data: Path) -> dict[str, pd.DataFrame]:
    """All that is checked, or counted, by name."""
    of_each = {"responses": data / "responses", "scores": data / "scores"}
    files = {
        "raw": ("instructions_raw", data / "instructions" / "raw.parquet"),
        "kept": ("instructions_kept", data / "instructions" / "kept.parquet"),
        "rejected": ("instructions_rejected", data / "instructions" / "rejected.parquet"),
        "candidates": ("candidates", data / "replay" / "candidates.parquet"),
        "unanswered": ("candidates_rejected", data / "replay" / "rejected.parquet"),
        "replay": ("replay", data / "replay" / "replay.parquet"),
        "surplus": ("replay", data / "replay" / "surplus.parquet"),
    }
    return {name: records.read_frame(contract, file) for name, (contract, file) in files.items()} | {
        name: pd.concat([records.read_frame(name, folder / f"{member}.parquet") for member in panel], ignore_index=True)
        for name, folder in of_each.items()
    }


def flow(panel: list[str], tables: dict[str, pd.DataFrame]) -> dict[str, tuple[int, int]]:
    """Stage -> (rows that it read, rows of which it says what became of them)."""
    size = {name: len(table) for name, table in tables.items()}
    scores = tables["scores"]
    return {
        "curate": (size["raw"], size["kept"] + size["rejected"]),
        # a judge is asked only where the choice could still change; what it scored must be there, the audit whole
        "judge": (size["scores"], int(scores["id"].isin(tables["responses"]["id"]).sum())),
        "judge's audit": (int(scores.loc[scores["audit"], "id"].nunique()) * len(panel), int(scores["audit"].sum())),
        "consensus": (size["kept"], size["candidates"] + size["unanswered"]),
        "balance": (size["candidates"], size["replay"] + size["surplus"]),
    }


def together(kept: pd.DataFrame, rejected: pd.DataFrame) -> pd.DataFrame:
    """Kept and rejected instructions; the column `outcome` tells them apart, `asked` is the text after its context."""
    both = [kept.assign(outcome="kept", reason="", detail=""), rejected.assign(outcome="rejected", cluster=-1)]
    found = pd.concat(both, ignore_index=True)
    asked = [
        transcript([*context, {"role": "user", "content": text}])
        for context, text in zip(found["context"], found["text"], strict=True)
    ]
    return found.assign(asked=asked, characters=found["text"].str.len())


def beside(replay: pd.DataFrame, candidates: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """The replay set with the candidate of the same id beside each row (`candidate_*`, empty where there is none), and who
    alone said what it says (`sole_author`, empty where several members did)."""
    texts = {name: f"candidate_{name}" for name in ("instruction", "response_id", "response")}
    found = replay.merge(candidates[["id", *texts]].rename(columns=texts), on="id", how="left")
    more = {f"{name}_characters": found[name].str.len() for name in ("instruction", "response")}
    said_by = responses.groupby(["instruction_id", "text"])["model"].nunique().to_dict()
    several = [said_by.get(key, 1) > 1 for key in zip(found["id"], found["response"], strict=True)]
    more["sole_author"] = found["model"].mask(pd.Series(several, found.index, bool), "")
    return found.fillna(dict.fromkeys(texts.values(), "")).assign(**more)


def validate(suites: dict[str, tuple[pd.DataFrame, list[Expectation]]], pages: Path) -> dict[str, list[dict[str, Any]]]:
    """Runs every suite on its frame and writes Data Docs to `pages`. One entry per expectation, in a fixed order."""
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    site: Any = {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages.resolve())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    context.add_data_docs_site(site_name="quality", site_config=site)
    source = context.data_sources.add_pandas("holdfast")
    # No sample of unexpected values: Data Docs put them into the page unescaped, and a model wrote them.
    shown: Any = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"], "partial_unexpected_count": 0}
    results = {}
    for name, (frame, expected) in suites.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expected))
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        checkpoint = gx.Checkpoint(name=name, validation_definitions=[validation], result_format=shown)
        run_id = RunIdentifier(run_name=name, run_time=FIXED_TIME)
        with warnings.catch_warnings():  # pandas: a pattern with a group would better be used to extract it
            warnings.filterwarnings("ignore", message="This pattern is interpreted as a regular expression")
            ran = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame}, run_id=run_id)
        entries = [entry(result) for validated in ran.run_results.values() for result in validated.results]
        results[name] = sorted(entries, key=lambda e: json.dumps([e["column"] or "", e["type"], e["expectation"]]))
    context.build_data_docs(site_names=["quality"])
    settle(pages)
    return results


def entry(result: Any) -> dict[str, Any]:
    """What quality.json says of one expectation."""
    config, seen = result.expectation_config, result.result
    # Great Expectations calls an expectation that crashed failed; but that is a bug, and no verdict on the data.
    for info in (result.exception_info, *result.exception_info.values()):
        if isinstance(info, dict) and info.get("raised_exception"):
            raise RuntimeError(f"{config.type}: {info['exception_message']}")
    left_out = ("column", "batch_id", "row_condition", "condition_parser")
    parameters = {key: value for key, value in config.kwargs.items() if key not in left_out}
    observed = seen.get("observed_value")
    if isinstance(observed, dict) and "values" in observed:  # quantiles
        observed = [number(value) for value in observed["values"]]
    if "unexpected_count" in seen:
        part = (seen["unexpected_percent"] or 0.0) / 100  # none where there is no row
        observed = part if "mostly" in parameters else seen["unexpected_count"]
    told = {
        "expectation": config.meta["expects"],
        "type": config.type,
        "column": config.kwargs.get("column"),
        "parameters": parameters,
        "severity": str(config.severity.value),
        "success": bool(result.success),
        "observed": number(observed) if isinstance(observed, float) else observed,
    }
    if not result.success:
        told["remedy"] = config.meta["remedy"]
        told["examples"] = [row["id"] for row in seen.get("unexpected_index_list") or []][:3]
    return told


def number(value: float) -> float | None:
    """None where there was nothing to measure."""
    return float(value) if math.isfinite(value) else None


def settle(pages: Path) -> None:
    """Takes clock, random ids and the logo on the vendor's server out of Data Docs: same rows, same bytes."""
    for page in sorted(pages.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"(?<=src=\")https://great-expectations-web-assets[^\"]*", "", text)
        text = re.sub(r"\b20\d{6}T\d{6}\.\d{6}Z", f"{FIXED_TIME:%Y%m%dT%H%M%S.%fZ}", text)
        text = re.sub(r"(?<=collapse-body-)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0", text)
        page.write_text(text, encoding="utf-8")


def statistics(results: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "expectations": len(results),
        "held": sum(result["success"] for result in results),
        "failed_critical": sum(failed(result, "critical") for result in results),
        "failed_warning": sum(failed(result, "warning") for result in results),
    }


def failed(result: dict[str, Any], severity: str) -> bool:
    return not result["success"] and result["severity"] == severity


def in_words(result: dict[str, Any]) -> str:
    """One failed expectation in a few words."""
    observed = ", ".join(
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        for value in (result["observed"] if isinstance(result["observed"], list) else [result["observed"]])
    )
    single = result["examples"] and "mostly" not in result["parameters"]
    rows = f" (as in {', '.join(result['examples'])})" if single else ""
    return f"{result['expectation']}, observed {observed}{rows}"
