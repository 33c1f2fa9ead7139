"""The complete params files that come with Holdfast, and how one becomes params.yaml without losing what it holds.

Used by `holdfast profile` and `holdfast init`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS
from holdfast.params.whole import Params
from holdfast.planning import scaffold

OWN_PROFILES = Path("profiles")
OWN = {  # these folders are there in every clone; models stay out of git
    Path(
        "models/local/README.md"
    ): "Folders of your own models go here, or links to them: config.json, tokenizer.json, *.safetensors.\n",
    Path(
        "models/local/.gitignore"
    ): "# git has the models' hashes, in models/sources.json\n/*\n!/README.md\n!/.gitignore\n!/*.dvc\n",
    Path("data/local/README.md"): "Your own data go here: JSONL, JSON, CSV or Parquet, and lm-eval task files.\n",
}


def find_profiles() -> dict[str, Path]:
    """Every profile by its name: those that come with Holdfast, and the project's own in profiles/."""
    places = (scaffold.source() / "profiles", OWN_PROFILES)
    files = {file.stem: file for place in places for file in place.glob("*.yaml")}
    return dict(sorted(files.items()))


def find_profile(name: str) -> Path:
    files = find_profiles()
    if name not in files:
        raise UserError(f"no profile '{name}'", where="profile", do=f"there are: {', '.join(files)}")
    return files[name]


def read_profile(name: str) -> str:
    """A profile as a project has it: without the section that only makes the lab's models, but in Holdfast's own repository."""
    text = find_profile(name).read_text(encoding="utf-8")
    return text if scaffold.find_own_repository(Path.cwd()) else re.sub(r"\npocket:\n(?:  .*\n)+", "", text)


def find_name(content: bytes) -> str | None:
    """Which profile this is, as Holdfast has it or as a project does; None: none, or an edited one."""
    profiles = find_profiles().items()
    return next((n for n, f in profiles if content in (f.read_bytes(), read_profile(n).encode())), None)


def guard(target: Path, force: bool) -> None:
    """Raises UserError if replacing `target` would lose edits: neither a profile nor git has it as it is."""
    if force or not target.exists():
        return
    content = target.read_bytes()
    if find_name(content):
        return
    if scaffold.is_unedited(target.as_posix(), scaffold.load_project()):
        return
    git = ["git", "--literal-pathspecs", "status", "--porcelain", "--ignored", "--", str(target)]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        done = None
    if done is None or done.returncode:
        what, do = "would be overwritten, and there is no git that has it", "copy it away, or give --force"
    elif done.stdout.strip():
        what, do = "has edits that are not committed", "commit them, or give --force to lose them"
    else:
        return
    raise UserError(what, where=target, do=do)


def write_params(text: str, target: Path = PARAMS) -> None:
    """Writes params.yaml whole, if it is valid, and the folders for the user's own models and data."""
    with storage.replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")
        try:
            Params.load(partial)
        except UserError as error:
            raise UserError(error.what, where=target, do=error.do) from None
        for path, content in OWN.items():
            if path.parent.as_posix() in text and not path.exists():
                storage.write_text(path, content)
