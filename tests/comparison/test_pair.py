"""holdfast/comparison/pair.py: what belongs together is opened, adapters included; what does not is refused in three lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import perturb

from holdfast.comparison import pair
from holdfast.core import manifest
from holdfast.core.errors import CannotCompare

IDS = torch.arange(9)[None]


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters") / "lora"
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model: Any = get_peft_model(manifest.load_model(tiny), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    name_base(folder, str(tiny))
    return folder


def name_base(adapter: Path, base: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def test_an_adapter_becomes_a_whole_model_once(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    opened = pair.open_pair(str(tiny), str(adapter), tmp_path)
    assert opened.tuned.dtype == opened.base.dtype == "float32" and not opened.notes
    shutil.copyfile(tiny / "config.json", adapter / "config.json")  # as some tools do
    whole = opened.tuned.folder()
    assert float((manifest.load_model(whole)(IDS).logits - manifest.load_model(tiny)(IDS).logits).abs().max()) > 0.1
    written = (whole / "model.safetensors").stat().st_mtime_ns
    assert pair.open_pair(str(tiny), str(adapter), tmp_path).tuned.folder() == whole
    assert (whole / "model.safetensors").stat().st_mtime_ns == written


def test_an_adapter_of_another_base_is_refused_where_that_is_known(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    other, copy = perturb(tiny, tmp_path / "other", 0.5), shutil.copytree(adapter, tmp_path / "adapter")
    name_base(copy, str(other))
    with pytest.raises(CannotCompare, match="trained on another base") as error:
        pair.open_pair(str(tiny), str(copy), tmp_path)
    assert str(other) in error.value.do
    name_base(copy, "someone/else")
    assert "someone/else" in pair.open_pair(str(tiny), str(copy), tmp_path).notes[0]
    name_base(copy, "/nowhere/base")
    assert "/nowhere/base" in pair.open_pair(str(tiny), str(copy), tmp_path).notes[0]
    same = shutil.copytree(tiny, tmp_path / "same")
    name_base(copy, str(same))  # the same weights in another place are the same base
    assert not pair.open_pair(str(tiny), str(copy), tmp_path).notes


def test_an_adapter_that_does_not_fit_is_refused(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    file = copy / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 2}))
    with pytest.raises(CannotCompare, match="does not fit its base"):
        pair.open_pair(str(tiny), str(copy), tmp_path)


def test_the_base_itself_was_not_tuned(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotCompare, match="nothing was tuned"):
        pair.open_pair(str(tiny), str(shutil.copytree(tiny, tmp_path / "copy")), tmp_path)


def test_another_size_or_vocabulary_is_another_model(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    for change, part in (({"vocab_size": 9999}, "vocabulary"), ({"num_hidden_layers": 3}, "parameters")):
        folder = shutil.copytree(tiny, tmp_path / part)
        config = AutoConfig.from_pretrained(tiny)
        config.update(change)
        LlamaForCausalLM(config).save_pretrained(folder)
        with pytest.raises(CannotCompare, match=f"another model than the base \\(its {part}"):
            pair.open_pair(str(tiny), str(folder), tmp_path)
    file = shutil.copytree(tiny, tmp_path / "architecture") / "config.json"
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    file.write_text(json.dumps(json.loads(file.read_text()) | mistral))
    with pytest.raises(CannotCompare, match=r"another model than the base \(its architecture: Mistral"):
        pair.open_pair(str(tiny), str(file.parent), tmp_path)


def test_another_template_is_refused_unless_both_speak_in_the_base_s(tiny: Path, tmp_path: Path) -> None:
    tuned = perturb(tiny, tmp_path / "tuned", 0.1)
    file = tuned / "chat_template.jinja"
    file.write_text(file.read_text() + "{# mine #}")
    with pytest.raises(CannotCompare, match="another chat template"):
        pair.open_pair(str(tiny), str(tuned), tmp_path)
    lent = pair.open_pair(str(tiny), str(tuned), tmp_path, "base").tuned.folder()
    assert (lent / "chat_template.jinja").read_text() == (tiny / "chat_template.jinja").read_text()
    assert torch.equal(manifest.load_model(lent)(IDS).logits, manifest.load_model(tuned)(IDS).logits)


@pytest.mark.parametrize("name", ["nowhere", "owner/name", "owner/name@main"])
def test_with_a_model_that_is_nowhere_nothing_can_be_compared(tiny: Path, tmp_path: Path, name: str) -> None:
    for base, tuned in ((str(tiny), name), (name, str(tiny))):
        with pytest.raises(CannotCompare, match="no such folder"):
            pair.open_pair(base, tuned, tmp_path)
