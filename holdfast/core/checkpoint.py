"""Whether a model's folder is whole, and what it holds. Reads config.json and the headers of the weights, no tensor, so it takes
seconds whatever the size. `check_folder` refuses what would not load, or load as another model than was saved.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig
from holdfast.core.checkpoint_files import (
    ADAPTER,
    CONFIG,
    INDEX,
    WEIGHTS,
    adapter_error,
    list_weights,
    no_config,
    read_headers,
    refuse_pointer,
)
from holdfast.core.exact_loading import load_exactly

TRAINABLE = {"F64", "F32", "F16", "BF16"}  # safetensors' names of what a weight may be stored in
MAX_CONTEXT = 2**27  # tokens; more is no context
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


def check_numbers(content: Any) -> None:
    """Raises ValueError for a number that no config holds."""
    if isinstance(content, float) and not math.isfinite(content):
        raise ValueError(f"{content} is no number")
    if isinstance(content, int) and abs(content) > TOO_LARGE:
        raise ValueError(f"{content:.3g} is too large")
    if isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            check_numbers(value)


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
