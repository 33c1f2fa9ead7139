"""Servers that answer nonsense, too much, or in packed form: refused in a few lines, in bounded time and memory."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import KEY, Handler, Server, answer

from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.engines import endpoint, http_answers
from holdfast.engines.endpoint import CHAT, Client

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def server(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Server()
    yield found
    found.shutdown()
    found.server_close()


def make_client(url: str, **changes: Any) -> Client:
    settings = dict(
        url=url, model="tiny", served="tiny-1", refuses=[], token_prompts=True, top_logprobs=20, api_key_env=None,
        concurrency=4, timeout=20.0, retries=1, max_requests=None, max_tokens=None,
    )  # fmt: skip
    return Client("m", manifest.Endpoint(**{**settings, **changes}))  # type: ignore[arg-type]


def ask(server: Server, **changes: Any) -> endpoint.Reply:
    return make_client(server.url, **changes).ask(CHAT, [BODY])[0]


def usable(**changes: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"model": "tiny-1", "choices": [choice], "usage": usage} | changes


def test_a_usable_answer_is_taken_packed_or_not(server):
    plain = json.dumps(usable()).encode()
    for packed, encoding in ((plain, None), (gzip.compress(plain), "gzip"), (zlib.compress(plain), "deflate")):
        more = {"Content_Encoding": encoding} if encoding else {}
        server.faults = [lambda handler, packed=packed, more=more: handler.give(packed, **more)]
        assert ask(server).text == "yes"


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [("gzip", "more than 1 MiB")]
    + [(other, "it is packed in a way that was not asked for") for other in ("br", "zstd", "gzip, gzip")],
)
def test_a_small_answer_that_unpacks_to_gigabytes_is_refused(server, monkeypatch, encoding, reason):
    monkeypatch.setattr(http_answers, "MAX_REPLY_BYTES", 2**20)
    bomb = gzip.compress(bytes(64 * 2**20))
    assert len(bomb) < 2**17
    server.always = lambda handler: handler.give(bomb, Content_Encoding=encoding)
    with pytest.raises(UserError, match=rf"not usable \({reason}\)"):
        ask(server)
    assert server.asked() == 1  # it is not asked again


def test_an_answer_without_end_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(http_answers, "MAX_REPLY_BYTES", 2**18)

    def pour(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.close_connection = True
        while True:
            handler.wfile.write(b" " * 65536)

    server.always = pour
    with pytest.raises(UserError, match="more than 0 MiB"):
        ask(server)


NONSENSE = {
    "deep": (b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "is not JSON"),
    "infinite usage": (b'{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": Infinity}}', "inf tokens"),
    "negative usage": (usable(usage={"prompt_tokens": -10**6, "completion_tokens": 1}), "counts -1000000 tokens"),
    "huge usage": (usable(usage={"completion_tokens": 10**30}), "counts 1000000"),
    "usage in words": (usable(usage={"completion_tokens": "many"}), "counts many tokens"),
    "usage is a list": (usable(usage=[1]), "not usable"),
    "an error with status 200": ({"error": {"message": "model is on fire", "code": 500}}, "with 200 (model is on fire)"),
    "an error in words": ({"error": "out of memory"}, "with 200 (out of memory)"),
    "no choice": (usable(choices=[]), "0 choices"),
    "a choice of another kind": (usable(choices=["x"]), "no usable choice"),
    "a number for the text": (usable(choices=[{"message": {"content": 7}}]), "text is no text"),
    "a list": ([1, 2], "no usable choice"),
    "null": (None, "no usable choice"),
    "not packed as it says": (b"\x1f\x8bnonsense", "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused_in_a_few_lines(server, kind):
    content, reason = NONSENSE[kind]
    server.always = answer(content)
    with pytest.raises(UserError) as caught:
        ask(server, max_tokens=10**6)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


LONG_KEY = "sk-AbC/def+123=xyzQWE"
ECHOES = {
    "as it is": LONG_KEY,
    "blanks": " ".join(LONG_KEY),
    "capitals": LONG_KEY.upper(),
    "lines": "\n".join([LONG_KEY[:9], LONG_KEY[9:]]),
    "a zero byte": LONG_KEY[:5] + "\x00 " + LONG_KEY[5:],
    "zero-width": "\u200b".join(LONG_KEY),
    "accents": "\u0301".join(LONG_KEY),
    "hyphens": "-".join(LONG_KEY),
    "address": urllib.parse.quote(LONG_KEY, safe=""),
    "address, small letters": urllib.parse.quote(LONG_KEY, safe="").lower(),
    "base64": base64.b64encode(LONG_KEY.encode()).decode(),
    "HTML": LONG_KEY.replace("+", "&#43;").replace("=", "&#x3d;").replace("/", "&sol;"),
    "JSON": LONG_KEY.replace("/", "\\/"),
}


@pytest.mark.parametrize("kind", ECHOES)
@pytest.mark.parametrize("status", [400, 503])
def test_a_server_that_repeats_the_key_does_not_make_it_known(server, monkeypatch, kind, status):
    monkeypatch.setenv("SECRET_KEY", LONG_KEY)
    server.always = answer({"error": {"message": f"bad key {ECHOES[kind]} , sorry"}}, status)
    with pytest.raises(UserError, match=r"bad key \*\*\* ?, sorry"):
        ask(server, api_key_env="SECRET_KEY", retries=0)


@pytest.mark.parametrize("key", ["EMPTY", "x", KEY])
def test_a_short_key_is_removed_as_it_is(server, monkeypatch, key):
    monkeypatch.setenv("SECRET_KEY", key)
    server.always = answer({"error": {"message": f"bad: {key}"}}, 400)
    with pytest.raises(UserError, match=r"bad: \*\*\*\)"):
        ask(server, api_key_env="SECRET_KEY")
    server.always = answer(usable())
    assert ask(server, api_key_env="SECRET_KEY").text == "yes"


def send_raw(content: bytes) -> Callable[[Handler], None]:
    def write(handler: Handler) -> None:
        handler.wfile.write(content)
        handler.close_connection = True

    return write


PLACES: dict[str, Callable[[Handler], None]] = {
    "name of the model": answer(usable(model=f"Bearer {LONG_KEY}")),
    "usage": answer(usable(usage={"completion_tokens": LONG_KEY})),
    "after 100,000 blanks, cut in half": answer({"error": {"message": " " * 99_990 + LONG_KEY}}, 400),
    "a header that is none": send_raw(b"HTTP/1.1 200 OK\r\nauthorization bearer " + LONG_KEY.encode() + b"\r\n\r\n"),
    "the status": send_raw(b"HTTP/1.1 " + LONG_KEY.encode() + b"\r\n\r\n"),
    "after a long status": send_raw(b"HTTP/1.1 " + b"-" * 95 + LONG_KEY.encode() + b"\r\n\r\n"),
    "text of no JSON": answer(f"headers: Authorization: {LONG_KEY}".encode()),
    "list of models": answer({"error": "none"}, 404),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_key_does_not_come_back_from_other_places(server, monkeypatch, place):
    monkeypatch.setenv("SECRET_KEY", LONG_KEY)
    server.always, server.models = PLACES[place], [LONG_KEY]
    with pytest.raises(UserError) as caught:
        ask(server, api_key_env="SECRET_KEY", retries=0)
    assert LONG_KEY[:9] not in str(caught.value)


def test_a_key_in_an_answer_is_not_kept(server, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", LONG_KEY)
    server.always = answer(usable(choices=[{"message": {"content": f"You sent {LONG_KEY}."}, "finish_reason": "stop"}]))
    assert ask(server, api_key_env="SECRET_KEY").text == "You sent ***."


def test_probabilities_that_exceed_one_together_are_none(server):
    def alternatives(*logprobs: float) -> dict[str, Any]:
        top = [{"token": "5", "logprob": p} for p in logprobs]
        choice = {"message": {"content": "5"}, "logprobs": {"content": [{"token": "5", "top_logprobs": top}]}}
        return usable(choices=[choice])

    server.always = answer(alternatives(-0.7, -0.7))
    assert len(ask(server).top) == 2
    server.always = answer(alternatives(*[0.0] * 1000))
    assert ask(server).top == []


RAW_HTTP = {
    "nothing": b"",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "a header of a megabyte": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2**20 + b"\r\n\r\n",
    "100,000 headers": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
    "a zero byte in a header": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "status 0": b"HTTP/1.1 000 What\r\nContent-Length: 0\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    "a length that is not reached": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "gzip that is cut short": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12\r\n\r\n" + gzip.compress(b"{}")[:12],
    "a redirect to a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "invalid UTF-8": b"HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n" + b'{"choices":[{"message":{"content":"\xff\xfe"}}]}'[:43],
    "no content": b"HTTP/1.1 204 No\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", RAW_HTTP)
def test_http_that_is_none_is_one_message(server, kind):
    server.always = send_raw(RAW_HTTP[kind])
    with pytest.raises(UserError) as caught:
        ask(server, retries=0)
    assert len(str(caught.value).splitlines()) == 2 and len(str(caught.value)) < 500


TRICKLES = {
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("kind", TRICKLES)
def test_an_answer_that_trickles_ends_with_the_time_out(server, kind):
    first, more = TRICKLES[kind]

    def trickle(handler: Handler) -> None:
        handler.wfile.write(first)
        while True:  # until the client has gone
            handler.wfile.write(more)
            time.sleep(0.02)

    server.always = trickle
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no answer within 0\.3 s"):
        ask(server, timeout=0.3, retries=0)
    assert time.monotonic() - start < 3


NASTY: list[Any] = [
    None, True, False, 0, -1, 10**40, -0.5, float("inf"), float("nan"), "", "x" * 5000, "\x1b]0;title\x07", "\ud800",
    [], [[]], {}, {"a": {"b": []}}, [None], "stop", 1e308,
]  # fmt: skip


def mutate(rng: random.Random, content: Any) -> Any:
    """The content with one part replaced, removed, doubled or wrapped."""
    content = copy.deepcopy(content)
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return content
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and rng.random() < 0.7:
            place = place[key]
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        elif kind == 2:
            place[key] = [place[key]]
        else:
            place[key] = copy.deepcopy(rng.choice(NASTY))
        return content


def test_mutated_answers_are_taken_whole_or_refused(project):
    """1,500 mutations, of the content and of the bytes."""
    rng = random.Random(1)
    client = make_client("http://127.0.0.1:9/v1", max_tokens=10**9)
    logprobs = {
        "content": [{"token": "1", "top_logprobs": [{"token": "1", "logprob": -0.1}, {"token": "2", "logprob": -3}]}]
    }
    start = usable()
    start["choices"][0]["logprobs"] = logprobs
    taken, messages = 0, list[str]()
    for n in range(1500):
        content = start
        for _ in range(rng.randrange(1, 4)):
            content = mutate(rng, content) if isinstance(content, (dict, list)) and content else content
        body = bytearray(json.dumps(content).encode())
        if n % 3 == 0:
            for _ in range(rng.randrange(1, 4)):
                body[rng.randrange(len(body))] = rng.randrange(256)
        if n % 7 == 0:
            del body[rng.randrange(len(body)) :]
        try:
            reply = client.parse(client.read_content(http_answers.Answer(200, "", bytes(body)), CHAT), CHAT)
        except endpoint.Refused as refused:
            messages.append(refused.detail)
            continue
        except UserError as error:
            messages.append(error.what)
            continue
        taken += 1
        assert isinstance(reply.text, str) and reply.finish_reason in ("stop", "length")
        reply.text.encode()
        assert 0 <= reply.n_tokens <= endpoint.MAX_TOKENS and 0 <= reply.prompt_tokens <= endpoint.MAX_TOKENS
        assert all(isinstance(token, str) and p <= 0 for token, p in reply.top)
    assert 50 < taken < 1400
    assert all(message.isprintable() for message in messages)
