"""engines/openai.py and engines/endpoint.py against servers on loopback: one that serves the tiny model, and one with faults."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_server import (
    KEY,
    Handler,
    Server,
    answer,
    cut_connection,
    hang_up,
    html_page,
    says,
    slow,
    status,
    truncated_json,
)
from helpers import ROOT, describe, instruction, run_stage, set_params

from holdfast.chat import encoding
from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.engines import endpoint, inspection, local, openai
from holdfast.engines.interface import Completion, Sampling
from holdfast.params.base import parse
from holdfast.params.models import Model, Models


@pytest.fixture
def server(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and an empty working directory; retries wait no time worth mentioning."""
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Server()
    yield found
    found.shutdown()
    found.server_close()


def spoken_for(server: Server, **changes: Any) -> manifest.Manifest:
    """The manifest of a member that is an endpoint alone."""
    settings = dict(
        url=server.url,
        model="tiny",
        served="tiny-1",
        refuses=[],
        token_prompts=True,
        top_logprobs=20,
        api_key_env=None,
        concurrency=8,
        timeout=5.0,
        retries=3,
        max_requests=None,
        max_tokens=None,
    )
    there = manifest.Endpoint(**{**settings, **changes})
    return manifest.Manifest(
        name="far",
        source=there.url,
        revision="r",
        hub=False,
        dtype="auto",
        fingerprint="f" * 64,
        files={},
        architecture="endpoint",
        parameters=0,
        vocabulary=0,
        context=0,
        endpoint=there,
    )


def ask(server: Server, texts: list[str], **changes: Any) -> list[Completion]:
    """Each text as a chat, by an engine that starts anew: what it remembers, it has from disk."""
    chats = [[{"role": "user", "content": text}] for text in texts]
    engine = openai.Engine(spoken_for(server, **changes), 1)
    return engine.answer(chats, list(range(len(texts))), Sampling(0.5, 0.9, 9))


TEXTS = [f"question {n}" for n in range(12)]
ANSWERS = [Completion(f"<question {n}|{n}>", "stop", 3) for n in range(12)]


def test_every_request_gets_its_own_answer_in_order(server):
    server.delay = 0.01
    assert ask(server, TEXTS) == ANSWERS
    path, body, _ = server.seen[0]
    assert path == "chat/completions"
    assert {k: body[k] for k in ("model", "temperature", "top_p", "max_tokens")} == {
        "model": "tiny",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
    }
    assert ask(server, []) == []


def test_concurrency_is_bounded_and_used(server):
    server.delay = 0.05
    ask(server, TEXTS, concurrency=4)
    assert 2 <= server.most <= 4


@pytest.mark.parametrize(
    "fault", [status(503), status(500), status(429), status(429, Retry_After="0"), slow, cut_connection, hang_up]
)
def test_a_passing_fault_changes_nothing(server, fault):
    server.faults = [fault, fault]
    assert ask(server, TEXTS, timeout=0.5) == ANSWERS
    assert server.asked() == len(TEXTS) + 2


def test_retry_after_holds_for_every_request(server):
    server.faults = [status(429, Retry_After="0.4")]
    assert ask(server, TEXTS, concurrency=1) == ANSWERS
    times = [when for *_, when in server.seen]
    assert times[1] - times[0] >= 0.4


