"""The model as lm-eval asks it: with transformers or vLLM in this process, or on an OpenAI-compatible server.

The last two are lm-eval's own model classes, the first is ours over one of them (engine_model.py). Prompts are rendered as every
other stage renders them (holdfast/chat/), so that they, and with them the items' hashes, do not depend on the back end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.chat import encoding
from holdfast.chat.templates import Messages
from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.params.evaluate import Evaluate

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from holdfast.core.manifest import Manifest


def settle(params: Evaluate, base: Manifest) -> tuple[Evaluate, Manifest]:
    """Both with the back end chosen where it is auto: vLLM as the base's own settings have it."""
    backend = params.choose_backend(base.vllm is not None)
    if params.backend != "auto" or backend != "vllm" or base.vllm is None:
        return params.model_copy(update={"backend": backend}), base
    own = asdict(base.vllm)
    longest = own.pop("max_model_len")
    settled = params.model_copy(update={"backend": backend, "options": own | params.options})
    return settled, replace(base, context=min(longest or base.context, base.context))


def load_backend(params: Evaluate, name: str, folder: Path, base: Manifest) -> tuple[LM, dict[str, Any]]:
    """lm-eval's model for the weights in `folder`, and what to record of it: template, versions, device, dtype.

    `base`: the manifest of the base, whose context and precision arms share. Raises UserError where the back end is not
    installed, or the server does not offer the model.
    """
    params, base = settle(params, base)
    tokenizer = manifest.load_tokenizer(folder)
    template = encoding.template_of(tokenizer).source  # with its clock stopped: prompts are the same every day
    tokenizer.chat_template = template
    if params.backend == "transformers":
        model, facts = load_transformers(params, folder, base, tokenizer)
    elif params.backend == "vllm":
        model, facts = load_vllm(params, folder, base, template)
    else:
        model, facts = connect_server(params, name, folder, base, template)
    model.apply_chat_template = partial(render_request, tokenizer)  # type: ignore[method-assign]
    return model, facts | {"backend": params.backend, "options": params.options, "chat_template": template}


def render_request(tokenizer: Any, history: Messages, add_generation_prompt: bool = True) -> str:
    """A chat as every other stage renders it, special tokens in its texts escaped. lm-eval's own way drops a system turn that
    the template does not know. Without `add_generation_prompt` the last turn is the beginning of the answer."""
    messages = encoding.escape_messages(tokenizer, history)
    if add_generation_prompt:
        return encoding.render(tokenizer, messages, respond=True)
    return encoding.render(tokenizer, messages[:-1], respond=True) + messages[-1]["content"]


def load_transformers(params: Evaluate, folder: Path, base: Manifest, tokenizer: Any) -> tuple[LM, dict[str, Any]]:
    import torch
    import transformers

    from holdfast.evaluation.engine_model import EngineModel

    entry = replace(base, source=str(folder), hub=False, files={})
    # The template writes BOS where it is wanted
    model = EngineModel(entry, params.batch, tokenizer, add_bos_token=False, **params.options)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    network = model.engine.model
    return model, versions | {"device": network.device.type, "dtype": str(network.dtype).removeprefix("torch.")}


def load_vllm(params: Evaluate, folder: Path, base: Manifest, template: str) -> tuple[LM, dict[str, Any]]:
    try:
        from vllm import __version__ as version
    except ImportError:
        do = "install vllm in this environment, or use the back end transformers"
        raise UserError("vLLM is not installed", where="evaluate.backend", do=do) from None
    from lm_eval.models.vllm_causallms import VLLM

    model = VLLM(**vllm_arguments(params, folder, base))
    model.hf_chat_template = template
    return model, {"vllm": version, "device": "vllm", "dtype": str(base.dtype)}


def vllm_arguments(params: Evaluate, folder: Path, base: Manifest) -> dict[str, Any]:
    own = {
        "pretrained": str(folder),
        "dtype": base.dtype,
        "max_model_len": base.context,
        "add_bos_token": False,
        "trust_remote_code": False,
    }
    return own | {"batch_size": params.batch, "seed": params.seed} | params.options


def connect_server(
    params: Evaluate, name: str, folder: Path, base: Manifest, template: str
) -> tuple[LM, dict[str, Any]]:
    """Raw completions with prompts as token ids: a chat endpoint would render them again, with a template of its own."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    check_offered(str(params.url), name)
    model = LocalCompletionsAPI(
        base_url=f"{params.url}/completions",
        model=name,
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        max_length=base.context,
        batch_size=params.batch,
        seed=params.seed,
        **params.options,
    )
    model.tokenizer.chat_template = template
    return model, {"device": "server", "dtype": "server's"}


def check_offered(url: str, name: str) -> None:
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
def server_errors(params: Evaluate) -> Iterator[None]:
    """Turns a server's failure in the middle of an evaluation into a UserError."""
    import aiohttp
    import requests

    try:
        yield
    except (requests.RequestException, aiohttp.ClientError, TimeoutError) as error:
        do = "see the server's log; it must take prompts as token ids, and `echo` with `logprobs` for multiple choice"
        raise UserError(f"the server failed: {str(error)[:200]}", where=str(params.url), do=do) from None
