"""Great Expectations on instructions, scores and replay set; a failed critical expectation stops the pipeline."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import storage
from holdfast.data import expectation_suites, quality_tables, validation
from holdfast.params.models import load_panel
from holdfast.params.quality import Quality


def main() -> None:
    params, panel, out = Quality.load(), load_panel(), Path("reports/quality")
    tables = quality_tables.load_tables(panel, Path("data"))
    suites = expectation_suites.build_suites(params, panel, tables)
    with storage.replacing_folder(out / "data_docs") as pages:
        results = validation.validate(suites, pages)

    counts = quality_tables.count_rows(tables, panel)
    storage.write_json(out / "quality.json", validation.report(results, counts))
    for name, suite in suites.items():
        print(validation.outcome_line(name, results[name], len(suite.frame)))
    validation.require_no_critical_failure(results, out)
