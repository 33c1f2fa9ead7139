"""The files of a user's project that Holdfast writes: the pipeline, its stage scripts, prompts, ignore files and CI.

They are this repository's own files. A wheel carries copies of them in holdfast/scaffold; a checkout reads its root.

A project records what was written: .holdfast/project.json holds the version and each file's hash, and .holdfast/scaffold
a copy of each text file. `holdfast upgrade` merges with these copies as the common base.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Literal

from holdfast.core.errors import UserError

PROJECT, BASE = Path(".holdfast/project.json"), Path(".holdfast/scaffold")
PIPELINE = "dvc.yaml"
PATTERNS = (PIPELINE, "stages/*.py", "data/prompts/*", "profiles/*.txt")  # of every project
POCKET = ("data/pocket/**/*", "models/pocket/**/*")  # models, suites and domain of the pocket lab
LEFT_OUT = ("stages/pocket.py",)  # makes the pocket lab's models: only Holdfast's own repository does that
IGNORE_FILES = (".gitignore", ".dvcignore")  # their lines are added to what is there
CI_FILES = (".ci/gate.sh", ".ci/comment.py")
HERE_ONLY = re.compile(
    r"^(\.pytest|\.mypy|\.ruff|\.coverage|\*\.egg|build/|dist/)"
)  # ignored for the sake of our own tests
OWN_INSTALL = 'make .venv/.installed && echo "$PWD/.venv/bin" >> "$GITHUB_PATH"'
ACTION = ".github/actions/holdfast-gate"  # what the workflow of the gate calls
OWN_LOCK = "requirements.lock"  # by which pip's cache is found again; a project's own file says its version of Holdfast
GITLAB_JOBS, GITLAB_ROOT = ".ci/gitlab.yml", ".gitlab-ci.yml"  # the same for GitLab, and what includes it
GITLAB_HEAD = """\
# The jobs of Holdfast, which the repository's .gitlab-ci.yml includes, with `inputs` for what is named below.
# HOLDFAST_TOKEN: a project access token with the scope `api`, masked; without it, as in a fork's pipeline, the gate still turns
# the merge request red or green and only the comment is left out.
"""
INSTALL = 'python -m pip install "${HOLDFAST_PACKAGE:-holdfast==%s}"'
Forge = Literal["github", "gitlab"]


@dataclass(frozen=True)
class Project:
    """What Holdfast wrote into a project: sha256 by path, relative to the project. `data`: copies of the user's own data."""

    holdfast: str
    pocket: bool = False
    ci: Forge | None = None
    files: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)


def source() -> Path:
    """The folder that holds the scaffold: beside the modules in an installed wheel, the repository's root in a checkout."""
    package = Path(__file__).parents[1]
    return package / "scaffold" if (package / "scaffold").is_dir() else package.parent


def version() -> str:
    return metadata.version("holdfast")


def find_own_repository(folder: Path) -> Path | None:
    """The checkout of Holdfast itself that holds `folder`."""
    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / "holdfast" / "__init__.py").is_file() and (place / "pyproject.toml").is_file():
            text = (place / "pyproject.toml").read_text(encoding="utf-8", errors="replace")
            if re.search(r'^name = "holdfast"$', text, re.MULTILINE):
                return place
    return None


def read(pocket: bool, ci: Forge | None, git_root: Path, recorded: Collection[str] = ()) -> dict[str, bytes]:
    """Content of the scaffold's files by path, for a project in the working directory of the repository `git_root`.

    `recorded`: the files that an earlier `init` of this project wrote.
    """
    files = {name: content for name, content in _read_files(PATTERNS).items() if name not in LEFT_OUT}
    files[PIPELINE] = _trim_for_users(files[PIPELINE].decode()).encode()
    if pocket:
        files |= _read_files(POCKET)
    return files | (read_workflows(ci, git_root, recorded) if ci else {})


def _read_files(patterns: tuple[str, ...]) -> dict[str, bytes]:
    root = source()
    files = (file for pattern in patterns for file in sorted(root.glob(pattern)) if file.is_file())
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in files if "__pycache__" not in f.parts}


def _trim_for_users(pipeline: str) -> str:
    """dvc.yaml without the stage that makes the pocket lab's models, and without words about our tests."""
    pipeline = re.sub(r"^  pocket:\n(?:    .*\n|\n)+", "", pipeline, flags=re.MULTILINE)
    return re.sub(r" \(tests/[^)]*\)", "", pipeline)


