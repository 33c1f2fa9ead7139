"""Embeddings of texts: mean-pooled hidden states of a chat model, or a sentence-transformers model, told by its files.

Used by curate and reconstruct through `load`; which model it is, `embedder` in params.yaml says and `acquire` has hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from holdfast.core import manifest, meter
from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[Sequence[str]], "np.ndarray"]  # N texts -> (N, D) in float32, of unit length


def load_embedder(source: manifest.Manifest, batch: int) -> Embed:
    """The embedding function of a model. Raises UserError where sentence-transformers is needed and missing, or fails."""
    if source.architecture != manifest.SENTENCE_TRANSFORMER:
        from holdfast.engines import local

        return local.Engine(source, batch).embed
    where = f"embedder '{source.name}'"
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        do = "pip install 'holdfast[embeddings]', or set `embedder` to the base"
        raise UserError("sentence-transformers is not installed", where=where, do=do) from None

    safe = {"use_safetensors": True, **({} if source.dtype == "auto" else {"dtype": source.dtype})}
    try:  # a repository may name Python classes: with trust_remote_code off, only the library's own are taken
        model = SentenceTransformer(
            str(source.folder()), trust_remote_code=False, local_files_only=True, model_kwargs=safe
        )
    except (ValueError, OSError, ImportError, KeyError, RuntimeError) as error:
        do = "give a sentence-transformers model of the library's own modules, with safetensors weights"
        raise UserError(f"cannot be loaded ({first_line(error)})", where=where, do=do) from None

    def embed(texts: Sequence[str]) -> np.ndarray:
        lengths = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)["input_ids"]
        meter.count(source.parameters, read=sum(map(len, lengths)))
        return model.encode(list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False)

    return embed
