"""holdfast/training/distilling.py: the tuned model comes closer to the base where it writes itself."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import describe, perturb

from holdfast.core import manifest
from holdfast.training import distilling

CHATS = [[{"role": "user", "content": f"Sort: {n} 1 2 <|end|>"}] for n in range(8)]


def test_the_tuned_model_is_drawn_to_the_base_on_its_own_answers(tiny: Path, tmp_path: Path) -> None:
    base = replace(manifest.load(describe(tiny, tmp_path)), source=str(tiny), dtype="float32")
    network = manifest.load_model(perturb(tiny, tmp_path / "tuned", 0.3), "float32")
    how = distilling.Distillation(steps=30, rate=3e-3, batch=4, max_tokens=6)
    before = measure(network, manifest.load_model(tiny, "float32"))
    log = distilling.distil(network, base, CHATS, how)
    assert float(log[-1]["loss"]) < 0.7 * float(log[0]["loss"])
    assert measure(network, manifest.load_model(tiny, "float32")) < 0.9 * before
    assert log[-1]["step"] == 30 and float(log[-1]["num_tokens"]) > 0
    with pytest.raises(distilling.Diverged):
        distilling.distil(network, base, CHATS, distilling.Distillation(steps=4, rate=math.inf, batch=4, max_tokens=6))


def measure(network: torch.nn.Module, base: torch.nn.Module) -> float:
    """KL(base || network) at some tokens, mean."""
    ids = torch.arange(20)[None]
    with torch.no_grad():
        theirs, ours = (model(ids).logits.log_softmax(-1) for model in (base, network))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())
