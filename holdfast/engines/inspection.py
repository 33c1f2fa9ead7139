"""Looks at a model before it is used: local folder, pinned hub snapshot (safetensors only, every file hashed) or a server.

What cannot be used is refused here, before anything is computed.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

from holdfast.core import manifest, storage
from holdfast.core.errors import UserError
from holdfast.params.models import Model

WEIGHTS, CONFIG = "*.safetensors", "config.json"
MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
)  # what a model consists of; anything else is not read


def inspect_model(name: str, params: Model, model_folder: Path) -> manifest.Manifest:
    """The manifest of the model behind a name: checked, hashed, and where there is an endpoint, tried. Raises UserError."""
    if params.endpoint is None:
        return inspect_folder(name, params, model_folder)
    files = inspect_folder(name, params, model_folder) if params.path or params.hub else None
    return inspect_endpoint(name, params, files)


def inspect_endpoint(name: str, params: Model, files: manifest.Manifest | None) -> manifest.Manifest:
    """Asks the server for one token. With `files`, raw completions speak for that model; without, chat for an unknown one."""
    from holdfast.engines import openai

    untried = manifest.Endpoint(
        url=(params.endpoint or "").rstrip("/"),
        model=params.model or "",
        served="",
        refuses=[],
        token_prompts=False,
        top_logprobs=0,
        api_key_env=params.api_key_env,
        concurrency=params.concurrency,
        timeout=params.timeout,
        retries=params.retries,
        max_requests=params.max_requests,
        max_tokens=params.max_tokens,
    )
    endpoint, context = openai.probe_endpoint(name, untried, files.folder() if files else None)
    offers = [
        f"up to {endpoint.top_logprobs} log-probabilities"
        if endpoint.top_logprobs
        else "no log-probabilities: scores come from the text",
        *(f"takes no {field}" for field in endpoint.refuses),
    ]
    print(f"endpoint {name}: answers as '{endpoint.served or endpoint.model}', {', '.join(offers)}")
    if files:
        return replace(files, endpoint=endpoint)
    # The weights cannot be hashed: what the user calls the version, and the name in the replies, must do.
    named = [endpoint.model, endpoint.served, params.revision or endpoint.url]
    digest = hashlib.sha256("\n".join(named).encode()).hexdigest()
    return manifest.Manifest(
        name=name,
        source=f"{endpoint.url} {endpoint.model}",
        revision=params.revision or digest,
        hub=False,
        dtype=params.dtype,
        fingerprint=digest,
        files={},
        architecture="endpoint",
        parameters=0,
        vocabulary=0,
        context=context,
        endpoint=endpoint,
    )


def inspect_folder(name: str, params: Model, model_folder: Path, chats: bool = True) -> manifest.Manifest:
    """Checks that the folder is a model we can load safely, and hashes it. One that only embeds needs no chat template."""
    if params.hub:
        folder, source = manifest.hub_folder(params.hub, params.revision or ""), params.hub
    else:
        folder = model_folder / (params.path or "")
        source = folder.as_posix()
        if not folder.is_dir():
            raise UserError(
                f"model '{name}': no such folder", where=folder, do=f"correct models.{name}.path or model_folder"
            )
    if not (folder / CONFIG).is_file():
        raise UserError(f"model '{name}' has no {CONFIG}", where=folder, do="give the folder of a transformers model")
    if not list(folder.glob(WEIGHTS)):
        raise UserError(
            f"model '{name}' has no safetensors weights",
            where=folder,
            do="convert it: model.save_pretrained(folder) writes safetensors; pickled weights are never loaded",
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = {**config, **config.get("text_config", {})}
        architecture = config["architectures"][0]
        vocabulary, context = int(config["vocab_size"]), int(config["max_position_embeddings"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"model '{name}': {CONFIG} is not usable ({error!r})", where=folder / CONFIG, do="check the download"
        ) from None
    patterns: tuple[str, ...] = MODEL_FILES
    if not chats and (folder / "modules.json").is_file():
        architecture, patterns = (
            manifest.SENTENCE_TRANSFORMER,
            tuple(f"**/{p}" for p in MODEL_FILES),
        )  # a folder for each module
    elif chats and not manifest.load_tokenizer(folder).chat_template:
        raise UserError(
            f"model '{name}' has no chat template",
            where=folder,
            do="use a chat (instruct) model, or put its chat_template.jinja beside the tokenizer",
        )
    found = (f for pattern in patterns for f in folder.glob(pattern) if f.is_file())
    names = sorted({f.relative_to(folder).as_posix() for f in found})
    files = {n: {"sha256": storage.file_sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
    digest = hashlib.sha256("".join(f"{n} {files[n]['sha256']}\n" for n in names).encode()).hexdigest()
    return manifest.Manifest(
        name=name,
        source=source,
        revision=params.revision or digest,
        hub=params.hub is not None,
        dtype=params.dtype,
        fingerprint=digest,
        files=files,
        architecture=architecture,
        parameters=sum(count_parameters(file) for file in sorted(folder.glob(WEIGHTS))),
        vocabulary=vocabulary,
        context=context,
        vllm=manifest.Vllm(**params.vllm.model_dump()) if params.vllm else None,
        ray=manifest.Ray(**params.ray.model_dump()) if params.ray else None,
    )


def count_parameters(file: Path) -> int:
    """Number of weights in a safetensors file, read from its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a readable safetensors file ({error})", where=file, do="download it again") from None