FAULTS: dict[str, tuple[Callable[[Handler], None], str, int]] = {  # fault, message, requests for the one that failed
    "503 again and again": (status(503), "answers 503", 3),
    "429 again and again": (status(429), "answers 429", 3),
    "429 for an hour": (status(429, Retry_After="3600"), "answers 429", 1),
    "no quota": (answer({"error": {"message": "You exceeded", "code": "insufficient_quota"}}, 429), "You exceeded", 1),
    "slow again and again": (slow, r"no answer within 0.3 s[\s\S]*timeout", 3),
    "cut again and again": (cut_connection, "the connection broke", 3),
    "truncated JSON": (truncated_json, "not JSON", 1),
    "HTML page": (html_page, r"an HTML page[\s\S]*/v1", 1),
    "no choices": (answer({"choices": []}), "0 choices instead of 1", 1),
    "two choices": (answer({"choices": [{"message": {"content": "a"}}] * 2}), "2 choices instead of 1", 1),
    "empty choice": (answer({"choices": [{}]}), "no usable choice", 1),
    "a list": (answer([1]), "no usable choice", 1),
    "text that is none": (answer({"choices": [{"message": {"content": {"a": 1}}}]}), "text is no text", 1),
    "context too long": (
        answer({"error": {"message": "This model's maximum context length is 512 tokens."}}, 400),
        r"a prompt is too long \(This model's[\s\S]*lower max_tokens",
        1,
    ),
    "a redirect": (status(307, Location="http://127.0.0.1:9/"), "refuses chat/completions with 307", 1),
    "another version": (
        answer({"model": "tiny-2", "choices": [{"message": {"content": "a"}}]}),
        "now answers as 'tiny-2'",
        1,
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_lasting_fault_ends_in_one_clear_message(server, case):
    server.always, message, requests = FAULTS[case]
    with pytest.raises(UserError, match=message) as caught:
        ask(server, TEXTS[:1], retries=2, timeout=0.3)
    assert f"model 'far' at {server.url}" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert server.asked() == requests


def test_no_server_is_said_so(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"no server answers[\s\S]*start it, or correct 'endpoint'"):
        ask(server, TEXTS, url=url, retries=1)


def test_the_wrong_key_and_the_wrong_name_are_said_so(server, monkeypatch):
    server.key = KEY
    with pytest.raises(UserError, match=r"refuses the key[\s\S]*api_key_env"):
        ask(server, TEXTS)
    monkeypatch.setenv("FAR_KEY", "wrong-key-999")
    with pytest.raises(UserError, match=r"refuses the key[\s\S]*FAR_KEY") as caught:
        ask(server, TEXTS, api_key_env="FAR_KEY")
    assert "wrong-key" not in str(caught.value)  # the server repeats it
    monkeypatch.delenv("FAR_KEY")
    with pytest.raises(UserError, match="FAR_KEY holds no key"):
        ask(server, TEXTS, api_key_env="FAR_KEY")
    server.key = None
    with pytest.raises(UserError, match=r"does not offer 'huge'[\s\S]*tiny"):
        ask(server, TEXTS, model="huge")


def test_the_key_goes_to_the_server_and_nowhere_else(server, project, monkeypatch, capsys):
    server.key = KEY
    monkeypatch.setenv("FAR_KEY", KEY)
    assert ask(server, TEXTS, api_key_env="FAR_KEY") == ANSWERS
    lineup = member(server, api_key_env="FAR_KEY")
    manifest.save(inspection.inspect_model("far", lineup, Path("models")), Path("far.json"))
    assert set(server.keys) == {f"Bearer {KEY}"}
    for file in [f for f in project.rglob("*") if f.is_file()]:
        assert KEY.encode() not in file.read_bytes(), file
    assert KEY not in "".join(capsys.readouterr())


def test_what_was_answered_before_a_fault_is_not_asked_again(server):
    server.faults = [None] * 7 + [truncated_json]
    with pytest.raises(UserError, match="is kept"):
        ask(server, TEXTS, concurrency=2)
    before = server.asked()
    assert ask(server, TEXTS) == ANSWERS
    assert before - 1 + (server.asked() - before) == len(TEXTS)


def test_a_budget_of_requests_stops_cleanly_and_keeps_what_is_done(server):
    for done in (5, 10):
        with pytest.raises(UserError, match=r"budget of 5 requests is used up[\s\S]*raise max_requests"):
            ask(server, TEXTS, max_requests=5, concurrency=3)
        assert server.asked() == done
    assert ask(server, TEXTS, max_requests=5, concurrency=3) == ANSWERS
    assert server.asked() == len(TEXTS)


def test_a_retry_counts_against_the_budget(server):
    server.always = status(503)
    with pytest.raises(UserError, match="budget of 2 requests"):
        ask(server, TEXTS[:1], max_requests=2, retries=9)
    assert server.asked() == 2


def test_a_budget_of_tokens_stops_cleanly(server):
    with pytest.raises(UserError, match=r"budget of 35 tokens[\s\S]*raise max_tokens"):
        ask(server, TEXTS, max_tokens=35, concurrency=1)
    assert server.asked() == 4  # 10 each: the fourth begins at 30
    server.always = answer({"choices": [{"message": {"content": "a"}}]})
    with pytest.raises(UserError, match=r"not counted[\s\S]*"):
        ask(server, ["new"], max_tokens=35)


def test_another_version_s_replies_are_not_used(server):
    ask(server, TEXTS)
    server.served = "tiny-2"
    assert ask(server, TEXTS, served="tiny-2") == ANSWERS
    assert server.asked() == 2 * len(TEXTS)


def test_a_damaged_cache_of_replies_is_said_and_begun_anew(server, project, capsys):
    ask(server, TEXTS)
    for file in (project / ".cache" / "replies").iterdir():
        file.write_bytes(b"not a database at all, whatever its name says " * 50)
    assert ask(server, TEXTS) == ANSWERS
    assert server.asked() == 2 * len(TEXTS)
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"message": {"content": None}, "finish_reason": "content_filter"}, Completion("", "length", 3)),
        ({"message": {"content": "cut"}, "finish_reason": "length"}, Completion("cut", "length", 3)),
        ({"message": {"content": "\ud83d half"}, "finish_reason": "stop"}, Completion("? half", "stop", 3)),
        ({"message": {"content": ""}, "finish_reason": "stop"}, Completion("", "stop", 3)),
    ],
)
def test_odd_texts_are_taken_as_they_are(server, choice, expected):
    server.speak = lambda path, body: dict(choice)
    assert ask(server, ["hi"]) == [expected]


