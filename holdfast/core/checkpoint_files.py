"""Which files of a model's folder are loaded, and what the headers of its weights say.

`list_files` names what transformers loads: nothing else is hashed, downloaded or counted.
"""

from __future__ import annotations

import json
from pathlib import Path

from holdfast.core.errors import UserError, first_line

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
OTHER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")  # beside the weights: config, tokenizer, template, licence
LEFTOVERS = ("adapter_*", "*.index.json")  # of these, what is not loaded; the index of the weights is
POINTER = b"version https://git-lfs"


def list_weights(folder: Path) -> list[str]:
    """Names of the weight files that transformers loads. Raises UserError where there are none, or one of them is missing."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        raise no_weights(folder)
    names = sorted(set(read_index(folder).values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        what = f"lacks {len(missing)} of {len(names)} shards of its weights ({', '.join(missing[:3])})"
        raise UserError(what, where=folder, do="download them again, or save the model anew")
    return names


def list_files(folder: Path) -> list[str]:
    """Names of all files of a model that are loaded, in order. Raises UserError as list_weights does."""
    names = {file.name for pattern in OTHER_FILES for file in folder.glob(pattern) if file.is_file()}
    names -= {file.name for pattern in LEFTOVERS for file in folder.glob(pattern)}
    weights = list_weights(folder)
    return sorted({*names, *weights, *([] if weights == [WEIGHTS] else [INDEX])})


def read_index(folder: Path) -> dict[str, str]:
    """The index of sharded weights: file by tensor. Raises UserError where it is damaged or names a file elsewhere."""
    file = folder / INDEX
    try:
        shards = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        usable = bool(shards) and all(
            Path(name).name == name and name.endswith(".safetensors") and len(name) < 200 for name in shards.values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise UserError("not a usable index of weights", where=file, do="download it again, or save the model anew")
    return shards


def no_weights(folder: Path) -> UserError:
    """Why a folder without weights has none, and what to do."""
    if (folder / ADAPTER).is_file():
        return adapter_error(folder)
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if others:
        do = f"convert it to transformers' format; {WEIGHTS} or {INDEX} is what is loaded"
        return UserError(f"has weights under other names only ({', '.join(others[:3])})", where=folder, do=do)
    if list(folder.glob("*.gguf")):
        do = "give the original in safetensors, or serve this one and give its 'endpoint'"
        return UserError("has no safetensors weights but GGUF, which is not trained on", where=folder, do=do)
    do = "convert it: model.save_pretrained(folder) writes safetensors; pickled weights are never loaded"
    return UserError("has no safetensors weights", where=folder, do=do)


def adapter_error(folder: Path) -> UserError:
    try:
        base = str(json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])[:120]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        base = "its base"
    do = f"merge it first: holdfast merge {folder} --into NEW-FOLDER, and give that folder"
    return UserError(f"is an adapter for {base}, not a whole model", where=folder, do=do)


def refuse_pointer(file: Path) -> None:
    """Raises UserError where Git has put the pointer of Git LFS in place of a file."""
    with file.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            do = "fetch it: `git lfs install`, then `git lfs pull` in that repository; or download the file itself"
            raise UserError("is a pointer of Git LFS, and not the file itself", where=file, do=do)


def no_config(folder: Path) -> UserError:
    if list(folder.glob("*.gguf")):
        return no_weights(folder)
    return UserError(f"has no {CONFIG}", where=folder, do="give the folder of a transformers model")


def read_headers(folder: Path, names: list[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(stored as, shape) of every tensor. Raises UserError for a file that is damaged, or does not hold what the index says."""
    from safetensors import SafetensorError, safe_open

    headers: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        try:
            refuse_pointer(folder / name)
            with safe_open(folder / name, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    if key in headers:
                        what = f"holds {key[:120]}, which another shard holds too"
                        raise UserError(
                            what, where=folder / name, do="download the weights again, or save the model anew"
                        )
                    part = tensors.get_slice(key)
                    headers[key] = str(part.get_dtype()), tuple(part.get_shape())
        except (SafetensorError, OSError) as error:
            what = f"not a readable safetensors file ({first_line(error)})"
            raise UserError(what, where=folder / name, do="download it again, or save the model anew") from None
    listed = read_index(folder) if names != [WEIGHTS] else {}
    if lost := sorted(listed.keys() - headers.keys()):
        what = f"{len(lost)} tensors of the index are in no shard ({lost[0]})"
        raise UserError(what, where=folder / INDEX, do="download the weights again, or save the model anew")
    return headers
