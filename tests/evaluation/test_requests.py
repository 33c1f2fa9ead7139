"""Every stage feeds a model the same tokens for the same conversation: to answer, to score, to train, and to be evaluated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import SHARED, describe

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.evaluation import backends
from holdfast.params.evaluate import Evaluate

TEMPLATES = {  # some know no system turn, some write BOS, one wants parts, one adds a block of thought
    "qwen 2.5": "llama_cpp__Qwen-Qwen2.5-7B-Instruct",
    "qwen 3": "llama_cpp__Qwen-Qwen3-0.6B",
    "llama 3": "axolotl__llama3",
    "gemma 2": "llama_cpp__google-gemma-2-2b-it",
    "phi 3": "trl__phi3",
    "mistral": "llama_cpp_tests__mistralai_Mistral_7B_Instruct_v0.2_mistralai_v1_template_with_a_system",
    "vicuna": "llama_cpp_tests__eachadea_vicuna_13b_1.1",
    "glm 4": "llama_cpp_tests__ChatGLM4",
    "parts": "trl__idefics3",
}
CHATS = {
    "one turn": [{"role": "user", "content": "What is 7 + 2?"}],
    "a system turn": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name the river."}],
    "three turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "  Reverse: a b c\n"},
    ],
    "special tokens in the text": [{"role": "user", "content": "What does <|end|> mean, and <|im_start|>system?"}],
}


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model, with a tokenizer that would put BOS before every text, whatever the template has written."""
    from tokenizers.processors import TemplateProcessing

    folder = shutil.copytree(tiny, tmp_path / "model")
    tokenizer: Any = manifest.load_tokenizer(folder)
    tokenizer.bos_token = "<|system|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    assert manifest.load_tokenizer(folder)("a")["input_ids"][0] == tokenizer.bos_token_id
    return folder


class Fed(Exception):
    """What a model was given."""


def feed(call: Any, *arguments: Any, **more: Any) -> Any:
    with pytest.raises(Fed) as caught:
        call(*arguments, **more)
    return caught.value.args[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_stage_feeds_the_same_tokens(folder, tmp_path, monkeypatch, name):
    from lm_eval.api.instance import Instance

    from holdfast.engines import local

    file = SHARED / "templates" / f"{TEMPLATES[name]}.jinja"
    if not file.is_file():
        pytest.skip("no folder ../shared with real templates")
    shutil.copyfile(file, folder / "chat_template.jinja")
    entry = manifest.load(describe(folder, tmp_path))
    tokenizer = manifest.load_tokenizer(folder)
    engine: Any = local.Engine(entry, 4)
    params = Evaluate(tasks="t", suites={"x": {"role": "general"}})
    evaluated: Any = backends.load_backend(params, "base", folder, entry)[0]

    def raise_prompts(prompts: Any, *_: Any, **__: Any) -> None:
        raise Fed(prompts)

    for method in ("complete", "next_token", "logprob"):
        monkeypatch.setattr(engine, method, raise_prompts)
    monkeypatch.setattr(evaluated.engine, "complete", raise_prompts)
    monkeypatch.setattr(evaluated, "_loglikelihood_tokens", lambda requests, **_: raise_prompts(requests))
    for kind, chat in CHATS.items():
        [expected] = feed(engine.scores, [chat])
        [answered] = feed(_answer, engine, chat)
        [likely] = feed(engine.likelihood, [chat], ["yes"])
        request = evaluated.apply_chat_template(chat)
        asked = Instance("generate_until", {}, (request, {"until": [], "max_gen_toks": 4}), 0)
        generated = feed(evaluated.generate_until, [asked], disable_tqdm=True)[0]
        choice = Instance("loglikelihood", {}, (request, "yes"), 0)
        [(_, context, continuation)] = feed(evaluated.loglikelihood, [choice], disable_tqdm=True)
        ids, mask = encoding.encode(
            tokenizer, encoding.escape_messages(tokenizer, [*chat, {"role": "assistant", "content": "yes"}])
        )
        assert answered == likely == generated == expected, kind
        assert (context + continuation)[: len(expected)] == expected, kind
        last = max(n for n in range(1, len(ids)) if mask[n] and not mask[n - 1])
        assert ids[:last] == expected, kind


def _answer(engine: Any, chat: Any) -> None:
    from holdfast.engines.interface import Sampling

    engine.answer([chat], [0], Sampling(temperature=0.0, top_p=1.0, max_tokens=4))


def test_the_beginning_of_an_answer_goes_after_the_prompt(tokenizer):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer is"}]
    text = backends.render_request(tokenizer, chat, add_generation_prompt=False)
    assert text == encoding.render(tokenizer, chat[:1], respond=True) + "The answer is"
