"""A base and what it was tuned to, opened for a comparison outside any project: a folder, an adapter, a model of the hub.

What cannot be compared is refused here, before anything is computed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from holdfast.chat import encoding
from holdfast.core import checkpoint_files, manifest, storage
from holdfast.core.errors import CannotCompare, UserError
from holdfast.engines import adapters
from holdfast.engines.inspection import inspect_folder
from holdfast.params.models import Model

if TYPE_CHECKING:
    import torch

HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)@([0-9a-f]{40})")
Template = Literal["own", "base"]


class Pair(NamedTuple):
    """Both models as the evaluation takes them; `notes` are what a reader should know of them."""

    base: manifest.Manifest
    tuned: manifest.Manifest
    notes: list[str]


def open_pair(base: str, tuned: str, scratch: Path, template: Template = "own") -> Pair:
    """Both models, whole. `tuned` may be an adapter's folder: it is merged into the base, below `scratch`, once.

    `template`: "base" has both speak in the base's tokenizer and chat template. Raises CannotCompare where the two do not belong
    together, or are one and the same.
    """
    first = inspect(base, "base")
    if first.dtype == "auto":  # both run in the base's
        kind = manifest.choose_dtype(first.folder(), manifest.find_device().type)
        first = replace(first, dtype=str(kind).removeprefix("torch."))
    folder, notes = Path(tuned), list[str]()
    if is_adapter(folder):
        with belonging_together():
            folder, notes = merge_once(folder, first, scratch / "merged")
        tuned = str(folder)
    if template == "base":
        tuned = str(lend_tokenizer(first.folder(), find_folder(tuned), scratch / "in-the-bases-template"))
    second = replace(inspect(tuned, "tuned"), dtype=first.dtype)
    with belonging_together():
        refuse_other_architecture(first, second)
        refuse_equal(first.folder(), second.folder())
        refuse_other_template(first.folder(), second.folder())
    return Pair(first, second, notes)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model; some tools put the base's config.json beside it."""
    whole = (checkpoint_files.WEIGHTS, checkpoint_files.INDEX)
    return (folder / checkpoint_files.ADAPTER).is_file() and not any((folder / name).is_file() for name in whole)


@contextmanager
def belonging_together() -> Iterator[None]:
    """What is wrong in here is so between two models, each of which may be right by itself."""
    try:
        yield
    except UserError as error:
        raise CannotCompare(error.what, where=error.where, do=error.do) from None


def inspect(model: str, name: str) -> manifest.Manifest:
    """The manifest of a folder or of a model on the hub, checked and hashed. Raises CannotCompare where there is none, UserError
    where it is broken."""
    if Path(model).is_dir():
        folder = Path(model).resolve()
        return replace(inspect_folder(name, Model(path=folder.name), folder.parent), source=str(folder))
    if match := HUB.fullmatch(model):
        return inspect_folder(name, Model(hub=match[1], revision=match[2]), Path())
    do = "give a model's folder, or OWNER/NAME@COMMIT of the hub, with the full commit hash"
    raise CannotCompare("no such folder, and no pinned model of the hub", where=model, do=do)


def find_folder(model: str) -> Path:
    return Path(model) if Path(model).is_dir() else inspect(model, "tuned").folder()


def merge_once(adapter: Path, base: manifest.Manifest, into: Path) -> tuple[Path, list[str]]:
    """(the whole model, notes): base + adapter in a folder of `into` that is named by both. Raises UserError where the adapter
    names another base that is here, or does not fit this one."""
    config = adapters.read_config(adapter)
    named = Path(str(config.base_model_name_or_path or ""))
    notes = []
    if named.is_dir() and (named / checkpoint_files.CONFIG).is_file():
        if named.resolve() != base.folder().resolve() and not are_equal(named, base.folder()):
            what = f"was trained on another base: {named}"
            raise UserError(what, where=adapter, do=f"compare it with that one: --base {named}")
    elif str(named) not in (".", base.source):
        notes.append(f"the adapter names '{str(named)[:120]}' as its base, and is merged into {base.source}")
    key = storage.file_sha256(adapter / adapters.WEIGHTS) + storage.file_sha256(adapter / checkpoint_files.ADAPTER)
    folder = into / f"{base.fingerprint[:12]}-{key[:12]}-{key[64:76]}"
    if not folder.is_dir():  # it appears whole or not at all
        adapters.merge_adapter(adapter, base.folder(), folder)
    return folder, notes


def lend_tokenizer(base: Path, tuned: Path, into: Path) -> Path:
    """A folder with the weights of `tuned`, as links, and the base's tokenizer and template."""
    own = {
        checkpoint_files.CONFIG,
        "generation_config.json",
        checkpoint_files.INDEX,
        *checkpoint_files.list_weights(tuned),
    }
    with storage.replacing_folder(into) as partial:
        for name in checkpoint_files.list_files(tuned):
            if name in own:
                (partial / name).symlink_to((tuned / name).resolve())
        for name in checkpoint_files.list_files(base):
            if name not in own and name not in checkpoint_files.list_weights(base):
                shutil.copyfile(base / name, partial / name)
    return into


def refuse_other_architecture(base: manifest.Manifest, tuned: manifest.Manifest) -> None:
    for what in ("architecture", "vocabulary", "parameters"):
        mine, theirs = getattr(base, what), getattr(tuned, what)
        if mine != theirs:
            shown = f"{theirs:,}, where the base has {mine:,}" if isinstance(mine, int) else f"{theirs}, not {mine}"
            do = "give the base that it was tuned from: only then does a difference come from tuning"
            raise UserError(f"is another model than the base (its {what}: {shown})", where=tuned.source, do=do)


def refuse_equal(base: Path, tuned: Path) -> None:
    if are_equal(base, tuned):
        raise UserError("has the weights of the base: nothing was tuned", where=tuned, do="give the tuned model")


def refuse_other_template(base: Path, tuned: Path) -> None:
    templates = [encoding.template_of(manifest.load_tokenizer(folder)).source for folder in (base, tuned)]
    if templates[0] != templates[1]:
        do = "ask both in the base's: --template base; or give the base the tuned model's template"
        raise UserError("has another chat template than the base: the questions would differ", where=tuned, do=do)


def are_equal(one: Path, other: Path) -> bool:
    """Whether two models have the same tensors. Stops at the first that differs."""
    import torch

    mine, theirs = dict(iterate_tensors(one)), dict(iterate_tensors(other))
    if mine.keys() != theirs.keys():
        return False
    return all(torch.equal(read(), theirs[name]()) for name, read in mine.items())


class Tensor(NamedTuple):
    """One tensor of a file, read when it is called."""

    file: Path
    name: str

    def __call__(self) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as tensors:
            return tensors.get_tensor(self.name)


def iterate_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in checkpoint_files.list_weights(folder):
        with safe_open(folder / file, framework="pt") as tensors:
            names = list(tensors.keys())
        for name in names:
            yield name, Tensor(folder / file, name)
