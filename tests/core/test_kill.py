"""reconstruct, respond, judge and evaluate under SIGKILL at random moments, two at once, and on a disk that is full.

Each stage runs in a process of its own, forked from one that has the libraries loaded, on the tiny model.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import helpers
import pytest
import yaml
from helpers import ROOT, describe, instruction, response, task

from holdfast.core import cache, manifest, records, shards
from holdfast.core.errors import UserError
from holdfast.evaluation import resume
from holdfast.params.evaluate import Evaluate
from holdfast.params.reconstruct import Reconstruct
from holdfast.params.respond import Respond

KILLS = 4  # random moments per stage: 16 in all
ROWS = 60
PARTS = multiprocessing.get_context("forkserver")
PARTS.set_forkserver_preload(
    [
        "holdfast.reconstruction.user_turns",
        "holdfast.panel.responses",
        "holdfast.panel.scoring",
        "holdfast.engines.local",
        "transformers.models.llama.modeling_llama",
        "holdfast.evaluation.harness",
        "lm_eval.models.huggingface",
        "lm_eval.tasks",
    ]
)


def run_stage(stage: str, folder: Path, part: str = "1/1") -> None:
    """The stage in `folder`, in six to ten shards; what a command of cli.py does. `part`: I/N of several at once."""
    from holdfast.evaluation import harness
    from holdfast.panel import responses
    from holdfast.reconstruction import user_turns

    os.chdir(folder)
    os.environ |= {"OMP_NUM_THREADS": "1", shards.PART: part}
    model, kept = Path("models/manifest/base.json"), Path("data/instructions/kept.parquet")
    if stage == "reconstruct":
        params, base = Reconstruct(samples=ROWS, max_tokens=24, shard=10, batch=10), manifest.load(model)
        query = user_turns.derive_pre_query(params, manifest.load_tokenizer(base.folder()), "base")
        rows = user_turns.sample_user_turns(range(ROWS), params, base, query, user_turns.PromptParts([], {}))
        records.write("instructions_raw", Path("out.parquet"), rows)
    elif stage == "respond":
        params, instructions = Respond(k=1, max_tokens=24, shard=10, batch=10), records.read("instructions_kept", kept)
        rows = responses.answer_instructions(instructions, manifest.load(model), params)
        records.write("responses", Path("out.parquet"), rows)
    elif stage == "evaluate":
        resume.MIN_SHARD_REQUESTS = 12
        suites = {"free": {"role": "general"}, "choice": {"role": "general", "chance": 0.25}}
        asked = Evaluate(tasks="suites", suites=suites, batch=6)
        base = manifest.load(model)
        items = harness.evaluate_model(asked, "base", base.folder(), base, Path("none")).items
        records.write("items", Path("out.part"), items)
        os.replace("out.part", "out.parquet")
    else:
        helpers.run_stage("judge")
        shutil.copyfile("data/scores/base.parquet", "out.part")
        os.replace("out.part", "out.parquet")


def run_stage_with_log(stage: str, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job has ignored
    with (folder / "log").open("w", encoding="utf-8", buffering=1) as sys.stderr:
        run_stage(stage, folder)


@pytest.fixture(scope="module")
def template(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the four stages read."""
    folder = tmp_path_factory.mktemp("template")
    describe(tiny, folder / "models" / "manifest")
    judge = {"rubric": "rubric.txt", "min_mass": 0.0, "shard": 6, "batch": 6}
    params = {"panel": ["base"], "judge": judge, "consensus": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    rows = [instruction(f"q{n:02d}", f"What is {n} + 2?") for n in range(ROWS)]
    records.write("instructions_kept", folder / "data" / "instructions" / "kept.parquet", rows)
    answers = [response(row["id"], "base", 0, f"It is {n}.") for n, row in enumerate(rows)]
    records.write("responses", folder / "data" / "responses" / "base.parquet", answers)
    (folder / "rubric.txt").write_text("Rate it. {instruction} {response}", encoding="utf-8")
    items = [{"id": row["id"], "prompt": row["text"], "answer": "4"} for row in rows[:40]]
    task(folder / "suites", "free", items)
    choice = dict(output_type="multiple_choice", doc_to_choice=["1", "2", "4", "5"], doc_to_target=0)
    accuracy = dict(metric="acc", aggregation="mean", higher_is_better=True)
    task(folder / "suites", "choice", items[:12], **choice, metric_list=[accuracy])
    return folder


def start(stage: str, folder: Path, part: str = "1/1") -> multiprocessing.process.BaseProcess:
    process = PARTS.Process(target=run_stage, args=(stage, folder, part))
    process.start()
    return process


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Shards in the cache: inode and time of writing tell whether one was done again."""
    files = sorted((folder / ".cache").rglob("*.json"))
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in files if not f.name.startswith(".")}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reconstruct", "respond", "judge", "evaluate"])
def test_a_stage_killed_at_random_moments_loses_one_shard_at_most(stage, template, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    shutil.copytree(template, undisturbed)
    start(stage, undisturbed).join()  # the first also starts the process that all others are forked from
    expected, count = (undisturbed / "out.parquet").read_bytes(), len(finished(undisturbed))
    assert count >= 6
    shutil.rmtree(undisturbed / ".cache")
    began = time.monotonic()
    start(stage, undisturbed).join()
    whole = time.monotonic() - began
    assert (undisturbed / "out.parquet").read_bytes() == expected

    rng, kills, in_the_middle = random.Random(stage), 0, 0
    while kills < KILLS:
        if not killed.exists():
            shutil.copytree(template, killed)
        before = finished(killed)
        process = start(stage, killed)
        if kills % 2:  # half of the moments fall where work is under way, however long the start takes
            more = len(before) + rng.randint(1, 3)
            while process.is_alive() and len(finished(killed)) < more:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.01))
        else:
            process.join(rng.uniform(0.1, 1.0) * whole)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        after = finished(killed)
        assert before.items() <= after.items()  # what was finished was not done again, and is not gone
        in_the_middle += 0 < len(after) < count
        if (killed / "out.parquet").exists():
            assert (killed / "out.parquet").read_bytes() == expected  # whole, or not there
            shutil.rmtree(killed)
    if not killed.exists():
        shutil.copytree(template, killed)
    last = start(stage, killed)
    last.join()
    assert last.exitcode == 0
    assert (killed / "out.parquet").read_bytes() == expected
    assert len(finished(killed)) == count
    assert in_the_middle  # or the moments were none


@pytest.mark.parametrize("stage", ["reconstruct", "judge"])
def test_a_stage_interrupted_from_the_keyboard_says_what_is_kept_and_goes_on(stage, template, tmp_path):
    for attempt in range(5):  # on a busy machine the stage may have ended before the signal comes
        folder = tmp_path / f"here{attempt}"
        shutil.copytree(template, folder)
        process = PARTS.Process(target=run_stage_with_log, args=(stage, folder))
        process.start()
        while process.is_alive() and len(finished(folder)) < 2:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGINT)
        process.join()
        kept = finished(folder)
        if process.exitcode != 0:
            break
    size = 10 if stage == "reconstruct" else 6
    assert f"{stage}: interrupted; {len(kept) * size} of {ROWS} " in (folder / "log").read_text(encoding="utf-8")
    assert not (folder / "out.parquet").exists()
    again = start(stage, folder)
    again.join()
    assert again.exitcode == 0
    assert kept.items() < finished(folder).items(), "what was kept is not done again"


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("evaluate", ("1/1", "1/1")),
        *((stage, ("1/2", "2/2")) for stage in ("reconstruct", "respond", "judge", "evaluate")),
    ],
)
def test_two_at_once_give_what_one_gives(stage, parts, template, tmp_path):
    alone, shared, beside = tmp_path / "alone", tmp_path / "shared", tmp_path / "beside"
    for folder in (alone, shared, beside):
        shutil.copytree(template, folder)
    (shared / ".cache").mkdir()
    (beside / ".cache").symlink_to(shared / ".cache")  # as a part that is a job of its own has it
    second = shared if parts[1] == "1/1" else beside
    processes = [start(stage, alone), start(stage, shared, parts[0]), start(stage, second, parts[1])]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    for folder in (shared, second):
        assert (folder / "out.parquet").read_bytes() == (alone / "out.parquet").read_bytes()


@pytest.mark.parametrize("stage", ["judge", "evaluate"])
def test_another_revision_of_the_model_uses_nothing_of_the_cache(stage, template, tiny, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    start(stage, folder).join()
    first, before = (folder / "out.parquet").read_bytes(), finished(folder)
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-2:] = b"\x00\x3f"  # one weight of one norm
    (other / "model.safetensors").write_bytes(weights)
    describe(other, folder / "models" / "manifest")
    start(stage, folder).join()
    assert len(finished(folder)) == 2 * len(before)
    shutil.rmtree(folder / ".cache")
    changed = (folder / "out.parquet").read_bytes()
    start(stage, folder).join()
    assert (folder / "out.parquet").read_bytes() == changed != first


# The disk
@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As on a full disk, a write fails half-way: no file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def squares(part: list) -> list[dict]:
    return [dict(value=n * n, text="x" * 100) for n in part]


def test_a_full_disk_is_said_so_and_leaves_no_half_shard(project):
    with no_file_above(500), pytest.raises(UserError, match=r"cache cannot be written[\s\S]*finished work is kept"):
        shards.run_shards("respond", range(20), 10, "m", squares)
    assert [f for f in (project / ".cache").rglob("*") if f.is_file()] == []
    assert shards.run_shards("respond", range(20), 10, "m", squares) == squares(list(range(20)))


def test_a_full_disk_is_said_so_by_the_cache_of_replies(project):
    replies = cache.Replies("m")
    with no_file_above(40_000), pytest.raises(UserError, match="cache cannot be written"):
        [replies.put(str(n), "x" * 2000) for n in range(100)]
    replies.close()
    whole = cache.Replies("m")
    assert whole.get("0") == "x" * 2000
    assert whole.entries.database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_disk_stops_a_command_with_a_few_lines_and_leaves_its_earlier_output(project, tiny):
    shutil.copytree(tiny, project / "models" / "pocket" / "base")
    content = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8")) | {
        "panel": ["base"],
        "consensus": {"strategy": "first"},
    }
    (project / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (project / "models" / "manifest").mkdir()
    (project / "models" / "manifest" / "base.json").write_text("earlier", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.cli", "run", "acquire"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert done.returncode == 3
    assert "make room" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert sorted(f.name for f in (project / "models").iterdir()) == ["manifest", "pocket"]
    assert (project / "models" / "manifest" / "base.json").read_text(encoding="utf-8") == "earlier"


@pytest.mark.parametrize(
    "use", [lambda: shards.run_shards("respond", range(3), 2, "m", squares), lambda: cache.Replies("m")]
)
@pytest.mark.parametrize("name", [".cache", "stage"])
def test_a_cache_that_cannot_be_written_is_said_so(project, use, name):
    folders = [project / ".cache"] if name == ".cache" else [project / ".cache" / n for n in ("respond", "replies")]
    for folder in folders:
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("in the way of a folder")
    with pytest.raises(UserError, match="cache cannot be written") as caught:
        use()
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    "use", [lambda: shards.run_shards("respond", range(3), 2, "m", squares), lambda: cache.Replies("m")]
)
def test_a_read_only_cache_is_said_so(project, use):
    (project / ".cache").mkdir(mode=0o555)
    project.chmod(0o755)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:  # who may write to a read-only folder
                os.setuid(65534)
            use()
        except BaseException as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = os.read(read, 10_000).decode()
    assert "the cache cannot be written" in said and "make it writable" in said
    assert len(said.splitlines()) <= 3
    assert os.listdir(".cache") == []


def test_a_database_that_was_opened_read_only_is_said_so(project):
    replies = cache.Replies("m")
    replies.entries.database = sqlite3.connect(f"file:{replies.file}?mode=ro", uri=True)
    with pytest.raises(UserError, match=r"cannot be written \(attempt to write a readonly database"):
        replies.put("a", 1)


# Worker processes
def note_and_square(part: list) -> list[dict]:
    Path("pids").mkdir(exist_ok=True)
    Path("pids", str(os.getpid())).touch()
    return squares(part)


def refuse(part: list) -> list[dict]:
    raise UserError("no such thing", where="here", do="look there")


def die(part: list) -> list[dict]:
    os.kill(os.getpid(), 9)
    return []


def linger(part: list) -> list[dict]:
    note_and_square(part)
    time.sleep(600)
    return []


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes however few rows there are."""
    monkeypatch.setattr(shards, "MIN_ROWS_FOR_WORKERS", 0)


def test_worker_processes_give_the_same_in_the_same_order(project, any_size):
    results = shards.run_shards("respond", range(25), 4, "m", note_and_square, workers=2)
    assert results == squares(list(range(25)))
    assert str(os.getpid()) not in os.listdir("pids")
    files = finished(project)
    assert shards.run_shards("respond", range(25), 4, "m", note_and_square, workers=2) == results
    assert finished(project) == files


def test_an_error_in_a_worker_process_is_the_same_error(project, any_size):
    with pytest.raises(UserError, match=r"here: no such thing\n  look there"):
        shards.run_shards("respond", range(9), 4, "m", refuse, workers=2)


def test_a_worker_process_that_dies_is_said_so(project, any_size):
    with pytest.raises(UserError, match=r"ended from outside[\s\S]*HOLDFAST_WORKERS=1"):
        shards.run_shards("respond", range(9), 4, "m", die, workers=2)


def work_in_processes(folder: Path, work: Callable) -> None:
    os.chdir(folder)
    shards.MIN_ROWS_FOR_WORKERS = 0
    shards.run_shards("respond", range(8), 4, "m", work, workers=2)


def test_worker_processes_end_with_a_parent_that_was_killed(tmp_path):
    parent = PARTS.Process(target=work_in_processes, args=(tmp_path, linger))
    parent.start()
    wait_until(lambda: (tmp_path / "pids").is_dir() and len(os.listdir(tmp_path / "pids")) == 2)
    workers = [int(pid) for pid in os.listdir(tmp_path / "pids")]
    parent.kill()
    parent.join()
    wait_until(lambda: not any(alive(pid) for pid in workers))


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it never happened")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_stages_give_the_same_bytes_in_two_processes(template, tmp_path):
    """As commands, since worker processes are chosen there: more rows than are worth a process."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for workers, folder in enumerate(folders, 1):
        shutil.copytree(template / "models" / "manifest", folder / "models" / "manifest")
        shutil.copytree(ROOT / "stages", folder / "stages")
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        content["reconstruct"] |= {"samples": shards.MIN_ROWS_FOR_WORKERS, "max_tokens": 4, "shard": 400, "batch": 100}
        (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOLDFAST_WORKERS": str(workers)}
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.cli", "run", "reconstruct"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    raw = [folder / "data" / "instructions" / "raw.parquet" for folder in folders]
    assert raw[0].read_bytes() == raw[1].read_bytes()