def chats(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_scores_are_the_probabilities_of_the_five_digits(server):
    top = [("4", 0.5), ("5", 0.2), (" 4", 0.1), ("Four", 0.1), ("1", 0.05)]
    pairs = [{"token": token, "logprob": math.log(p)} for token, p in top]
    server.speak = says("4", "length", logprobs={"content": [{"token": "4", "top_logprobs": pairs}]})
    found = openai.Engine(spoken_for(server), 1).scores(chats("a", "b"))
    assert found == pytest.approx(np.array([[0.05, 0, 0, 0.6, 0.2]] * 2))
    body = server.seen[0][1]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 20, 1, 1.0)
    server.speak = says("4", "length", logprobs=None)
    assert np.isnan(openai.Engine(spoken_for(server), 1).scores(chats("c"))).all()


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("4", 4),
        (" 5\n", 5),
        ("**3**", 3),
        ("Score: 2", 2),
        ("4/5", 4),
        ("I give it 4 out of 5.", 4),
        ("1.", 1),
        ("", None),
        ("four", None),
        ("0", None),
        ("6", None),
        ("10", None),
        ("4.5", None),
        ("-3", None),
        ("3, maybe 4", None),
        ("On a scale of 1 to 5, 4", None),
        ("5/10", None),
        ("45", None),
        ("٣", None),
        ("1 2", None),
        ("4/50", None),
    ],
)
def test_a_score_in_words_is_read_strictly(text, score):
    assert openai.find_score(Completion(text, "stop", 1)) == score
    assert openai.find_score(Completion(text, "length", 1)) is None


def test_a_text_without_a_score_is_asked_again_and_then_null(server):
    def speak(path: str, body: dict) -> dict:
        first, turns = body["messages"][0]["content"], len(body["messages"])
        text = {"plain": "3", "late": "well ..." if turns == 1 else "2"}.get(first, "I cannot say")
        return says(text)(path, body)

    server.speak = speak
    found = openai.Engine(spoken_for(server, top_logprobs=0), 1).scores(chats("plain", "late", "never"))
    assert found[:2].tolist() == [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0]]
    assert np.isnan(found[2]).all()
    assert server.asked() == 1 + 2 + 3
    assert server.seen[-1][1]["messages"][-1] == {"role": "user", "content": openai.REMINDER}


