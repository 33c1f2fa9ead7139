"""Great Expectations on instructions and replay set; a critical failure stops the pipeline."""

from __future__ import annotations

from pathlib import Path

from holdfast.data import validation
from holdfast.params.models import load_panel
from holdfast.params.quality import Quality


def main() -> None:
    validation.main(Quality.load(), load_panel(), Path("data"), Path("reports/quality"))
