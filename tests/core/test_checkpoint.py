"""holdfast/core/checkpoint.py: models as people have them load as they were saved, or are refused with the reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, SHARED
from safetensors.torch import save_file

from holdfast.chat import encoding
from holdfast.core import checkpoint, checkpoint_files, manifest
from holdfast.core.errors import UserError
from holdfast.engines.inspection import inspect_folder
from holdfast.params.models import Model

MAKERS = SHARED / "cases"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every folder that make_models.py and make_fp8.py make."""
    if not (MAKERS / "make_models.py").is_file():
        pytest.skip("no folder ../shared with the makers of models")
    place = tmp_path_factory.mktemp("made")
    (place / "models").symlink_to(ROOT / "models")
    for maker in ("make_models.py", "make_fp8.py"):
        done = subprocess.run(
            [sys.executable, str(MAKERS / maker), "OUT"], cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return place / "OUT"


REFUSED = {
    "adapter": "is an adapter for models/pocket/base, not a whole model\n  merge it first: holdfast merge",
    "adapter_with_config": "is an adapter for models/pocket/base, not a whole model\n  merge it first: holdfast merge",
    "bnb4": "is quantised (bitsandbytes), and is neither trained on nor run by transformers here\n  give its full-precision original",
    "gptq": "is quantised (gptq)",
    "fp8": "is quantised (fp8)",
    "fp8_real": "is quantised (fp8)",
    "auto_map": "needs Python code of its own (auto_map), which is never run",
    "gguf": "has no safetensors weights but GGUF, which is not trained on",
    "missing_shard": "lacks 1 of 4 shards of its weights (model-00002-of-00004.safetensors)",
    "pickled": "has no safetensors weights\n  convert it",
    "nan_weights": "has weights that are NaN or infinite (in model.layers.0.mlp.down_proj.weight, as bfloat16)",
    "no_template": "has no chat template",
}
ACCEPTED = {
    "pad_is_eos", "no_pad", "no_system", "vocab_beyond", "vocab_padded", "gpt2", "thinking", "fp8_control",
}  # fmt: skip


def inspect(folder: Path, **more: Any) -> manifest.Manifest:
    return inspect_folder(folder.name, Model(path=folder.name, **more), folder.parent, trained=not more)


def test_every_model_that_is_made_is_known_here(made):
    assert {folder.name for folder in made.iterdir()} == REFUSED.keys() | ACCEPTED


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_would_not_load_as_it_is_is_refused_with_the_reason(made, name):
    with pytest.raises(UserError) as caught:
        inspect(made / name)
    assert REFUSED[name] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_an_accepted_model_loads_and_answers_as_its_weights_say(made, name):
    from transformers import AutoModelForCausalLM

    found = inspect(made / name)
    model = manifest.load_model(made / name, "float32")
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.vocabulary == model.get_input_embeddings().weight.shape[0]
    assert found.context == (256 if name == "gpt2" else 512)
    tokenizer = manifest.load_tokenizer(made / name)
    ids = encoding.prompt_ids(tokenizer, [{"role": "user", "content": "What is 7 + 2?"}])
    import torch

    plain = AutoModelForCausalLM.from_pretrained(made / name, dtype=torch.float32)
    with torch.inference_mode():
        one = torch.tensor([ids])
        assert torch.equal(model(one).logits, plain(one).logits)


@pytest.mark.parametrize("name", ["no_pad", "pad_is_eos"])
def test_where_padding_is_the_end_of_turn_the_end_is_still_trained_on(made, name):
    tokenizer = manifest.load_tokenizer(made / name)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}]
    ids, mask = encoding.encode(tokenizer, talk)
    assert tokenizer.pad_token_id is not None
    assert mask[-1] == 1 and ids[-1] in encoding.assistant_stop_ids(tokenizer)


def test_special_tokens_without_an_embedding_are_never_fed(made):
    tokenizer = manifest.load_tokenizer(made / "vocab_beyond")
    assert len(tokenizer) == 1026
    chat = encoding.escape_messages(tokenizer, [{"role": "user", "content": "Put it in <|box|> on a <|shelf|>."}])
    assert max(encoding.prompt_ids(tokenizer, chat)) < 1024


