"""`holdfast template` and core/chat.py on every real template of the shared collection: exact findings for each one.

template_facts.json holds what must be found, read off plain renderings of each template (lengths and tails of prefixes,
not the templates themselves). `taught` is what is trained on in a conversation U1, A1, U2, A2.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, SHARED

from holdfast.chat import encoding, template_check, template_limits, template_text, templates
from holdfast.core import manifest
from holdfast.core.errors import RunawayError, UserError

FOLDER, QWEN = SHARED / "templates", SHARED / "tokenizers" / "qwen2.5-0.5b-instruct"
FACTS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "template_facts.json").read_text(encoding="utf-8")
)
USABLE = [name for name, fact in FACTS.items() if "refused" not in fact]
needs_templates = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no collection of real templates beside the repository"
)
needs_qwen = pytest.mark.skipif(not QWEN.is_dir(), reason="no real tokenizer beside the repository")
TURNS = templates.turns("U1", "A1", "U2", "A2")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(tmp_path: Path, source: str) -> Path:
    file = tmp_path / "chat_template.jinja"
    file.write_text(source, encoding="utf-8")
    return file


def short(text: str, longest: int, tail: int) -> str | list:
    return text if len(text) <= longest else [len(text), text[-tail:]]


def tokens(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["token"] for entry in entries]


@needs_templates
def test_the_facts_are_about_all_templates():
    assert sorted(FACTS) == sorted(file.stem for file in FOLDER.glob("*.jinja"))
    assert len(FACTS) - len(USABLE) == 1


@needs_templates
@pytest.mark.parametrize("name", FACTS)
def test_each_template_is_read_rightly(name):
    file, fact = FOLDER / f"{name}.jinja", FACTS[name]
    if "refused" in fact:
        with pytest.raises(UserError, match=fact["refused"]) as caught:
            template_check.examine_source(str(file))
        assert len(str(caught.value).splitlines()) == 2
        return
    found = template_check.examine_source(str(file))
    system, thoughts = found["system"], found["thoughts"]
    talk, spans = encoding.render_conversation(template_check.make_byte_tokenizer(file), TURNS)
    assert {
        "prefix": [len(found["prefix"]), found["prefix"][-24:]],
        "suffix": short(found["suffix"], 120, 40),
        "user_stop": found["user_stop_strings"] + tokens(found["user_stop"]),
        "assistant_stop": tokens(found["assistant_stop"]),
        "taught": [talk[a:b] for a, b in spans],
        "bos": found["bos"]["template"],
        "system": system["role"],
        "built_in": system["text"][:24] if system["built_in"] else None,
        "kept": system["kept"],
        "thoughts": thoughts and [thoughts["prompt"], thoughts["answer_without"], thoughts["history"]],
        "switches": sorted({switch["name"] for switch in found["switches"]}),
        "how": [
            found["content"],
            found["tools"],
            found["generation_prompt"],
            found["date"],
            found["generation_markers"],
        ],
        "passed": found["passed"],
    } == fact
    json.dumps(found)
    assert template_text.format_findings(found).startswith(f"{file}  (text level")


@pytest.fixture(scope="module")
def qwen() -> Any:
    return manifest.load_tokenizer(QWEN)


@needs_templates
@needs_qwen
@pytest.mark.parametrize("name", USABLE)
def test_each_template_works_with_a_real_tokenizer(qwen, name):
    """Its control tokens are mostly ordinary text for this tokenizer, so turns end by text; EOS closes what nothing ends."""
    saved, fact = qwen.chat_template, FACTS[name]
    qwen.add_special_tokens(
        {
            "bos_token": "<|endoftext|>",
            "extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<|box_start|>", "<|box_end|>"],
        }
    )
    qwen.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    try:
        found = template_check.inspect_template(qwen, name)
        ids, mask = encoding.encode(qwen, TURNS)
    finally:
        qwen.chat_template = saved
    assert found["passed"], [check for check in found["checks"] if not check["ok"]]
    assert qwen.decode(found["prefix_ids"]).rstrip(" ") == found["prefix"].rstrip(" ")
    assert ids[:2].count(qwen.bos_token_id) == found["bos"]["template"] == fact["bos"]
    taught = qwen.decode([token for token, on in zip(ids, mask, strict=True) if on])
    assert taught.count("A1") == taught.count("A2") == 1
    assert not {"U1", "U2"} & {taught[i : i + 2] for i in range(len(taught))}
    assert [token for token, on in zip(ids, mask, strict=True) if on][-1] in [
        stop["id"] for stop in found["assistant_stop"]
    ]


def command(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "holdfast.cli", "template", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_a_model_folder_is_checked_with_its_tokenizer():
    done = command("models/pocket/base", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["level"], found["passed"], found["source"]) == (
        0,
        "tokens",
        True,
        "models/pocket/base",
    )
    tokenizer = manifest.load_tokenizer(ROOT / "models" / "pocket" / "base")
    query = encoding.find_pre_query(tokenizer, "pocket")
    assert (found["prefix"], found["prefix_ids"], found["suffix"]) == (query.prefix, query.prefix_ids, query.suffix)
    assert [entry["id"] for entry in found["user_stop"]] == query.stop_ids
    assert tokenizer.eos_token_id in [entry["id"] for entry in found["assistant_stop"]]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('no') }}", "cannot render a lone user turn (no)"),
        ("{{ messages[0].content }}<|end|>", "nothing before"),
        ("<|u|>{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "2 times"),
        ("<|u|>{{ ''.__class__.__mro__ }}{{ messages[0].content }}", "unsafe"),
    ],
)
def test_a_template_that_cannot_be_used_gets_one_clear_line(tmp_path, source, says):
    with pytest.raises(UserError) as caught:
        template_check.examine_source(str(template(tmp_path, source)))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@needs_qwen
def test_a_special_token_that_the_tokenizer_lacks_is_named():
    qwen = manifest.load_tokenizer(QWEN)  # the module's has got one from another test
    qwen.chat_template = "{{ bos_token + messages[0].content }}"
    with pytest.raises(UserError, match="'bos_token' is undefined") as caught:
        encoding.find_pre_query(qwen, "models/base")
    assert caught.value.do == 'add "bos_token", which the template writes, to tokenizer_config.json'


def test_the_command_says_what_is_wrong_and_exits_with_3(tmp_path):
    done = command(str(template(tmp_path, "<|u|>{% for m in messages %}{% endfor %}")))
    assert (done.returncode, done.stdout) == (3, "")
    assert "0 times" in done.stderr
    assert "Traceback" not in done.stderr


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
FOR_SYSTEM = "{% if messages[0].role == 'system' %}"
BOMBS = {
    "loops": (LOOPS, "does not finish within 0.2 s"),
    "macros that call themselves twice": ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}", "does not finish within 0.2 s"),
    "loops for a system text only": (FOR_SYSTEM + LOOPS + "{% endif %}", "does not finish within 0.2 s"),
    "long": ("{{ 'a' * 2000000 }}", "writes 2,000,"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_template_that_loops_or_writes_without_end_is_stopped(tmp_path, monkeypatch, kind):
    """Also where it does so in one of the probes alone, whose other faults are answers."""
    monkeypatch.setattr(template_limits, "_seconds", 0.2)
    source, reason = BOMBS[kind]
    with pytest.raises(RunawayError, match=reason):
        template_check.examine_source(str(template(tmp_path, source + CHATML)))


# One instruction: no signal handler and no check between instructions would stop the power, and only a limit the memory.
POWER, FILLER = "{{ 9 ** (9 ** 9) }}", FOR_SYSTEM + "{{ ('a' * 40000000000)|length }}{% endif %}"


@pytest.mark.parametrize(
    ("source", "reason"), [(POWER, "does not finish within 4 s"), (FILLER, "needs more memory than there is")]
)
def test_a_template_is_rendered_in_a_child_first_which_is_stopped(tmp_path, monkeypatch, source, reason):
    monkeypatch.setattr(template_check, "SECONDS", 4)  # of processor time, the child's start included
    tokenizer = template_check.make_byte_tokenizer(template(tmp_path, CHATML))
    tokenizer.chat_template = source + CHATML
    with pytest.raises(UserError, match=f"has a chat template that {reason}"):
        template_check.guard_template(template(tmp_path, source + CHATML), tokenizer)


def test_a_template_that_turns_on_a_longer_conversation_is_stopped_where_it_is_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(template_limits, "_seconds", 0.2)
    late = template_check.make_byte_tokenizer(template(tmp_path, CHATML))
    late.chat_template = f"{{% if messages|length > 6 %}}{LOOPS}{{% endif %}}" + CHATML
    template_check.inspect_template(late, "late")
    with pytest.raises(RunawayError, match="does not finish within 0.2 s"):
        encoding.render(late, templates.turns(*"abcdefg"), respond=True)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert encoding.render(late, templates.turns("a"), respond=True), "the next one has all its time"


def test_a_long_conversation_may_be_rendered_long():
    template_limits.check_length("x" * 9_000_000, [{"role": "user", "content": "x" * 500_000}])
    with pytest.raises(RunawayError, match="writes 12,000,000 characters"):
        template_limits.check_length("x" * 12_000_000, [{"role": "user", "content": "x" * 500_000}])


def failed(tmp_path: Path, source: str) -> list[str]:
    return [c["name"] for c in template_check.examine_source(str(template(tmp_path, source)))["checks"] if not c["ok"]]


def test_the_self_test_fails_for_each_fault(tmp_path):
    assert failed(tmp_path, CHATML) == []
    assert failed(tmp_path, CHATML.replace("m.content", "m.content | e"))[:1] == [
        "render: the user's text stands between prefix and suffix as it is"
    ]
    assert failed(tmp_path, "{{ bos_token }}{{ bos_token }}" + CHATML) == ["BOS: not doubled"]
    assert failed(tmp_path, "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}" + CHATML) == [
        "mask: more than one turn can be rendered",
        "mask: an answer can be rendered",
    ]
    assert failed(tmp_path, "{% if messages | length > 2 %}{{ raise_exception('two') }}{% endif %}" + CHATML) == [
        "mask: more than one turn can be rendered"
    ]
    hiding = CHATML.replace("m.content", "(m.content if m.role == 'user' else '')")
    assert failed(tmp_path, hiding) == ["mask: more than one turn can be rendered", "mask: an answer can be rendered"]


def test_today_s_date_is_the_same_every_day(tmp_path):
    dated = "{% macro today() %}{{ strftime_now('%d %B %Y, %Y-%m-%d %A') }}{% endmacro %}"
    source = dated + "<|s|>{{ today() }}|{{ strftime_now is defined }}|{{ strftime_now('%b') }}\n" + CHATML
    found = template_check.examine_source(str(template(tmp_path, source)))
    assert found["date"]
    assert found["prefix"].startswith("<|s|>01 January 2025, 2025-01-01 Wednesday|True|Jan\n")
    assert not template_check.examine_source(str(template(tmp_path, CHATML)))["date"]


def test_stopping_the_clock_leaves_the_rest_of_a_template_alone(tmp_path):
    plain = "\n\n  {%- set x = 1 %}\n  a\n" + CHATML
    one = template_check.examine_source(str(template(tmp_path, plain)))
    two = template_check.examine_source(str(template(tmp_path, plain + "{# strftime_now #}")))
    assert two["date"]
    assert one["prefix"] == two["prefix"]


def test_a_system_text_goes_before_the_first_user_s_text_where_no_system_turn_is_known(tmp_path):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer = template_check.make_byte_tokenizer(template(tmp_path, strict + CHATML))
    system = [{"role": "system", "content": "Be brief."}]
    text = encoding.render(tokenizer, [*system, *TURNS[:1]], respond=True)
    assert text == "<|im_start|>user\nBe brief.\n\nU1<|im_end|>\n<|im_start|>assistant\n"
    whole, spans = encoding.render_conversation(tokenizer, [*system, *TURNS])
    assert [whole[a:b] for a, b in spans] == ["A1<|im_end|>", "A2<|im_end|>"]
    known = template_check.make_byte_tokenizer(template(tmp_path, CHATML))
    assert encoding.render(known, [*system, *TURNS[:1]], respond=True).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>"
    )


def test_the_prefix_of_a_later_turn_holds_what_was_said(tmp_path):
    tokenizer = template_check.make_byte_tokenizer(template(tmp_path, CHATML))
    query = encoding.find_pre_query(tokenizer, "here", before=TURNS[:2])
    assert query.prefix == ("<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\n")


@needs_templates
def test_an_open_turn_is_closed_as_the_training_template_of_the_same_model_closes_it():
    """GLM-4 MoE writes nothing after a last answer; TRL's patched template for training writes <|user|>."""
    plain, training = (
        template_check.make_byte_tokenizer(FOLDER / f"trl__{name}.jinja") for name in ("glm4moe", "glm4moe_training")
    )
    assert encoding.render_conversation(plain, TURNS) == encoding.render_conversation(training, TURNS)


