"""Conversations survive from file to token ids letter by letter, but for what is counted; and no file ends in a traceback."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT, damage_tree

from holdfast.chat import encoding
from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.data import ingestion, mixture
from holdfast.data.template_fit import ENDS, ESCAPED, TemplateFit
from holdfast.data.turn_order import BLANK, CALLS
from holdfast.params.ingest import Ingest

MUTATIONS = 3_000
# Shows tools, calls, what tools answer and thoughts
TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIECES = [
    *(
        "What is",
        "x = 1",
        "    y = 0",
        "\treturn",
        "\n",
        "\n\n",
        "  ",
        "cafe\u0301",
        "é",
        "\u2028",
        "\u00a0",
        "日本語",
        "🙂",
    ),
    *("{'a': 1}", '{"b": [2]}', "<b>", "a,b;c", '"quoted"', "\\n", "#### 5", "|", "`code`", "< |end|>", "%", "\r\n"),
]
Chat = list[str]  # texts, user and assistant in turn


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return manifest.load_tokenizer(ROOT / "models/pocket/base")


def draw_text(random: random.Random) -> str:
    text = "".join(random.choices(PIECES, k=random.randint(1, 8)))
    return "".join(("w", text.rstrip(), str(random.randrange(10**6))))


def draw_chat(random: random.Random, turns: int) -> Chat:
    chat = [draw_text(random) for _ in range(turns)]
    chat[-1] = "    " * random.randint(0, 2) + chat[-1]  # code answers are indented
    return chat


def turns_of(
    chat: Chat, role: str = "role", content: str = "content", names: tuple[str, str] = ("user", "assistant")
) -> list:
    return [{role: names[n % 2], content: text} for n, text in enumerate(chat)]


ROWS: dict[str, tuple[int, Callable[[Chat], dict[str, Any]]]] = {  # turns, and how they are written
    "messages": (4, lambda chat: {"messages": turns_of(chat)}),
    "from and value": (4, lambda chat: {"messages": turns_of(chat, "from", "value", ("human", "gpt"))}),
    "sharegpt": (6, lambda chat: {"conversations": turns_of(chat, "from", "value", ("human", "gpt"))}),
    "parts": (
        2,
        lambda chat: {"messages": [{**t, "content": [{"type": "text", "text": t["content"]}]} for t in turns_of(chat)]},
    ),
    "alpaca": (2, lambda chat: {"instruction": chat[0], "input": "", "output": chat[1]}),
    "history": (4, lambda chat: {"instruction": chat[2], "output": chat[3], "history": [chat[:2]]}),
    "prompt_completion": (2, lambda chat: {"prompt": chat[0], "completion": chat[1]}),
    "preference": (2, lambda chat: {"prompt": chat[0], "chosen": chat[1], "rejected": "no"}),
    "preference in turns": (4, lambda chat: {"chosen": turns_of(chat), "rejected": turns_of([*chat[:-1], "no"])}),
    "transcript": (
        4,
        lambda chat: {
            "chosen": "".join(
                f"\n\n{name}: {text}" for name, text in zip(("Human", "Assistant") * 2, chat, strict=True)
            )
        },
    ),
    "gemini": (
        4,
        lambda chat: {"contents": [{"role": t["role"], "parts": [{"text": t["content"]}]} for t in turns_of(chat)]},
    ),
}


def write_with_tools(chat: Chat, spelling: str) -> dict[str, Any]:
    """A question, thoughts, an argument of a call, what the tool answered, and the answer: `chat`'s five texts."""
    question, thoughts, argument, result, answer = chat
    call = {"name": "find", "arguments": {"what": argument}}
    tool: dict[str, Any] = {
        "name": "find",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    }
    user, last = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    if spelling == "OpenAI":
        function = {"name": "find", "arguments": json.dumps(call["arguments"])}
        calling = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        }
        turns = [
            user,
            {**calling, "reasoning_content": thoughts},
            {"role": "tool", "tool_call_id": "c1", "content": result},
            last,
        ]
        return {"messages": turns, "tools": [{"type": "function", "function": tool}]}
    if spelling == "Anthropic":
        parts = [
            {"type": "thinking", "thinking": thoughts},
            {"type": "tool_use", "id": "c1", "name": "find", "input": call["arguments"]},
        ]
        results = [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": result}]}]
        user_turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in (user, last)]
        turns = [
            user_turns[0],
            {"role": "assistant", "content": parts},
            {"role": "user", "content": results},
            user_turns[1],
        ]
        return {"messages": turns, "tools": [{"name": "find", "input_schema": tool["parameters"]}]}
    if spelling == "channels":
        turns = [user, {"role": "assistant", "channel": "analysis", "content": thoughts}]
        turns += [
            {"role": "assistant", "function_call": call},
            {"role": "function", "name": "find", "content": result},
            last,
        ]
        return {"messages": turns, "functions": [tool]}
    texts = [question, f"{thoughts}\n<tool_call>{json.dumps(call)}</tool_call>", result, answer]
    names = ("human", "gpt", "tool", "gpt")
    turns = [{"from": name, "value": text} for name, text in zip(names, texts, strict=True)]
    return {"conversations": turns, "tools": json.dumps([tool])}


