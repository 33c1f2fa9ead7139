"""Resolves base and panel, safetensors only, and hashes every file."""

from __future__ import annotations

from pathlib import Path

from holdfast.engines import inspection
from holdfast.params.models import Models


def main() -> None:
    inspection.main(Models.load(), Path("models/manifest"))
