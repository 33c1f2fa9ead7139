"""What a reviewer reads."""

from __future__ import annotations

from pathlib import Path

from holdfast.params.report import Report
from holdfast.reporting import assembly


def main() -> None:
    assembly.main(Report.load(), Path("data"), Path("models"), Path("reports"), Path("dvc.lock"))
