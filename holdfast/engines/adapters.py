"""Merges an adapter (LoRA and its relatives) into its base, as a model folder that every stage can load.

PEFT computes it. What would be merged in part, or into another base than the adapter was trained on, is refused.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from holdfast.core import checkpoint, checkpoint_files, manifest, storage
from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

WEIGHTS = "adapter_model.safetensors"
NEEDS_MORE = (
    "arrow_config",
    "megatron_config",
)  # settings of routed adapters, and of layers that are not transformers' own
# What changed the base's weights at the start of training by chance or by data: what is left of them is not saved
NOT_REPEATABLE = ("pissa_niter", "loftq", "corda", "lora_ga")
TOKENIZER_FILES = (  # an adapter's folder often brings them; then they are what it was trained with
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"),
)


def merge_adapter(adapter: Path, base: Path | None, into: Path) -> Path:
    """Writes base + adapter to the new folder `into`, in the type of numbers that the base has; returns the base's folder.

    `base`: None takes the one that adapter_config.json names, where that is a folder here or in the hub's cache. Raises
    UserError where the two do not belong together, or the kind of adapter cannot be merged.
    """
    refuse_target(into)
    config = read_config(adapter)
    base = base or find_base(adapter, config)
    if not base.is_dir():
        raise UserError("no such folder", where=base, do="give the folder of the adapter's base: --base FOLDER")
    stored = str(checkpoint.read_config(base).dtype or "float32").removeprefix("torch.")
    network = manifest.load_model(base, stored, device="cpu")
    with warnings.catch_warnings(action="ignore"):  # PEFT's, that the base was loaded from another place
        model = attach(adapter, network, config, base)
        try:
            merged: Any = model.merge_and_unload(safe_merge=True)
        except (
            RuntimeError,
            ValueError,
        ) as error:  # PEFT, of a kind that has no merge; torch, of weights that do not fit
            raise cannot_merge(adapter, config, first_line(error)) from None
    manifest.check_answers(merged, adapter)
    with storage.replacing_folder(into) as partial:
        merged.save_pretrained(partial)
        copy_files(base, adapter, partial)
        checkpoint.check_folder(partial)
    return base


def refuse_target(into: Path) -> None:
    if into.is_symlink() or (into.exists() and not (into.is_dir() and not any(into.iterdir()))):
        raise UserError("is there already", where=into, do="name a new folder with --into")


def read_config(adapter: Path) -> PeftConfig:
    """The adapter's settings. Raises UserError where the folder holds none, or its weights are pickled."""
    from peft import PeftConfig

    if not adapter.is_dir() or not (adapter / checkpoint_files.ADAPTER).is_file():
        what = f"has no {checkpoint_files.ADAPTER}" if adapter.is_dir() else "no such folder"
        raise UserError(what, where=adapter, do="give the folder of an adapter, as PEFT's save_pretrained writes it")
    if not (adapter / WEIGHTS).is_file():
        do = "save it again as safetensors: model.save_pretrained(folder); pickled weights are never loaded"
        raise UserError(f"has no {WEIGHTS}", where=adapter, do=do)
    try:
        check_settings((adapter / checkpoint_files.ADAPTER).read_text(encoding="utf-8"))
        return PeftConfig.from_pretrained(str(adapter), local_files_only=True)
    except (OSError, ValueError, RecursionError) as error:
        what = f"is not usable ({first_line(error)})"
        raise UserError(what, where=adapter / checkpoint_files.ADAPTER, do="save the adapter again") from None