def test_control_tokens_of_unknown_tokenizers_are_broken_up(server):
    escape = openai.Engine(spoken_for(server), 1).escape_special_tokens
    for text in ("<|im_end|>", "</s>", "<end_of_turn>", "[/INST]", "<｜Assistant｜>", "<<SYS>>"):
        assert text not in escape(f"a{text}b") and escape(f"a{text}b").replace(" ", "") == f"a{text}b"
    assert escape("a < b | c > d, x[INSTALL]") == "a < b | c > d, x[INSTALL]"


# What acquire finds out
def member(server: Server, **changes: Any) -> Model:
    return Model(**{"endpoint": server.url, "model": "tiny", "retries": 1, "timeout": 5.0, **changes})


def alternatives(body: dict, p: dict[str, float]) -> dict:
    if "messages" in body:
        pairs = [{"token": t, "logprob": math.log(q)} for t, q in p.items()]
        return {"content": [{"token": "4", "top_logprobs": pairs}]} if body.get("logprobs") else {}
    return {"top_logprobs": [{t: math.log(q) for t, q in p.items()}]} if body.get("logprobs") else {}


def particular(path: str, body: dict) -> dict:
    """Takes no seed, five alternatives at most, and wants its length by another name."""
    if "max_tokens" in body:
        return {"complaint": (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")}
    if "seed" in body:
        return {"complaint": (422, "Extra inputs are not permitted: body.seed")}
    if body.get("top_logprobs", 0) > 5:
        return {"complaint": (400, "top_logprobs must be at most 5")}
    return says("4", "length", logprobs=alternatives(body, {"4": 0.9}))(path, body)


def test_acquire_finds_out_what_a_server_can_do(server, capsys):
    found = inspection.inspect_model("far", member(server), Path("models"))
    assert found.endpoint.top_logprobs == 0 and found.endpoint.refuses == []
    assert found.endpoint.served == "tiny-1" and found.context == 512 and found.files == {}
    assert "scores come from the text" in capsys.readouterr().out
    server.speak = particular
    entry = inspection.inspect_model("far", member(server), Path("models"))
    assert (entry.endpoint.top_logprobs, entry.endpoint.refuses) == (5, ["max_tokens", "seed"])
    manifest.save(entry, Path("far.json"))
    assert manifest.load(Path("far.json")) == entry
    assert openai.Engine(entry, 1).scores(chats("a"))[0, 3] == pytest.approx(0.9)
    body = server.seen[-1][1]
    assert "seed" not in body and body["max_completion_tokens"] == 1 and body["top_logprobs"] == 5


def test_another_version_or_address_is_another_fingerprint(server):
    def fingerprint(**changes: Any) -> str:
        return inspection.inspect_model("far", member(server, **changes), Path("models")).fingerprint

    first = fingerprint()
    assert fingerprint(concurrency=2, max_requests=9) == first
    assert fingerprint(revision="2026-11") != first
    server.served = "tiny-2"
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model="huge"), r"does not offer 'huge'[\s\S]*tiny"),
        (dict(endpoint="http://127.0.0.1:1/v1"), r"no server answers[\s\S]*start it"),
        (dict(api_key_env="NOT_SET_ANYWHERE"), r"NOT_SET_ANYWHERE holds no key"),
        (dict(path="base"), r"no raw completions[\s\S]*vLLM"),
    ],
)
def test_acquire_refuses_a_server_that_cannot_be_used(server, tiny, change, message):
    server.raw = False
    with pytest.raises(UserError, match=message) as caught:
        inspection.inspect_model("far", member(server, **change), tiny.parent)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (dict(endpoint="localhost:8000", model="m"), "is a URL"),
        (dict(endpoint="http://user:secret@host/v1", model="m"), "environment"),
        (dict(endpoint="http://host/v1?key=secret", model="m"), "is a URL"),
        (dict(endpoint="http://host:99999/v1", model="m"), "[Pp]ort"),
        (dict(endpoint="http://host/v1"), "'model'"),
        (dict(path="a", max_requests=3), "'max_requests' goes with 'endpoint'"),
    ],
)
def test_an_endpoint_that_cannot_be_one_is_refused(entry, message):
    with pytest.raises(UserError, match=message):
        parse(Model, entry)


