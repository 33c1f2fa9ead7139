"""holdfast/training/distilling.py: the tuned model comes closer to the base where it writes itself."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import describe, perturb
from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.training import distilling, self_distilling

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


def test_sdft_takes_the_kl_from_the_teacher_s_side():
    """KL(teacher || model) over whole distributions, by hand: (1/2, 1/2) teaches (1/4, 3/4)."""
    teacher, model = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    each = compute_full_logit_self_distillation_loss(model, teacher, distillation_alpha=self_distilling.FORWARD_KL)
    assert each.item() == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), rel=1e-5)


def test_what_the_teacher_is_shown(tokenizer):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sort {b} a"}]
    row = {"id": "7", "messages": [*chat, {"role": "assistant", "content": "a <|end|>"}]}
    shown = self_distilling.show_row(tokenizer, row)
    assert shown == {"prompt": chat, "privileged_context": "a < |end|>"}
    for odd in ({"tools": [{"name": "f"}]}, {"messages": chat}):
        with pytest.raises(UserError, match="row 7: has tools or ends otherwise"):
            self_distilling.show_row(tokenizer, row | odd)
