"""Text and scores from any OpenAI-compatible server.

A model with a tokenizer here (`path` or `hub` beside `endpoint`) is asked by raw completions, with prompts that its own
template rendered: the very prompts that the local engine gets. One without is asked by chat, where the server renders.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import numpy as np

from holdfast.chat import encoding
from holdfast.chat.template_check import guard_template
from holdfast.chat.templates import Messages
from holdfast.core import cache, manifest, meter
from holdfast.core.errors import UserError
from holdfast.engines.endpoint import CHAT, MAX_TOKENS, MODELS, RAW, Client, Refused, Reply
from holdfast.engines.http_answers import remove_key
from holdfast.engines.interface import SCORES, Completion, Sampling

ROOM = 16  # tokens for a score in words
REMINDER = "Answer with one number from 1 to 5, and nothing else."
# How the control tokens of the known families are spelled; a server's own are not known here.
CONTROL = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<[｜▁][^<>\n]{1,40}>")
OPTIONAL = (
    "return_tokens_as_token_ids",
    "seed",
    "stop_token_ids",
    "skip_special_tokens",
    "top_logprobs",
    "logprobs",
    "top_p",
    "min_p",
    "stop",
)


class Engine:
    """One endpoint. See interface.Engine for what the methods promise."""

    def __init__(self, model: manifest.Manifest, batch: int) -> None:
        if model.endpoint is None:
            raise ValueError(f"'{model.name}' has no endpoint")
        self.manifest, self.endpoint, self.batch = model, model.endpoint, batch
        self.tokenizer: Any = manifest.load_tokenizer(model.folder()) if model.files else None
        self.weights: Any = None
        identity = cache.key(model.fingerprint, model.endpoint.url, model.endpoint.model, model.endpoint.served)
        self.client = Client(model.name, model.endpoint, cache.Replies(identity))

    def complete(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        if self.tokenizer is None:
            raise UserError(
                "raw completions need the model's tokenizer",
                where=self.client.where,
                do="give 'path' or 'hub' beside 'endpoint'",
            )
        stops = [*sampling.stop_strings, *self.tokenizer.convert_ids_to_tokens(list(sampling.stop_ids))]
        bodies = [
            self.build_body(
                prompt=self.encode_prompt(prompt),
                seed=seed,
                temperature=temperature,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                max_tokens=sampling.max_tokens,
                stop=stops[:4],  # the protocol allows no more
                stop_token_ids=list(sampling.stop_ids),
                skip_special_tokens=False,
            )
            for prompt, seed, temperature in zip(prompts, seeds, sampling.temperatures(len(prompts)), strict=True)
        ]
        return [cut_at_stop(reply, stops) for reply in self.send(RAW, bodies)]

    def send(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Reply]:
        replies = self.client.ask(path, bodies)
        read, written = sum(reply.prompt_tokens for reply in replies), sum(reply.n_tokens for reply in replies)
        meter.count(self.manifest.parameters, read=read, written=written)
        return replies

    def answer(self, chats: Sequence[Messages], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        if self.tokenizer is not None:
            stops = encoding.assistant_stop_ids(self.tokenizer)
            return self.complete(self.prompts(chats), seeds, replace(sampling, stop_ids=stops))
        bodies = [
            self.build_body(
                messages=self.escape(c),
                seed=seed,
                temperature=temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
            )
            for c, seed, temperature in zip(chats, seeds, sampling.temperatures(len(chats)), strict=True)
        ]
        return [cut_at_stop(reply, ()) for reply in self.send(CHAT, bodies)]

    def lengths(self, chats: Sequence[Messages]) -> list[int] | list[None]:
        if self.tokenizer is None:
            return [None] * len(chats)
        return [len(ids) for ids in self.prompts(chats)]

    def scores(self, chats: Sequence[Messages], attempts: int = 3) -> np.ndarray:
        if not self.endpoint.top_logprobs:
            return self.read_scores(chats, attempts)
        if self.tokenizer is None:
            path, many = CHAT, dict(logprobs=True, top_logprobs=self.endpoint.top_logprobs)
        else:  # by token ids where the server can: two tokens may read the same
            path, many = RAW, dict(logprobs=self.endpoint.top_logprobs, return_tokens_as_token_ids=True)
        # Temperature 1: some servers report log-probabilities after the temperature. Which token is drawn is not looked at.
        bodies = [
            self.build_body(**self.prompt_fields(c), seed=0, temperature=1.0, top_p=1.0, max_tokens=1, **many)
            for c in chats
        ]
        spelled = [self.spellings(digit) for digit in SCORES]
        scores = np.full((len(chats), len(SCORES)), np.nan)
        for row, reply in zip(scores, self.send(path, bodies), strict=True):
            if reply.top:  # a digit that is not among the alternatives counts as 0, so the mass is a lower bound
                row[:] = [sum(math.exp(p) for token, p in reply.top if token in forms) for forms in spelled]
        return scores

    def read_scores(self, chats: Sequence[Messages], attempts: int) -> np.ndarray:
        """All mass on the score that the text says; who did not say one is reminded, and in the end has none."""
        scores = np.full((len(chats), len(SCORES)), np.nan)
        todo = {i: list(c) for i, c in enumerate(chats)}
        for _ in range(attempts):
            rows = list(todo)
            replies = self.answer(
                [todo[i] for i in rows], [0] * len(rows), Sampling(temperature=0.0, top_p=1.0, max_tokens=ROOM)
            )
            for i, reply in zip(rows, replies, strict=True):
                if score := find_score(reply):
                    scores[i] = np.arange(1, 6) == score
                    del todo[i]
                else:
                    text = reply.text.strip() or "-"
                    todo[i] += [{"role": "assistant", "content": text}, {"role": "user", "content": REMINDER}]
            if not todo:
                break
        return scores

    def likelihood(
        self, chats: Sequence[Messages], answers: Sequence[str], thinking: bool | None = None
    ) -> list[float]:
        """By the weights that lie here: servers do not give log-probabilities of a text that they did not write."""
        if self.weights is None:
            from holdfast.engines import local

            self.weights = local.Engine(replace(self.manifest, endpoint=None), self.batch)
        return self.weights.likelihood(chats, answers, thinking)

    def prompts(self, chats: Sequence[Messages]) -> list[list[int]]:
        """Token ids of each chat up to where the assistant speaks, with escaped contents; needs the tokenizer."""
        return [encoding.prompt_ids(self.tokenizer, self.escape(c)) for c in chats]

    def escape(self, messages: Messages) -> Messages:
        return [{**turn, "content": self.escape_special_tokens(turn["content"])} for turn in messages]

    def escape_special_tokens(self, text: str) -> str:
        if self.tokenizer is not None:
            return encoding.escape_special_tokens(self.tokenizer, text)
        return CONTROL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def spellings(self, digit: str) -> set[str]:
        """How a server may write the token that begins an answer with this digit."""
        if self.tokenizer is None:
            return {digit, f" {digit}", f"\u2581{digit}"}
        return {digit, f"token_id:{encoding.tokenise(self.tokenizer, digit)[-1]}"}

    def prompt_fields(self, messages: Messages) -> dict[str, Any]:
        if self.tokenizer is None:
            return {"messages": self.escape(messages)}
        return {"prompt": self.encode_prompt(self.prompts([messages])[0])}

    def encode_prompt(self, prompt: list[int]) -> list[int] | str:
        """A prompt as the server takes it: token ids, or text that its tokenizer turns into the same ids."""
        return list(prompt) if self.endpoint.token_prompts else as_text(self.tokenizer, prompt)

    def build_body(self, **fields: Any) -> dict[str, Any]:
        """A request, without the fields that the server does not take or need."""
        fields["seed"] %= 2**31
        if fields["top_p"] == 1:
            del fields["top_p"]
        if not fields.get("min_p"):
            fields.pop("min_p", None)
        if "max_tokens" in self.endpoint.refuses:
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        return {"model": self.endpoint.model, **{k: v for k, v in fields.items() if k not in self.endpoint.refuses}}


def as_text(tokenizer: Any, prompt: list[int]) -> str:
    """A text that a server's tokenizer, which may add BOS itself, turns into these very tokens. UserError if none does."""
    special = set(encoding.special_ids(tokenizer))
    pieces: list[str] = []
    run: list[int] = []
    for token in [*prompt, None]:  # piece by piece: many decoders put a blank after a control token
        if token is None or token in special:
            pieces += [tokenizer.decode(run)] if run else []
            pieces += [tokenizer.convert_ids_to_tokens(token)] if token is not None else []
            run = []
        else:
            run.append(token)
    texts = [str(tokenizer.decode(prompt, skip_special_tokens=False)), "".join(pieces)]
    if tokenizer.bos_token:
        texts += [text.removeprefix(tokenizer.bos_token) for text in texts]
    for text in texts:
        if tokenizer(text)["input_ids"] == list(prompt):
            return text
    raise UserError(
        "the server takes prompts as text only, and no text gives this template's tokens",
        where=tokenizer.name_or_path,
        do="use a server whose raw completions take token ids (vLLM, llama.cpp)",
    )


