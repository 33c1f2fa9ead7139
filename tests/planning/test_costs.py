"""The cost ledger: what engines count, what shards carry home, and what a command leaves in reports/costs."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from conftest import describe

from holdfast.chat import encoding
from holdfast.core import cache, ledger, manifest, meter, records
from holdfast.engines import local
from holdfast.engines.interface import Until


@pytest.fixture(autouse=True)
def from_zero(monkeypatch):
    monkeypatch.setattr(meter, "total", meter.Spent())
    monkeypatch.setattr(meter, "memory", 0)


def engine(tiny, tmp_path) -> local.Engine:
    return local.Engine(manifest.load(describe(tiny, tmp_path)), 2)


def test_written_and_read_tokens_are_counted_and_equal_prompts_of_a_batch_once(tiny, tmp_path):
    one = engine(tiny, tmp_path)
    prompts = [[5, 6, 7], [5, 6, 7], [8, 9]]  # in batches of two, in order of length: [8, 9] and one of the equal ones
    done = one.complete(prompts, [1, 2, 3], [1.0] * 3, 1.0, Until(6, [one.tokenizer.eos_token_id]))
    spent = meter.total
    assert (spent.read, spent.reused) == (8, 0)
    assert spent.written == sum(c.n_tokens + (c.finish == "stop") for c in done)
    assert spent.flops == 2 * one.entry.parameters * (spent.read + spent.written)

    one.complete(prompts[:2], [1, 2], [1.0] * 2, 1.0, Until(1, []))
    assert (spent.read, spent.reused) == (14, 3)


def test_what_all_prompts_begin_with_is_read_once(tiny, tmp_path):
    one = engine(tiny, tmp_path)
    one.next_token([[5, 6, 7, 8], [5, 6, 9, 10, 11], [5, 6, 12]], [3])
    assert (meter.total.read, meter.total.reused, meter.total.written) == (12, 4, 0)
    assert meter.total.flops == 2 * one.entry.parameters * 8
    one.logprob([[5, 6]], [[7, 8, 9]])
    assert meter.total.read == 17
    one.embed(["a b"])
    assert meter.total.read == 17 + len(encoding.tokenise(one.tokenizer, "a b"))


def test_training_takes_three_times_the_operations_of_reading():
    meter.count(10, trained=4, read=5)
    assert meter.total.flops == 10 * (6 * 4 + 2 * 5)


def counting(part: list[int]) -> list[int]:
    meter.count(100, read=len(part), written=sum(part))
    return part


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_bring_home_what_they_took_wherever_and_whenever_they_were_done(project, monkeypatch, workers):
    monkeypatch.setattr(cache, "WORTH", 0)
    rows = list(range(10))
    cache.shards("respond", rows[:6], 3, "m", counting)  # two shards are there
    monkeypatch.setattr(meter, "total", meter.Spent())
    assert cache.shards("respond", rows, 3, "m", counting, workers=workers) == rows
    assert asdict(meter.total) == {
        "read": 10, "reused": 0, "written": 45, "trained": 0, "flops": 2 * 100 * 55, "rows": 10, "rows_kept": 6,
    }  # fmt: skip


@pytest.mark.parametrize("spent", [None, [], {"read": "7"}, {"read": 1.5}])
def test_a_shard_that_does_not_say_what_it_took_is_done_again(project, spent):
    cache.shards("respond", [1, 2], 2, "m", counting)
    [file] = (project / ".cache").rglob("*.json")
    records.write_json(file, {"results": [1, 2], "spent": spent})
    cache.shards("respond", [1, 2], 2, "m", counting)
    assert json.loads(file.read_text())["spent"] == {"read": 2, "written": 3, "flops": 1000}


def test_a_command_that_fails_leaves_the_earlier_ledger(project):
    with ledger.kept(project, "respond", "base"):
        meter.count(7, read=3)
    with pytest.raises(ValueError, match="no"), ledger.kept(project, "respond", "base"):
        raise ValueError("no")
    found = records.read_json(project / "respond" / "base.json")
    assert (found["stage"], found["cell"], found["read"], found["flops"]) == ("respond", "base", 3, 42)
    assert found["peak_memory_bytes"] > 10e6
    assert found["seconds"] >= 0


def test_only_the_first_process_of_torchrun_writes(project, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with ledger.kept(project, "finetune", "a"):
        pass
    assert not (project / "finetune").exists()