SPELLINGS = ("OpenAI", "Anthropic", "channels", "Hermes")


def as_csv(rows: list[dict], delimiter: str = ",") -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def as_arrow(rows: list[dict]) -> bytes:
    buffer, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FILES: dict[str, Callable[[list[dict]], bytes]] = {
    "d.jsonl": lambda rows: as_lines(rows).encode(),
    "d.json": lambda rows: json.dumps(rows).encode(),
    "d.jsonl.gz": lambda rows: gzip.compress(as_lines(rows).encode()),
    "d.jsonl.zst": lambda rows: pa.compress(as_lines(rows).encode(), codec="zstd", asbytes=True),
    "utf16.jsonl": lambda rows: as_lines(rows).encode("utf-16"),
    "d.parquet": as_parquet,
    "d.arrow": as_arrow,
    "d.csv": as_csv,
    "d.tsv": lambda rows: as_csv(rows, "\t"),
    "semicolon.csv": lambda rows: as_csv(rows, ";"),
}
FLAT = ("alpaca", "prompt_completion", "preference")


def read(folder: Path, name: str, fit: TemplateFit | None) -> ingestion.Split:
    settings = Ingest.model_validate({"folder": str(folder), "train": {"path": name}, "max_rejected": 1.0})
    return ingestion.read_split("train", settings.train, settings, fit)


@pytest.mark.parametrize("file", FILES)
def test_conversations_survive_letter_by_letter(tmp_path: Path, tokenizer: Any, file: str) -> None:
    for seed, (form, (turns, write)) in enumerate(ROWS.items()):
        if file.endswith((".csv", ".tsv")) and form not in FLAT:
            continue
        dice = random.Random(seed)
        chats = [draw_chat(dice, turns) for _ in range(12)]
        (tmp_path / file).write_bytes(FILES[file]([write(chat) for chat in chats]))
        split = read(tmp_path, file, TemplateFit(tokenizer))
        assert split.report["changed"] == {} and not split.rejected, form
        ingestion.write_domain(tmp_path / "out", split.kept, [], [])
        rows = records.read("domain", tmp_path / "out/train.parquet")
        by_source = {row["source"]: row for row in rows}
        for row in mixture.domain_rows(tokenizer, rows):
            source = next(one["source"] for one in rows if one["id"] == row["source_id"])
            chat = next(c for c in chats if c == [m["content"] for m in by_source[source]["messages"]])
            ids, mask = encoding.encode(tokenizer, row["messages"])
            assert row["trained_tokens"] == sum(mask)
            decoded = tokenizer.decode(ids)
            at = [decoded.index(text) for text in chat]  # every text, as it was, in its order
            assert at == sorted(at)
        assert len(rows) == len(chats)


@pytest.mark.parametrize("file", ["d.jsonl", "d.parquet", "d.arrow"])
def test_calls_thoughts_and_answers_of_tools_survive_letter_by_letter(
    tmp_path: Path, tokenizer: Any, file: str
) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    for seed, spelling in enumerate(SPELLINGS):
        dice = random.Random(seed)
        chats = [[draw_text(dice) for _ in range(5)] for _ in range(12)]
        (tmp_path / file).write_bytes(FILES[file]([write_with_tools(chat, spelling) for chat in chats]))
        split = read(tmp_path, file, TemplateFit(tokenizer))
        assert not split.rejected and not split.report["unused"], spelling
        assert split.report["changed"] == ({CALLS: len(chats)} if spelling == "Hermes" else {})
        ingestion.write_domain(tmp_path / "out", split.kept, [], [])
        rows = mixture.domain_rows(tokenizer, records.read("domain", tmp_path / "out/train.parquet"))
        assert len(rows) == len(chats)
        for row in rows:
            decoded = tokenizer.decode(encoding.encode(tokenizer, row["messages"], row["tools"])[0])
            chat = next(c for c in chats if c[0] in decoded)
            texts = [chat[0], chat[1], json.dumps(chat[2], ensure_ascii=False), chat[3], chat[4]]
            at = [decoded.index(text) for text in texts]
            assert at == sorted(at)


