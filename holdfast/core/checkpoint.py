"""A model's folder: which of its files are loaded, and whether they fit together. Reads config.json and the headers of the
weights, no tensor, so it takes seconds whatever the size.

`list_files` names what transformers loads: nothing else is hashed, downloaded or counted, and `stage_files` lets it see nothing
else (an adapter beside the weights would be attached, and a pickled .metadata read). `check_folder` refuses what would not
load, or load as another model than was saved.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
OTHER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")  # beside the weights: config, tokenizer, template, licence
LEFTOVERS = ("adapter_*", "*.index.json")  # of these, what is not loaded; the index of the weights is
TRAINABLE = {"F64", "F32", "F16", "BF16"}  # safetensors' names of what a weight may be stored in
MAX_CONTEXT = 2**27  # tokens; more is no context
POINTER = b"version https://git-lfs"
TOO_LARGE = 2**40  # for any number in config.json
QUANTISED = (
    "give its full-precision original, or serve this one: 'endpoint', or 'vllm' for a panel member that is not the base"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds, as far as its config and the weights' headers say."""

    architecture: str
    parameters: int
    vocabulary: int
    context: int  # longest sequence, tokens
    quantised: str | None  # the method; None: plain floating point


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
            Path(name).name == name and name.endswith(".safetensors") for name in shards.values()
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


@contextmanager
def stage_files(folder: Path, names: list[str]) -> Iterator[Path]:
    """A folder of links to these files and to no others."""
    with tempfile.TemporaryDirectory(prefix="holdfast-") as made:
        for name in names:
            (Path(made) / name).symlink_to((folder / name).resolve())
        yield Path(made)


