"""Loads the tensors of a model and no others: what is missing, left over or of another shape is refused.

`stage_files` lets transformers see the files that are loaded and nothing else: an adapter beside the weights would be attached,
and a pickled .metadata read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel
from holdfast.core.checkpoint_files import CONFIG


@contextmanager
def stage_files(folder: Path, names: list[str]) -> Iterator[Path]:
    """A folder of links to these files and to no others."""
    with tempfile.TemporaryDirectory(prefix="holdfast-") as made:
        for name in names:
            (Path(made) / name).symlink_to((folder / name).resolve())
        yield Path(made)


def load_exactly(folder: Path, names: list[str], **options: Any) -> PreTrainedModel:
    """The causal language model in these files of a folder; `options`: transformers' own. Raises UserError where a tensor is
    missing, left over, or of another shape."""
    from transformers import AutoModelForCausalLM

    with stage_files(folder, names) as place, quiet_loading(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    refuse_other_keys(info, folder)
    return model


def refuse_other_keys(info: dict[str, Any], folder: Path) -> None:
    """Raises UserError where transformers reports a tensor that is missing, left over, or of another shape."""
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{kind}_keys"])
        if keys:
            more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
            raise UserError(
                f"has weights that do not fit {CONFIG}: {kind} {keys[0][:120]}{more}",
                where=folder,
                do="download or save the model again: what is missing would be random, what is left over ignored",
            )


@contextmanager
def quiet_loading(folder: Path) -> Iterator[None]:
    """Inside, transformers prints no report and no bar; what it raises is a UserError of one line."""
    import torch
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of its, torch's and safetensors' own kinds
        do = "download or save the model again; its config.json must belong to its weights"
        raise UserError(f"cannot be loaded ({first_line(error)})", where=folder, do=do) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
