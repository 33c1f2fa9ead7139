"""The git repository and the DVC project around a folder: found, or started."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from holdfast.core.errors import UserError, first_line


def find_git_root() -> Path | None:
    """The root of the git repository that holds the working directory. Raises UserError within git's own folder."""
    if shutil.which("git") is None:
        return None
    command = ["git", "rev-parse", "--is-inside-git-dir", "--show-toplevel"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stdout.startswith("true"):
        do = "use a folder of a repository's working tree, or a new one"
        raise UserError("belongs to git itself (.git, or a bare repository)", where=Path.cwd(), do=do)
    return None if done.returncode else Path(done.stdout.partition("\n")[2].removesuffix("\n"))


def find_dvc_root(git_root: Path) -> Path | None:
    """The DVC project that holds the working directory. Raises UserError where DVC cannot read its settings."""
    from dvc.config import Config, ConfigError

    here = Path.cwd().resolve()
    places = [here, *(place for place in here.parents if place.is_relative_to(git_root.resolve()))]
    root = next((place for place in places if (place / ".dvc").exists()), None)
    if root is not None and not (root / ".dvc").is_dir():
        raise UserError("is no folder", where=root / ".dvc", do="DVC keeps its settings there: move it away")
    try:
        Config(dvc_dir=str(root / ".dvc")) if root else None
    except ConfigError as error:
        what = f"DVC cannot read it ({first_line(error)})"
        raise UserError(what, where=root and root / ".dvc" / "config", do="correct it, or take it back") from None
    return root


def start_git_and_dvc(git_root: Path | None) -> list[str]:
    """Runs `git init` and `dvc init` where there is neither; says so. Raises UserError where one fails."""
    started = []
    if git_root is None:
        call("git", "init", "--quiet")
        git_root = Path.cwd()
        started.append("started  a git repository (git init)")
    if find_dvc_root(git_root) is None:
        below = git_root.resolve() != Path.cwd().resolve()
        call(sys.executable, "-m", "dvc", "init", "--quiet", *(["--subdir"] if below else []))
        call(sys.executable, "-m", "dvc", "config", "core.analytics", "false")
        started.append("started  a DVC project (dvc init" + (" --subdir)" if below else ")"))
    return started


def call(*command: str) -> None:
    """Raises UserError with the line in which the command says what is wrong."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        said = [line for line in lines if line.lower().startswith(("error:", "fatal:"))] or lines[-1:] or ["no message"]
        what = re.sub(r"^(error|fatal):\s*", "", said[0], flags=re.IGNORECASE)[:200]
        name = "git init" if command[0] == "git" else f"dvc {command[3]}"
        do = "nothing of Holdfast was written: make that command work by hand, then run this again"
        raise UserError(what, where=name, do=do)
