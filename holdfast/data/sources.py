"""The files that a source names: one, several, a glob, or a folder of shards."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.data.arrow_files import is_saved_to_disk
from holdfast.data.files import READERS, kind_of
from holdfast.params.ingest import Source

SPLIT_NAMES = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"}
ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json"}  # what stands beside data, and describes it


def find_files(folder: Path, source: Source, where: str) -> tuple[list[Path], list[Path]]:
    """(files of a source, files in its folders that belong to another split), in the order of their names.

    A path may be a file, a glob, a folder of shards or a folder of `save_to_disk`. Raises UserError where there is none."""
    files: list[Path] = []
    others: list[Path] = []
    for path in [source.path] if isinstance(source.path, str) else source.path or []:
        # The path as written: DVC may have put links to its cache into the folder, and these lead outside of it.
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(
                f"path '{path}' leaves ingest.folder", where=where, do=f"give a path below ingest.folder ({folder})"
            )
        place = folder / path
        if re.search(r"[*?\[]", path) and not place.exists():
            matched = sorted(match for match in folder.glob(path) if match.is_file())
            if not matched:
                raise UserError(f"no file matches '{path}'", where=folder, do=f"correct {where.partition(': ')[2]}")
            files += matched
        elif place.is_dir():
            shards, left = find_shards(place, source.split)
            files += shards
            others += left
        else:
            files.append(place)
    if len(set(files)) != len(files):
        raise UserError("a file is named twice", where=where, do="name each file once")
    return files, others


def find_shards(folder: Path, split: str) -> tuple[list[Path], list[Path]]:
    """(data files of a folder, those of other splits). Files called train-..., test-... belong to that split alone."""
    if is_saved_to_disk(folder):
        return [folder], []
    if (folder / "dataset_dict.json").is_file():
        if not is_saved_to_disk(folder / split):
            splits = ", ".join(sorted(p.parent.name for p in folder.glob("*/state.json"))) or "none"
            raise UserError(f"no split '{split}'", where=folder, do=f"set the source's split; splits here: {splits}")
        return [folder / split], [p.parent for p in sorted(folder.glob("*/state.json")) if p.parent.name != split]
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and kind_of(file) in READERS
        and file.name not in ABOUT
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not files:
        raise UserError("no data file in this folder", where=folder, do=f"put files there: {', '.join(READERS)}")

    def split_of(file: Path) -> str:
        parts = [part.lower() for name in file.relative_to(folder).parts for part in re.split(r"[-_.]", name)]
        return next((part for part in parts if part in SPLIT_NAMES), "")

    if len({split_of(file) for file in files}) < 2:
        return files, []
    own = [file for file in files if split_of(file) == split]
    if not own:
        names = ", ".join(sorted({split_of(file) for file in files} - {""}))
        raise UserError(
            f"no file of the split '{split}'", where=folder, do=f"set the source's split; here are: {names}"
        )
    return own, [file for file in files if file not in own]
