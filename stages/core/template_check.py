"""What Holdfast found out about a chat template by rendering probes, and a self-test of it: `holdfast template`.

holdfast template models/pocket/base        (or a jinja file; --json for programs)

A template is a program of somebody else. It runs in transformers' immutable sandbox, and here also in a child process
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

from stages.core import chat, manifest
from stages.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS, MEMORY = 60, 8 << 30  # the child's: processor time (a template cannot sleep), and bytes of data
LONGEST = 1_000_000  # characters that a template may write around one user turn
SHAPED = re.compile(r"<[^<>\s]{1,48}>|\[[^\[\]\s]{1,48}\]")  # how control tokens look, where no tokenizer tells
PLAIN = 'Sort "x & y" <b>\n{{ 1 }} naïve 東京 🙂?'  # a user's text that a template must not change
TALK = chat.turns("delta yes omega", "yes 🙂 sigma", "lambda then naïve 東京?", "naïve 東京 kappa")
USERS = ("delta", "omega", "lambda", "then")  # words of the user's that no answer holds


def inspect(tokenizer: PreTrainedTokenizerBase, where: str, level: str = "tokens") -> dict[str, Any]:
    """Everything `holdfast template` prints, as plain JSON values.

    Raises UserError if the template cannot render a user turn (see `chat.pre_query`).
    """
    query = chat.pre_query(tokenizer, where)
    if len(query.prefix) + len(query.suffix) > LONGEST:
        raise UserError(
            f"the chat template writes {len(query.prefix) + len(query.suffix):,} characters around one user turn",
            where=where,
            do=f"use a template that writes at most {LONGEST:,}",
        )
    template = chat.template_of(tokenizer)
    how = chat.dialect(template)
    checks = self_test(tokenizer, query)
    try:
        stops, end = chat.assistant_stop_ids(tokenizer), chat.assistant_end(tokenizer)
        last, added = end.last, end.added
    except Exception:  # no answers can be rendered: the self-test says so
        stops, last, added = chat.with_eos(tokenizer, []), "", ""
    writers = ["the template"] * bool(last) + ["Holdfast"] * bool(added)
    return {
        "source": where,
        "level": level,
        "prefix": query.prefix,
        "prefix_ids": query.prefix_ids,
        "suffix": query.suffix,
        "user_stop": named(tokenizer, query.stop_ids),
        "user_stop_strings": query.stop_strings,
        "assistant_end": last + added,
        "assistant_end_written_by": " and ".join(writers) or "nobody",
        "assistant_stop": named(tokenizer, stops),
        "bos": beginning(tokenizer, query),
        "system": system(template, how, query),
        "content": "parts" if how.parts else "text",
        "tools": "an empty list" if how.listed else "none",
        "generation_prompt": how.prompt,
        "thoughts": thoughts(template, query),
        "switches": switches(template, query),
        "generation_markers": bool(re.search(r"{%-?\s*generation\s*-?%}", template.source)),
        "date": chat.STOPPED_CLOCK in template.source,
        "checks": checks,
        "passed": all(check["ok"] for check in checks),
    }


def named(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[dict[str, Any]]:
    return [{"id": i, "token": str(tokenizer.convert_ids_to_tokens(i))} for i in ids]


def beginning(tokenizer: PreTrainedTokenizerBase, query: chat.PreQuery) -> dict[str, Any]:
    """Who writes the token that begins a sequence: the template, the tokenizer, both (then it must not be doubled)."""
    token, bos = tokenizer.bos_token, tokenizer.bos_token_id
    ids: list[int] = tokenizer("a")["input_ids"]  # type: ignore[assignment]
    return {
        "token": token,
        "template": token is not None and query.prefix.startswith(token),
        "tokenizer": bos is not None and ids[:1] == [bos],
    }


def system(template: chat.Template, how: chat.Dialect, query: chat.PreQuery) -> dict[str, Any]:
    """Whether a system turn is understood, and whether one is there unasked: text before the first user turn's header.

    A header is what comes back before a second user turn. A built-in turn may be empty: then the words that introduce
    a system turn stand in the prefix all the same.
    """
    bos = str(dict(template.tokens).get("bos_token", ""))
    before = query.prefix.removeprefix(bos)
    try:
        talk = template.render(chat.turns(chat.SENTINEL, chat.ANSWER, chat.NEXT), respond=True)
        between = talk.partition(chat.ANSWER)[2].partition(chat.NEXT)[0]
    except Exception:  # a template of one turn: all that it writes counts as the header
        between = before
    header = chat.shared_start(before[::-1], between[::-1])[::-1]
    extra = before[: len(before) - len(header)]
    said = len(re.findall(r"\w+", SHAPED.sub(" ", extra))) > 1  # one word is the name of the role
    introduction, kept = "", False
    if how.system:
        asked = template.render([{"role": "system", "content": chat.SYSTEM}, *chat.turns(chat.SENTINEL)], respond=True)
        introduction = asked.partition(chat.SYSTEM)[0].removeprefix(bos)
        kept = said and extra.strip() in asked
    empty = bool(introduction.strip()) and before.startswith(introduction) and before != introduction
    built_in = said or (empty and bool(extra.strip()))
    return {
        "role": "shown" if how.system else "none",  # none: Holdfast puts the system text before the first user's text
        "built_in": built_in,
        "text": extra if built_in else "",
        "kept": kept,  # beside a system text that is given; otherwise that one takes its place
    }


def thoughts(template: chat.Template, query: chat.PreQuery) -> dict[str, Any] | None:
    """What becomes of an assistant's thoughts (message field reasoning_content), None if the template shows none."""
    thought, how = chat.THOUGHT, chat.dialect(template)

    def shown(*messages: dict[str, str]) -> str:
        try:
            return template.raw(how.form(list(messages)), respond=False, tools=how.tools())
        except Exception:
            return ""

    user, answer, again = chat.turns(chat.SENTINEL, chat.ANSWER, chat.NEXT)
    text = shown(user, {**answer, "reasoning_content": thought}).partition(chat.SENTINEL)[2]
    opening, found, closing = text.partition(thought)
    close = closing.partition(chat.ANSWER)[0].strip()
    if not found or chat.ANSWER not in closing:
        return None
    plain = shown(user, answer).partition(chat.SENTINEL)[2].partition(chat.ANSWER)[0]
    opened, closed = query.suffix.strip() == opening.strip(), bool(close) and query.suffix.strip().endswith(close)
    # What ended the user's turn may be what ends thoughts too, so only what follows the prompt is looked at
    same = re.sub(
        r"[<\[][^<>\[\]\s]*$", "", chat.shared_start(plain, query.suffix)
    )  # whole tokens: not the "<" of "</think>"
    beyond = plain if closed else plain[len(same) :]
    return {
        "prompt": "opened" if opened else "closed" if closed else "left to the model",
        "answer_without": "an empty block" if close and close in beyond else "no block",
        "history": "kept" if thought in shown(user, {**answer, "reasoning_content": thought}, again) else "dropped",
    }


