"""Posts the one comment of a pull request, or updates it. Standard library only; runs from the target's default branch.

    python3 .ci/comment.py github            after the gate's workflow (workflow_run), with a token that may comment
    python3 .ci/comment.py gitlab FILE       in a merge request's pipeline, with HOLDFAST_TOKEN

On GitHub this is the trusted half: the gate ran the code of the pull request, perhaps of a stranger. From there comes the
text of comment.md and nothing else: it is never unpacked to disk or run, it is cut, and mentions, images and HTML in it are
disarmed. Which pull request it is about comes from GitHub's own event.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

PROJECT = os.path.relpath(Path(__file__).parents[1])  # seen from the repository's root
MARK = (
    f"<!-- holdfast{'' if PROJECT == '.' else ' ' + urllib.parse.quote(PROJECT)} -->"  # how the comment is found again
)
LIMIT = 60_000  # characters; GitHub takes 65,536
ARCHIVE = 5_000_000  # bytes of the artefact at most
# control and format characters that hide, reorder or break text; newline, tab and the zero-width space stay
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
NOTHING = "The gate left no comment that can be shown here: {}. What an earlier comment said is not about this commit."


class NoCommentError(Exception):
    """The artefact holds no text; its message says why."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect becomes an HTTPError: the token must not travel to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def call(method: str, url: str, headers: dict[str, str], body: Any = None) -> Any:
    """JSON in, JSON out; raises urllib.error.HTTPError."""
    data = None if body is None else json.dumps(body).encode()
    headers = headers | {"Content-Type": "application/json", "User-Agent": "holdfast"}
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 (the API's own address)
    with urllib.request.build_opener(NoRedirect).open(request, timeout=60) as answer:
        return json.load(answer)


def pages(url: str, headers: dict[str, str]) -> list[Any]:
    """All entries of a paged list, 100 at a time, at most 3,000."""
    artefact: list[Any] = []
    for number in range(1, 31):
        part = call("GET", f"{url}{'&' if '?' in url else '?'}per_page=100&page={number}", headers)
        artefact += part
        if len(part) < 100:
            break
    return artefact


def disarm(text: str) -> str:
    """At most LIMIT characters without mentions, references, commands, images or HTML; <details> and <summary> stay.

    Forges look for mentions and references after entities are decoded, so every entity is broken but those that stand for
    < > & and quotes. GitLab runs a line that begins with a slash, such as /merge.
    """
    text = text.encode("utf-8", "replace").decode().replace("\r", "")
    text = HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
    text = re.sub(r"&(?!(?:lt|gt|amp|quot|#x27|#39);)(?=#|\w)", "&\u200b", text)
    text = re.sub(r"@(?=[\w&])|#(?=[\d&])|!(?=[\[\d&])", "\\g<0>\u200b", text)
    text = re.sub(r"(?i)\bGH-(?=[\d&])", "\\g<0>\u200b", text)
    # an address of an issue is a reference, too
    text = re.sub(
        r"(?i)/(issues|pulls?|merge_requests|commits?|discussions|epics|work_items|incidents)(?=/)", "/\u200b\\1", text
    )
    text = re.sub(
        r"(?i)\[(?=(?:issue|epic|work_item|merge_request|vulnerability|feature_flag|alert):)", "[\u200b", text
    )
    text = re.sub(r"(?m)^(\s*)/(?=\w)", "\\1\u200b/", text)
    text = re.sub(r"<(?!/?(?:details|summary)(?: open)?>|!-- (?:changes|links) -->)(?=[\w/!?])", "<\u200b", text)
    return text


def head(commit: str, conclusion: str) -> str:
    """The line above everything: from the forge's event, so that no pull request can write it."""
    safe = [re.sub(r"[^\w.-]", "", one)[:40] for one in (commit[:12], conclusion)]
    return f"**Gate: {safe[1] or 'unknown'}** for commit {safe[0] or 'unknown'}\n\n"


def compose(text: str) -> str:
    """The comment: who it is about, then what the gate wrote, disarmed and cut."""
    first = f"{MARK}\n" + head(os.environ.get("HEAD_SHA", ""), os.environ.get("CONCLUSION", ""))
    body = disarm(text)
    most = LIMIT - len(first) - 50
    return first + (body if len(body) <= most else body[:most] + "\n\n(cut: too long for a comment)")


def get(content: Any, *keys: str) -> Any:
    """A value some levels down in what an API answered; None where anything on the way is missing or null."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def github() -> str:
    api, repository = os.environ["GITHUB_API_URL"], os.environ["GITHUB_REPOSITORY"]
    headers = {"Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"}
    root = f"{api}/repos/{repository}"
    branch = urllib.parse.quote(f"{os.environ.get('HEAD_OWNER', '')}:{os.environ['HEAD_BRANCH']}", safe="")
    opened = pages(f"{root}/pulls?state=open&head={branch}", headers)
    numbers = [int(p["number"]) for p in opened if get(p, "head", "sha") == os.environ["HEAD_SHA"]]
    if not numbers:
        return "no open pull request has this commit as its head: nothing to comment"
    try:
        listed = call("GET", f"{root}/actions/runs/{int(os.environ['RUN_ID'])}/artifacts?per_page=100", headers)
        named = [a for a in get(listed, "artifacts") or [] if get(a, "name") == "holdfast-comment"]
        found = [a for a in named if not get(a, "expired")]
        if not found:
            raise NoCommentError("its artefact has expired" if named else "it was stopped before it could write one")
        text = read_archive(download(f"{root}/actions/artifacts/{int(found[0]['id'])}/zip", headers))
    except NoCommentError as why:
        text = NOTHING.format(why)
    except (urllib.error.URLError, TimeoutError) as error:
        text = NOTHING.format(f"its artefact cannot be had ({getattr(error, 'code', None) or type(error).__name__})")
    text = compose(text)
    comments = pages(f"{root}/issues/{numbers[0]}/comments", headers)
    # anyone may write a comment that starts with the mark; only the one of this token's owner is ours
    bot = os.environ.get("HOLDFAST_BOT", "github-actions[bot]")
    mine = [c["id"] for c in comments if get(c, "user", "login") == bot and (get(c, "body") or "").startswith(MARK)]
    if mine:
        call("PATCH", f"{root}/issues/comments/{mine[0]}", headers, {"body": text})
        return f"updated the comment of pull request {numbers[0]}"
    call("POST", f"{root}/issues/{numbers[0]}/comments", headers, {"body": text})
    return f"commented on pull request {numbers[0]}"


def download(url: str, headers: dict[str, str]) -> bytes:
    """An artefact's bytes: the API answers with the address of a store, which is asked without the token."""
    try:
        request = urllib.request.Request(url, headers=headers | {"User-Agent": "holdfast"})  # noqa: S310
        with urllib.request.build_opener(NoRedirect).open(request, timeout=60) as answer:
            return answer.read(ARCHIVE + 1)
    except urllib.error.HTTPError as moved:
        if moved.code not in (301, 302, 303, 307, 308):
            raise
        store = moved.headers["Location"]
        if not store.startswith(("https://", "http://")):
            raise
        with urllib.request.urlopen(store, timeout=60) as answer:  # noqa: S310
            return answer.read(ARCHIVE + 1)


def read_archive(data: bytes) -> str:
    """comment.md of the artefact, up to a limit. Raises NoCommentError."""
    if len(data) > ARCHIVE:
        raise NoCommentError(f"its artefact has more than {ARCHIVE:,} bytes")
    try:
        text = unpack(data)
    except KeyError:
        raise NoCommentError("its artefact holds no comment.md") from None
    except Exception as error:  # a damaged, encrypted or odd archive: a dozen classes
        raise NoCommentError(f"its artefact cannot be read ({type(error).__name__})") from None
    if not text.strip():
        raise NoCommentError("comment.md is empty")
    return text


def unpack(data: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("comment.md") as file:
        return file.read(4 * LIMIT).decode("utf-8", "replace")


def gitlab(file: str) -> str:
    root = f"{os.environ['CI_API_V4_URL']}/projects/{os.environ['CI_PROJECT_ID']}"
    notes = f"{root}/merge_requests/{int(os.environ['CI_MERGE_REQUEST_IID'])}/notes"
    headers = {"PRIVATE-TOKEN": os.environ["HOLDFAST_TOKEN"]}
    place = Path(file)
    written = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    text = compose(written if written.strip() else NOTHING.format("there is no comment.md, or it is empty"))
    me = call("GET", f"{os.environ['CI_API_V4_URL']}/user", headers)["id"]
    mine = [
        n["id"]
        for n in pages(notes, headers)
        if get(n, "author", "id") == me and (get(n, "body") or "").startswith(MARK)
    ]
    if mine:
        call("PUT", f"{notes}/{mine[0]}", headers, {"body": text})
        return "updated the note"
    call("POST", notes, headers, {"body": text})
    return "wrote the note"


if __name__ == "__main__":
    print(github() if sys.argv[1:] == ["github"] else gitlab(sys.argv[2]))