def test_ordinary_tokens_without_an_embedding_are_refused(made, tmp_path):
    folder = shutil.copytree(made / "no_pad", tmp_path / "grown")
    tokenizer = manifest.load_tokenizer(folder)
    tokenizer.add_tokens(["blorp"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="1,024 embeddings, and 1 more tokens in its tokenizer"):
        inspect(folder)


@pytest.mark.parametrize("name", ["bnb4", "gptq", "fp8_real"])
def test_quantised_weights_may_be_served_by_vllm(made, name):
    assert inspect(made / name, vllm={}).architecture == "LlamaForCausalLM"


@pytest.mark.parametrize("name", ["adapter", "fp8_real", "nan_weights", "missing_shard"])
def test_what_acquire_refuses_no_stage_loads(made, name):
    with pytest.raises(UserError):
        manifest.load_model(made / name)


def test_an_adapter_left_beside_full_weights_changes_nothing(made, tmp_path):
    import torch

    folder = shutil.copytree(made / "no_pad", tmp_path / "both")
    for file in (made / "adapter").glob("adapter*"):
        shutil.copyfile(file, folder / file.name)
    alone, both = inspect(made / "no_pad"), inspect(folder)
    assert (both.files, both.fingerprint) == (alone.files, alone.fingerprint)
    assert not hasattr(manifest.load_model(folder), "peft_config")
    one = torch.arange(8)[None]
    assert torch.equal(manifest.load_model(folder)(one).logits, manifest.load_model(made / "no_pad")(one).logits)


def test_only_what_is_loaded_is_counted_and_hashed(made, tmp_path):
    folder = shutil.copytree(made / "no_pad", tmp_path / "double")
    shutil.copyfile(folder / "model.safetensors", folder / "consolidated.safetensors")
    (folder / ".metadata").write_bytes(b"a pickle that torch would read as a distributed checkpoint")
    assert inspect(folder).parameters == inspect(made / "no_pad").parameters
    assert "consolidated.safetensors" not in inspect(folder).files
    manifest.load_model(folder)


def change_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def change_config(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return apply


def shard(folder: Path) -> None:
    model = manifest.load_model(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")


def change_index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        shard(folder)
        content = json.loads((folder / checkpoint_files.INDEX).read_text())
        change(content)
        (folder / checkpoint_files.INDEX).write_text(json.dumps(content))

    return apply


def truncate_a_shard(folder: Path) -> None:
    shard(folder)
    file = sorted(folder.glob("model-*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-9])


def copy_a_tensor_to_another_shard(folder: Path) -> None:
    """Which of the two is loaded, the index does not decide."""
    from safetensors.torch import load_file, save_file

    shard(folder)
    files = sorted(folder.glob("model-*.safetensors"))
    first, second = load_file(files[0]), load_file(files[1])
    name = min(first)
    save_file({**second, name: -first[name]}, files[1], metadata={"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"


def zeros(*shape: int) -> Any:
    import torch

    return torch.zeros(*shape)


def put_pointer(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n")

    return apply


def put_generation_config(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "generation_config.json").write_text(text) and None


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tensor is missing": (change_weights(lambda t: t.pop(UP)), f"do not fit config.json: missing {UP}"),
    "a tensor is left over": (change_weights(lambda t: t.update(more=zeros(2, 2))), "config.json: unexpected more"),
    "a tensor has another shape": (change_weights(lambda t: t.update({UP: zeros(3, 32)})), f"mismatched {UP}"),
    "weights are packed bytes": (change_weights(lambda t: t.update({UP: t[UP].char()})), "is quantised (I8)"),
    "a layer fewer in the config": (change_config(num_hidden_layers=1), "unexpected model.layers.1"),
    "a billion layers": (change_config(num_hidden_layers=10**9), "1,000,000,000 layers"),
    "a huge vocabulary": (change_config(vocab_size=10**11), "config.json is not usable"),
    "a huge context": (change_config(max_position_embeddings=10**11), "config.json is not usable"),
    "a number beyond all": (change_config(hidden_size=10**30), "is too large"),
    "a negative vocabulary": (change_config(vocab_size=-4), "vocab_size is -4"),
    "NaN in the config": (change_config(rms_norm_eps=float("nan")), "nan is no number"),
    "text for a number": (change_config(hidden_size="32"), "hidden_size"),
    "heads that do not divide": (change_config(num_attention_heads=3), "config.json is not usable"),
    "an unknown activation": (change_config(hidden_act="nothing"), "cannot be loaded"),
    "another kind of model": (change_config(model_type="vit"), "model"),
    "weights by another name": (change_config(transformers_weights="x.safetensors"), "names a file of weights"),
    "an index that leaves the folder": (
        change_index(lambda c: c["weight_map"].update({UP: "../other.safetensors"})), "not a usable index"
    ),
    "an index with an endless name": (
        change_index(lambda c: c["weight_map"].update({UP: "x" * 5000 + ".safetensors"})), "not a usable index"
    ),
    "an index without a map": (change_index(lambda c: c.pop("weight_map")), "not a usable index"),
    "a tensor in no shard": (
        change_index(lambda c: c["weight_map"].update(ghost=next(iter(c["weight_map"].values())))), "(ghost)"
    ),
    "a tensor in two shards": (copy_a_tensor_to_another_shard, "which another shard holds too"),
    "a pointer for weights": (put_pointer("model.safetensors"), "model.safetensors: model 'model': is a pointer of Git LFS"),
    "a pointer for the config": (put_pointer("config.json"), "is a pointer of Git LFS, and not the file itself\n  fetch it"),
    "generation settings that are no JSON": (put_generation_config("{"), "generation_config.json: model 'model': is not usable"),
    "generation settings that are none": (put_generation_config('{"max_new_tokens": -5}'), "`max_new_tokens` must be"),
    "no architecture": (change_config(architectures=None), "it names no architecture"),
    "a shard cut short": (truncate_a_shard, "not a readable safetensors file"),
}  # fmt: skip


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "model")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_model_is_refused_at_once_and_by_every_loader(folder, fault):
    apply, reason = FAULTS[fault]
    apply(folder)
    with pytest.raises(UserError) as caught:
        inspect(folder)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(UserError):
        manifest.load_model(folder)


def test_a_chat_template_that_cannot_render_is_refused_before_a_member_of_the_panel_is_asked(folder):
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(UserError, match="template"):
        inspect(folder)


@pytest.mark.parametrize("default", [True, False])
def test_of_several_chat_templates_the_one_called_default_counts(folder, default):
    template = manifest.load_tokenizer(folder).get_chat_template()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    named = [
        {"name": "default" if default else "rag", "template": template},
        {"name": "tool_use", "template": "{{ 1 / 0 }}"},
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    if default:
        inspect(folder)
        return
    with pytest.raises(UserError, match=r"several chat templates \(rag, tool_use\) and none called default"):
        inspect(folder)


def test_a_config_that_does_not_belong_to_the_weights_is_noticed_when_it_is_loaded(folder):
    change_config(rms_norm_eps=1e30)(folder)
    with pytest.raises(UserError, match="does not answer"):
        manifest.load_model(folder)


def test_a_sharded_model_is_the_same_model(folder, tiny):
    import torch

    shard(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    one = torch.arange(9)[None]
    assert torch.equal(manifest.load_model(folder)(one).logits, manifest.load_model(tiny)(one).logits)
    assert inspect(folder).parameters == inspect(tiny).parameters


def test_a_known_kind_of_model_is_loaded_although_its_repository_has_code(folder):
    change_config(auto_map={"AutoModelForCausalLM": "modeling.Thing"})(folder)
    (folder / "modeling.py").write_text("raise SystemExit('code was run')\n")
    inspect(folder)
    manifest.load_model(folder)


def test_doctor_and_init_say_what_acquire_would(folder):
    from holdfast.commands import doctor
    from holdfast.planning import start

    assert doctor.find_fault(folder, loaded=True, chats=True) is None
    change_weights(lambda t: t.pop(UP))(folder)
    assert f"missing {UP}" in str(doctor.find_fault(folder, loaded=True, chats=True))
    with pytest.raises(UserError, match=f"missing {UP}"):
        start.find_model(str(folder), None)


def test_a_cpu_takes_bfloat16_for_large_weights_that_are_stored_so_and_float32_else(
    tiny: Path, tmp_path: Path, monkeypatch
):
    import torch

    monkeypatch.setattr(manifest, "bf16_usable", lambda: True)
    folder = tmp_path / "stored"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert manifest.choose_dtype(folder, "cpu") == torch.float32, "small ones gain nothing"
    monkeypatch.setattr(manifest, "MIN_BF16_BYTES", 1)
    assert manifest.choose_dtype(folder, "cpu") == torch.bfloat16
    assert manifest.choose_dtype(folder, "cuda") == torch.bfloat16
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    assert manifest.choose_dtype(folder, "cpu") == torch.float32
    monkeypatch.setattr(manifest, "bf16_usable", lambda: False)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert manifest.choose_dtype(folder, "cpu") == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found(tmp_path, value):
    weights = {"a": torch.ones(3, 4, dtype=torch.bfloat16), "b": torch.zeros(0), "c": torch.zeros(70, 3)}
    save_file(weights, tmp_path / "model.safetensors")
    checkpoint.check_finite(tmp_path)
    weights["c"][69, 2] = value
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"NaN or infinite \(in c, as float32\)"):
        checkpoint.check_finite(tmp_path)
