"""torch.compile for training: where it pays, and what of a model it takes.

Each of a decoder's equal blocks is compiled by itself, which takes seconds where the whole model takes minutes, and leaves
hooks, adapters, checkpointing and the module's names as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch

WORTH = 2e16  # floating-point operations of a process from which its compilation, about half a minute, comes back


def pays(wanted: bool | Literal["auto"], device: str, flops: float) -> bool:
    """`flops`: of the whole run, by the 6ND rule, in one process."""
    if wanted != "auto":
        return wanted
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))  # Triton builds its launchers with one
    return device == "cuda" and compiler and flops >= WORTH


def blocks(model: Any) -> None:
    """Compiles the blocks that the model's class says must not be split between devices: those of its decoder."""
    torch._dynamo.config.recompile_limit = (
        32  # with a mask and without, of one row and of many, with gradients and without
    )
    names = set(getattr(model, "_no_split_modules", None) or ())
    for block in model.modules():
        if type(block).__name__ in names:
            block.compile(dynamic=True)


def function(one: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Fused: of the logits, gigabytes with a large vocabulary, no copy in fp32 is ever written."""
    return torch.compile(one, dynamic=True)


def undo(model: Any) -> None:
    """The blocks run as they did before: what follows training is too short to be compiled again."""
    for block in model.modules():
        block._compiled_call_impl = None
