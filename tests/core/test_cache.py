"""core/shards.py and core/cache.py: a killed stage repeats at most the shard it was in, and never reuses what is not its own."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from holdfast.core import cache, meter, shards
from holdfast.core.errors import UserError

ROWS = [["r", i] for i in range(10)]


class Work:
    """Squares numbers, keeps count of the shards it was asked for, and dies in the shard that holds `fatal`."""

    def __init__(self, fatal: int | None = None) -> None:
        self.fatal, self.shards = fatal, []

    def __call__(self, part: list) -> list[dict]:
        self.shards.append([i for _, i in part])
        if self.fatal in self.shards[-1]:
            raise KeyboardInterrupt
        return [dict(id=f"{name}{i}", value=i * i / 7, text="⟦é\n⟧", nothing=None) for name, i in part]


def run(work: Work, identity: object = "model-1", size: int = 3, rows: list = ROWS) -> list[dict]:
    return shards.run_shards("respond", rows, size, identity, work)


def test_a_killed_stage_repeats_only_the_shard_it_was_in(project):
    killed = Work(fatal=7)
    with pytest.raises(KeyboardInterrupt):
        run(killed)
    again = Work()
    assert run(again) == Work()(ROWS)  # as if nothing had happened, to the last bit
    assert again.shards == [[6, 7, 8], [9]]
    assert not [
        f for f in (project / ".cache").rglob("*") if f.is_file() and f.suffix != ".json"
    ]  # nothing half-written


def test_a_stage_that_is_interrupted_says_what_is_kept(project, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(Work(fatal=7))
    kept = "respond: interrupted; 6 of 10 rows are kept in .cache, and the next run goes on from there\n"
    assert capsys.readouterr().err == kept
    with pytest.raises(KeyboardInterrupt):
        run(Work(fatal=9))
    assert "9 of 10 rows are kept" in capsys.readouterr().err, "those of earlier runs among them"


def test_finished_work_is_not_repeated(project):
    run(Work())
    second = Work()
    assert run(second) == Work()(ROWS)
    assert second.shards == []


def test_a_part_begins_with_its_own_shards_and_takes_over_what_no_other_has_done(project, monkeypatch):
    expected = Work()(ROWS)
    monkeypatch.setenv("HOLDFAST_PART", "2/3")
    killed = Work(fatal=3)
    with pytest.raises(KeyboardInterrupt):
        run(killed, size=1)
    assert killed.shards == [[1], [4], [7], [8], [5], [2], [9], [6], [3]]  # of part 3 and part 1 the last ones first
    monkeypatch.setenv("HOLDFAST_PART", "1/3")
    second = Work()
    assert run(second, size=1) == expected
    assert second.shards == [[0], [3]]


def test_what_another_part_does_meanwhile_is_not_repeated(project, monkeypatch):
    monkeypatch.setenv("HOLDFAST_PART", "1/2")
    other = Work()

    class First(Work):
        def __call__(self, part: list) -> list[dict]:
            monkeypatch.setenv("HOLDFAST_PART", "2/2")
            results, _ = meter.measure_shard(lambda _: run(other, size=1), [])  # in a process of its own
            assert results == Work()(ROWS)
            return super().__call__(part)

    first = First()
    assert run(first, size=1) == Work()(ROWS)
    assert first.shards == [[0]]
    assert len(other.shards) == 10, "it took over what the first had not yet kept"


def test_what_another_part_keeps_while_the_cache_is_read_is_not_called_damaged(project, monkeypatch, capsys):
    load = shards.load_shard

    def meanwhile(file: Path, rows: int) -> dict | None:
        shard = load(file, rows)
        if shard is None and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("what the other part keeps", encoding="utf-8")
        return shard

    with monkeypatch.context() as patch:
        patch.setattr(shards, "load_shard", meanwhile)
        run(Work())
    assert "damaged" not in capsys.readouterr().err
    next((project / ".cache").rglob("*.json")).write_text("", encoding="utf-8")
    run(Work())
    assert "respond: 1 of 4 shards in .cache are damaged, and done again" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/x", "-1/2", "²/2"])
def test_a_part_that_is_none_is_refused(project, monkeypatch, text):
    monkeypatch.setenv("HOLDFAST_PART", text)
    with pytest.raises(UserError, match="give I/N"):
        run(Work())


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b'[{"id": "r0", "val',
        b"\x00" * 50,
        b"\xff\xfe",
        b'{"a": 1, "b": 2, "c": 3}',
        b"[]",
        b"null",
        b"[1, 2, 3]",
        b'{"results": [1, 2, 3], "spent": {"heat": 1}}',
    ],
)
def test_a_corrupt_shard_is_done_again(project, garbage):
    run(Work())
    file = next(f for f in (project / ".cache").rglob("*.json") if '"r4"' in f.read_text(encoding="utf-8"))
    file.write_bytes(garbage)
    again = Work()
    assert run(again) == Work()(ROWS)
    assert again.shards == [[3, 4, 5]]
    last = Work()
    run(last)
    assert last.shards == []  # and it was repaired


def test_another_identity_or_payload_reuses_nothing(project):
    run(Work())
    for changes in (dict(identity="model-2"), dict(identity=["model-1"]), dict(rows=[["q", i] for i in range(10)])):
        other = Work()
        run(other, **changes)
        assert len(other.shards) == 4, changes


def test_more_rows_keep_the_shards_that_stay_the_same(project):
    run(Work())
    more = Work()
    assert len(run(more, rows=[*ROWS, ["r", 10], ["r", 11]])) == 12
    assert more.shards == [[9, 10, 11]]


def test_a_key_is_the_same_in_any_order_of_keys_and_refuses_what_json_cannot_carry():
    assert cache.key({"a": 1, "b": [2]}) == cache.key({"b": [2], "a": 1})
    assert cache.key("a", "b") != cache.key("ab") != cache.key(["a", "b"])
    for bad in (object(), {1, 2}):
        with pytest.raises(TypeError):
            cache.key(bad)
    with pytest.raises(ValueError, match="not JSON compliant"):
        cache.key(float("nan"))


def shard_files(project):
    return sorted((project / ".cache" / "respond").rglob("*.json"))


def test_an_altered_shard_is_done_again_and_counted(project, capsys):
    run(Work())
    file = next(f for f in shard_files(project) if '"r4"' in f.read_text(encoding="utf-8"))
    file.write_text(file.read_text(encoding="utf-8").replace('"r4"', '"r5"'), encoding="utf-8")
    again = Work()
    assert run(again) == Work()(ROWS)
    assert again.shards == [[3, 4, 5]]
    assert capsys.readouterr().err == "respond: 1 of 4 shards in .cache are damaged, and done again\n"


def test_a_shard_under_another_s_name_is_done_again(project):
    run(Work())
    one, other = [f for f in shard_files(project) if len(cache.json.loads(f.read_text())["results"]) == 3][:2]
    one.write_bytes(other.read_bytes())
    again = Work()
    assert run(again) == Work()(ROWS)
    assert len(again.shards) == 1


def kept() -> cache.Replies:
    replies = cache.Replies("m")
    for n in range(60):
        replies.put(f"request {n}", {"text": f"answer {n}" * 40})
    replies.close()
    return replies


def test_an_altered_reply_counts_as_absent_and_is_counted(project, capsys):
    file = kept().file
    content = file.read_bytes()
    wal = file.with_name(file.name + "-wal")
    assert not wal.exists()
    file.write_bytes(content.replace(b"answer 7answer 7", b"answer 8answer 7", 1))
    replies = cache.Replies("m")
    assert replies.get("request 7") is None
    assert replies.get("request 8") == {"text": "answer 8" * 40}
    assert replies.entries.damaged == 1
    assert "holds a damaged entry" in capsys.readouterr().err
    replies.put("request 7", {"text": "again"})
    assert replies.get("request 7") == {"text": "again"}


@pytest.mark.parametrize("damage", ["zeros", "short", "empty", "text", "first page", "all but the first page"])
def test_a_damaged_file_of_replies_is_set_aside_and_begun_anew(project, capsys, damage):
    file = kept().file
    content = file.read_bytes()
    page = 4096
    file.write_bytes(
        {
            "zeros": bytes(len(content)),
            "short": content[: len(content) // 2],
            "empty": b"",
            "text": b"no database at all\n" * 500,
            "first page": bytes(page) + content[page:],
            "all but the first page": content[:page] + bytes(len(content) - page),
        }[damage]
    )
    replies = cache.Replies("m")
    assert all(replies.get(f"request {n}") in (None, {"text": f"answer {n}" * 40}) for n in range(60))
    replies.put("request 1", {"text": "again"})
    replies.close()
    assert cache.Replies("m").get("request 1") == {"text": "again"}
    if damage != "empty":
        assert "damaged" in capsys.readouterr().err


def test_replies_of_an_earlier_version_are_taken_over(project):
    import sqlite3

    (project / ".cache" / "replies").mkdir(parents=True)
    database = sqlite3.connect(project / ".cache" / "replies" / "m.sqlite")
    database.execute("CREATE TABLE replies (request TEXT PRIMARY KEY, reply TEXT NOT NULL)")
    database.execute("""INSERT INTO replies VALUES ('a', '{"text": "x"}')""")
    database.commit()
    database.close()
    assert cache.Replies("m").get("a") == {"text": "x"}
    assert cache.Replies("m").get("a") == {"text": "x"}


def open_entries(file: Path, barrier: Any) -> None:
    barrier.wait()
    cache.Entries(file).put([(str(os.getpid()), b"value")])


def test_processes_that_open_a_new_file_at_once_wait_for_each_other(tmp_path):
    """Training processes share the base's log-probabilities: without the wait, some of them ended with "database is locked"."""
    fork = multiprocessing.get_context("fork")
    for attempt in range(40):
        barrier = fork.Barrier(4)
        opened = [fork.Process(target=open_entries, args=(tmp_path / f"{attempt}.sqlite", barrier)) for _ in range(4)]
        for process in opened:
            process.start()
        for process in opened:
            process.join()
        assert [process.exitcode for process in opened] == [0] * 4
