"""Saves the tuned model in the base's dtype, and compares what was saved with the model in memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from holdfast.core import checkpoint_files, manifest
from holdfast.core.errors import UserError
from holdfast.training.job import (
    MODEL_FOLDER,
    ROWS_FILE,
    Job,
)

MAX_PROBE_ROWS, MAX_PROBE_TOKENS = 8, 64  # on which the saved model is compared with the one in memory
MAX_SAVED_KL = 0.05  # nats per token between them; rounding to bf16 costs far less


def save_as_stored(job: Job, model: PreTrainedModel) -> None:
    """Writes the model in the dtype that the base's weights have on disk."""
    dtype = stored_dtype(job.folder) or getattr(torch, str(model.config.dtype or "float32").removeprefix("torch."))
    model.to(device="cpu", dtype=dtype).save_pretrained(job.scratch / MODEL_FOLDER)  # type: ignore[call-arg]


def probe_rows(job: Job) -> list[list[int]]:
    """The beginnings of the first rows that are trained on, MAX_PROBE_ROWS of MAX_PROBE_TOKENS at most."""
    rows = pq.read_table(job.scratch / ROWS_FILE, columns=["input_ids"]).slice(0, MAX_PROBE_ROWS)
    return [ids[:MAX_PROBE_TOKENS] for ids in rows["input_ids"].to_pylist()]


@torch.inference_mode()
def next_token_logprobs(model: PreTrainedModel, rows: list[list[int]]) -> list[torch.Tensor]:
    """Log-probabilities of every next token, (T, V) for each row, on the CPU."""
    model.eval()
    at = [torch.tensor([ids], device=model.device) for ids in rows]
    return [model(input_ids=one, use_cache=False).logits[0].float().log_softmax(-1).cpu() for one in at]


def check_saved_model(job: Job, expected: list[torch.Tensor], rows: list[list[int]]) -> None:
    """Loads the saved model as later stages do. Raises UserError where it is not whole, or answers otherwise than the model in
    memory by more than rounding to the dtype of the base does."""
    folder = job.scratch / MODEL_FOLDER
    saved = next_token_logprobs(manifest.load_model(folder, "float32", device="cpu"), rows)
    kl = sum(float((one.exp() * (one - other)).sum()) for one, other in zip(expected, saved, strict=True))
    kl /= sum(map(len, rows))
    if not kl <= MAX_SAVED_KL:
        what = f"the saved model answers otherwise than the trained one (KL {kl:.3g} nats per token)"
        do = "its base may not be what it seems: see `holdfast doctor`; the earlier tuned model is unchanged"
        raise UserError(what, where=f"finetune, arm '{job.arm}'", do=do)


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The dtype of the weights on disk; None where it is another than bf16, fp16 or fp32."""
    from safetensors import safe_open

    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    with safe_open(folder / checkpoint_files.list_weights(folder)[0], framework="pt") as tensors:
        return names.get(tensors.get_slice(next(iter(tensors.keys()))).get_dtype())
