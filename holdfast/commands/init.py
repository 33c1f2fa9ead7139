"""Writes a project: the pipeline, its stages and prompts, and params.yaml for one's own model and data, or the pocket lab.

holdfast init --base FOLDER|OWNER/NAME --domain my.jsonl [--test test.jsonl] [--columns prompt=Q,response=A]
holdfast init --pocket                                                  both with [--into FOLDER] [--ci github|gitlab]

holdfast init --ci github|gitlab        in a project: adds the workflows

Starts git and DVC where there is none. What is there is not overwritten, except what an earlier `init` wrote and nobody
edited. Data are copied into data/local. A model folder elsewhere is linked into models/local, which git ignores: no weights
are doubled, and no path of this machine is committed (holdfast/engines/model_files.py).
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS
from holdfast.planning import file_writer, profiles, scaffold
from holdfast.planning.overwriting import (
    check_copies,
    find_edited,
    find_obsolete,
    has_content,
    place_copies,
    refuse_foreign_files,
    refuse_foreign_params,
)
from holdfast.planning.repository import find_dvc_root, find_git_root, start_git_and_dvc
from holdfast.planning.start import Start, read_pocket_params, tailor_start

LARGE = 10_000_000  # bytes of a file above which it is said how to keep it out of git


def main(
    base: str | None,
    domain: Path | None,
    test: Path | None = None,
    revision: str | None = None,
    columns: str | None = None,
    force: bool = False,
    pocket: bool = False,
    into: Path = Path(),
    ci: scaffold.Forge | None = None,
) -> None:
    """Raises UserError, with nothing written, where something would be overwritten or the input is bad."""
    only_ci = ci is not None and not (pocket or base or domain)
    if not only_ci and (pocket == bool(base and domain) or (pocket and (base or domain))):
        do = "give --base MODEL --domain FILE for your own, or --pocket for the lab that needs neither"
        raise UserError("which model and data?", where="holdfast init", do=do)
    if own := scaffold.find_own_repository(into if into.exists() else into.absolute().parent):
        do = "use a folder of your own: mkdir my-project && cd my-project && holdfast init ..."
        raise UserError("this is Holdfast's own repository; its results would mix with yours", where=own.name, do=do)
    if ci not in (None, "github", "gitlab"):
        raise UserError(f"no workflows for '{ci}'", where="--ci", do="give github or gitlab")
    if only_ci and not into.is_dir():
        raise UserError("no such folder", where=into, do="--ci alone adds workflows to a project that is there")
    if base and Path(base).is_dir() and not Path(base).is_absolute():
        base = os.path.relpath(base, into)
    domain, test = (
        file if file is None or file.is_absolute() else Path(os.path.relpath(file, into)) for file in (domain, test)
    )
    with working_in(into):
        if only_ci and ci:
            add_workflows(ci)
        else:
            write_project(base, domain, test, revision, columns, force, ci)
    if into != Path():
        print(f"         and before that: cd {into}")


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Makes `folder`, if need be, and works in it. Where that fails, no new folder is left."""
    before = Path.cwd()
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", where=folder, do="choose another folder") from None
    os.chdir(folder)
    try:
        yield
    except BaseException:
        os.chdir(before)
        for place in made:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        raise
    os.chdir(before)


def write_project(
    base: str | None,
    domain: Path | None,
    test: Path | None,
    revision: str | None,
    columns: str | None,
    force: bool,
    ci: scaffold.Forge | None,
) -> None:
    """In the working directory. Computes everything first, then writes it all."""
    before = load_own_version()
    ci = ci or (before.ci if before else None)
    git_root = find_git_root()
    recorded = before.files if before else {}
    pipeline = scaffold.read(base is None, ci, git_root or Path.cwd(), recorded)
    refuse_foreign_files(pipeline, before)
    refuse_foreign_params(before, force)
    start = tailor_start(base, domain, test, revision, columns) if base and domain else Start(read_pocket_params())
    check_copies(start, before, force)
    if shutil.which("git") is None:
        raise UserError("git is not installed", where="git", do="install it: results are compared between its commits")

    edited = find_edited(pipeline, before)
    files = {name: content for name, content in pipeline.items() if name not in edited}
    files[PARAMS.as_posix()] = start.params.encode()
    hashes = {name: scaffold.digest(content) for name, content in files.items()}
    unchanged = {name: recorded[name] for name in edited}
    copies = {target.as_posix(): file.read_bytes() for file, target in place_copies(start).items()}
    placed = {target.as_posix() for _, target in start.list_copies()}
    former = before.data if before else {}
    data = {n: digest for n, digest in former.items() if n in placed} | {
        n: scaffold.digest(content) for n, content in copies.items()
    }
    obsolete = find_obsolete({*recorded} - files.keys() - edited, recorded)
    obsolete += find_obsolete(former.keys() - placed, former)
    project = scaffold.Project(scaffold.version(), base is None, ci, dict(sorted((hashes | unchanged).items())), data)
    files |= scaffold.record_files(project, pipeline)
    for path, content in profiles.OWN.items():
        if path.parent.as_posix() in start.params and not path.exists():
            files[path.as_posix()] = content.encode()
    files |= copies
    scaffold.add_ignore_files(files)
    started = write(files, git_root, start.links)
    for name in obsolete:
        Path(name).unlink()
        scaffold.base_copy(name).unlink(missing_ok=True)
    for line in [*start.lines, *started]:
        print(line)
    for name in obsolete:
        print(f"removed  {name}: of an earlier init")
    report_written(files, edited)
    report_data(copies)
    report_include(ci, git_root or Path.cwd(), files)
    print("next     git add . && git commit; holdfast doctor; then: dvc repro")


