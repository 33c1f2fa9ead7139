"""What a server sends: read as it comes, with a limit, and repeated in messages without the key. Everything in it is untrusted."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import urllib.parse
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2 as httpx

MAX_REPLY_BYTES = 16 * 2**20  # of one answer, unpacked; as Python's values it takes up to 25 times as much
ROUNDING = 0.01  # by which probabilities may exceed 1 together
MAX_QUOTED = 100_000  # characters of an error that are looked at
MIN_KEY = 16  # characters of a key that is one; shorter ones ("EMPTY", "x") are words for servers that ask for none


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back to one request, read to its end."""

    status: int
    retry_after: str
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Raises ValueError where it is no JSON, or too deep for any answer."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("too deep") from None


class Unreadable(Exception):
    """An answer that is larger than any, or packed in a way that was not asked for."""


async def read_answer(http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None) -> Answer:
    """Asks, and reads the answer as it comes, never more than MAX_REPLY_BYTES of it. Raises Unreadable."""
    async with http.stream(method, path, json=body) as response:
        packed = response.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Unreadable("it is packed in a way that was not asked for")
        unpack = None if packed in ("", "identity") else zlib.decompressobj(zlib.MAX_WBITS | 32)
        content = bytearray()
        async for part in response.aiter_raw():
            room = MAX_REPLY_BYTES + 1 - len(content)
            try:
                content += unpack.decompress(part, room) if unpack else part[:room]
            except zlib.error:
                raise Unreadable("it cannot be unpacked") from None
            if len(content) > MAX_REPLY_BYTES:
                raise Unreadable(f"more than {MAX_REPLY_BYTES >> 20} MiB")
        return Answer(response.status_code, response.headers.get("Retry-After", "").strip(), bytes(content))


def read_retry_after(value: str) -> float:
    """Seconds that the server asks to wait: a number, or a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", value):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def read_top_logprobs(content: Any) -> list[tuple[str, float]]:
    """(token, log-probability) of the first token's alternatives, in either protocol's form; none if there are none, or if
    together they are more probable than 1."""
    if not content:
        return []
    if content.get("content"):  # chat
        pairs = [(entry["token"], entry["logprob"]) for entry in content["content"][0].get("top_logprobs") or []]
    else:
        pairs = list(((content.get("top_logprobs") or [{}])[0] or {}).items())
    top = [
        (str(token).encode("utf-8", "replace").decode(), min(float(p), 0.0))
        for token, p in pairs
        if float(p) == float(p)
    ]
    return top if math.fsum(math.exp(p) for _, p in top) < 1 + ROUNDING else []


def conceal(text: str, key: str | None) -> str:
    """What a server says, as one line of plain text without the key, also where it is spelled in another way."""
    text, cut = html.unescape(text[:MAX_QUOTED]), len(text) > MAX_QUOTED
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if key:
        text = key_pattern(key).sub("***", text)
        text = text[: -3 * len(key)] if cut else text  # it may end with a part of the key
    return text


def remove_key(text: str, key: str | None) -> str:
    """A text that will be stored: a proxy may answer with what it was sent."""
    return text.replace(key, "***") if key and len(key) >= MIN_KEY else text


def key_pattern(key: str) -> re.Pattern[str]:
    """What a key looks like in an error: in any case, with other characters between its letters, as part of an address, or in
    base64."""
    forms = {key, urllib.parse.quote(key, safe=""), base64.b64encode(key.encode()).decode().rstrip("=")}
    between = r"[^0-9A-Za-z]{0,8}"
    letters = {re.sub(r"[^0-9A-Za-z]", "", form) for form in forms}
    spread = [between.join(form) for form in sorted(letters, key=len, reverse=True) if len(form) >= MIN_KEY]
    exact = [r"\s*".join(map(re.escape, form)) for form in sorted(forms, key=len, reverse=True)]
    return re.compile("|".join([*spread, *exact]), re.I)
