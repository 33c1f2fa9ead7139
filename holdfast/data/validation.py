"""Great Expectations on instructions, scores and replay set, and what is reported of them.

The work of `quality`, which writes reports/quality/quality.json and reports/quality/data_docs/ before a failed
critical expectation stops it, so that one can look. `observed` in quality.json is the measured value; of an expectation
on single rows it is how many rows break it or, where some may, which part of them does.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import great_expectations as gx
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig

from holdfast.core.errors import UserError
from holdfast.data.expectation_suites import Suite

FIXED_TIME = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)  # no clock in what DVC hashes
MAX_FAILURES = 3  # that an error names


class Result(TypedDict):
    """What quality.json says of one expectation."""

    expectation: str
    type: str
    column: str | None
    parameters: dict[str, Any]
    severity: str  # "critical" or "warning"
    success: bool
    observed: Any
    remedy: NotRequired[str]  # where it failed
    examples: NotRequired[list[str]]  # where it failed: ids of rows


Results = dict[str, list[Result]]  # by suite


def validate(suites: Mapping[str, Suite], pages: Path) -> Results:
    """Run every suite on its frame and write Data Docs to `pages`; one result per expectation, in a fixed order."""
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
    results: Results = {}
    for name, (frame, expectations) in suites.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        checkpoint = gx.Checkpoint(name=name, validation_definitions=[validation], result_format=shown)
        run_id = RunIdentifier(run_name=name, run_time=FIXED_TIME)
        with warnings.catch_warnings():  # pandas: a pattern with a group would better be used to extract it
            warnings.filterwarnings("ignore", message="This pattern is interpreted as a regular expression")
            outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame}, run_id=run_id)
        of_suite = [summarise(result) for run in outcome.run_results.values() for result in run.results]
        results[name] = sorted(of_suite, key=lambda r: json.dumps([r["column"] or "", r["type"], r["expectation"]]))
    context.build_data_docs(site_names=["quality"])
    make_reproducible(pages)
    return results


def summarise(result: Any) -> Result:
    """A result of Great Expectations in our words. Raises RuntimeError where the expectation crashed."""
    config, measured = result.expectation_config, result.result
    # Great Expectations calls an expectation that crashed failed; but that is a bug, and no verdict on the data.
    for info in (result.exception_info, *result.exception_info.values()):
        if isinstance(info, dict) and info.get("raised_exception"):
            raise RuntimeError(f"{config.type}: {info['exception_message']}")
    left_out = ("column", "batch_id", "row_condition", "condition_parser")
    parameters = {key: value for key, value in config.kwargs.items() if key not in left_out}
    observed = measured.get("observed_value")
    if isinstance(observed, dict) and "values" in observed:  # quantiles
        observed = [finite_or_none(value) for value in observed["values"]]
    if "unexpected_count" in measured:
        part = (measured["unexpected_percent"] or 0.0) / 100  # None where there is no row
        observed = part if "mostly" in parameters else measured["unexpected_count"]
    summary = Result(
        expectation=config.meta["expects"],
        type=config.type,
        column=config.kwargs.get("column"),
        parameters=parameters,
        severity=str(config.severity.value),
        success=bool(result.success),
        observed=finite_or_none(observed) if isinstance(observed, float) else observed,
    )
    if not result.success:
        summary["remedy"] = config.meta["remedy"]
        summary["examples"] = [row["id"] for row in measured.get("unexpected_index_list") or []][:3]
    return summary


def finite_or_none(value: float) -> float | None:
    """The value, or None where there was nothing to measure."""
    return float(value) if math.isfinite(value) else None


def make_reproducible(pages: Path) -> None:
    """Remove clock, random ids and the logo on the vendor's server from Data Docs: equal rows give equal bytes."""
    for page in sorted(pages.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"(?<=src=\")https://great-expectations-web-assets[^\"]*", "", text)
        text = re.sub(r"\b20\d{6}T\d{6}\.\d{6}Z", f"{FIXED_TIME:%Y%m%dT%H%M%S.%fZ}", text)
        text = re.sub(r"(?<=collapse-body-)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0", text)
        page.write_text(text, encoding="utf-8")


def report(results: Results, counts: dict[str, Any]) -> dict[str, Any]:
    """The content of quality.json. `counts`: rows of each table and stage."""
    of_suites = {}
    for name, of_suite in results.items():
        counted = statistics(of_suite)
        success = not counted["failed_critical"]
        of_suites[name] = {"success": success, "statistics": counted, "results": of_suite}
    total = statistics(result for of_suite in results.values() for result in of_suite)
    return {"schema": 1, "counts": counts, "statistics": total, "suites": of_suites}


def statistics(results: Iterable[Result]) -> dict[str, int]:
    results = list(results)
    return {
        "expectations": len(results),
        "held": sum(result["success"] for result in results),
        "failed_critical": len(failures(results, "critical")),
        "failed_warning": len(failures(results, "warning")),
    }


def failures(results: Iterable[Result], severity: str) -> list[Result]:
    return [result for result in results if not result["success"] and result["severity"] == severity]


def outcome_line(suite: str, results: list[Result], rows: int) -> str:
    """How a suite went, with its warnings, for the terminal."""
    warned = [f"warning: {in_words(result)}" for result in failures(results, "warning")]
    held = sum(result["success"] for result in results)
    return "; ".join([f"quality: {suite}: {held} of {len(results)} expectations hold on {rows:,} rows", *warned])


def require_no_critical_failure(results: Results, out: Path) -> None:
    """Raise UserError where a critical expectation failed. `out`: the folder of the report."""
    broken = [(suite, result) for suite, of_suite in results.items() for result in failures(of_suite, "critical")]
    if not broken:
        return
    first = broken[:MAX_FAILURES]
    listed = "; ".join(f"{suite}: {in_words(result)}" for suite, result in first)
    listed += "; ..." * (len(broken) > len(first))
    what = f"{len(broken)} critical expectation{'s' * (len(broken) > 1)} failed: {listed}"
    remedies = "; ".join(dict.fromkeys(result["remedy"] for _, result in first))
    raise UserError(what, where=out / "quality.json", do=f"{remedies}\n  see {out / 'data_docs' / 'index.html'}")


def in_words(result: Result) -> str:
    """One failed expectation in a few words."""
    values = result["observed"] if isinstance(result["observed"], list) else [result["observed"]]
    observed = ", ".join(
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        for value in values
    )
    single = result["examples"] and "mostly" not in result["parameters"]
    rows = f" (as in {', '.join(result['examples'])})" if single else ""
    return f"{result['expectation']}, observed {observed}{rows}"
