"""How large a model is, before its weights are here: from its config.json, or from what is known of a hub id.

Parameters are counted by building the architecture on torch's meta device, which takes no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError, first_line
from holdfast.params.models import Model

_QWEN25: dict[str, Any] = dict(model_type="qwen2", max_position_embeddings=32_768)
_LLAMA3: dict[str, Any] = dict(model_type="llama", num_key_value_heads=8, vocab_size=128_256)
CONFIGS: dict[str, dict[str, Any]] = {  # what config.json on the hub says, for the profiles' models
    "Qwen/Qwen2.5-0.5B-Instruct": {
        **_QWEN25,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-72B-Instruct": {
        **_QWEN25,
        "hidden_size": 8192,
        "intermediate_size": 29_568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        **_LLAMA3,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    },
    "meta-llama/Meta-Llama-3-70B-Instruct": {
        **_LLAMA3,
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True, slots=True)
class Shape:
    parameters: int
    layers: int
    hidden: int
    heads: int  # of attention
    cache: int  # numbers that one token keeps in the KV cache, all layers
    vocabulary: int
    context: int  # longest sequence, tokens


def find_shape(model: Model, model_folder: Path) -> Shape | None:
    """The shape of a model; None where nothing here knows it (an endpoint alone, or a hub id that was never downloaded).
    Raises UserError for a folder that is no model."""
    from transformers import AutoConfig

    folder = find_folder(model, model_folder)
    if folder is None:
        known = CONFIGS.get(model.hub or "")
        return count_shape(AutoConfig.for_model(**known)) if known else None
    try:
        return count_shape(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except Exception as error:  # config.json may hold anything
        raise UserError(
            f"no usable config.json ({first_line(error)})", where=folder, do="give the folder of a chat model"
        ) from None


def find_folder(model: Model, model_folder: Path) -> Path | None:
    """The folder of a model whose config lies on this machine: its own, or the hub's cache."""
    if model.path is not None:
        return model_folder / model.path
    if model.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model.hub, "config.json", revision=model.revision)
    return Path(config).parent if isinstance(config, str) else None


def count_shape(config: Any) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        parameters=parameters,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        cache=2 * text.num_hidden_layers * heads * width,
        vocabulary=text.vocab_size,
        context=text.max_position_embeddings,
    )


def forward_flops(
    *,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    shared_heads: int,
    vocabulary: int,
    tokens: float,
    logits: float,
    context: float,
) -> float:
    """Operations of a forward pass of a Llama-like decoder, two for each multiplication and addition.

    `tokens` attend to `context` tokens each on the mean; `logits` of them go through the head. `inner`: width of the gated
    MLP; `shared_heads`: heads of keys and values.
    """
    attention = 2 * hidden * hidden // heads * (heads + shared_heads)
    layer = attention + 3 * hidden * inner
    attended = 4 * layers * hidden * context
    return tokens * (2 * layers * layer + attended) + logits * 2 * hidden * vocabulary
