"""What Holdfast found out about a chat template by rendering probes, and a self-test of it: `holdfast template`.

holdfast template models/pocket/base        (or a jinja file; --json for programs)

A template is a third-party program. It runs in transformers' immutable sandbox, and here also in a child process
with a limit on time and memory, because the sandbox bounds neither.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.chat import encoding, template_limits, templates
from holdfast.chat.template_facts import (
    SHAPED,
    describe_beginning,
    describe_system_turn,
    describe_thoughts,
    find_switches,
    name_tokens,
)
from holdfast.core import manifest
from holdfast.core.errors import RunawayError, UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS, MEMORY = 60, 8 << 30  # the child's: processor time (a template cannot sleep), and bytes of data
SECONDS_OF_ONE = (
    5.0  # of processor time for one of the child's short conversations, the template's compilation included
)
PLAIN = 'Sort "x & y" <b>\n{{ 1 }} naïve 東京 🙂?'  # a user's text that a template must not change
TALK = templates.turns("delta yes omega", "yes 🙂 sigma", "lambda then naïve 東京?", "naïve 東京 kappa")
USERS = ("delta", "omega", "lambda", "then")  # words of the user's that no answer holds


_guarded: set[str] = set()  # templates that a child of this process has rendered


def inspect_template(tokenizer: PreTrainedTokenizerBase, where: str, level: str = "tokens") -> dict[str, Any]:
    """Everything `holdfast template` prints, as plain JSON values.

    Raises UserError if the template cannot render a user turn (see `encoding.find_pre_query`).
    """
    query = encoding.find_pre_query(tokenizer, where)
    template = templates.template_of(tokenizer)
    dialect = templates.find_dialect(template)
    checks = run_self_test(tokenizer, query)
    try:
        stops, end = encoding.assistant_stop_ids(tokenizer), encoding.assistant_end(tokenizer)
        last, added = end.last, end.added
    except Exception:  # no answers can be rendered: the self-test says so
        stops, last, added = encoding.append_eos(tokenizer, []), "", ""
    writers = ["the template"] * bool(last) + ["Holdfast"] * bool(added)
    return {
        "source": where,
        "level": level,
        "prefix": query.prefix,
        "prefix_ids": query.prefix_ids,
        "suffix": query.suffix,
        "user_stop": name_tokens(tokenizer, query.stop_ids),
        "user_stop_strings": query.stop_strings,
        "assistant_end": last + added,
        "assistant_end_written_by": " and ".join(writers) or "none",
        "assistant_stop": name_tokens(tokenizer, stops),
        "bos": describe_beginning(tokenizer, query),
        "system": describe_system_turn(template, dialect, query),
        "content": "parts" if dialect.parts else "text",
        "tools": "an empty list" if dialect.listed else "none",
        "generation_prompt": dialect.prompt,
        "thoughts": describe_thoughts(template, query),
        "switches": find_switches(template, query),
        "generation_markers": bool(re.search(r"{%-?\s*generation\s*-?%}", template.source)),
        "date": templates.STOPPED_CLOCK in template.source,
        "checks": checks,
        "passed": all(check["ok"] for check in checks),
    }


def run_self_test(tokenizer: PreTrainedTokenizerBase, query: encoding.PreQuery) -> list[dict[str, Any]]:
    """Renders, tokenises, decodes and masks, and compares with what must come out."""
    results: list[dict[str, Any]] = []

    def check(name: str, ok: bool, detail: str = "") -> None:
        results.append({"name": name, "ok": bool(ok), "detail": detail})

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    turn = encoding.render(tokenizer, templates.turns(PLAIN), respond=True)
    check(
        "render: the user's text stands between prefix and suffix as it is",
        turn == query.prefix + PLAIN + query.suffix,
    )
    ids = encoding.tokenise(tokenizer, turn)
    same, nearly = decode(ids) == turn, "".join(decode(ids).split()) == "".join(turn.split())
    check("round trip: tokens decode to the text", nearly, "" if same or not nearly else "but for blanks")
    doubled = tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2
    check("BOS: not doubled", not doubled)
    held = query.prefix_ids
    melts = [t for t in encoding.PROBES if encoding.tokenise(tokenizer, query.prefix + t)[: len(held)] != held]
    note = f"but for texts like {', '.join(map(repr, melts))}" if melts else ""
    check("prefix: its tokens are the same with a user's text after it", len(melts) < len(encoding.PROBES), note)
    after = encoding.tokenise(tokenizer, query.suffix)
    # EOS alone would be a hope: the template itself must show where a user's turn is over
    seen = any(i in after for i in query.stop_ids) or any(s in query.suffix for s in query.stop_strings)
    check("user's turn: something ends it", seen)
    talk = TALK
    try:
        try:
            ids, mask = encoding.encode(tokenizer, talk)
        except Exception as error:
            check("mask: more than one turn can be rendered", False, first_line(error))
            talk = TALK[:2]
            ids, mask = encoding.encode(tokenizer, talk)
        stops = set(encoding.assistant_stop_ids(tokenizer))
    except Exception as error:
        check("mask: an answer can be rendered", False, first_line(error))
        return results
    runs: list[list[int]] = [[]]
    rest: list[int] = []
    for token, on in zip(ids, mask, strict=True):
        if on:
            runs[-1].append(token)
        else:
            rest.append(token)
            runs += [[]] if runs[-1] else []
    taught = [decode(run) for run in runs if run]
    answers = [m["content"] for m in talk if m["role"] == "assistant"]
    exact = len(taught) == len(answers) and all(a in t for a, t in zip(answers, taught, strict=False))
    check("mask: covers the assistant's turns", exact, "" if exact else repr(taught))
    clean = not any(word in text for word in USERS for text in taught)
    check("mask: covers nothing of the user's", clean)
    unmasked = decode(rest)
    check("mask: leaves nothing of the assistant's out", not any(w in unmasked for w in ("sigma", "kappa")))
    last = [run for run in runs if run][-1:]
    check("EOS: the token that ends the last turn is trained on", bool(last) and last[0][-1] in stops)
    return results


def make_byte_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """A tokenizer for a template that came without one: a token per byte; control tokens are guessed by their shape.

    bos_token and the like show as {bos_token}.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"not a readable text file ({first_line(error)})", where=file, do="give a jinja file") from None
    inner = Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **{name: f"{{{name}}}" for name in names})
    if "additional_special_tokens" in source:
        further = [f"{{additional_special_tokens[{i}]}}" for i in range(16)]
        tokenizer.add_special_tokens({"extra_special_tokens": further})  # type: ignore[dict-item]
    tokenizer.chat_template = source
    shapes: set[str] = set()
    for talk, respond in ((TALK[:1], True), (TALK, False)):
        with contextlib.suppress(Exception):  # whether it matters is said later
            shapes.update(SHAPED.findall(encoding.render(tokenizer, talk, respond=respond)))
    tokenizer.add_tokens(sorted(shapes), special_tokens=True)
    try:
        end = encoding.assistant_end(tokenizer)
    except Exception:
        return tokenizer
    if end.last and end.added:  # no control token that we know, but it ends every turn
        tokenizer.add_tokens([end.last.strip()], special_tokens=True)
    return tokenizer


