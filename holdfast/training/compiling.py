"""torch.compile for training: where it pays, and which parts of a model it compiles.

Each of a decoder's equal blocks is compiled by itself. That takes seconds where the whole model takes minutes, and
leaves hooks, adapters, checkpointing and module names as they are. Used by trainer.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch

MIN_FLOPS_FOR_COMPILING = 2e16  # of one process; with fewer, the half minute that compiling takes is not won back
RECOMPILE_LIMIT = 32  # a block runs with a mask and without, on one row and on many, with gradients and without


def pays_off(wanted: bool | Literal["auto"], device: str, flops: float) -> bool:
    """Whether to compile. `flops`: floating-point operations of the whole run by the 6ND rule, in one process."""
    if wanted != "auto":
        return wanted
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))  # Triton builds its launchers with one
    return device == "cuda" and compiler and flops >= MIN_FLOPS_FOR_COMPILING


def compile_blocks(model: Any) -> None:
    """Compiles the blocks that the model's class says must not be split between devices: those of its decoder."""
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    names = set(getattr(model, "_no_split_modules", None) or ())
    for block in model.modules():
        if type(block).__name__ in names:
            block.compile(dynamic=True)


def compile_loss(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A fused loss: it writes no fp32 copy of the logits, which with a large vocabulary would be gigabytes."""
    return torch.compile(loss, dynamic=True)


def undo(model: Any) -> None:
    """Makes the blocks run as before: what follows training is too short to compile again."""
    for block in model.modules():
        block._compiled_call_impl = None