@needs_templates
def test_thoughts_are_taught_where_they_are_shown():
    tokenizer = template_check.make_byte_tokenizer(FOLDER / "llama_cpp__Qwen-Qwen3-0.6B.jinja")
    thinking = [TURNS[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA1"}]
    text, spans = encoding.render_conversation(tokenizer, thinking)
    assert [text[a:b] for a, b in spans] == ["<think>\nhm\n</think>\n\nA1<|im_end|>"]
    text, spans = encoding.render_conversation(tokenizer, [*thinking, *TURNS[2:]])  # dropped from earlier turns
    assert [text[a:b] for a, b in spans] == ["A1<|im_end|>", "<think>\n\n</think>\n\nA2<|im_end|>"]


def test_a_last_blank_of_the_prefix_is_left_to_the_model_where_it_belongs_to_the_next_word(tmp_path):
    """Old SentencePiece and byte-level tokenizers make one token of a blank and the word after it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "▁USER:", "▁What", "▁a", "▁I", "▁1", "▁é", "▁", "▁ASSISTANT:"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    query = encoding.find_pre_query(tokenizer, "here")
    assert query.prefix == "USER: "
    assert tokenizer.convert_ids_to_tokens(query.prefix_ids) == ["▁USER:"]
    assert query.stop_strings == ["ASSISTANT:"]


@needs_templates
@pytest.mark.parametrize("scheme", ["always", "first"])
@pytest.mark.parametrize(
    "name", ["llama_cpp_tests__mistralai", "llama_cpp_tests__bofenghuang", "llama_cpp__google-gemma-2", "trl__idefics3"]
)
def test_the_mask_fits_tokens_that_begin_with_a_blank(name, scheme):
    """As SentencePiece cuts: the blank before an answer is in the answer's first token, and special tokens eat blanks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    corpus = [message["content"] for message in template_check.TALK] + [
        "[INST] [/INST] <<SYS>> user model User: Assistant: What a What a"
    ]
    special = ["<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>", "<end_of_utterance>"]
    inner.train_from_iterator(
        corpus * 5, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    files = sorted(FOLDER.glob(f"{name}*.jinja"))
    assert files
    for file in files:
        tokenizer.chat_template = file.read_text(encoding="utf-8")
        ids, mask = encoding.encode(tokenizer, template_check.TALK)
        taught = tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on])
        assert all(m["content"] in taught for m in template_check.TALK[1::2]), (file.name, taught)
        assert not [word for word in template_check.USERS if word in taught], (file.name, taught)
        last = [token for token, on in zip(ids, mask, strict=True) if on][-1]
        assert last in encoding.assistant_stop_ids(tokenizer), file.name
        query = encoding.find_pre_query(tokenizer, file.name)
        turn = encoding.tokenise(tokenizer, query.prefix + "What a")
        assert turn[: len(query.prefix_ids)] == query.prefix_ids, file.name