def load_own_version() -> scaffold.Project | None:
    """What an earlier `init` wrote here. Raises UserError where that was another version."""
    before = scaffold.load_project()
    if before and before.holdfast != scaffold.version():
        what = f"made with Holdfast {before.holdfast}; this is {scaffold.version()}"
        raise UserError(what, where=scaffold.PROJECT, do="bring it up to date first: holdfast upgrade")
    return before


def add_workflows(ci: scaffold.Forge) -> None:
    """In the working directory, which holds a project: adds the workflows of a forge, and touches nothing else."""
    before, git_root = load_own_version(), find_git_root()
    if before is None:
        do = "give --base MODEL --domain FILE, or --pocket, and --ci beside it: that makes one"
        raise UserError("no project is here that workflows could be added to", where=scaffold.PROJECT, do=do)
    if git_root is None:
        raise UserError("no git repository here", where=".", do="git init, and commit the project")
    workflows = scaffold.read_workflows(ci, git_root, before.files)
    refuse_foreign_files(workflows, before)
    edited = find_edited(workflows, before)
    files = {name: content for name, content in workflows.items() if name not in edited}
    hashes = {name: scaffold.digest(content) for name, content in files.items()}
    project = replace(before, ci=ci, files=dict(sorted((before.files | hashes).items())))
    files |= scaffold.record_files(project, files)
    write(files, git_root, [])
    report_written(files, edited)
    report_include(ci, git_root, files)
    print("next     git add and commit them; make the gate a required check")


def write(files: dict[str, bytes], git_root: Path | None, links: list[tuple[Path, Path]]) -> list[str]:
    """Everything or nothing; lines that say what was started."""
    find_dvc_root(git_root or Path.cwd())  # a broken one is said before anything is written
    writer = file_writer.Writer({name: content for name, content in files.items() if not has_content(name, content)})
    writer.prepare()
    former: dict[Path, str | None] = {}
    try:
        started = start_git_and_dvc(git_root)
        for source, target in links:
            former[target] = os.readlink(target) if target.is_symlink() else None
            link(source, target)
        writer.commit()
    except BaseException:
        for target, source_text in former.items():
            target.unlink(missing_ok=True)
            if source_text is not None:
                target.symlink_to(source_text)
        raise
    finally:
        writer.close()
    return started


def report_written(files: dict[str, bytes], edited: set[str]) -> None:
    groups: dict[str, int] = {}
    for name in files:
        parts = name.split("/")
        group = (
            name
            if len(parts) == 1 or parts[0] in ("..", ".ci", ".github")
            else "/".join(parts[: 2 if parts[0] in ("data", "models") else 1]) + "/"
        )
        groups[group] = groups.get(group, 0) + 1
    print("wrote    " + ", ".join(f"{name} ({n} files)" if n > 1 else name for name, n in sorted(groups.items())))
    for name in sorted(edited):
        print(f"kept     {os.path.normpath(name)}: edited by hand")


def report_data(copies: dict[str, bytes]) -> None:
    """Says which data git will hold, and how it need not."""
    for name, content in sorted(copies.items()):
        print(f"data     {name}: {len(content) / 1e6:,.1f} MB, which `git add .` puts into git")
        if len(content) > LARGE:
            print(
                f"         too large for that? first: dvc add {shlex.quote(name)} (git then holds its hash, DVC the file)"
            )


def report_include(ci: scaffold.Forge | None, git_root: Path, files: dict[str, bytes]) -> None:
    """Says what a GitLab pipeline of the user's own lacks."""
    root = next(iter(git_root.glob(scaffold.GITLAB_ROOT)), None)
    if ci == "gitlab" and root and not any(name.endswith(scaffold.GITLAB_ROOT) for name in files):
        include = scaffold.gitlab_include(git_root).splitlines()
        if include[1].strip() not in root.read_text(encoding="utf-8", errors="replace"):
            print(
                f"to do    {root.name} is yours: add to it the stages gate and comment, and\n         "
                + "\n         ".join(include)
            )


def link(source: Path, target: Path) -> None:
    """A link to a model's folder, so that its weights are not doubled. Raises UserError where the disk has no links."""
    if target.is_symlink():
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    here = Path.cwd().resolve()
    inside = source.is_relative_to(here)  # the project may be moved with it
    try:
        target.symlink_to(os.path.relpath(source, target.parent.resolve()) if inside else source, True)
    except OSError as error:
        do = f"copy the model to {target} yourself, and give that as --base"
        raise UserError(f"cannot be linked ({error.strerror})", where=target, do=do) from None