def test_the_base_must_have_weights_here(server):
    entry = member(server).model_dump()
    with pytest.raises(UserError, match="'path' or 'hub'"):
        parse(Models, dict(model_folder="m", models={"far": entry}, base="far", panel=["far"], arms=["arm"]))


# Through the stages
class Tiny:
    """Speaks as the tiny model does, by the local engine."""

    def __init__(self, entry: manifest.Manifest) -> None:
        from holdfast.engines import local

        self.engine, self.lock = local.Engine(entry, 8), threading.Lock()

    def __call__(self, path: str, body: dict) -> dict:
        tokenizer = self.engine.tokenizer
        prompt = body.get("prompt") or encoding.prompt_ids(tokenizer, body["messages"])
        ids = encoding.tokenise(tokenizer, prompt) if isinstance(prompt, str) else prompt
        stops = body.get("stop_token_ids") or encoding.assistant_stop_ids(tokenizer)
        with self.lock:
            sampling = Sampling(
                body["temperature"], body.get("top_p", 1.0), body["max_tokens"], stops, min_p=body.get("min_p", 0.0)
            )
            [done] = self.engine.complete([ids], [body["seed"]], sampling)
            p = self.engine.next_token([ids], range(len(tokenizer)))[0]
        best = np.argsort(-p)[:20]
        by_id = body.get("return_tokens_as_token_ids")
        found = {f"token_id:{i}" if by_id else tokenizer.decode([i]): float(p[i]) for i in best}
        return says(done.text, done.finish_reason, logprobs=alternatives(body, found), n=done.n_tokens)(path, body)


@pytest.mark.parametrize("as_ids", [True, False])
def test_raw_completions_are_the_very_texts_of_the_local_engine(server, base, tiny, as_ids):
    local = Tiny(manifest.load(base))
    server.speak = local
    entry = inspection.inspect_model("base", member(server, path="base"), tiny.parent)
    assert entry.endpoint.token_prompts
    entry = replace(entry, endpoint=replace(entry.endpoint, token_prompts=as_ids))
    engine = openai.Engine(entry, 8)
    asked = chats("What is 7 + 2?", "Name a river.", "x y")
    sampling = Sampling(0.9, 0.95, 12)
    assert engine.answer(asked, [1, 2, 3], sampling) == local.engine.answer(asked, [1, 2, 3], sampling)
    here, there = local.engine.scores(asked), engine.scores(asked)
    seen = there > 0
    assert there[seen] == pytest.approx(here[seen], rel=1e-4)
    assert (here[~seen] <= 0.05).all()  # not among the twenty likeliest
    assert engine.likelihood(asked, ["a", "b", "c"]) == local.engine.likelihood(asked, ["a", "b", "c"])


def test_the_stages_run_on_endpoints_alone_or_beside_weights(server, base, tiny, project):
    server.speak = Tiny(manifest.load(base))
    folder = base.parent
    manifest.save(inspection.inspect_model("far", member(server), tiny.parent), folder / "far.json")
    manifest.save(inspection.inspect_model("base", member(server, path="base"), tiny.parent), folder / "base.json")
    set_params(project, reconstruct={"samples": 6, "max_tokens": 8, "shard": 4, "batch": 8}, curate={})
    run_stage("reconstruct")
    rows = records.read("instructions_raw", Path("data/instructions/raw.parquet"))
    assert len(rows) == 6 and len({row["text"] for row in rows}) > 1
    assert {path for path, *_ in server.seen[-6:]} == {"completions"}
    kept = Path("data/instructions/kept.parquet")
    records.write("instructions_kept", kept, [instruction("q1", "What is 2?"), instruction("q2", "Why?")])
    set_params(project, panel=["base", "far"], respond={"k": 2, "max_tokens": 8})
    for name in ("base", "far"):
        run_stage("respond", name)
    assert {path for path, *_ in server.seen[-4:]} == {"chat/completions"}
    Path("rubric.txt").write_text("{instruction} {response}", encoding="utf-8")
    set_params(project, judge={"rubric": "rubric.txt", "min_mass": 0.0}, consensus={"finished_only": False})
    run_stage("judge")
    first = {name: Path(f"data/scores/{name}.parquet") for name in ("base", "far")}
    for name, file in first.items():
        rows = records.read("scores", file)
        assert len(rows) == 8
        assert all((row["logprob"] is not None) == (name == "base") for row in rows)
    before, written = server.asked(), {name: file.read_bytes() for name, file in first.items()}
    run_stage("judge")
    assert server.asked() == before
    assert {name: file.read_bytes() for name, file in first.items()} == written


