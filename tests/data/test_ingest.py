"""Ingest: every format gives the same conversations, every bad input one to three lines, and no row is lost."""

from __future__ import annotations

import contextlib
import csv
import http.server
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import describe, run_stage

from holdfast.core import records
from holdfast.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
PAIRS = [("What is two and two?", "four"), ("What is a cow?", "an animal"), ("Where is Rome?", "in Italy")]
TEST = [("What is three and three?", "six")]


def chat(user: str, assistant: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}], **more}


def jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A domain folder with a good training and test file in format messages."""
    jsonl(tmp_path / "train.jsonl", [chat(*pair) for pair in PAIRS])
    jsonl(tmp_path / "test.jsonl", [chat(*pair) for pair in TEST])
    return tmp_path


def run(
    folder: Path, train: str = "train.jsonl", test: str | None = "test.jsonl", **more: Any
) -> dict[str, list[dict]]:
    sources: dict[str, Any] = dict(train=dict(path=train), **(dict(test=dict(path=test)) if test else {}))
    ingest(folder, folder=str(folder), **sources, **more)
    return outputs(folder)


def ingest(project: Path, **params: Any) -> None:
    """The stage in `project`, with these parameters alone, and the pocket lab's base."""
    write_params(project, **params)
    with contextlib.chdir(project):
        run_stage("ingest")


def write_params(project: Path, **params: Any) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump({"ingest": params}), encoding="utf-8")
    if not (project / "models/manifest/base.json").exists():
        describe(ROOT / "models/pocket/base", project / "models/manifest")


def outputs(project: Path) -> dict[str, list[dict]]:
    schemas = {"train": "domain", "test": "domain", "rejected": "domain_rejected"}
    return {name: records.read(schema, project / "data/domain" / f"{name}.parquet") for name, schema in schemas.items()}


def turns(rows: list[dict]) -> set[tuple[str, ...]]:
    return {tuple(message["content"] for message in row["messages"]) for row in rows}


def reasons(rows: list[dict]) -> Counter:
    return Counter(row["reason"] for row in rows)


def fails(folder: Path, *named: str, **arguments: Any) -> str:
    """Runs into a UserError of one to three lines that names all of `named`; earlier outputs stay as they were."""
    out = folder / "data/domain"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test", "rejected"):
        (out / f"{name}.parquet").write_bytes(b"from an earlier run")
    with pytest.raises(UserError) as caught:
        run(folder, **arguments)
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 3
    for part in named:
        assert part in message
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        f"{name}.parquet": b"from an earlier run" for name in ("train", "test", "rejected")
    }
    return message


def alpaca(user: str, assistant: str) -> dict[str, str]:
    return {"instruction": user, "input": "", "output": assistant}


