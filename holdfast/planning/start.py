"""What a project starts from: model and data are looked at, and params.yaml is made for them."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core import checkpoint, manifest
from holdfast.core.errors import UserError, first_line
from holdfast.params.base import PARAMS
from holdfast.params.ingest import Columns, Ingest
from holdfast.params.models import Model
from holdfast.params.whole import Params
from holdfast.planning import profiles, shapes

if TYPE_CHECKING:
    from holdfast.chat import encoding
    from holdfast.planning import survey

MODELS, DATA = Path("models/local"), Path("data/local")
SIZES = ((2e9, "qwen2.5-0.5b"), (20e9, "llama-3.1-8b"), (math.inf, "paper"))  # up to so many parameters
LEAST_SHOWN = 0.005  # of the rows: a language of fewer would read 0%


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


def read_pocket_params() -> str:
    return profiles.read_profile("pocket")


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
    if tokenizer is not None:
        encoding.require_template(tokenizer, base)
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


def parse_params(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PARAMS).write_text(text, encoding="utf-8")
        try:
            Params.load(Path(folder) / PARAMS)
        except UserError as error:
            raise UserError(error.what, where=PARAMS, do=error.do) from None


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
    languages = [f"{language} {part:.0%}" for language, part in data.languages if part >= LEAST_SHOWN]
    lines.append("language " + ", ".join(languages))
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
