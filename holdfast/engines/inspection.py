"""Looks at a model before it is used: local folder, pinned hub snapshot (safetensors only, every file hashed) or a server.

What cannot be used is refused here, before anything is computed.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from holdfast.chat import encoding
from holdfast.chat.template_check import guard_template
from holdfast.core import checkpoint, manifest
from holdfast.core.errors import UserError, escape_control, first_line
from holdfast.engines import model_files
from holdfast.params.models import Model


def inspect_model(name: str, params: Model, model_folder: Path, trained: bool = False) -> manifest.Manifest:
    """The manifest of the model behind a name: checked, hashed, and where there is an endpoint, tried. `trained`: it is the base,
    whose weights transformers loads wherever it writes. Raises UserError."""
    if params.endpoint is None:
        return inspect_folder(name, params, model_folder, trained=trained)
    files = inspect_folder(name, params, model_folder, trained=trained) if params.path or params.hub else None
    return inspect_endpoint(name, params, files)


def describe_untried(params: Model) -> manifest.Endpoint:
    """A server of which nothing but its entry in params.yaml is known."""
    return manifest.Endpoint(
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


def inspect_endpoint(name: str, params: Model, files: manifest.Manifest | None) -> manifest.Manifest:
    """Asks the server for one token. With `files`, raw completions speak for that model; without, chat for an unknown one."""
    from holdfast.engines import openai

    endpoint, context = openai.probe_endpoint(name, describe_untried(params), files.folder() if files else None)
    offers = [
        f"up to {endpoint.top_logprobs} log-probabilities"
        if endpoint.top_logprobs
        else "no log-probabilities: scores come from the text",
        *(f"takes no {field}" for field in endpoint.refuses),
    ]
    print(escape_control(f"endpoint {name}: answers as '{endpoint.served or endpoint.model}', {', '.join(offers)}"))
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


def inspect_folder(
    name: str, params: Model, model_folder: Path, chats: bool = True, trained: bool = False
) -> manifest.Manifest:
    """Checks that the folder is a model we can load safely, and hashes it. One that only embeds needs no chat template."""
    if params.hub:
        folder, source = manifest.hub_folder(params.hub, params.revision or ""), params.hub
    else:
        folder = model_folder / (params.path or "")
        source = folder.as_posix()
        if not folder.is_dir():
            raise UserError(
                f"model '{name}': no such folder",
                where=folder,
                do=f"link the model there (ln -s FOLDER {folder}), or correct models.{name}.path or model_folder",
            )
    nested = not chats and (folder / "modules.json").is_file()
    served = params.vllm is not None or params.endpoint is not None
    try:
        weights = checkpoint.check_folder(folder, loaded=not nested and (trained or not served))
        if chats:
            check_tokenizer(folder, weights.vocabulary)
        if not weights.quantised:
            checkpoint.check_finite(folder)
    except UserError as error:
        what = f"model '{name}'{'' if error.where == str(folder) else ':'} {error.what}"
        raise UserError(what, where=error.where, do=error.do) from None
    files = model_files.hash_files(folder, model_files.list_files(folder, nested))
    digest = hashlib.sha256("".join(f"{n} {entry['sha256']}\n" for n, entry in files.items()).encode()).hexdigest()
    return manifest.Manifest(
        name=name,
        source=source,
        revision=params.revision or digest,
        hub=params.hub is not None,
        dtype=params.dtype,
        fingerprint=digest,
        files=files,
        architecture=manifest.SENTENCE_TRANSFORMER if nested else weights.architecture,
        parameters=weights.parameters,
        vocabulary=weights.vocabulary,
        context=weights.context,
        vllm=manifest.Vllm(**params.vllm.model_dump()) if params.vllm else None,
        ray=manifest.Ray(**params.ray.model_dump()) if params.ray else None,
    )


def check_tokenizer(folder: Path, vocabulary: int) -> None:
    """Raises UserError where it has no chat template, or turns ordinary text into tokens that the model has no embedding for."""
    tokenizer = manifest.load_tokenizer(folder)
    encoding.require_template(tokenizer, folder)
    guard_template(folder, tokenizer)
    try:
        encoding.render(tokenizer, [{"role": "user", "content": "text"}], respond=True)
    except UserError:
        raise
    except Exception as error:  # a template is a program
        what = f"has a chat template that cannot render a lone user turn ({first_line(error)})"
        raise UserError(what, where=folder, do=encoding.advise_on(error)) from None
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    beyond = sorted(token for token, i in tokenizer.get_vocab().items() if i >= vocabulary and i not in special)
    if beyond:  # special ones are written by templates alone: texts that spell them are escaped
        what = f"has {vocabulary:,} embeddings, and {len(beyond):,} more tokens in its tokenizer ({beyond[0]!r:.60})"
        do = "call model.resize_token_embeddings(len(tokenizer)) and save it, or take them out of the tokenizer"
        raise UserError(what, where=folder, do=do)