def cut_at_stop(reply: Reply, stops: Sequence[str]) -> Completion:
    """What stands before the first of the strings that end the text: some servers leave them in."""
    at = [reply.text.find(s) for s in stops if s in reply.text]
    return (
        Completion(reply.text[: min(at)], "stop", reply.n_tokens)
        if at
        else Completion(reply.text, reply.finish_reason, reply.n_tokens)
    )


def find_score(reply: Completion) -> int | None:
    """The score that a text gives: the only number in it, 1 to 5, perhaps "out of 5". Anything else is no score."""
    if reply.finish_reason != "stop":
        return None  # it would have gone on: "1" may be the beginning of "1 to 5"
    text = re.sub(r"\s*(?:/|out of)\s*5(?!\d|[.,]\d)", "", reply.text)
    numbers = re.findall(r"[-−]?\d+(?:[.,]\d+)*", text)
    return int(numbers[0]) if len(numbers) == 1 and numbers[0] in list(SCORES) else None


def probe_endpoint(name: str, endpoint: manifest.Endpoint, folder: Any = None) -> tuple[manifest.Endpoint, int]:
    """(what the server can do, its context length or 0), found by a few requests for one token each.

    `folder`: where the model's tokenizer lies, if it lies here. Raises UserError with one clear message.
    """
    client = Client(
        name, replace(endpoint, served="", retries=min(2, endpoint.retries), max_requests=None, max_tokens=None)
    )
    tokenizer = manifest.load_tokenizer(folder) if folder is not None else None
    if tokenizer is not None and tokenizer.chat_template:
        guard_template(folder, tokenizer)
    question: Messages = [{"role": "user", "content": "Rate 2 + 2 = 4. Answer with one number from 1 to 5."}]

    async def ask(http: httpx.AsyncClient) -> tuple[manifest.Endpoint, int]:
        content = None
        try:
            content = await client.send(http, "GET", MODELS)
        except Refused as refused:  # not every server has a list
            if refused.status in (401, 403):
                raise
        entries = content.get("data") if isinstance(content, dict) else None
        listed = {str(e.get("id")): e for e in entries if isinstance(e, dict)} if isinstance(entries, list) else {}
        if listed and endpoint.model not in listed:
            raise Refused(404, "not in the list of models", MODELS)
        length = listed.get(endpoint.model, {}).get("max_model_len")
        length = length if isinstance(length, int) and 0 < length < MAX_TOKENS else 0
        body: dict[str, Any] = dict(model=endpoint.model, seed=1, temperature=1.0, top_p=0.99, max_tokens=1)
        if tokenizer is None:
            path = CHAT
            body |= dict(messages=question, logprobs=True, top_logprobs=20)
        else:
            path, ids = RAW, encoding.prompt_ids(tokenizer, question)
            stop = list(tokenizer.all_special_ids)[:1]
            body |= dict(
                prompt=ids,
                min_p=0.01,
                logprobs=20,
                return_tokens_as_token_ids=True,
                stop=["\n\n\n"],
                stop_token_ids=stop,
                skip_special_tokens=False,
            )
        refuses: list[str] = []
        while True:
            try:
                answer = await client.send(http, "POST", path, body)
                break
            except Refused as refused:
                key = "top_logprobs" if path == CHAT else "logprobs"
                named = [k for k in OPTIONAL if k in body and re.search(rf"\b{k}\b", refused.detail)]
                if refused.status not in (400, 422):
                    raise
                if "max_tokens" in body and "max_completion_tokens" in refused.detail:
                    refuses.append("max_tokens")
                    body["max_completion_tokens"] = body.pop("max_tokens")
                elif isinstance(body.get(key), int) and body[key] > 5 and "logprobs" in refused.detail:
                    body[key] = 5  # the most that some servers give
                elif named:
                    refuses += named
                    for k in named:
                        del body[k]
                elif isinstance(body.get("prompt"), list):
                    body["prompt"] = as_text(tokenizer, body["prompt"])
                else:
                    raise
        reply = client.parse(answer, path)
        most = body.get("top_logprobs" if path == CHAT else "logprobs", 0) if reply.top else 0
        return replace(
            endpoint,
            served=remove_key(str(answer.get("model") or ""), client.key),
            refuses=sorted(refuses),
            top_logprobs=int(most),
            token_prompts=isinstance(body.get("prompt"), list),
        ), length

    async def run() -> tuple[manifest.Endpoint, int]:
        async with client.http() as http:
            try:
                return await ask(http)
            except Refused as refused:
                raise await client.explain(http, refused) from None

    return asyncio.run(run())