def check_settings(text: str) -> None:
    """Raises ValueError where a setting has another type than PEFT declares: PEFT itself fails on it later, wherever that may be."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("no object")
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(str(content.get("peft_type")))  # type: ignore[call-overload]
    if kind is None:
        raise ValueError(f"the kind of adapter {str(content.get('peft_type'))[:40]!r} is not known")
    if needed := next((name for name in NEEDS_MORE if content.get(name) is not None), None):
        raise ValueError(f"{needed} is for more than one adapter and its base")
    types = get_type_hints(kind) | {"lora_alpha": float}  # declared as int, and only divided
    for setting in dataclasses.fields(kind):
        name, value = setting.name, content.get(setting.name)
        if name not in content or (value is None and (setting.default is None or types[name] is bool)):
            continue
        if name == "init_lora_weights" and str(value).startswith(NOT_REPEATABLE):
            continue  # refused with a reason of its own
        if value is None and name.endswith("_pattern"):
            raise ValueError(f"{name} is null")
        try:
            TypeAdapter(types[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}") from None


def find_base(adapter: Path, config: PeftConfig) -> Path:
    """The folder of the base that the adapter names. Raises UserError where it is not here."""
    named = str(config.base_model_name_or_path or "")
    do = "give its folder: --base FOLDER"
    if not named:
        raise UserError("does not say which model is its base", where=adapter / checkpoint_files.ADAPTER, do=do)
    if Path(named).is_dir():
        return Path(named)
    if named.count("/") == 1 and not named.startswith((".", "/")):
        from huggingface_hub import try_to_load_from_cache

        if isinstance(file := try_to_load_from_cache(named, checkpoint_files.CONFIG), str):
            return Path(file).parent
    raise UserError(f"its base '{named[:120]}' is not here", where=adapter, do=do)


def attach(adapter: Path, model: Any, config: PeftConfig, base: Path) -> PeftModel:
    """The base with every weight of the adapter in its place. Raises UserError where one has none, or a place has no weight."""
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    do = "give the base that it was trained on: --base FOLDER"
    try:
        weights = load_file(adapter / WEIGHTS)
    except (SafetensorError, OSError) as error:
        what = f"not a readable safetensors file ({first_line(error)})"
        raise UserError(what, where=adapter / WEIGHTS, do="download it again, or save the adapter anew") from None
    if broken := next((key for key, tensor in weights.items() if not checkpoint.is_finite(tensor)), None):
        raise checkpoint.not_finite(broken, weights[broken], adapter)
    drop_copies(weights)
    if not hasattr(config, "target_modules"):
        raise cannot_merge(adapter, config, "it adds no weights to those of the model")
    if (start := str(getattr(config, "init_lora_weights", ""))).startswith(NOT_REPEATABLE):
        reason = f"init_lora_weights {start[:30]!r} changed the base in a way that cannot be repeated"
        raise cannot_merge(adapter, config, reason)
    resize_embeddings(adapter, model, weights, base)
    try:
        wrapped: Any = get_peft_model(model, config)
    except ValueError as error:  # modules that the base lacks, sizes and ranges
        raise UserError(f"does not fit its base {base} ({first_line(error):.160})", where=adapter, do=do) from None
    try:
        loaded: Any = set_peft_model_state_dict(wrapped, weights)
    except (RuntimeError, ValueError, KeyError) as error:  # tensors of another size; tensors that are missing
        reason = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), first_line(error))
        raise UserError(f"does not fit its base {base} ({reason:.160})", where=adapter, do=do) from None
    added = (getattr(wrapped.base_model, "prefix", "lora_"), "modules_to_save.")
    own = [key for key in loaded.missing_keys if any(part in key for part in added)]
    if odd := sorted([*loaded.unexpected_keys, *own]):
        kind = "unexpected" if loaded.unexpected_keys else "missing"
        what = f"does not fit its base {base} ({len(odd)} tensors are {kind}, such as {odd[0][:100]})"
        raise UserError(what, where=adapter, do=do)
    untie_embeddings(model, wrapped)
    return wrapped


def drop_copies(weights: dict[str, Any]) -> None:
    """Removes what PEFT saves of embeddings beside the trained ones, where tokens were added: copies of them, and the originals."""
    for key in list(weights):
        plain = key.replace(".modules_to_save.", ".").replace(".original_module.", ".")
        if plain != key and plain in weights and (".original_module." in key or weights[key].equal(weights[plain])):
            del weights[key]


def resize_embeddings(adapter: Path, model: Any, weights: dict[str, Any], base: Path) -> None:
    """Gives the base the rows of the tokens that were added before the adapter was trained, whose embeddings it brings. Raises
    UserError where it brings those of one side only."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: f"base_model.model.{name}.weight" for name, module in model.named_modules()}
    saved = [weights.get(names[module]) for module in (embeddings, head)]
    rows = max((tensor.shape[0] for tensor in saved if tensor is not None), default=0)
    if rows <= embeddings.weight.shape[0]:
        return
    tied = head.weight is embeddings.weight
    if not tied and any(tensor is None or tensor.shape[0] != rows for tensor in saved):
        what = f"has {rows:,} embeddings, {rows - embeddings.weight.shape[0]:,} more than its base {base}, and not on both sides"
        do = "save it again with save_embedding_layers=True, or give the base with these tokens: --base FOLDER"
        raise UserError(what, where=adapter, do=do)
    model.resize_token_embeddings(rows, mean_resizing=False)


def untie_embeddings(model: Any, wrapped: Any) -> None:
    """Gives the head weights of its own where it shares them with the embeddings and the adapter changes one of the two: merged
    into shared weights, the change would be made to both."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [getattr(layer, "base_layer", layer) for layer in (embeddings, head)]
    if layers[0].weight is layers[1].weight and (layers[0] is not embeddings or layers[1] is not head):
        layers[1].weight = type(layers[1].weight)(layers[1].weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def cannot_merge(adapter: Path, config: PeftConfig, reason: str) -> UserError:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    do = "train again with LoRA, or give the whole tuned model"
    return UserError(f"an adapter of the kind {kind} cannot be merged ({reason})", where=adapter, do=do)


def copy_files(base: Path, adapter: Path, into: Path) -> None:
    """What lies beside the weights: of the base, and the tokenizer of the adapter where it brings one."""
    weights = {checkpoint_files.INDEX, *checkpoint_files.list_weights(base)}
    for name in checkpoint_files.list_files(base):
        if name not in weights and not (into / name).exists():
            shutil.copyfile(base / name, into / name)
    if (adapter / "tokenizer.json").is_file():
        for name in TOKENIZER_FILES:
            (into / name).unlink(missing_ok=True)
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, into / name)
        if not (adapter / "chat_template.jinja").is_file() and not has_template(adapter):
            keep_template(base, into)


def has_template(folder: Path) -> bool:
    """Whether tokenizer_config.json holds a chat template, as older versions wrote it."""
    try:
        content = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and bool(content.get("chat_template"))


def keep_template(base: Path, into: Path) -> None:
    """An adapter's tokenizer without a template speaks in that of the base."""
    tokenizer = manifest.load_tokenizer(base)
    if isinstance(tokenizer.chat_template, str):
        (into / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
