"""Writes params.yaml for one's own model and data, after looking at both, and says what it found.

holdfast init --base FOLDER|OWNER/NAME --domain my.jsonl [--test test.jsonl] [--columns prompt=Q,response=A]

Starts from the nearest profile by size. Data are copied into data/local, where DVC tracks them; a model folder elsewhere
is linked into models/local, so no weights are doubled. params.yaml comes last, and only if all else went well.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from holdfast.chat import encoding
from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.params.base import PARAMS
from holdfast.params.ingest import Columns
from holdfast.params.models import Model
from holdfast.params.whole import Params
from holdfast.planning import profiles, shapes, survey, tailor

MODELS, DATA = Path("models/local"), Path("data/local")
SIZES = ((2e9, "qwen2.5-0.5b"), (20e9, "llama-3.1-8b"), (math.inf, "paper"))  # up to so many parameters


def main(base: str, domain: Path, test: Path | None, revision: str | None, columns: str | None, force: bool) -> None:
    profiles.guard(PARAMS, force)
    mapped = parse_columns(columns)
    model, links = find(base, revision)
    place = Path(base) if links else shapes.here(model, MODELS)
    shape = (
        shapes.of(Model(path=Path(base).resolve().name), Path(base).resolve().parent)
        if links
        else shapes.of(model, MODELS)
    )
    if shape is None:
        what, do = "its size is not known here", "download it, and give its folder"
        raise UserError(what, where=base, do=do)
    tokenizer = manifest.tokenizer(place) if place else None
    if tokenizer is not None and not tokenizer.chat_template:
        do = "use a chat (instruct) model, or put its chat_template.jinja beside the tokenizer"
        raise UserError("the model has no chat template", where=base, do=do)

    def tokens(conversation: encoding.Messages) -> tuple[int, int]:
        try:
            _, mask = encoding.encode(tokenizer, conversation)  # type: ignore[arg-type]
        except Exception as error:  # a template is a program of somebody else
            what = f"the chat template cannot render a row ({(str(error).splitlines() or ['?'])[0][:120]})"
            do = "mend or remove such rows: no system turn, no odd order of roles"
            raise UserError(what, where=domain, do=do) from None
        return len(mask), sum(mask)

    measure = tokens if tokenizer is not None else survey.by_characters
    found = survey.look(domain, mapped, measure)
    held_out = survey.look(test, mapped, measure) if test else None

    name = next(name for limit, name in SIZES if shape.parameters <= limit)
    text, notes = tailor.made(name, model, found, shape, tokenizer, domain, test, mapped)

    for file in filter(None, (domain, test)):
        copy(file, force)
    for source, target in links:
        link(source, target, force)
    profiles.put(text)
    tell(found, held_out, base, shape, name, tokenizer is not None, notes)


def parse_columns(columns: str | None) -> Columns | None:
    """`prompt=Q,response=A` as a mapping. Raises UserError."""
    if columns is None:
        return None
    pairs = dict(part.split("=", 1) for part in columns.split(",") if "=" in part)
    known = set(Columns.model_fields)
    if not {"prompt", "response"} <= set(pairs) or not set(pairs) <= known or len(pairs) != columns.count(",") + 1:
        do = f"give prompt=FIELD,response=FIELD; also {', '.join(sorted(known - {'prompt', 'response'}))}"
        raise UserError(f"cannot read the mapping '{columns}'", where="--columns", do=do)
    return Columns(**pairs)


def find(base: str, revision: str | None) -> tuple[Model, list[tuple[Path, Path]]]:
    """The entry for params.yaml, and the links (source, target) that it needs. Raises UserError."""
    folder = Path(base)
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            do = "give the folder of a chat model: config.json, tokenizer.json, *.safetensors"
            raise UserError("no config.json and safetensors weights in this folder", where=folder, do=do)
        source = folder.resolve()
        if source.parent == MODELS.resolve():
            return Model(path=source.name), []
        files = sorted({file for pattern in manifest.HUB_FILES for file in source.glob(pattern) if file.is_file()})
        return Model(path=source.name), [(file, MODELS / source.name / file.name) for file in files]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or base.startswith("."):
        raise UserError(
            "no such folder, and no hub id", where=base, do="give a model's folder, or OWNER/NAME of the hub"
        )
    return Model(hub=base, revision=revision or latest(base)), []


def latest(hub: str) -> str:
    """The commit of a hub model: what the profiles pin, else what the hub says now. Raises UserError without a network."""
    for file in profiles.found().values():
        for model in Params.load(file).models.values():
            if model.hub == hub and model.revision:
                return model.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(hub, timeout=10).sha)
    except Exception as error:  # offline, gated, unknown: a dozen classes
        what = f"the hub does not say its commit ({type(error).__name__})"
        raise UserError(what, where=hub, do="give --revision: the 40-digit commit hash from the model's page") from None


def copy(file: Path, force: bool) -> None:
    target = DATA / file.name
    if (
        target.exists()
        and target.resolve() != file.resolve()
        and target.read_bytes() != file.read_bytes()
        and not force
    ):
        raise UserError("another file of this name is there", where=target, do="rename yours, or give --force")
    if target.resolve() != file.resolve():
        with records.replacing(target) as partial:
            partial.write_bytes(file.read_bytes())


def link(source: Path, target: Path, force: bool) -> None:
    """A link to a model's file, so that its weights are not doubled."""
    if target.is_symlink() or target.exists():
        if target.resolve() == source:
            return
        if not force:
            raise UserError("another model of this name is there", where=target.parent, do="remove it, or give --force")
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def tell(
    found: survey.Survey, test: survey.Survey | None, base: str, shape: shapes.Shape, name: str, exact: bool, notes: list[str]
) -> None:  # fmt: skip
    def spread(numbers: list[int]) -> str:
        ordered = sorted(numbers)
        return f"{ordered[len(ordered) // 2]:,} in the middle, {ordered[-1]:,} at most"

    unit = "tokens" if exact else "tokens (guessed from characters: the tokenizer is not here)"
    print(
        f"base     {Path(base).name}: {shape.parameters / 1e6:,.1f} M parameters, context {shape.context:,}; profile '{name}'"
    )
    print(
        f"data     {found.rows:,} rows, format {found.form}, {found.systems:,} with a system turn, {found.many_turns:,} of many turns"
    )
    for reason, n in found.rejected.most_common():
        print(f"         {n:,} cannot be used: {reason}")
    if found.duplicates:
        print(f"         {found.duplicates:,} are duplicates")
    print(f"lengths  {unit}: rows {spread(found.lengths)}; answers {spread(found.answers)}")
    print("language " + ", ".join(f"{language} {part:.0%}" for language, part in found.languages))
    if test:
        both = survey.shared_questions(found.conversations, test.conversations)
        print(
            f"test     {test.rows:,} rows"
            + (f"; {both:,} training rows ask the same and will be left out" if both else "")
        )
    else:
        print("test     none given: a tenth of the rows is split off")
    for note in notes:
        print(f"note     {note}")
    print("wrote    params.yaml\nnext     holdfast doctor; then: dvc repro")
