"""Profiles: complete params files for real models. Lists them, or makes one of them params.yaml.

holdfast profile list
holdfast profile use NAME [--force]
"""

from __future__ import annotations

from holdfast.params.base import PARAMS
from holdfast.planning import profiles


def show() -> None:
    """Every profile with the first sentence of its comment; the one in use is marked."""
    present = profiles.find_name(PARAMS.read_bytes()) if PARAMS.is_file() else None
    for name in profiles.find_profiles():
        mark = "*" if name == present else " "
        print(f"{mark} {name:<14} {about(profiles.read_profile(name))}")


def use(name: str, force: bool) -> None:
    """Replaces params.yaml by a profile. Raises UserError if that would lose edits."""
    text = profiles.read_profile(name)
    profiles.guard(PARAMS, force)
    profiles.write_params(text)
    marked = [number for number, line in enumerate(text.splitlines(), start=1) if "# <-" in line]
    print(f"{PARAMS}: profile '{name}'")
    if marked:
        lines = ", ".join(map(str, marked))
        print(f'look at the lines marked "<-" ({lines}), put your data into data/local, then: holdfast doctor')
    else:
        print("next: dvc repro")


def about(text: str) -> str:
    """The first line of its comment."""
    return text.partition("\n")[0].removeprefix("#").strip()