@contextmanager
def serving(arguments: list[str], **environment: str) -> Iterator[str]:
    """The URL of a server that somebody else wrote, on loopback: `python ARGUMENTS --port N`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, environment = [sys.executable, *arguments, "--port", str(port)], {**os.environ, **environment}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "uvicorn", "openai"))),
    reason="`transformers serve` needs fastapi, uvicorn and openai, which are not installed",
)
def test_transformers_serve_answers_the_engine(tiny, project, monkeypatch):
    """Chat and raw completions, no log-probabilities."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (project / "hub").mkdir()
    main = (
        "from transformers.cli.transformers import main; import sys; sys.argv = ['transformers', *sys.argv[1:]]; main()"
    )
    arguments = ["-c", main, "serve", str(tiny), "--device", "cpu", "--dtype", "float32"]
    with serving(arguments, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(project / "hub")) as url:
        asked = chats("What is 7 + 2?", "Name a river.")
        local = Tiny(manifest.load(describe(tiny, project / "local"))).engine
        expected = local.answer(asked, [0, 0], Sampling(0.0, 1.0, 8))
        for source in ({}, {"path": tiny.name}):
            entry = inspection.inspect_model("far", Model(endpoint=url, model=str(tiny), **source), tiny.parent)
            assert entry.endpoint.top_logprobs == 0
            found = openai.Engine(entry, 8).answer(asked, [0, 0], Sampling(0.0, 1.0, 8))
            assert [c.text for c in found] == [c.text for c in expected]
            assert np.isnan(openai.Engine(entry, 8).scores(asked)).all()  # a random model says no number


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed, so it serves nothing here")
def test_vllm_s_server_answers_the_engine(project, monkeypatch):
    """Chat and raw completions with token ids, both with log-probabilities, on the pocket lab's base."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = ROOT / "models" / "pocket" / "base"
    arguments = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "base"]
    options = ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    if not torch.cuda.is_available():
        options += ["--gpu-memory-utilization", "0.4"]
    with serving([*arguments, *options], VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1") as url:
        asked = chats("What is 7 + 2?", "Rate it: 2 + 2 = 4. Answer with a number from 1 to 5.")
        here = local.Engine(manifest.load(describe(folder, project / "local", dtype="float32")), 8)
        sampling = Sampling(0.0, 1.0, 12)
        for source in ({}, {"path": folder.name}):
            entry = inspection.inspect_model("far", Model(endpoint=url, model="base", **source), folder.parent)
            assert entry.endpoint.top_logprobs == 20
            assert entry.endpoint.token_prompts == bool(source)
            there = openai.Engine(entry, 8)
            pairs = zip(there.answer(asked, [0, 0], sampling), here.answer(asked, [0, 0], sampling), strict=True)
            # a first blank is for a tokenizer to drop, and the server does not
            assert all(far.text.strip() == near.text for far, near in pairs)
            expected, found = here.scores(asked), there.scores(asked)
            assert found[found > 0] == pytest.approx(expected[found > 0], rel=1e-3, abs=1e-5)  # " 5" counts as 5
            assert (expected[found == 0] < 0.05).all()  # not among the twenty likeliest
