"""The model as lm-eval asks it: with transformers or vLLM in this process, or on an OpenAI-compatible server.

All three are lm-eval's own model classes; each renders prompts with the chat template from the model's folder, so that
prompts, and with them the items' hashes, do not depend on the back end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.params.evaluate import Evaluate

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from holdfast.core.manifest import Manifest


def load(params: Evaluate, name: str, folder: Path, entry: Manifest) -> tuple[LM, dict[str, Any]]:
    """lm-eval's model for the weights in `folder`, and what to record of it: template, versions, device, dtype."""
    tokenizer = manifest.tokenizer(folder)
    template = encoding.template_of(tokenizer).source  # its clock stands still: the same prompts on every day
    tokenizer.chat_template = template
    if params.backend == "transformers":
        model, facts = in_process(params, folder, entry, tokenizer)
    elif params.backend == "vllm":
        model, facts = vllm(params, folder, entry, template)
    else:
        model, facts = server(params, name, folder, entry, template)
    return model, facts | {"backend": params.backend, "options": params.options, "chat_template": template}


def in_process(params: Evaluate, folder: Path, entry: Manifest, tokenizer: Any) -> tuple[LM, dict[str, Any]]:
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    network = manifest.model(folder, entry.dtype)
    model = HFLM(
        pretrained=network, tokenizer=tokenizer, batch_size=params.batch, max_length=entry.context, device=str(network.device),
        **params.options,
    )  # fmt: skip
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    return model, versions | {"device": network.device.type, "dtype": str(network.dtype).removeprefix("torch.")}


def vllm(params: Evaluate, folder: Path, entry: Manifest, template: str) -> tuple[LM, dict[str, Any]]:
    try:
        from vllm import __version__ as version
    except ImportError:
        do = "install vllm in this environment, or use the back end transformers"
        raise UserError("vLLM is not installed", where="evaluate.backend", do=do) from None
    from lm_eval.models.vllm_causallms import VLLM

    model = VLLM(**vllm_arguments(params, folder, entry))
    model.hf_chat_template = template
    return model, {"vllm": version, "device": "vllm", "dtype": str(entry.dtype)}


def vllm_arguments(params: Evaluate, folder: Path, entry: Manifest) -> dict[str, Any]:
    known = {
        "pretrained": str(folder),
        "dtype": entry.dtype,
        "max_model_len": entry.context,
        "trust_remote_code": False,
    }
    return known | {"batch_size": params.batch, "seed": params.seed} | params.options


def server(params: Evaluate, name: str, folder: Path, entry: Manifest, template: str) -> tuple[LM, dict[str, Any]]:
    """Raw completions with prompts as token ids: a chat endpoint would render them again, with a template of its own."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    offered(str(params.url), name)
    model = LocalCompletionsAPI(
        base_url=f"{params.url}/completions", model=name, tokenizer=str(folder), tokenizer_backend="huggingface",
        max_length=entry.context, batch_size=params.batch, seed=params.seed, **params.options,
    )  # fmt: skip
    model.tokenizer.chat_template = template
    return model, {"device": "server", "dtype": "server's"}


def offered(url: str, name: str) -> None:
    """Raises UserError where the server does not answer, or does not offer the model under this name."""
    import os

    import requests

    key = os.environ.get("OPENAI_API_KEY", "")  # as lm-eval reads it
    try:
        answer = requests.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"}, timeout=60)
        answer.raise_for_status()
        names = [str(model["id"]) for model in answer.json()["data"]]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        do = "start the server, or correct evaluate.url; a key goes into OPENAI_API_KEY"
        raise UserError(f"no list of models ({type(error).__name__})", where=f"{url}/models", do=do) from None
    if name not in names:
        do = f"serve it under that name: `vllm serve FOLDER --served-model-name {name}`"
        raise UserError(f"the server does not offer '{name}' but {', '.join(names[:5])}", where=url, do=do)


@contextmanager
def explained(params: Evaluate) -> Iterator[None]:
    """A server that fails in the middle ends with a message, not with a traceback."""
    import aiohttp
    import requests

    try:
        yield
    except (requests.RequestException, aiohttp.ClientError, TimeoutError) as error:
        do = "see the server's log; it must take prompts as token ids, and `echo` with `logprobs` for multiple choice"
        raise UserError(f"the server failed: {str(error)[:200]}", where=str(params.url), do=do) from None