def examine_source(source: str) -> dict[str, Any]:
    """Inspects a model folder or a jinja file in this process."""
    path = Path(source)
    if path.is_dir():
        return inspect_template(manifest.load_tokenizer(path), source)
    if path.is_file():
        return inspect_template(make_byte_tokenizer(path), source, "text")
    raise UserError("no such folder or file", where=source, do="give a model folder or a jinja file")


def examine_in_child(source: str, seconds: int = SECONDS) -> dict[str, Any]:
    """`examine_source` in a child process that is stopped when it takes too long or too much memory."""
    findings = run_child(source, seconds)
    if "error" in findings:
        raise UserError(**findings["error"])
    return findings


def run_child(source: str, seconds: int) -> dict[str, Any]:
    """What the child prints: findings, or an error. Raises UserError where the template does not end by itself."""
    command = [sys.executable, "-P", "-m", "holdfast.chat.template_check", source, str(seconds), str(SECONDS_OF_ONE)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode < 0 or "MemoryError" in done.stderr:
        raise UserError(
            f"has a chat template that does not finish within {seconds} s and {MEMORY >> 30} GiB",
            where=source,
            do="do not use it: it loops or writes without end",
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def guard_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """To be called before a template is rendered in this process for the first time: a child renders it first, once for each
    template. Raises UserError where it does not end by itself, or not in reasonable time and memory; whether it can be used is
    not asked here."""
    known = json.dumps([tokenizer.get_chat_template(), {k: str(v) for k, v in tokenizer.special_tokens_map.items()}])
    if known not in _guarded:
        findings = run_child(str(folder), SECONDS)
        if findings.get("runs_away"):
            raise UserError(**findings["error"])
        _guarded.add(known)


def main() -> None:
    """The child's side: limits itself, inspects, prints JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])))
    sys.modules["torch"] = None  # type: ignore[assignment]  # tokenizers need none, and its import takes seconds
    template_limits.set_limit(float(sys.argv[3]))
    report: dict[str, Any]
    try:
        report = examine_source(sys.argv[1])
    except UserError as error:
        report = {"error": {"what": error.what, "where": error.where, "do": error.do}}
    except RunawayError as runaway:
        what, do = f"has a chat template that {runaway.error.what}", runaway.error.do
        report = {"error": {"what": what, "where": sys.argv[1], "do": do}, "runs_away": True}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