def switches(template: chat.Template, query: chat.PreQuery) -> list[dict[str, Any]]:
    """Variables of the template that change the prompt when they are true or false, enable_thinking for example."""
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers.utils.chat_template_utils import _compile_jinja_template  # its environment knows the extensions

    environment: ImmutableSandboxedEnvironment = _compile_jinja_template(template.source).environment
    names = meta.find_undeclared_variables(environment.parse(template.source))
    ours = {"messages", "tools", "documents", "add_generation_prompt", *dict(template.tokens)}
    found = []
    for name in sorted(names - ours):
        for value in (True, False):
            text = ""
            with contextlib.suppress(Exception):  # it may want something else than a truth value
                text = template.render(chat.turns(chat.SENTINEL), respond=True, **{name: value})
            prefix, _, suffix = text.partition(chat.SENTINEL)
            changed = text and (prefix, suffix) != (query.prefix, query.suffix)
            if changed and text.count(str(value)) == (query.prefix + query.suffix).count(str(value)):
                found.append({"name": name, "value": value, "prefix": prefix != query.prefix, "suffix": suffix})
    return found


def self_test(tokenizer: PreTrainedTokenizerBase, query: chat.PreQuery) -> list[dict[str, Any]]:
    """Renders, tokenises, decodes and masks, and compares with what must come out."""
    results: list[dict[str, Any]] = []

    def check(name: str, ok: bool, detail: str = "") -> None:
        results.append({"name": name, "ok": bool(ok), "detail": detail})

    def decoded(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    turn = chat.render(tokenizer, chat.turns(PLAIN), respond=True)
    check(
        "render: the user's text stands between prefix and suffix as it is",
        turn == query.prefix + PLAIN + query.suffix,
    )
    ids = chat.tokenise(tokenizer, turn)
    same, nearly = decoded(ids) == turn, "".join(decoded(ids).split()) == "".join(turn.split())
    check("round trip: tokens decode to the text", nearly, "" if same or not nearly else "but for blanks")
    doubled = tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2
    check("BOS: not doubled", not doubled)
    held = query.prefix_ids
    melts = [t for t in chat.PROBES if chat.tokenise(tokenizer, query.prefix + t)[: len(held)] != held]
    note = f"but for texts like {', '.join(map(repr, melts))}" if melts else ""
    check("prefix: its tokens are the same with a user's text after it", len(melts) < len(chat.PROBES), note)
    after = chat.tokenise(tokenizer, query.suffix)
    # EOS alone would be a hope: the template itself must show where a user's turn is over
    seen = any(i in after for i in query.stop_ids) or any(s in query.suffix for s in query.stop_strings)
    check("user's turn: something ends it", seen)
    talk = TALK
    try:
        try:
            ids, mask = chat.encode(tokenizer, talk)
        except Exception as error:
            check("mask: more than one turn can be rendered", False, chat.first_line(error))
            talk = TALK[:2]
            ids, mask = chat.encode(tokenizer, talk)
        stops = set(chat.assistant_stop_ids(tokenizer))
    except Exception as error:
        check("mask: an answer can be rendered", False, chat.first_line(error))
        return results
    runs: list[list[int]] = [[]]
    rest: list[int] = []
    for token, on in zip(ids, mask, strict=True):
        if on:
            runs[-1].append(token)
        else:
            rest.append(token)
            runs += [[]] if runs[-1] else []
    taught = [decoded(run) for run in runs if run]
    answers = [m["content"] for m in talk if m["role"] == "assistant"]
    exact = len(taught) == len(answers) and all(a in t for a, t in zip(answers, taught, strict=False))
    check("mask: covers the assistant's turns", exact, "" if exact else repr(taught))
    clean = not any(word in text for word in USERS for text in taught)
    check("mask: covers nothing of the user's", clean)
    unmasked = decoded(rest)
    check("mask: leaves nothing of the assistant's out", not any(w in unmasked for w in ("sigma", "kappa")))
    last = [run for run in runs if run][-1:]
    check("EOS: the token that ends the last turn bears loss", bool(last) and last[0][-1] in stops)
    return results


def stand_in(file: Path) -> PreTrainedTokenizerBase:
    """A tokenizer for a template that came without one: a token per byte; control tokens are guessed by their shape.

    bos_token and the like show as {bos_token}.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"not a readable text file ({chat.first_line(error)})", where=file, do="give a jinja file"
        ) from None
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
            shapes.update(SHAPED.findall(chat.render(tokenizer, talk, respond=respond)))
    tokenizer.add_tokens(sorted(shapes), special_tokens=True)
    try:
        end = chat.assistant_end(tokenizer)
    except Exception:
        return tokenizer
    if end.last and end.added:  # no control token that we know, but it ends every turn
        tokenizer.add_tokens([end.last.strip()], special_tokens=True)
    return tokenizer


def examine(source: str) -> dict[str, Any]:
    """Inspects a model folder or a jinja file in this process."""
    path = Path(source)
    if path.is_dir():
        return inspect(manifest.tokenizer(path), source)
    if path.is_file():
        return inspect(stand_in(path), source, "text")
    raise UserError("no such folder or file", where=source, do="give a model folder or a jinja file")


def guarded(source: str, seconds: int = SECONDS) -> dict[str, Any]:
    """`examine` in a child process that is stopped when it takes too long or too much memory."""
    command = [sys.executable, "-P", "-m", "stages.core.template_check", source, str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode < 0 or "MemoryError" in done.stderr:
        raise UserError(
            f"the chat template does not finish within {seconds} s and {MEMORY >> 30} GiB",
            where=source,
            do="do not use it: it loops or writes without end",
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    if "error" in found:
        raise UserError(**found["error"])
    return found


def readable(found: dict[str, Any]) -> str:
    """The findings for people: one per line; what a template or tokenizer wrote is shown quoted."""

    def tokens(entries: list[dict[str, Any]]) -> list[str]:
        return [
            entry["token"] if found["level"] == "text" else f"{entry['token']} ({entry['id']})" for entry in entries
        ]

    bos, turn = found["bos"], found["system"]
    writer = "written by the template" if bos["template"] else "not written by the template"
    adds = "; the tokenizer would add one, Holdfast does not let it" if bos["tokenizer"] else ""
    lines = {
        "prefix": f"{found['prefix']!r}",
        "suffix": f"{found['suffix']!r}",
        "user's turn ends": ", ".join([*map(repr, found["user_stop_strings"]), *tokens(found["user_stop"])]) or "nowhere",
        "assistant's turn ends": f"{found['assistant_end']!r}, written by {found['assistant_end_written_by']}; "
        f"generation stops at {', '.join(tokens(found['assistant_stop'])) or 'nothing'}",
        "BOS": "none" if bos["token"] is None else f"{bos['token']} {writer}{adds}",
        "system turn": ("shown" if turn["role"] == "shown" else "not known: its text goes before the first user's text")
        + ("; one is built in" + (", and stays beside yours" if turn["kept"] else "; yours takes its place") if turn["built_in"] else ""),
        "built-in system turn": repr(turn["text"]) if turn["built_in"] else "none",
        "generation prompt": {
            "asked": "written when asked for",
            "always": "part of the user's turn, or always written",
            "never": "never written by the template; derived from a conversation",
        }[found["generation_prompt"]],
        "content": "a list of parts" if found["content"] == "parts" else "plain text",
        "today's date": "in the prompt; Holdfast stops the clock at 2025-01-01" if found["date"] else "not asked for",
    }  # fmt: skip
    if block := found["thoughts"]:
        lines["thoughts"] = {
            "opened": "the prompt opens them",
            "closed": "the prompt closes them, so the model answers at once",
            "left to the model": "the model may begin them",
        }[block["prompt"]] + (
            f"; a finished turn without thoughts gets {block['answer_without']}; in history they are {block['history']}"
        )
    for switch in found["switches"]:
        changes = ["another prefix"] * switch["prefix"]
        changes += [f"suffix {switch['suffix']!r}"] * (switch["suffix"] != found["suffix"])
        lines[f"{switch['name']} = {str(switch['value']).lower()}"] = ", ".join(changes)
    width = max(map(len, lines))
    level = (
        "text level: no tokenizer beside it, control tokens are guessed by their shape"
        if found["level"] == "text"
        else "tokens"
    )
    report = [
        f"{found['source']}  ({level})",
        *(f"  {name:<{width}}  {value}" for name, value in lines.items()),
        "self-test",
    ]
    report += [
        f"  {'ok  ' if c['ok'] else 'FAIL'}  {c['name']}{': ' + c['detail'] if c['detail'] else ''}"
        for c in found["checks"]
    ]
    return "\n".join(report)


def main() -> None:
    """The child's side: limits itself, inspects, prints JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])))
    try:
        found = examine(sys.argv[1])
    except UserError as error:
        found = {"error": {"what": error.what, "where": error.where, "do": error.do}}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
