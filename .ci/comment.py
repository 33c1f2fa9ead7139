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

MARK = "<!-- holdfast -->"  # how the comment is found again
LIMIT = 60_000  # characters; GitHub takes 65,536
ARCHIVE = 5_000_000  # bytes of the artefact at most


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
    """At most LIMIT characters without mentions, references, images or HTML; <details> and <summary> stay."""
    text = text.encode("utf-8", "replace").decode().replace("\r", "")
    text = re.sub(r"@(?=\w)|#(?=\d)|!(?=\[)", "\\g<0>\u200b", text)
    text = re.sub(r"<(?!/?(?:details|summary)(?: open)?>|!-- (?:changes|links) -->)(?=[\w/!?])", "<\u200b", text)
    most = LIMIT - len(MARK) - 50
    return f"{MARK}\n" + (text if len(text) <= most else text[:most] + "\n\n(cut: too long for a comment)")


def github() -> str:
    api, repository = os.environ["GITHUB_API_URL"], os.environ["GITHUB_REPOSITORY"]
    headers = {"Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"}
    root = f"{api}/repos/{repository}"
    head = urllib.parse.quote(f"{os.environ['HEAD_OWNER']}:{os.environ['HEAD_BRANCH']}", safe="")
    opened = pages(f"{root}/pulls?state=open&head={head}", headers)
    numbers = [int(p["number"]) for p in opened if p["head"]["sha"] == os.environ["HEAD_SHA"]]
    if not numbers:
        return "no open pull request has this commit as its head: nothing to comment"
    listed = call("GET", f"{root}/actions/runs/{int(os.environ['RUN_ID'])}/artifacts?per_page=100", headers)
    found = [a for a in listed["artifacts"] if a["name"] == "holdfast-comment" and not a["expired"]]
    if not found:
        return "the gate left no comment: it was stopped before it could"
    text = disarm(read_archive(download(f"{root}/actions/artifacts/{int(found[0]['id'])}/zip", headers)))
    comments = pages(f"{root}/issues/{numbers[0]}/comments", headers)
    # anyone may write a comment that starts with the mark; only the one of this token's owner is ours
    bot = os.environ.get("HOLDFAST_BOT", "github-actions[bot]")
    mine = [c["id"] for c in comments if c["user"]["login"] == bot and c["body"].startswith(MARK)]
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
            return answer.read(ARCHIVE)
    except urllib.error.HTTPError as moved:
        if moved.code not in (301, 302, 303, 307, 308):
            raise
        store = moved.headers["Location"]
        if not store.startswith(("https://", "http://")):
            raise
        with urllib.request.urlopen(store, timeout=60) as answer:  # noqa: S310
            return answer.read(ARCHIVE)


def read_archive(data: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("comment.md") as file:
        return file.read(4 * LIMIT).decode("utf-8", "replace")


def gitlab(file: str) -> str:
    root = f"{os.environ['CI_API_V4_URL']}/projects/{os.environ['CI_PROJECT_ID']}"
    notes = f"{root}/merge_requests/{int(os.environ['CI_MERGE_REQUEST_IID'])}/notes"
    headers = {"PRIVATE-TOKEN": os.environ["HOLDFAST_TOKEN"]}
    text = disarm(Path(file).read_text(encoding="utf-8", errors="replace"))
    me = call("GET", f"{os.environ['CI_API_V4_URL']}/user", headers)["id"]
    mine = [n["id"] for n in pages(notes, headers) if n["author"]["id"] == me and n["body"].startswith(MARK)]
    if mine:
        call("PUT", f"{notes}/{mine[0]}", headers, {"body": text})
        return "updated the note"
    call("POST", notes, headers, {"body": text})
    return "wrote the note"


if __name__ == "__main__":
    print(github() if sys.argv[1:] == ["github"] else gitlab(sys.argv[2]))
