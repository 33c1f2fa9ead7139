"""holdfast/engines/adapters.py: an adapter becomes a whole model that answers as PEFT's own does, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.engines import adapters
from holdfast.engines.inspection import inspect_folder
from holdfast.params.models import Model

IDS = torch.arange(9)[None]


def train_adapter(base: Path, into: Path, config: Any, change: bool = True) -> Path:
    """An adapter with random weights, saved as PEFT does."""
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(manifest.load_model(base), config)
    if change:
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(into)
    return into


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("adapters") / "lora"
    return train_adapter(tiny, folder, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    return shutil.copytree(adapter, tmp_path / "adapter")


def test_a_merged_model_answers_as_base_and_adapter_do(adapter, tiny, tmp_path):
    from peft import PeftModel

    assert adapters.merge_adapter(adapter, tiny, tmp_path / "merged") == tiny
    merged = manifest.load_model(tmp_path / "merged", "float32")(IDS).logits
    theirs = PeftModel.from_pretrained(manifest.load_model(tiny), adapter)(IDS).logits
    plain = manifest.load_model(tiny)(IDS).logits
    assert torch.allclose(merged, theirs, atol=1e-4)
    assert float((merged - plain).abs().max()) > 0.1
    assert inspect_folder("merged", Model(path="merged"), tmp_path).architecture == "LlamaForCausalLM"


def test_the_base_that_the_adapter_names_is_taken_and_its_own_tokenizer(copy, tiny, tmp_path):
    manifest.load_tokenizer(tiny).save_pretrained(copy)
    content = json.loads((copy / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(tiny)}
    (copy / "adapter_config.json").write_text(json.dumps(content))
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    assert adapters.merge_adapter(copy, None, tmp_path / "merged") == tiny
    assert manifest.load_tokenizer(tmp_path / "merged").chat_template == "{{ messages[0]['content'] }}!"


def change_config(**changes: Any) -> Any:
    def apply(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


def change_weights(change: Any) -> Any:
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / adapters.WEIGHTS)
        change(weights)
        save_file(weights, folder / adapters.WEIGHTS, metadata={"format": "pt"})

    return apply


def pickle_weights(folder: Path) -> None:
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")


def first_of(weights: dict[str, Any]) -> str:
    return min(weights)


FAULTS = {
    "no settings": (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "pickled weights": (pickle_weights, "has no adapter_model.safetensors"),
    "settings that are no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "is not usable"),
    "an unknown kind": (change_config(peft_type="MAGIC"), "is not usable"),
    "a number as text": (change_config(r="4"), "is not usable (r: Input should be a valid integer)"),
    "a list of numbers for names": (change_config(target_modules=[1]), "is not usable (target_modules: "),
    "a pattern that is null": (change_config(alpha_pattern=None), "is not usable (alpha_pattern is null)"),
    "settings that are a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "is not usable (no object)"),
    "settings too deep": (lambda f: (f / "adapter_config.json").write_text("[" * 10**5), "is not usable"),
    "settings that are not UTF-8": (lambda f: (f / "adapter_config.json").write_bytes(b'{"r": "\xff"}'), "is not usable"),
    "settings for Megatron": (change_config(megatron_config={"a": 1}), "is not usable (megatron_config "),
    "settings for a router": (change_config(arrow_config={}), "is not usable (arrow_config "),
    "a rank below 1": (change_config(r=-1), "does not fit its base"),
    "a probability above 1": (change_config(lora_dropout=3.0), "does not fit its base"),
    "tokens of which there are no weights": (change_config(trainable_token_indices=[]), "does not fit its base"),
    "activated LoRA": (change_config(alora_invocation_tokens=[1]), "of the kind LORA cannot be merged"),
    "a tensor of another size": (
        change_weights(lambda w: w.update({first_of(w): torch.zeros(4, 7)})), "does not fit its base"
    ),
    "a tensor too few": (change_weights(lambda w: w.pop(first_of(w))), "1 tensors are missing"),
    "a tensor of a layer that the base lacks": (
        change_weights(lambda w: w.update({first_of(w).replace("layers.0", "layers.9"): torch.zeros(4, 32)})),
        "1 tensors are unexpected",
    ),
    "other modules": (change_config(target_modules=["c_attn"]), "does not fit its base"),
    "not a number": (change_weights(lambda w: w[first_of(w)].fill_(float("nan"))), "NaN or infinite"),
    "weights cut short": (lambda f: (f / adapters.WEIGHTS).write_bytes(b"1234"), "not a readable safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_does_not_belong_to_the_base_is_refused_and_nothing_is_written(copy, tiny, tmp_path, fault):
    apply, reason = FAULTS[fault]
    apply(copy)
    with pytest.raises(UserError) as caught:
        adapters.merge_adapter(copy, tiny, tmp_path / "merged")
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "call", ["peft.get_peft_model", "peft.set_peft_model_state_dict", "peft.PeftModel.merge_and_unload"]
)
def test_a_fault_of_ours_is_not_taken_for_a_bad_adapter(adapter, tiny, tmp_path, monkeypatch, call):
    """What PEFT does not raise for a bad file: arguments of another kind, names that an object lacks."""

    def fail(*_: Any, **__: Any) -> None:
        raise fault("ours")

    for fault in (TypeError, AttributeError):
        monkeypatch.setattr(call, fail, raising=False)
        with pytest.raises(fault, match="ours"):
            adapters.merge_adapter(adapter, tiny, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_scale_that_is_a_fraction_is_merged(copy, tiny, tmp_path):
    change_config(lora_alpha=11.3)(copy)
    assert adapters.merge_adapter(copy, tiny, tmp_path / "merged") == tiny


def save_base(tiny: Path, folder: Path, tied: bool) -> Path:
    """The base with numbers of 32 bits, whose head is the embeddings or a matrix of its own."""
    shutil.copytree(tiny, folder)
    change_config_of(folder, dtype="float32", tie_word_embeddings=tied)
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    head = weights.pop("lm_head.weight", weights["model.embed_tokens.weight"].clone())
    save_file(weights if tied else {**weights, "lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    return folder


def change_config_of(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


ALL = {"target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("settings", "tokens", "tied"),
    [
        (
            {"target_modules": ["embed_tokens", "q_proj"]},
            0,
            True,
        ),  # merged into shared weights it would change the head, too
        ({"target_modules": ["lm_head", "q_proj"]}, 0, True),
        ({"target_modules": ["lm_head", "q_proj"]}, 0, False),
        ({**ALL, "modules_to_save": ["lm_head"]}, 0, True),
        ({**ALL, "use_dora": True}, 0, False),
        ({**ALL, "init_lora_weights": "pissa"}, 0, False),
        ({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 8}, "use_rslora": True}, 0, True),
        ({**ALL, "trainable_token_indices": [3, 4]}, 0, True),
        (ALL, 5, True),
        ({**ALL, "modules_to_save": ["embed_tokens", "lm_head"]}, 5, False),
    ],
)
def test_every_kind_of_lora_is_merged_as_it_answers(tiny, tmp_path, settings, tokens, tied):
    from peft import LoraConfig, get_peft_model

    base = save_base(tiny, tmp_path / "base", tied)
    torch.manual_seed(0)
    network = manifest.load_model(base)
    rows = network.get_input_embeddings().weight.shape[0] + tokens
    if tokens:
        network.resize_token_embeddings(rows)
    tuned: Any = get_peft_model(network, LoraConfig(r=4, task_type="CAUSAL_LM", **settings)).eval()
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data += 0.02 * torch.randn_like(weight)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=tokens > 0)
    adapters.merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    ids = torch.arange(rows - 9, rows)[None]
    assert torch.allclose(manifest.load_model(tmp_path / "merged")(ids).logits, tuned(ids).logits, atol=1e-4)


def test_an_adapter_whose_base_was_changed_by_chance_is_refused(copy, tiny, tmp_path):
    change_config(init_lora_weights="pissa_niter_4")(copy)
    with pytest.raises(UserError, match="changed the base in a way that cannot be repeated"):
        adapters.merge_adapter(copy, tiny, tmp_path / "merged")


def test_added_tokens_with_embeddings_on_one_side_alone_are_refused(tiny, tmp_path, copy):
    base = save_base(tiny, tmp_path / "base", tied=False)
    weights = load_file(copy / adapters.WEIGHTS)
    embeddings = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    weights["base_model.model.model.embed_tokens.weight"] = torch.cat([embeddings, embeddings[:2]])
    save_file(weights, copy / adapters.WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match="2 more than its base"):
        adapters.merge_adapter(copy, base, tmp_path / "merged")


def test_prompt_tuning_cannot_be_merged(tiny, tmp_path):
    from peft import PromptTuningConfig

    settings = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    folder = train_adapter(tiny, tmp_path / "prompts", settings, change=False)
    with pytest.raises(UserError, match="of the kind PROMPT_TUNING cannot be merged"):
        adapters.merge_adapter(folder, tiny, tmp_path / "merged")


def test_a_bias_where_the_base_has_none_cannot_be_merged(tiny, tmp_path):
    from peft import LoraConfig

    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_bias=True)
    folder = train_adapter(tiny, tmp_path / "biased", settings)
    with pytest.raises(UserError, match="of the kind LORA cannot be merged"):
        adapters.merge_adapter(folder, tiny, tmp_path / "merged")


def test_a_base_that_is_not_here_and_a_target_that_is_there_are_named(copy, tiny, tmp_path):
    for named in ("somewhere/else", "", "/nowhere/at/all"):
        change_config(base_model_name_or_path=named)(copy)
        with pytest.raises(UserError) as caught:
            adapters.merge_adapter(copy, None, tmp_path / "merged")
        assert caught.value.do == "give its folder: --base FOLDER"
    with pytest.raises(UserError, match="is there already"):
        adapters.merge_adapter(copy, tiny, copy)