def read_workflows(forge: Forge, git_root: Path, recorded: Collection[str]) -> dict[str, bytes]:
    """The scripts in .ci/, and the workflows that call them from the root of the git repository, by path.

    In a subfolder, files, workflows and jobs bear its name, so that several projects fit into one repository. GitLab's
    own file is among them where there is none, or where an earlier `init` wrote it (`recorded`). Raises UserError for a
    folder whose name cannot stand in a workflow.
    """
    below = PurePosixPath(Path.cwd().resolve().relative_to(git_root.resolve()).as_posix())
    if re.search(r"[\x00-\x1f\x7f]|\$\{\{", str(below)):
        do = "rename it; nothing was written"
        raise UserError("this name cannot stand in a workflow", where=ascii(str(below)), do=do)
    up, scripts = "../" * len(below.parts), (below / ".ci").as_posix()
    suffix = "".join(f"-{part}" for part in re.findall(r"[A-Za-z0-9]+", str(below)))
    files = _read_files(CI_FILES)
    if forge == "github":
        for name in ("gate", "comment"):
            text = _adapt((source() / f".github/workflows/{name}.yml").read_text(encoding="utf-8"), scripts)
            renamed = rf"\1: \2holdfast-\3{suffix}"
            text = re.sub(r"^(name|    workflows): (\[?)(gate|comment)", renamed, text, flags=re.MULTILINE)
            text = text.replace(f"./{ACTION}", f"./{ACTION}{suffix}")
            files[f"{up}.github/workflows/holdfast-{name}{suffix}.yml"] = text.encode()
        text = _adapt((source() / ACTION / "action.yml").read_text(encoding="utf-8"), scripts)
        text = text.replace(OWN_LOCK, json.dumps((below / PROJECT.as_posix()).as_posix(), ensure_ascii=False))
        files[f"{up}{ACTION}{suffix}/action.yml"] = text.replace(f"./{ACTION}", f"./{ACTION}{suffix}").encode()
        return files
    text = (source() / GITLAB_JOBS).read_text(encoding="utf-8")
    text = re.sub(r"\A(?:#.*\n)+", GITLAB_HEAD, text).replace("default: holdfast,", f"default: holdfast=={version()},")
    text = re.sub(r"^(gate|comment)(?=:$)|(?<=job: )gate", rf"holdfast-\g<0>{suffix}", text, flags=re.MULTILINE)
    text = re.sub(r"(^|extends: )\.holdfast", rf"\1.holdfast{suffix}", text, flags=re.MULTILINE)
    files[GITLAB_JOBS] = _adapt(text, scripts).encode()
    root = up + GITLAB_ROOT
    if root in recorded or not Path(root).exists():
        files[root] = gitlab_include(git_root).encode()
    return files


def gitlab_include(git_root: Path) -> str:
    """What the .gitlab-ci.yml of a repository needs for the project in the working directory."""
    place = Path(GITLAB_JOBS).absolute().resolve().relative_to(git_root.resolve())
    return f"include:\n  - local: {json.dumps(f'/{place.as_posix()}', ensure_ascii=False)}\n"


def _adapt(text: str, scripts: str) -> str:
    """A workflow of ours for a user's project: it installs Holdfast by version, and calls the scripts in the folder `scripts`."""
    text = text.replace(OWN_INSTALL, INSTALL % version())

    def quote(line: re.Match[str]) -> str:
        command = re.sub(r"\.ci/([\w.]+)", lambda m: shlex.quote(f"{scripts}/{m[1]}"), line[2])
        plain = not re.search(r": | #", command)
        return line[1] + (command if plain else json.dumps(command, ensure_ascii=False))

    text = re.sub(r"^( *- (?:run: )?)(\S.*\.ci/.*)$", quote, text, flags=re.MULTILINE)
    return re.sub(r"(see )\.ci/", lambda m: f"{m[1]}{scripts}/", text)


def ignore_lines(name: str, present: str) -> str:
    """The text of an ignore file with the lines that the scaffold's has and `present` lacks."""
    ours = (source() / name).read_text(encoding="utf-8").splitlines()
    missing = [line for line in ours if line and line not in present.splitlines() and not HERE_ONLY.match(line)]
    gap = "" if not present or present.endswith("\n") else "\n"
    return present + gap + "".join(f"{line}\n" for line in missing)


def add_ignore_files(files: dict[str, bytes]) -> None:
    """Adds the ignore files that lack a line."""
    for name in IGNORE_FILES:
        try:
            present = Path(name).read_text(encoding="utf-8") if Path(name).is_file() else ""
        except UnicodeDecodeError:
            raise UserError("is not UTF-8", where=name, do="save it as UTF-8; nothing was written") from None
        if (text := ignore_lines(name, present)) != present:
            files[name] = text.encode()


def load_project() -> Project | None:
    """What .holdfast/project.json of the working directory says; None where there is none. Raises UserError."""
    if not PROJECT.is_file():
        return None
    try:
        project = Project(**json.loads(PROJECT.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(
            "cannot be read", where=PROJECT, do="take it back from git: git checkout -- " + str(PROJECT)
        ) from None
    if (
        not isinstance(project.files, dict)
        or not isinstance(project.data, dict)
        or not isinstance(project.holdfast, str)
        or project.ci not in (None, "github", "gitlab")
    ):
        raise UserError("cannot be read", where=PROJECT, do="take it back from git: git checkout -- " + str(PROJECT))
    return project


def base_copy(name: str) -> Path:
    """Where the text of a file as it was written is kept. Files above the project (`../`) have a folder of their own."""
    return BASE / name.replace("../", "above/")


def record_files(project: Project, scaffold: dict[str, bytes]) -> dict[str, bytes]:
    """The project file, and the copies of the scaffold's text files."""
    copies = {
        base_copy(n).as_posix(): content
        for n, content in scaffold.items()
        if not n.startswith(("data/pocket/", "models/pocket/"))
    }
    text = json.dumps(asdict(project), indent=1, sort_keys=True) + "\n"
    return {PROJECT.as_posix(): text.encode(), **copies}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_unedited(name: str, project: Project | None) -> bool:
    """Whether the file is as Holdfast wrote it."""
    recorded = project.files.get(name) if project else None
    return recorded is not None and Path(name).is_file() and digest(Path(name).read_bytes()) == recorded
