"""The recipe of the built-in models, suites and domain. Frozen; nobody has to run it."""

from __future__ import annotations

from pathlib import Path

from holdfast.params.pocket import Pocket
from holdfast.pocket import recipe


def main() -> None:
    recipe.main(Path("data/pocket"), Path("models/pocket"), **Pocket.load().model_dump())
