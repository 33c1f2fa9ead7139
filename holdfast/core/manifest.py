"""A model's manifest: what `acquire` resolved and hashed, and how later stages load it without trusting anything else.

Weights are safetensors only; no code from a model repository is ever run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from holdfast.core import checkpoint, checkpoint_files, exact_loading, storage
from holdfast.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MIN_BF16_BYTES = 50_000_000  # of weights, from which a CPU reckons in bfloat16
SENTENCE_TRANSFORMER = (
    "SentenceTransformer"  # architecture of a sentence-transformers model: it embeds and does not chat
)
PROBE_TOKENS, MIN_SPREAD = (
    8,
    1e-6,
)  # tokens that a loaded model is asked about; nats between its likeliest and unlikeliest


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server that speaks for a model. What the server can do, `acquire` has tried."""

    url: str  # base URL, usually ending in /v1
    model: str  # the name that requests ask for
    served: str  # the name that replies carry: it changes when an alias moves to another version
    refuses: list[str]  # optional request fields that the server does not take
    token_prompts: bool  # raw completions take token ids; otherwise prompts go as text
    top_logprobs: int  # alternatives per token with their log-probabilities; 0: scores are read from the text
    api_key_env: str | None
    concurrency: int
    timeout: float  # seconds
    retries: int
    max_requests: int | None
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Vllm:
    """How vLLM runs a model: the fields of sections/models.py."""

    tensor_parallel_size: int
    gpu_memory_utilization: float
    max_model_len: int | None  # tokens
    enforce_eager: bool


@dataclass(frozen=True, slots=True)
class Ray:
    """A cluster that a model's shards are fanned over: the fields of sections/models.py."""

    actors: int
    cpus: float  # of each actor
    gpus: float
    address: str


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    source: str  # the local folder, the hub id, or the endpoint
    revision: str  # hub commit; for a folder or an endpoint the fingerprint, unless the endpoint's version was named
    hub: bool
    dtype: str
    fingerprint: str  # sha256 over the names and sha256 of all files
    files: dict[str, dict[str, Any]]  # name -> {"sha256", "bytes"}
    architecture: str
    parameters: int
    vocabulary: int
    context: int  # longest sequence, tokens; 0: the endpoint does not say
    endpoint: Endpoint | None = None
    vllm: Vllm | None = None
    ray: Ray | None = None

    def folder(self) -> Path:
        """Where the files lie now. Raises UserError if one is gone or has another size than when it was hashed."""
        folder = hub_folder(self.source, self.revision, list(self.files)) if self.hub else Path(self.source)
        for name, entry in self.files.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise UserError("is missing or has changed since `acquire`", where=file, do="run `dvc repro acquire`")
        return folder


ENGINES = ("endpoint", "vllm", "ray")


def load(path: Path) -> Manifest:
    """Raises UserError where there is no manifest, or it is not as `acquire` writes it."""
    content = storage.read_json(path)
    try:
        return TypeAdapter(Manifest).validate_python(content)
    except ValidationError as error:
        problem = error.errors()[0]
        what = f"is no manifest of a model ({'.'.join(map(str, problem['loc'])) or 'all of it'}: {problem['msg']})"
        raise UserError(what, where=path, do="run `dvc repro acquire`") from None


def save(manifest: Manifest, path: Path) -> None:
    content = {key: value for key, value in asdict(manifest).items() if key not in ENGINES or value}
    storage.write_json(path, {"schema": 1, **content})


def hub_folder(repository: str, revision: str, files: list[str] | None = None) -> Path:
    """Downloads a pinned snapshot, or finds it in the local hub cache: these files, or those that are loaded."""
    if files is not None:
        return download_files(repository, revision, files)
    folder = download_files(repository, revision, list(checkpoint_files.OTHER_FILES))
    weights = [
        checkpoint_files.WEIGHTS,
        f"*/{checkpoint_files.WEIGHTS}",
    ]  # the latter of sentence-transformers' modules
    if (folder / checkpoint_files.INDEX).is_file():
        weights += sorted(set(checkpoint_files.read_index(folder).values()))
    return download_files(repository, revision, [*checkpoint_files.OTHER_FILES, *weights])


