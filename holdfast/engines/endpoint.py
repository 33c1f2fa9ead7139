"""HTTP to an OpenAI-compatible server: bounded concurrency, time-outs, retries, a budget, a cache of every reply.

Retried are 429, 5xx, time-outs and broken connections, nothing else: what a server refuses once it refuses again. The key
comes from the environment and is in no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2 as httpx

from holdfast.core import cache
from holdfast.core.errors import UserError
from holdfast.core.manifest import Endpoint
from holdfast.engines.http_answers import (
    Answer,
    Unreadable,
    conceal,
    read_answer,
    read_retry_after,
    read_top_logprobs,
    remove_key,
)

CHAT, RAW, MODELS = "chat/completions", "completions", "models"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before the first retry; doubled from one to the next
LONGEST_WAIT = 600.0  # seconds of Retry-After beyond which it is better to come back another time
MAX_TOKENS = 10**9  # of one answer: more is no count
KEPT = "what was answered is kept, and not asked again"


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    finish_reason: str  # "stop" or "length", as in Completion
    n_tokens: int
    top: list[tuple[str, float]] = field(default_factory=list)  # alternatives of the first token, log-probabilities
    prompt_tokens: int = 0


class Refused(Exception):
    """The server answered, and said no."""

    def __init__(self, status: int, detail: str, path: str) -> None:
        self.status, self.detail, self.path = status, detail, path


class Client:
    """One endpoint and its budget."""

    def __init__(self, name: str, endpoint: Endpoint, replies: cache.Replies | None = None) -> None:
        self.endpoint, self.replies = endpoint, replies
        self.where = f"model '{name}' at {endpoint.url}"
        self.key = read_key(name, endpoint.api_key_env)
        self.requests, self.tokens, self.not_before = 0, 0, 0.0

    def ask(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Reply]:
        """One reply per body, in order, from the cache or the server. Raises UserError once what is under way has ended."""
        return asyncio.run(self._ask(path, bodies))

    async def _ask(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        problems: list[UserError] = []
        todo = iter(range(len(bodies)))

        async def take_turns(http: httpx.AsyncClient) -> None:
            for i in todo:
                if problems:
                    return
                try:
                    replies[i] = await self._fetch_reply(http, path, bodies[i])
                except UserError as problem:
                    problems.append(problem)

        async with self.http() as http:
            await asyncio.gather(*(take_turns(http) for _ in range(min(self.endpoint.concurrency, len(bodies)))))
        if problems:
            raise problems[0]
        return [replies[i] for i in range(len(bodies))]

    async def _fetch_reply(self, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Reply:
        request = cache.key(path, body)
        if self.replies and (kept := self.replies.get(request)) is not None:
            with contextlib.suppress(TypeError):  # of a version whose replies had other fields: it is asked again
                return Reply(**kept)
        try:
            content = await self.send(http, "POST", path, body)
        except Refused as refused:
            raise await self.explain(http, refused) from None
        reply = self.parse(content, path)
        if self.replies:
            self.replies.put(request, asdict(reply))
        return reply

    def http(self) -> httpx.AsyncClient:
        most = self.endpoint.concurrency
        return httpx.AsyncClient(
            base_url=self.endpoint.url,
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
            timeout=self.endpoint.timeout,
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
        )

    async def send(self, http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of the server's answer. Raises Refused, or UserError when there is no answer after all retries."""
        loop = asyncio.get_running_loop()
        for attempt in range(self.endpoint.retries + 1):
            while (wait := self.not_before - loop.time()) > 0:  # a Retry-After holds for every request
                await asyncio.sleep(wait)
            self.spend()
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.75, 1.25)
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    answer = await read_answer(http, method, path, body)
            except Unreadable as error:
                raise self.unusable_answer(str(error), path) from None
            except (httpx.RequestError, TimeoutError) as error:
                problem, do = self.explain_no_answer(error)
            else:
                if answer.status != 429 and answer.status < 500:
                    return self.read_content(answer, path)
                problem, do = f"the server answers {answer.status} ({self.read_detail(answer)})", "try again later"
                wait_for = read_retry_after(answer.retry_after)
                if "insufficient_quota" in answer.text or wait_for > LONGEST_WAIT:
                    break
                self.not_before = max(self.not_before, loop.time() + wait_for)
            if attempt < self.endpoint.retries:
                await asyncio.sleep(pause)
        raise UserError(problem, where=self.where, do=f"{do}; {KEPT}")

    def spend(self) -> None:
        """Counts a request. Raises UserError when the budget of this command is used up."""
        for what, used, limit in (
            ("requests", self.requests, self.endpoint.max_requests),
            ("tokens", self.tokens, self.endpoint.max_tokens),
        ):
            if limit is not None and used >= limit:
                raise UserError(
                    f"the budget of {limit:,} {what} is used up", where=self.where, do=f"raise max_{what}; {KEPT}"
                )
        self.requests += 1

    def explain_no_answer(self, error: Exception) -> tuple[str, str]:
        """(what, do) for a request that got no answer."""
        reason = self.conceal(str(error))[:160] or type(error).__name__  # some quote what the server sent
        if isinstance(error, httpx.ConnectError):
            return f"no server answers ({reason})", "start it, or correct 'endpoint' in params.yaml"
        if isinstance(error, (TimeoutError, httpx.TimeoutException)):
            return f"no answer within {self.endpoint.timeout:g} s", "raise 'timeout', or lower 'concurrency'"
        return f"the connection broke ({reason})", "look into the server's log"

    def read_content(self, answer: Answer, path: str) -> Any:
        if not 200 <= answer.status < 300:
            raise Refused(answer.status, self.read_detail(answer, 2000), path)
        try:
            content = answer.json()
        except ValueError:
            raise UserError(
                f"the answer to {path} is not JSON ({self.read_detail(answer)})",
                where=self.where,
                do=f"is this the address of the API? It often ends in /v1; {KEPT}",
            ) from None
        if isinstance(content, dict) and content.get("error") and not (content.get("choices") or content.get("data")):
            raise Refused(answer.status, self.read_detail(answer, 2000), path)
        return content

    def read_detail(self, answer: Answer, most: int = 160) -> str:
        """What an error says, in one line of plain text: it is untrusted, and might repeat the key."""
        try:
            content = answer.json()
        except ValueError:
            page = "<html" in answer.text[:2000].lower()
            text = "an HTML page" if page else answer.text
        else:
            inner = content.get("error", content) if isinstance(content, dict) else content
            text = str(inner.get("message") or inner.get("detail") or inner) if isinstance(inner, dict) else str(inner)
        return self.conceal(text)[:most] or "nothing more"

    def conceal(self, text: str) -> str:
        return conceal(text, self.key)

    async def explain(self, http: httpx.AsyncClient, refused: Refused) -> UserError:
        """The one message for what the server refused."""
        detail = f"({refused.detail[:160]})"
        if refused.status in (401, 403):
            variable = self.endpoint.api_key_env
            do = f"check the key in {variable}" if variable else "name the variable that holds the key in 'api_key_env'"
            return UserError(f"the server refuses the key {detail}", where=self.where, do=do)
        offered = await self.list_models(http) if refused.status == 404 else None
        if offered is not None and self.endpoint.model not in offered:
            names = ", ".join(self.conceal(name)[:60] for name in offered[:5]) or "nothing"
            return UserError(
                f"the server does not offer '{self.endpoint.model}'",
                where=self.where,
                do=f"'model' must be what it offers: {names}",
            )
        if refused.status in (404, 405, 501) and refused.path == RAW:
            return UserError(
                "the server has no raw completions, and a chat endpoint would put its template around every prompt",
                where=self.where,
                do="use a server that has them (vLLM, llama.cpp), or remove 'endpoint' so that the weights are used here",
            )
        if refused.status in (400, 413, 422) and re.search(
            r"context|too long|too large|maximum.*(length|token)", refused.detail, re.I
        ):
            return UserError(
                f"a prompt is too long {detail}", where=self.where, do="lower max_tokens, or curate.max_chars"
            )
        return UserError(
            f"the server refuses {refused.path} with {refused.status} {detail}",
            where=self.where,
            do="check 'endpoint' and 'model'",
        )

    async def list_models(self, http: httpx.AsyncClient) -> list[str] | None:
        """The models that the server lists; None where it does not list any."""
        with contextlib.suppress(Refused, UserError, KeyError, TypeError):
            content = await self.send(http, "GET", MODELS)
            return [str(entry["id"]) for entry in content["data"]]
        return None

    def parse(self, content: Any, path: str) -> Reply:
        """The one choice of an answer. Raises UserError if the answer is not what was asked for."""
        try:
            choices, usage = content["choices"], content.get("usage") or {}
            if len(choices) != 1:
                raise self.unusable_answer(f"{len(choices)} choices instead of 1", path)
            text = choices[0]["message"]["content"] if path == CHAT else choices[0]["text"]
            served = remove_key(str(content.get("model") or ""), self.key)
            finish_reason = choices[0].get("finish_reason")
            read, written = (usage.get(f"{part}_tokens") or 0 for part in ("prompt", "completion"))
            top = read_top_logprobs(choices[0].get("logprobs"))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
            raise self.unusable_answer(f"no usable choice, {type(error).__name__}", path) from None
        if text is not None and not isinstance(text, str):
            raise self.unusable_answer("text is no text", path)
        for count in (read, written):
            if not isinstance(count, int) or not 0 <= count <= MAX_TOKENS:
                raise self.unusable_answer(f"it counts {self.conceal(str(count))[:40]} tokens (usage)", path)
        if served and self.endpoint.served and served != self.endpoint.served:
            raise UserError(
                f"the server now answers as '{self.conceal(served)[:60]}', not as '{self.endpoint.served}' any more",
                where=self.where,
                do="run `dvc repro --force --single-item acquire`: answers of two versions do not belong together",
            )
        if self.endpoint.max_tokens is not None and not read + written:
            raise self.unusable_answer(
                "tokens are not counted (usage), so max_tokens cannot hold: use max_requests", path
            )
        self.tokens += read + written
        clean = (text or "").encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
        return Reply(remove_key(clean, self.key), "stop" if finish_reason == "stop" else "length", written, top, read)

    def unusable_answer(self, why: str, path: str) -> UserError:
        return UserError(
            f"the answer to {path} is not usable ({why})", where=self.where, do=f"look into the server's log; {KEPT}"
        )


def read_key(name: str, variable: str | None) -> str | None:
    """The key from the environment. Raises UserError if it is not there or cannot be one."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(
            f"the environment variable {variable} holds no key",
            where=f"model '{name}'",
            do=f"export {variable}=... and run it again",
        )
    return key
