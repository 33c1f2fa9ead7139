"""Writes a project: the pipeline, its stages and prompts, and params.yaml for one's own model and data, or the pocket lab.

holdfast init --base FOLDER|OWNER/NAME --domain my.jsonl [--test test.jsonl] [--columns prompt=Q,response=A]
holdfast init --pocket                                                  both with [--into FOLDER] [--ci github|gitlab]

holdfast init --ci github|gitlab        in a project: adds the workflows

Starts git and DVC where there is none. What is there is not overwritten, except what an earlier `init` wrote and nobody
edited. Data are copied into data/local. A model folder elsewhere is linked into models/local, which git ignores: no weights
are doubled, and no path of this machine is committed (holdfast/engines/model_files.py).
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core import checkpoint, manifest
from holdfast.core.errors import UserError, first_line
from holdfast.params.base import PARAMS
from holdfast.params.ingest import Columns, Ingest
from holdfast.params.models import Model
from holdfast.params.whole import Params
from holdfast.planning import profiles, scaffold, shapes

if TYPE_CHECKING:
    from holdfast.chat import encoding
    from holdfast.planning import survey

MODELS, DATA = Path("models/local"), Path("data/local")
LARGE = 10_000_000  # bytes of a file above which it is said how to keep it out of git
SIZES = ((2e9, "qwen2.5-0.5b"), (20e9, "llama-3.1-8b"), (math.inf, "paper"))  # up to so many parameters


@dataclass(frozen=True)
class Start:
    """What a project starts from: its params file, files to copy, folders to link (source, target), and lines that say why."""

    params: str
    copies: list[Path] = field(default_factory=list)  # files, or folders of shards
    links: list[tuple[Path, Path]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def list_copies(self) -> list[tuple[Path, Path]]:
        """(file, where it is copied to) for each file, and for each file in a folder."""
        within = [
            (path, file)
            for path in self.copies
            for file in (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
        ]
        return [(file, DATA / path.name / file.relative_to(path)) for path, file in within]


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


def find_edited(files: Iterable[str], before: scaffold.Project | None) -> set[str]:
    """Those of an earlier `init` that are here and no longer as it wrote them."""
    known = before.files if before else {}
    return {n for n in files if n in known and Path(n).is_file() and not scaffold.is_unedited(n, before)}


def find_obsolete(names: Iterable[str], recorded: dict[str, str]) -> list[str]:
    """Those that are here as they were written; what was edited stays."""
    return sorted(n for n in names if Path(n).is_file() and scaffold.digest(Path(n).read_bytes()) == recorded[n])


def write(files: dict[str, bytes], git_root: Path | None, links: list[tuple[Path, Path]]) -> list[str]:
    """Everything or nothing; lines that say what was started."""
    find_dvc_root(git_root or Path.cwd())  # a broken one is said before anything is written
    writer = scaffold.Writer({name: content for name, content in files.items() if not has_content(name, content)})
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


def has_content(name: str, content: bytes) -> bool:
    return Path(name).is_file() and Path(name).read_bytes() == content


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


def refuse_foreign_files(pipeline: dict[str, bytes], before: scaffold.Project | None) -> None:
    """Raises UserError where a file would be overwritten that an earlier `init` did not write, or that was edited."""
    ours = before.files if before else {}
    do = "choose a folder of its own: holdfast init --into llm ..."
    pipeline_file = Path(scaffold.PIPELINE)
    for name, content in pipeline.items():
        if Path(name).exists() and name not in ours and not has_content(name, content):
            if name == pipeline_file.name:
                raise UserError("another pipeline is here", where=pipeline_file, do=do)
            workflow = name.startswith("../") or name.startswith((".github", ".ci/"))
            raise UserError(
                "is here already, and not from Holdfast",
                where=os.path.normpath(name),
                do="move it away, or leave --ci out" if workflow else do,
            )


def refuse_foreign_params(before: scaffold.Project | None, force: bool) -> None:
    """Raises UserError where a params.yaml would be lost that is neither of `init` nor a profile."""
    ours = before.files if before else {}
    profile = PARAMS.is_file() and profiles.find_name(PARAMS.read_bytes())
    if PARAMS.exists() and not profile and not force and not scaffold.is_unedited(PARAMS.as_posix(), before):
        what = (
            "was edited since `holdfast init` wrote it"
            if PARAMS.as_posix() in ours
            else "is here already, and not from Holdfast"
        )
        ours_to_replace = "edit it by hand, or give --force to replace it"
        do = (
            ours_to_replace
            if PARAMS.as_posix() in ours
            else "give the project a folder of its own: --into llm (--force would replace this file)"
        )
        raise UserError(what, where=PARAMS, do=do)


def read_pocket_params() -> str:
    return profiles.read_profile("pocket")


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


def tailor_start(base: str, domain: Path, test: Path | None, revision: str | None, columns: str | None) -> Start:
    """Looks at model and data, and makes the params file for them. Raises UserError."""
    try:
        from holdfast.chat import encoding, template_check
        from holdfast.planning import survey, tailor
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed", where="holdfast init --base", do="pip install 'holdfast[pipeline]'"
        ) from None
    if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
        do = "give the full commit hash of 40 digits from the model's page"
        raise UserError(f"'{revision[:60]}' is no commit", where="--revision", do=do)
    if test is not None and test.name == domain.name and test.resolve() != domain.resolve():
        do = "both are copied to data/local: give one of them another name"
        raise UserError(f"has the name of the training data, {domain}", where=test, do=do)
    if test is not None and test.resolve() == domain.resolve():
        do = "leave --test out: a tenth of the rows is split off"
        raise UserError("is the training data too: nothing would be left to train on", where=test, do=do)
    mapped = parse_columns(columns)
    model, links = find_model(base, revision)
    place = Path(base) if links else shapes.find_folder(model, MODELS)
    shape = (
        shapes.find_shape(Model(path=Path(base).resolve().name), Path(base).resolve().parent)
        if links
        else shapes.find_shape(model, MODELS)
    )
    if shape is None:
        what, do = "its size is not known here", "download it, and give its folder"
        raise UserError(what, where=base, do=do)
    tokenizer = manifest.load_tokenizer(place) if place else None
    if tokenizer is not None and not tokenizer.chat_template:
        do = "use a chat (instruct) model, or put its chat_template.jinja beside the tokenizer"
        raise UserError("the model has no chat template", where=base, do=do)
    if tokenizer is not None and place is not None:
        template_check.guard_template(place, tokenizer)

    def tokens(conversation: encoding.Messages, tools: list | None) -> tuple[int, int]:
        try:
            _, mask = encoding.encode(tokenizer, conversation, tools)  # type: ignore[arg-type]
        except Exception as error:  # a template is a program of its author's
            what = f"the chat template cannot render a row ({first_line(error)})"
            do = "fix or remove such rows: no system turn, no odd order of roles"
            raise UserError(what, where=domain, do=do) from None
        return len(mask), sum(mask)

    measure = tokens if tokenizer is not None else survey.estimate_tokens
    with naming_options():
        train = survey.survey_path(domain, mapped, measure, tokenizer)
        held_out = survey.survey_path(test, mapped, measure, tokenizer) if test else None
    name = next(name for limit, name in SIZES if shape.parameters <= limit)
    text, notes = tailor.tailor_params(name, model, train, shape, tokenizer, domain, test, mapped)
    lines = describe(train, held_out, base, shape, name, tokenizer is not None, notes)
    return Start(text, [file for file in (domain, test) if file], links, lines)


@contextmanager
def naming_options() -> Iterator[None]:
    """Remedies within are said in options of `init`: params.yaml is not there yet."""
    try:
        yield
    except UserError as error:
        do = "give the path of your data" if error.what == "no such file" else error.do
        do = re.sub(r"correct ingest\.columns\S* in params\.yaml", "correct --columns", do)
        raise UserError(error.what, where=error.where, do=do) from None


def parse_columns(columns: str | None) -> Columns | None:
    """`prompt=Q,response=A` as a mapping. Raises UserError."""
    if columns is None:
        return None
    pairs = dict(part.split("=", 1) for part in columns.split(",") if "=" in part)
    known = set(Columns.model_fields)
    do = f"give prompt=FIELD,response=FIELD, or messages=FIELD; known: {', '.join(sorted(known))}"
    try:
        if not set(pairs) <= known or len(pairs) != columns.count(",") + 1:
            raise ValueError
        return Columns(**pairs)
    except ValueError:
        raise UserError(f"cannot read the mapping '{columns}'", where="--columns", do=do) from None


def find_model(base: str, revision: str | None) -> tuple[Model, list[tuple[Path, Path]]]:
    """The entry for params.yaml, and the links (source, target) that it needs. Raises UserError."""
    folder = Path(base)
    if folder.is_dir():
        checkpoint.check_folder(folder)
        source = folder.resolve()
        if source.parent == MODELS.resolve():
            return Model(path=source.name), []
        return Model(path=source.name), [(source, MODELS / source.name)]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or base.startswith("."):
        raise UserError(
            "no such folder, and no hub id", where=base, do="give a model's folder, or OWNER/NAME of the hub"
        )
    return Model(hub=base, revision=revision or find_latest_commit(base)), []


def find_latest_commit(hub: str) -> str:
    """The commit of a hub model: what the profiles pin, else what the hub says now. Raises UserError without a network."""
    for file in profiles.find_profiles().values():
        for model in Params.load(file).models.values():
            if model.hub == hub and model.revision:
                return model.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(hub, timeout=10).sha)
    except Exception as error:  # offline, gated, unknown: a dozen classes
        what = f"the hub does not say its commit ({type(error).__name__})"
        raise UserError(what, where=hub, do="give --revision: the 40-digit commit hash from the model's page") from None


def place_copies(start: Start) -> dict[Path, Path]:
    """Where each file goes; not those that are there themselves."""
    return {file: target for file, target in start.list_copies() if target.resolve() != file.resolve()}


def check_copies(start: Start, before: scaffold.Project | None, force: bool) -> None:
    """Raises UserError where another file or model of the same name is there, or params.yaml would not be valid."""
    former = before.data if before else {}
    for file, target in place_copies(start).items():
        name = target.as_posix()
        ours = name in former and bool(find_obsolete([name], former))  # of an earlier init, and unedited
        if target.exists() and not (ours or force) and not has_content(name, file.read_bytes()):
            raise UserError("another file of this name is there", where=target, do="rename yours, or give --force")
    for source, target in start.links:  # a link loses nothing when it is replaced
        if target.exists() and not target.is_symlink() and target.resolve() != source:
            raise UserError("another model of this name is there", where=target, do="rename one of the two folders")
    parse_params(start.params)


def parse_params(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PARAMS).write_text(text, encoding="utf-8")
        try:
            Params.load(Path(folder) / PARAMS)
        except UserError as error:
            raise UserError(error.what, where=PARAMS, do=error.do) from None


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


def describe(
    data: survey.Survey,
    test: survey.Survey | None,
    base: str,
    shape: shapes.Shape,
    name: str,
    exact: bool,
    notes: list[str],
) -> list[str]:
    """What was read, in lines for the user."""
    from holdfast.planning import survey

    def spread(numbers: list[int]) -> str:
        ordered = sorted(numbers)
        return f"median {ordered[len(ordered) // 2]:,}, longest {ordered[-1]:,}"

    lines: list[str] = []
    unit = "tokens" if exact else "tokens (guessed from characters: the tokenizer is not here)"
    lines.append(f"base     {Path(base).name}: {shape.parameters / 1e6:,.1f} M parameters, context {shape.context:,}")
    lines.append(
        f"data     {data.rows:,} rows, format {data.form}, {data.systems:,} with a system turn, {data.many_turns:,} multi-turn"
    )
    for reason, n in data.rejected.most_common():
        lines.append(f"         {n:,} cannot be used: {reason}")
    if data.duplicates:
        lines.append(f"         {data.duplicates:,} left out as duplicates")
    lines += [f"note     {remark}" for remark in data.remarks]
    lines.append(f"lengths  {unit}: rows {spread(data.lengths)}; answers {spread(data.answers)}")
    lines.append("language " + ", ".join(f"{language} {part:.0%}" for language, part in data.languages))
    if test:
        near = Ingest.model_fields["near_duplicates"].default
        both = survey.count_overlap(data.conversations, test.conversations, near)
        lines.append(
            f"test     {test.rows:,} rows"
            + (f"; {both:,} training rows ask the same, or nearly, and will be left out" if both else "")
        )
    else:
        lines.append("test     none given: a tenth of the rows is split off")
    for note in notes:
        lines.append(f"note     {note}")
    return lines