def sharegpt(user: str, assistant: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": user}, {"from": "gpt", "value": assistant}]}


def prompt_completion(user: str, assistant: str) -> dict[str, str]:
    return {"prompt": user, "completion": assistant}


def prompt_completion_lists(user: str, assistant: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": user}], "completion": [{"role": "assistant", "content": assistant}]}


FORMATS = {
    "messages": chat,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
    "prompt_completion of messages": prompt_completion_lists,
}


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "auto"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_conversations(folder: Path, name: str, declared: bool) -> None:
    as_messages = run(folder)
    jsonl(folder / "train.jsonl", [FORMATS[name](*pair) for pair in PAIRS])
    jsonl(folder / "test.jsonl", [FORMATS[name](*pair) for pair in TEST])
    assert run(folder, format=name.split()[0] if declared else "auto") == as_messages
    assert turns(as_messages["train"]) == set(PAIRS)
    assert turns(as_messages["test"]) == set(TEST)


def test_alpaca_input_comes_after_the_instruction(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [{"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3"}])
    assert turns(run(folder)["train"]) == {("Sort.\n\n3 1 2", "1 2 3")}


def test_system_turn_is_kept_wherever_the_format_has_it(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [alpaca("Hello?", "Yes.") | {"system": "Be brief."}])
    assert turns(run(folder)["train"]) == {("Be brief.", "Hello?", "Yes.")}
    first = {"from": "system", "value": "Be brief."}
    jsonl(folder / "train.jsonl", [{"conversations": [first, *sharegpt("Hello?", "Yes.")["conversations"]]}])
    assert turns(run(folder)["train"]) == {("Be brief.", "Hello?", "Yes.")}
    jsonl(
        folder / "train.jsonl",
        [{"conversations": [first | {"value": " "}, *sharegpt("Hello?", "Yes.")["conversations"]]}],
    )
    assert turns(run(folder)["train"]) == {("Hello?", "Yes.")}


def test_columns_reach_into_nested_fields_and_put_the_context_first(folder: Path) -> None:
    rows = [
        {
            "task": {"q": " How many? ", "about": "counting"},
            "passages": ["One cow.", " ", "One cat."],
            "label": 2,
            "role": "Count.",
        },
        {"task": {"q": "Who?", "about": "names"}, "passages": "A text.", "label": "Ann", "role": None},
        {"task": {"q": "Why?", "about": "names"}, "label": "because"},
    ]
    jsonl(folder / "train.jsonl", rows)
    jsonl(folder / "test.jsonl", [rows[0] | {"task": {"q": "Which?", "about": "names"}}])
    columns = dict(prompt="task.q", response="label", context="passages", system="role", group="task.about")
    found = run(folder, format="columns", columns=columns)
    assert turns(found["train"]) == {
        ("Count.", "One cow.\n\nOne cat.\n\n How many?", "2"),
        ("A text.\n\nWho?", "Ann"),
        ("Why?", "because"),
    }
    assert {row["messages"][-1]["content"]: row["group"] for row in found["train"]} == {
        "2": "counting",
        "Ann": "names",
        "because": "names",
    }


def test_group_of_a_row_comes_from_group_or_suite(folder: Path) -> None:
    jsonl(folder / "test.jsonl", [chat("One?", "1", group="a"), chat("Two?", "2", suite="b"), chat("Three?", "3")])
    assert {row["messages"][-1]["content"]: row["group"] for row in run(folder)["test"]} == {
        "1": "a",
        "2": "b",
        "3": "",
    }


def test_json_csv_and_parquet_give_what_jsonl_gives(folder: Path) -> None:
    rows = [alpaca(*pair) for pair in PAIRS]
    (folder / "list.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "within.json").write_text(json.dumps({"version": "1", "data": rows}), encoding="utf-8-sig")
    (folder / "keyed.json").write_text(json.dumps({f"k{n}": row for n, row in enumerate(rows)}), encoding="utf-8")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["instruction", "input", "output"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    for name in ("list.json", "within.json", "keyed.json", "rows.csv", "rows.parquet"):
        assert turns(run(folder, train=name)["train"]) == set(PAIRS), name


def test_source_names_the_file_and_the_line_row_or_key(folder: Path) -> None:
    (folder / "train.jsonl").write_text("\n" + json.dumps(chat(*PAIRS[0])) + "\r\n", encoding="utf-8")
    assert [row["source"] for row in run(folder)["train"]] == ["train.jsonl:2"]
    (folder / "keyed.json").write_text(json.dumps({"k7": chat(*PAIRS[0])}), encoding="utf-8")
    assert [row["source"] for row in run(folder, train="keyed.json")["train"]] == ["keyed.json:k7"]
    (folder / "rows.csv").write_text('prompt,completion\n"two\nlines","yes"\nWho?,Ann\n', encoding="utf-8")
    assert {row["source"] for row in run(folder, train="rows.csv")["train"]} == {"rows.csv:2", "rows.csv:4"}


def test_key_of_keyed_json_is_a_column(folder: Path) -> None:
    (folder / "glossary.json").write_text(
        json.dumps({"cow": {"means": "animal"}, "oak": {"means": "tree"}}), encoding="utf-8"
    )
    found = run(
        folder, train="glossary.json", test=None, format="columns", columns=dict(prompt="_key", response="means")
    )
    assert turns(found["train"] + found["test"]) == {("cow", "animal"), ("oak", "tree")}


def test_text_stays_as_it_is_and_a_line_separator_ends_no_row(folder: Path) -> None:
    (folder / "train.jsonl").write_text(
        json.dumps(chat("  cafe\u0301\u2028au lait? \n", "yes "), ensure_ascii=False), encoding="utf-8"
    )
    assert turns(run(folder)["train"]) == {("  cafe\u0301\u2028au lait?", "yes")}


BAD_ROWS = {
    "empty turn": chat("Anything?", "  "),
    "unknown role": {"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]},
    "no turn of the assistant": {"messages": [{"role": "user", "content": "c"}]},
    "does not begin with the user": {"messages": [{"role": "assistant", "content": "x"}]},
    "two turns of one role in a row": {"messages": [{"role": "user", "content": "x"}, *chat("a", "b")["messages"]]},
    "a system turn that is not the first": {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "system", "content": "y"},
            {"role": "assistant", "content": "z"},
        ]
    },
    "longer than max_chars": chat("a" * 200, "b" * 101),
    "no list of turns": {"messages": "hello"},
    "no field 'content'": {"messages": [{"role": "user"}]},
    "field 'content' is not text": chat("a", True),  # type: ignore[arg-type]
    "not a record of named fields": ["a", "list"],
    "not valid Unicode": chat("half a pair: \ud83d", "b"),
}


def test_row_that_cannot_be_understood_is_rejected_with_its_reason(folder: Path) -> None:
    jsonl(
        folder / "train.jsonl", [chat(*PAIRS[0]), *BAD_ROWS.values(), chat(*PAIRS[0]), chat(*TEST[0]), chat(*PAIRS[1])]
    )
    found = run(folder, max_rejected=0.9, max_chars=300)
    assert turns(found["train"]) == set(PAIRS[:2])
    assert reasons(found["rejected"]) == Counter([*BAD_ROWS, "duplicate", "overlaps the test split"])
    by_reason = {row["reason"]: row for row in found["rejected"]}
    for line, reason in enumerate(BAD_ROWS, start=2):
        assert by_reason[reason]["source"] == f"train.jsonl:{line}"
    assert by_reason["longer than max_chars"]["excerpt"] == json.dumps(BAD_ROWS["longer than max_chars"])[:200]


def test_summary_counts_every_row_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(folder / "train.jsonl", [chat(*pair) for pair in [*PAIRS, PAIRS[0], TEST[0]]])
    run(folder)
    expected = "ingest: 6 rows read: 3 train, 1 test, 2 rejected (1 duplicate, 1 overlaps the test split)\n"
    assert capsys.readouterr().out == expected


def test_training_row_that_asks_what_a_test_row_asks_is_removed_whatever_its_case_and_answer(folder: Path) -> None:
    first = chat("First?", "1")["messages"]
    jsonl(folder / "test.jsonl", [{"messages": [*first, *chat("Go on.", "2")["messages"]]}])
    same = {"messages": [*first, *chat(" GO  on.", "other")["messages"]]}
    longer = {"messages": [*same["messages"], *chat("And then?", "3")["messages"]]}
    other = {"messages": [*chat("Second?", "1")["messages"], *chat("Go on.", "2")["messages"]]}
    jsonl(folder / "train.jsonl", [chat(*PAIRS[0]), chat("first?", "x"), chat("Go on.", "x"), same, longer, other])
    found = run(folder, max_rejected=0.0)
    assert turns(found["train"]) == {PAIRS[0], ("first?", "x"), ("Go on.", "x"), ("Second?", "1", "Go on.", "2")}
    assert reasons(found["rejected"]) == {"overlaps the test split": 2}


def many(n: int) -> list[dict[str, Any]]:
    return [chat(f"Question {i}?", f"Answer {i % 7}") for i in range(n)]


def test_split_depends_on_seed_and_content_and_not_on_order(folder: Path) -> None:
    jsonl(folder / "train.jsonl", many(100))
    one = run(folder, test=None, test_fraction=0.2, seed=1)
    files = [(folder / "data/domain" / f"{name}.parquet").read_bytes() for name in ("train", "test")]
    run(folder, test=None, test_fraction=0.2, seed=1)
    assert files == [(folder / "data/domain" / f"{name}.parquet").read_bytes() for name in ("train", "test")]
    jsonl(folder / "train.jsonl", many(100)[::-1])
    other_order = run(folder, test=None, test_fraction=0.2, seed=1)
    assert turns(other_order["test"]) == turns(one["test"])
    assert turns(run(folder, test=None, test_fraction=0.2, seed=2)["test"]) != turns(one["test"])
    assert (len(one["train"]), len(one["test"]), len(one["rejected"])) == (80, 20, 0)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_split_leaves_neither_side_empty(folder: Path, fraction: float) -> None:
    jsonl(folder / "train.jsonl", many(5))
    found = run(folder, test=None, test_fraction=fraction)
    assert min(len(found["train"]), len(found["test"])) == 1
    assert len(found["train"]) + len(found["test"]) == 5


def test_split_keeps_rows_with_one_question_together(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [chat(f"Question {i % 10}?", f"Answer {i}") for i in range(50)])
    found = run(folder, test=None, test_fraction=0.3)
    assert (len(found["train"]), len(found["test"]), len(found["rejected"])) == (35, 15, 0)


def test_missing_file_is_named(folder: Path) -> None:
    fails(folder, "nowhere.jsonl", "no such file", "params.yaml", train="nowhere.jsonl")


def test_unknown_kind_of_file_is_named(folder: Path) -> None:
    (folder / "train.xlsx").write_bytes(b"x")
    fails(folder, "train.xlsx", "'.xlsx'", "save the sheet as CSV", train="train.xlsx")
    (folder / "train.txt").write_bytes(b"x")
    fails(folder, "train.txt", "'.txt'", ".parquet", train="train.txt")


@pytest.mark.parametrize("path", ["../train.jsonl", "a/../../train.jsonl", "/etc/passwd"])
def test_path_outside_the_folder_is_refused(folder: Path, path: str) -> None:
    fails(folder, repr(path), "leaves ingest.folder", train=path)


def test_link_inside_the_folder_is_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (cache := tmp_path_factory.mktemp("cache") / "0123").write_bytes((folder / "train.jsonl").read_bytes())
    (folder / "linked.jsonl").symlink_to(cache)
    assert turns(run(folder, train="linked.jsonl")["train"]) == set(PAIRS)


@pytest.mark.parametrize(
    "line",
    [b'{"prompt": "x", "comp', b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"prompt": "\xff"}'],
    ids=["cut", "deep", "twice", "latin"],
)
def test_malformed_line_is_named_with_its_number(folder: Path, line: bytes) -> None:
    good = json.dumps(chat(*PAIRS[0])).encode()
    (folder / "train.jsonl").write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    fails(folder, "train.jsonl:2: not ", max_rejected=1.0)


def test_malformed_json_csv_and_parquet_are_named(folder: Path) -> None:
    (folder / "a.json").write_text('[\n{"prompt": 1},\n{]', encoding="utf-8")
    fails(folder, "a.json:3: not valid JSON", train="a.json")
    (folder / "scalar.json").write_text('{"a": 1, "b": "x"}', encoding="utf-8")
    fails(folder, "scalar.json: no rows", train="scalar.json")
    (folder / "a.csv").write_text('prompt,completion\nx,y\n"x,y\n', encoding="utf-8")
    fails(folder, "a.csv:3: not valid CSV", train="a.csv")
    (folder / "b.csv").write_text("prompt,prompt\nx,y\n", encoding="utf-8")
    fails(folder, "b.csv:1: two columns", train="b.csv")
    (folder / "c.csv").write_bytes(b"prompt,completion\nx,caf\xe9\n")
    fails(folder, "c.csv: not UTF-8", train="c.csv")
    (folder / "a.parquet").write_bytes(b"PAR1 and no more")
    fails(folder, "a.parquet: not a readable Parquet file", train="a.parquet")


def test_csv_row_with_too_few_cells_is_rejected(folder: Path) -> None:
    (folder / "a.csv").write_text("prompt,completion\nx,y\nlonely\nv,w\n", encoding="utf-8")
    found = run(folder, train="a.csv", max_rejected=0.5)
    assert turns(found["train"]) == {("x", "y"), ("v", "w")}
    assert [(row["source"], row["reason"]) for row in found["rejected"]] == [
        ("a.csv:3", "not a record of named fields")
    ]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_file_is_an_empty_domain_set(folder: Path, content: bytes) -> None:
    (folder / "train.jsonl").write_bytes(content)
    fails(folder, "train.jsonl", "empty domain set")


def test_set_without_a_usable_row_is_an_empty_domain_set(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [chat("x", " "), chat("y", "")])
    fails(folder, "train.jsonl", "empty domain set", max_rejected=1.0)


def test_training_set_inside_the_test_set_is_an_empty_domain_set(folder: Path) -> None:
    fails(folder, "empty domain set", "3 training rows overlap", test="train.jsonl")


def test_set_that_asks_one_thing_cannot_be_split(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [chat("Why?", "a"), chat("why?", "b")])
    fails(folder, "no test set can be split off", test=None)


def test_too_many_unusable_rows_stop_the_stage_with_the_reasons(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [*many(17), chat("x", ""), chat("y", ""), {"messages": "z"}])
    message = fails(folder, "3 of 20 rows", "2 empty turn", "1 no list of turns", "'train.jsonl:18'", max_rejected=0.1)
    assert "ingest.max_rejected (0.1)" in message
    assert len(run(folder, max_rejected=0.15)["rejected"]) == 3


def test_unusable_test_rows_are_not_hidden_behind_many_training_rows(folder: Path) -> None:
    jsonl(folder / "train.jsonl", many(100))
    jsonl(folder / "test.jsonl", [chat(*TEST[0]), chat("x", "")])
    fails(folder, "test.jsonl", "1 of 2 rows")


def test_wrong_column_is_named_with_the_fields_found(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [{"question": "x", "answer": "y"}])
    columns = dict(prompt="questoin", response="answer")
    fails(folder, "'questoin'", "ingest.columns.prompt", "'question', 'answer'", format="columns", columns=columns)


def test_group_column_that_no_row_has_is_named(folder: Path) -> None:
    columns = dict(prompt="prompt", response="completion", group="topic")
    jsonl(folder / "train.jsonl", [prompt_completion(*pair) for pair in PAIRS])
    fails(folder, "'topic'", "ingest.columns.group", test=None, format="columns", columns=columns)


def test_declared_format_that_no_row_has_is_named_with_the_fields_found(folder: Path) -> None:
    fails(folder, "'conversations'", "ingest.format", "'messages'", format="sharegpt")


def test_unknown_format_lists_the_fields_and_says_what_to_set(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [{"question": "x", "answer\n\x1b[31m": "y"}])
    message = fails(folder, "fit no known format", "'question'", "ingest.format", "ingest.columns")
    assert "\x1b" not in message


def test_ambiguous_format_lists_what_fits(folder: Path) -> None:
    jsonl(folder / "train.jsonl", [chat("x", "y") | prompt_completion("x", "y")])
    fails(folder, "messages and prompt_completion", "ingest.format")


def hub_run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ingest of a hub data set in a process of its own: the hub's libraries read the environment when they load."""
    write_params(folder, folder=".", train={"hub": "owner/name", "revision": "a" * 40})
    code = (
        "from helpers import run_stage\nfrom holdfast.core.errors import UserError\n"
        "try:\n    run_stage('ingest')\nexcept UserError as error:\n    raise SystemExit(str(error))"
    )
    env = (
        os.environ
        | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "HF_HOME": str(folder / "home"),
            "NO_PROXY": "*",
            "no_proxy": "*",
        }
        | environment
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


def test_hub_data_set_without_network_is_a_clear_error(tmp_path: Path) -> None:
    done = hub_run(tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "ingest.train: cannot load the data set 'owner/name'" in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "data").exists()


def test_local_folder_is_not_taken_for_a_hub_data_set(folder: Path) -> None:
    (folder / "owner/name").mkdir(parents=True)
    (folder / "owner/name/train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    done = hub_run(folder, HF_HUB_OFFLINE="1")
    assert "a local folder has the name of the data set" in done.stderr


class Hub(http.server.BaseHTTPRequestHandler):
    """Just enough of the hub for one data set with one file, at revision aaa..."""

    file = "".join(json.dumps(prompt_completion(*pair)) + "\n" for pair in PAIRS).encode()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        listing = [dict(type="file", path="train.jsonl", size=len(self.file), oid="b" * 40)]
        about = dict(
            id="owner/name", sha="a" * 40, siblings=[dict(rfilename="train.jsonl")], private=False, gated=False, tags=[]
        )
        if path.endswith(f"/resolve/{'a' * 40}/train.jsonl"):
            self.answer(200, self.file, {"etag": f'"{"b" * 40}"', "x-repo-commit": "a" * 40})
        elif path.endswith(f"/tree/{'a' * 40}"):
            self.answer(200, json.dumps(listing).encode())
        elif path.endswith(f"/api/datasets/owner/name/revision/{'a' * 40}"):
            self.answer(200, json.dumps(about).encode())
        else:
            self.answer(404, b"{}", {"x-error-code": "EntryNotFound"})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "content-length": str(len(body)),
            "content-type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_hub_data_set_is_read_at_its_revision(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = hub_run(
            tmp_path, HF_HUB_OFFLINE="0", HF_DATASETS_OFFLINE="0", HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}"
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    found = outputs(tmp_path)
    assert turns(found["train"] + found["test"]) == set(PAIRS)
    assert {row["source"] for row in found["train"] + found["test"]} == {f"owner/name/train:{n}" for n in (1, 2, 3)}


def needs(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"real data is not here: {path.name}")
    return path.parent


def test_pubmedqa_goes_through_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = needs(SHARED / "pubmedqa" / "ori_pqal.json")
    columns = dict(prompt="QUESTION", context="CONTEXTS", response="LONG_ANSWER", group="final_decision")
    train = dict(path="ori_pqal.json")
    ingest(tmp_path, folder=str(folder), train=train, format="columns", columns=columns, test_fraction=0.5)
    found = outputs(tmp_path)
    assert (len(found["train"]), len(found["test"]), len(found["rejected"])) == (500, 500, 0)
    assert {row["group"] for row in found["train"]} == {"yes", "no", "maybe"}
    row = next(row for row in found["train"] + found["test"] if row["source"] == "ori_pqal.json:21645374")
    question = "Do mitochondria play a role in remodelling lace plant leaves during programmed cell death?"
    context = json.loads((folder / "ori_pqal.json").read_text(encoding="utf-8"))["21645374"]["CONTEXTS"]
    assert row["messages"][0]["content"] == "\n\n".join([*context, question])


def test_gsm8k_goes_through_columns(tmp_path: Path) -> None:
    folder = needs(SHARED / "gsm8k" / "train.jsonl")
    sources = dict(train=dict(path="train.jsonl"), test=dict(path="test.jsonl"))
    columns = dict(prompt="question", response="answer")
    ingest(tmp_path, folder=str(folder), **sources, format="columns", columns=columns)
    found = outputs(tmp_path)
    assert (len(found["train"]), len(found["test"]), len(found["rejected"])) == (7473, 1319, 0)
    assert all("####" in row["messages"][1]["content"] for row in found["test"])
