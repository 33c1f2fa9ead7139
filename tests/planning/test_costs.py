"""The cost ledger: what engines count, what shards carry home, and what a command leaves in reports/costs."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest
from helpers import describe

from holdfast.chat import encoding
from holdfast.commands import costs
from holdfast.core import ledger, manifest, meter, shards, storage
from holdfast.core.errors import UserError
from holdfast.engines import local
from holdfast.engines.interface import Sampling


@pytest.fixture(autouse=True)
def from_zero(monkeypatch):
    monkeypatch.setattr(meter, "total", meter.Spent())
    monkeypatch.setattr(meter, "memory", 0)


def engine(tiny, tmp_path) -> local.Engine:
    return local.Engine(manifest.load(describe(tiny, tmp_path)), 2)


def test_written_and_read_tokens_are_counted_and_equal_prompts_of_a_batch_once(tiny, tmp_path):
    one = engine(tiny, tmp_path)
    prompts = [[5, 6, 7], [5, 6, 7], [8, 9]]  # in batches of two, in order of length: [8, 9] and one of the equal ones
    done = one.complete(prompts, [1, 2, 3], Sampling(1.0, 1.0, 6, [one.tokenizer.eos_token_id]))
    spent = meter.total
    assert (spent.read, spent.reused) == (8, 0)
    assert spent.written == sum(c.n_tokens + (c.finish_reason == "stop") for c in done)
    assert spent.flops == 2 * one.manifest.parameters * (spent.read + spent.written)

    one.complete(prompts[:2], [1, 2], Sampling(1.0, 1.0, 1))
    assert (spent.read, spent.reused) == (14, 3)


def test_what_all_prompts_begin_with_is_read_once(tiny, tmp_path):
    one = engine(tiny, tmp_path)
    one.next_token([[5, 6, 7, 8], [5, 6, 9, 10, 11], [5, 6, 12]], [3])
    assert (meter.total.read, meter.total.reused, meter.total.written) == (12, 4, 0)
    assert meter.total.flops == 2 * one.manifest.parameters * 8
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
    monkeypatch.setattr(shards, "MIN_ROWS_FOR_WORKERS", 0)
    rows = list(range(10))
    shards.run_shards("respond", rows[:6], 3, "m", counting)  # two shards are there
    monkeypatch.setattr(meter, "total", meter.Spent())
    assert shards.run_shards("respond", rows, 3, "m", counting, workers=workers) == rows
    assert asdict(meter.total) == {
        "read": 10,
        "reused": 0,
        "written": 45,
        "trained": 0,
        "flops": 2 * 100 * 55,
        "rows": 10,
        "rows_from_cache": 6,
    }


@pytest.mark.parametrize("spent", [None, [], {"read": "7"}, {"read": 1.5}])
def test_a_shard_that_does_not_say_what_it_took_is_done_again(project, spent):
    shards.run_shards("respond", [1, 2], 2, "m", counting)
    [file] = (project / ".cache").rglob("*.json")
    storage.write_json(file, {"results": [1, 2], "spent": spent})
    shards.run_shards("respond", [1, 2], 2, "m", counting)
    assert json.loads(file.read_text())["spent"] == {"read": 2, "written": 3, "flops": 1000}


def test_a_command_that_fails_leaves_the_earlier_records(project):
    with ledger.record_cost(project, "respond", "base"):
        meter.count(7, read=3)
    with pytest.raises(ValueError, match="no"), ledger.record_cost(project, "respond", "base"):
        raise ValueError("no")
    counts = storage.read_json(project / "respond" / "base.json")
    assert counts == {
        "schema": 1,
        "stage": "respond",
        "cell": "base",
        "read": 3,
        "reused": 0,
        "written": 0,
        "trained": 0,
        "flops": 42,
        "rows": 0,
    }
    timing = storage.read_json(ledger.TIMINGS / "respond" / "base.json")
    assert (timing["stage"], timing["cell"]) == ("respond", "base")
    assert timing["peak_memory_bytes"] > 10e6
    assert timing["seconds"] >= 0


def test_a_stage_adds_timings_of_its_own_and_not_those_of_the_stage_before(project):
    with ledger.record_cost(project, "finetune", "a"):
        ledger.note_timing(tokens_per_second=12.5)
    with ledger.record_cost(project, "finetune", "b"):
        pass
    assert storage.read_json(ledger.TIMINGS / "finetune/a.json")["tokens_per_second"] == 12.5
    assert "tokens_per_second" not in storage.read_json(ledger.TIMINGS / "finetune/b.json")


def test_counts_are_the_same_bytes_after_a_kill_and_timings_say_what_came_from_the_cache(project, monkeypatch):
    """Half of the rows are computed and the run is ended; the next one finishes. Against a run that was never ended."""

    def run(rows: list[int], folder: str) -> bytes:
        monkeypatch.setattr(meter, "total", meter.Spent())
        with ledger.record_cost(project / folder, "respond"):
            shards.run_shards("respond", rows, 2, "m", counting)
        return (project / folder / "respond.json").read_bytes()

    whole = run([1, 2, 3, 4], "costs")
    assert storage.read_json(ledger.TIMINGS / "respond.json")["rows_from_cache"] == 0
    shutil.rmtree(project / ".cache")
    run([1, 2], "killed")
    assert run([1, 2, 3, 4], "again") == whole
    assert storage.read_json(ledger.TIMINGS / "respond.json")["rows_from_cache"] == 2


def test_only_the_first_process_of_torchrun_writes(project, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with ledger.record_cost(project, "finetune", "a"):
        pass
    assert not (project / "finetune").exists()
    assert not ledger.TIMINGS.exists()


def test_the_command_prints_counts_of_the_run_and_timings_of_this_machine(project, capsys):
    """respond ran here, judge elsewhere: its seconds are not known."""
    storage.write_json(project / "reports/costs/respond/base.json", {"read": 1200, "written": 30, "flops": 5 * 10**12})
    storage.write_json(ledger.TIMINGS / "respond/base.json", {"seconds": 4.25, "peak_memory_bytes": 3 * 2**30})
    storage.write_json(project / "reports/costs/judge.json", {"read": 800, "written": 0, "flops": 10**12})
    costs.main(as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["respond@base", "1,200", "30", "-", "5.00", "4.2", "3.00", "-"]
    assert lines[2] == ["judge", "800", "-", "-", "1.00", "-", "-", "-"]
    assert lines[3] == ["all", "2,000", "30", "-", "6.00", "4.2", "3.00", "-"]
    costs.main(as_json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert (first["stage"], first["seconds"], second["stage"], second["seconds"]) == (
        "respond/base",
        4.25,
        "judge",
        None,
    )


@pytest.mark.parametrize("content", [None, "[]", "no json"])
def test_costs_that_are_missing_or_something_else_are_user_errors(project, content):
    if content is not None:
        storage.write_text(project / "reports/costs/judge.json", content)
    with pytest.raises(UserError):
        costs.main(as_json=False)