def test_turns_are_written_as_json_writes_them() -> None:
    dice = random.Random(5)
    for _ in range(300):
        text = "".join(
            chr(dice.choice([dice.randrange(160), dice.randrange(0x2100), 0x2028, 0x1F642])) for _ in range(20)
        )
        turns = turns_of([draw_text(dice), text])
        assert ingestion.encode_turns(turns) == json.dumps(turns, ensure_ascii=False)
        masked = [turns[0], {**turns[1], "train": False}]
        assert ingestion.encode_turns(masked) == json.dumps(masked, ensure_ascii=False)


def test_what_is_altered_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    dice = random.Random(7)
    counted: Counter[str] = Counter()
    rows = []
    for _ in range(60):
        question, answer = draw_chat(dice, 2)
        kind = dice.choice(["", BLANK, ENDS, ESCAPED])
        counted[kind] += 1
        answer = {BLANK: answer + " \n", ENDS: answer + "\n<|end|>", ESCAPED: answer + "<|end|>."}.get(kind, answer)
        rows.append({"prompt": question, "completion": answer})
    (tmp_path / "d.jsonl").write_text(as_lines(rows), encoding="utf-8")
    report = read(tmp_path, "d.jsonl", TemplateFit(tokenizer)).report
    del counted[""]
    assert report["changed"] == dict(counted)


def mutate(content: bytes, dice: random.Random) -> bytes:
    """The content with one to three faults: bytes lost, doubled, changed, moved, or a piece of another kind put in."""
    pieces = [
        b'"',
        b"{",
        b"]",
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"null",
        b"NaN",
        b"\\ud83d",
        b"[[[[",
        b"1e999",
        b"\n",
        b";",
        b"\t",
    ]
    pieces += [
        b'"role": 3',
        b'"content": {}',
        b'"tool_calls": 1',
        b'"tools": "x"',
        b'"train": []',
        b"true",
        b"-",
        b'""',
        b"\r",
    ]
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(content) + 1)
        end = min(len(content), at + dice.choice([1, 1, 2, 5, 40]))
        kind = dice.randrange(6)
        if kind == 0:
            content = content[:at] + content[end:]
        elif kind == 1:
            content = content[:end] + content[at:]
        elif kind == 2:
            content = content[:at] + bytes([dice.randrange(256)]) + content[end:]
        elif kind == 3:
            content = content[:at]
        else:
            content = content[:at] + dice.choice(pieces) + content[end if kind == 4 else at :]
    return content


def test_no_damaged_file_ends_in_a_traceback(tmp_path: Path, tokenizer: Any) -> None:
    showing_tools = copy.deepcopy(tokenizer)
    showing_tools.chat_template = TEMPLATE
    dice, fits = random.Random(3), (TemplateFit(tokenizer), TemplateFit(showing_tools))
    trees = [row(draw_chat(dice, turns)) for turns, row in ROWS.values()]
    trees += [write_with_tools([draw_text(dice) for _ in range(5)], spelling) for spelling in SPELLINGS]
    seeds = [
        (file, write([row(draw_chat(dice, turns)) for _ in range(3)]))
        for file, write in FILES.items()
        for form, (turns, row) in ROWS.items()
        if form in FLAT or not file.endswith((".csv", ".tsv"))
    ]
    seeds += [
        (file, FILES[file]([write_with_tools([draw_text(dice) for _ in range(5)], spelling) for _ in range(2)]))
        for file in ("d.jsonl", "d.json", "d.parquet", "d.arrow")
        for spelling in SPELLINGS
    ]
    outcomes: Counter[str] = Counter()
    longest = 0  # lines of a refusal
    for number in range(MUTATIONS):
        file, content = seeds[number % len(seeds)]
        if number % 3 == 0:  # a file that parses, and one value of a row is not what it should be
            file, tree = "d.jsonl", trees[number // 3 % len(trees)]
            (tmp_path / file).write_text(as_lines([tree, damage_tree(dice, tree)]), encoding="utf-8")
        else:
            (tmp_path / file).write_bytes(mutate(content, dice))
        try:
            split = read(tmp_path, file, fits[number // len(seeds) % 2])
            assert len(split.kept) + len(split.rejected) == split.report["read"]
            assert split.report["fields"] == sum(split.report["used"].values()) + sum(split.report["unused"].values())
            ingestion.write_domain(tmp_path / "out", split.kept, [], split.rejected)
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            longest = max(longest, len(str(error).splitlines()))
    assert 1 <= longest <= 3
    assert min(outcomes["read"], outcomes["refused"]) > MUTATIONS / 10