def download_files(repository: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repository}@{revision[:12]}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except HFValidationError:
        raise UserError(
            "this cannot be a hub id", where=where, do="give it as owner/name; for a local folder use 'path'"
        ) from None
    except GatedRepoError:
        raise UserError(
            "the hub asks for permission", where=where, do="accept the licence on its page and set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            "the hub has no such revision", where=where, do="give the full commit hash from the model's page"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            "the hub has no such model, or it is private",
            where=where,
            do="check the id; set HF_TOKEN for a private one",
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError):
        raise UserError(
            "cannot reach the hub, and the model is not in the local cache",
            where=where,
            do="download it where there is a network, or put it into a folder and give its path",
        ) from None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer in a folder, padding on the left (for generation), with a padding token that is never trained on."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the file formats are many, and so are the exceptions
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"the tokenizer cannot be loaded ({first})", where=folder, do="the folder needs tokenizer.json"
        ) from None
    if not tokenizer.is_fast:
        raise UserError(
            "the tokenizer is not a fast one", where=folder, do="convert it: the folder needs tokenizer.json"
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def find_device() -> torch.device:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type == "cuda":
        # cuDNN's attention is planned anew for every shape, and here each step of writing and each batch has its own
        torch.backends.cuda.enable_cudnn_sdp(False)
    return accelerator if accelerator is not None else torch.device("cpu")


def bf16_usable() -> bool:
    """Whether the hardware computes mixed precision: recent GPUs, CPUs with AVX512_BF16 or AMX."""
    import torch

    kind = find_device().type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    return kind == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def logits_at_once() -> int:
    """Numbers that scoring may compute at a time: as many as fit half a GiB in fp32, on a GPU a sixteenth of its memory. With
    a vocabulary of 150,000 the former are those of 890 tokens."""
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory if find_device().type == "cuda" else 0
    return int(max(2**27, memory // 64))


def load_model(
    folder: Path, dtype: str = "auto", *, device: torch.device | str | None = None, attention: str | None = None
) -> PreTrainedModel:
    """The causal language model in a folder, in evaluation mode on the accelerator if there is one, or on `device`. The one way
    in which transformers' weights come in. `attention`: its implementation, by transformers' name.

    Raises UserError where a tensor is missing, left over, of another shape, or holds NaN or infinite numbers, and where the
    model does not answer a few tokens with finite logits.
    """
    import torch

    where = find_device() if device is None else torch.device(device)
    kind = choose_dtype(folder, where.type) if dtype == "auto" else getattr(torch, dtype)
    more: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    checkpoint.check_folder(folder, keys=False)
    model: Any = exact_loading.load_exactly(folder, checkpoint_files.list_files(folder), dtype=kind, **more)
    model = model.to(where).eval()
    check_answers(model, folder)
    return model


def choose_dtype(folder: Path, device: str) -> torch.dtype:
    """bfloat16 on accelerators, and on CPUs that multiply it for weights that are stored so: writing with SmolLM2-135M takes
    half of float32's time there, reading a quarter. Small models stay in float32: they gain nothing, and are then the same
    on every CPU."""
    import torch

    if device != "cpu":
        return torch.bfloat16
    size = sum((folder / name).stat().st_size for name in checkpoint_files.list_weights(folder))
    stored = checkpoint.read_config(folder).dtype
    return torch.bfloat16 if stored == torch.bfloat16 and size >= MIN_BF16_BYTES and bf16_usable() else torch.float32


def check_answers(model: PreTrainedModel, folder: Path) -> None:
    """Raises UserError where weights are not finite, or logits are not, or are the same for every token."""
    import torch

    with torch.inference_mode():
        for name, weight in model.named_parameters():
            if not checkpoint.is_finite(weight):
                raise checkpoint.not_finite(name, weight, folder)
        tokens = min(PROBE_TOKENS, model.config.get_text_config().vocab_size)
        ids = torch.arange(tokens, device=model.device)[None]
        logits = model(input_ids=ids, use_cache=False).logits.float()  # (1, T, V)
        spread = logits.amax(-1) - logits.amin(-1)  # a token of padding may be a row of zeros, which says nothing
        if not bool(torch.isfinite(logits).all()) or float(spread.max()) < MIN_SPREAD:
            what = "does not answer: its logits are not finite, or the same for every token"
            do = "its config.json does not belong to its weights, or is damaged: download both again"
            raise UserError(what, where=folder, do=do)