def read_config(folder: Path) -> PretrainedConfig:
    """config.json as transformers reads it. Raises UserError where it cannot be, or would need code of the repository."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    file = folder / CONFIG
    if not file.is_file():
        raise adapter_error(folder) if (folder / ADAPTER).is_file() else no_config(folder)
    do = "download it again, or take it from the model's page"
    try:
        refuse_pointer(file)
        content = json.loads(file.read_text(encoding="utf-8"))
        check_numbers(content)
        kind, named = content.get("model_type"), content.get("architectures")
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{CONFIG} is not usable ({error!r:.160})", where=file, do=do) from None
    if not (isinstance(named, list) and named and isinstance(named[0], str)):
        do = 'name the model\'s class in it, as its page does: "architectures": ["LlamaForCausalLM"]'
        raise UserError(f"{CONFIG} is not usable (it names no architecture)", where=file, do=do)
    if "transformers_weights" in content:
        raise UserError("names a file of weights of its own", where=file, do="remove transformers_weights from it")
    if (
        content.get("auto_map") and kind not in CONFIG_MAPPING
    ):  # of a kind that transformers knows, its own code is taken
        do = "use a model that transformers knows by itself, or serve this one and give its 'endpoint'"
        raise UserError("needs Python code of its own (auto_map), which is never run", where=file, do=do)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # it validates in a dozen ways
        what = f"{CONFIG} is not usable ({' '.join(str(error).split()):.200})"
        raise UserError(what, where=file, do=do) from None


def refuse_pointer(file: Path) -> None:
    """Raises UserError where Git has put the pointer of Git LFS in place of a file."""
    with file.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            do = "fetch it: `git lfs install`, then `git lfs pull` in that repository; or download the file itself"
            raise UserError("is a pointer of Git LFS, and not the file itself", where=file, do=do)


def check_generation_config(folder: Path) -> None:
    """Raises UserError where generation_config.json cannot be read: it may name the tokens that end an answer."""
    from transformers import GenerationConfig

    file = folder / "generation_config.json"
    if not file.is_file():
        return
    try:
        json.loads(file.read_text(encoding="utf-8"))
        GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # it validates in a dozen ways
        do = "correct it, or download it again; without it the config's own end token counts"
        raise UserError(f"is not usable ({first_line(error)})", where=file, do=do) from None


def no_config(folder: Path) -> UserError:
    if list(folder.glob("*.gguf")):
        return no_weights(folder)
    return UserError(f"has no {CONFIG}", where=folder, do="give the folder of a transformers model")


def check_numbers(content: Any) -> None:
    """Raises ValueError for a number that no config holds."""
    if isinstance(content, float) and not math.isfinite(content):
        raise ValueError(f"{content} is no number")
    if isinstance(content, int) and abs(content) > TOO_LARGE:
        raise ValueError(f"{content:.3g} is too large")
    if isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            check_numbers(value)


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


def find_quantisation(config: PretrainedConfig, headers: dict[str, tuple[str, tuple[int, ...]]]) -> str | None:
    """How the weights are quantised, or None: as the config says, or as they are stored."""
    for source in (config, config.get_text_config()):
        for field in ("quantization_config", "compression_config"):
            if declared := getattr(source, field, None):
                method = declared.get("quant_method") if isinstance(declared, dict) else None
                return str(getattr(method, "value", method) or "unknown")[:40]
    odd = sorted({kind for kind, shape in headers.values() if len(shape) > 1 and kind not in TRAINABLE})
    return odd[0] if odd else None


def check_folder(folder: Path, *, loaded: bool = True, keys: bool = True) -> Checkpoint:
    """What the model in a folder is. `loaded`: by transformers, so quantised weights are refused too, and with `keys` a tensor
    that has no place, or a place that has none. Raises UserError, with `where` the folder or a file in it."""
    config = read_config(folder)
    check_generation_config(folder)
    names = list_weights(folder)
    headers = read_headers(folder, names)
    quantised = find_quantisation(config, headers)
    if quantised and loaded:
        what = f"is quantised ({quantised}), and is neither trained on nor run by transformers here"
        raise UserError(what, where=folder, do=QUANTISED)
    parameters = sum(math.prod(shape) for _, shape in headers.values())
    vocabulary, context = check_sizes(config, len(headers), parameters, folder, packed=quantised is not None)
    if loaded and keys:
        parameters = check_keys(config, folder, names)
    return Checkpoint(str((config.architectures or ["?"])[0]), parameters, vocabulary, context, quantised)


def check_sizes(config: PretrainedConfig, tensors: int, parameters: int, folder: Path, packed: bool) -> tuple[int, int]:
    """(vocabulary, context) of the model. Raises UserError for sizes that the weights cannot have."""
    text = config.get_text_config()
    sizes: dict[str, Any] = {
        field: getattr(text, field, None) for field in ("vocab_size", "hidden_size", "num_hidden_layers")
    }
    context: Any = getattr(text, "max_position_embeddings", None) or getattr(text, "seq_length", None)
    for field, size in {**sizes, "max_position_embeddings": context}.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            what = f"{CONFIG} is not usable ({field} is {size!r:.40})"
            raise UserError(what, where=folder / CONFIG, do="give a language model's folder, or correct the file")
    vocabulary, hidden, layers = (int(size) for size in sizes.values())
    if context > MAX_CONTEXT or layers > tensors or (not packed and vocabulary * hidden > parameters):
        what = f"{CONFIG} is not usable ({layers:,} layers, {vocabulary:,} x {hidden:,} embeddings, context {context:,}"
        what += f", but {parameters:,} weights in {tensors:,} tensors)"
        raise UserError(what, where=folder / CONFIG, do="give the config that belongs to these weights")
    return vocabulary, int(context)


def check_keys(config: PretrainedConfig, folder: Path, names: list[str]) -> int:
    """Loads names and shapes alone, and returns the number of parameters, what is shared counted once. Raises UserError where
    the weights are not exactly the tensors of the architecture."""
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        do = "give a chat model that transformers loads as AutoModelForCausalLM"
        raise UserError(f"is no causal language model but '{config.model_type}'", where=folder, do=do)
    staged = [CONFIG, *names, *([INDEX] if names != [WEIGHTS] else [])]
    return load_exactly(folder, staged, dtype=torch.float32, device_map={"": "meta"}).num_parameters()


def load_exactly(folder: Path, names: list[str], **options: Any) -> PreTrainedModel:
    """The causal language model in these files of a folder; `options`: transformers' own. Raises UserError where a tensor is
    missing, left over, or of another shape."""
    from transformers import AutoModelForCausalLM

    with stage_files(folder, names) as place, quiet_loading(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    refuse_other_keys(info, folder)
    return model


def check_finite(folder: Path) -> None:
    """Reads every tensor. Raises UserError where one holds NaN or infinite numbers."""
    from safetensors import safe_open

    for name in list_weights(folder):
        with safe_open(folder / name, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(key)
                if not is_finite(tensor):
                    raise not_finite(key, tensor, folder)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether every number of it is: by its extremes, which on a CPU is ten times as fast as to ask each."""
    import torch

    return tensor.numel() == 0 or all(math.isfinite(extreme) for extreme in torch.stack(torch.aminmax(tensor)).tolist())


def not_finite(key: str, tensor: torch.Tensor, folder: Path) -> UserError:
    kind = str(tensor.dtype).removeprefix("torch.")
    do = "take a copy from before it broke: no later stage can repair it"
    return UserError(f"has weights that are NaN or infinite (in {key[:120]}, as {kind})", where=folder, do=do)


def refuse_other_keys(info: dict[str, Any], folder: Path) -> None:
    """Raises UserError where transformers reports a tensor that is missing, left over, or of another shape."""
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{kind}_keys"])
        if keys:
            more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
            raise UserError(
                f"has weights that do not fit {CONFIG}: {kind} {keys[0][:120]}{more}",
                where=folder,
                do="download or save the model again: what is missing would be random, what is left over ignored",
            )


@contextmanager
def quiet_loading(folder: Path) -> Iterator[None]:
    """Inside, transformers prints no report and no bar; what it raises is a UserError of one line."""
    import torch
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of its, torch's and safetensors' own kinds
        do = "download or save the model again; its config.json must belong to its weights"
        raise UserError(f"cannot be loaded ({first_line(error)})", where=folder, do=do) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
