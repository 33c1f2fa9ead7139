"""engines/ray.py on two local nodes: a node and a driver killed in the middle, the same bytes as one process, clear messages."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import ROOT, describe

from holdfast.core import manifest, shards
from holdfast.core.errors import UserError
from holdfast.engines import ray as engine
from holdfast.engines import registry
from holdfast.panel import responses
from holdfast.params.respond import Respond

SHARDS, SIZE = 24, 5
ROWS = [[f"q{n:03d}", [], f"What is {n} + 2?", 0] for n in range(SHARDS * SIZE)]
SETTINGS = Respond(k=1, max_tokens=16, shard=SIZE, batch=4)
RAY = dict(actors=2, cpus=0.5, gpus=0.0)
installed = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'holdfast[ray]'"
)


def work(part: list[Any], entry: manifest.Manifest, log: str, pause: float) -> list[dict]:
    """A shard of `respond`, slow enough to be killed in; tells the log where it was done."""
    time.sleep(pause)
    rows = responses.answer_shard(part, params=SETTINGS, member=entry)
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "driver"
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{part[0][0]} {node}\n")
    return rows


def answered(folder: Path, entry: manifest.Manifest, pause: float = 0.0) -> list[dict]:
    """All rows, by way of the cache in `folder`."""
    os.chdir(folder)
    job = partial(work, entry=entry, log=str(folder / "log"), pause=pause)
    return shards.run_shards("respond", ROWS, SIZE, ["test"], job, workers=registry.choose_spread(entry))


def finished(folder: Path) -> int:
    return len(list((folder / ".cache").rglob("[!.]*.json")))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / ".cache").rglob("[!.]*.json")}


def working() -> list[psutil.Process]:
    """Actors of the cluster that are alive."""
    found = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::MapWorker")]
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE]


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(600):
        if what():
            return
        time.sleep(0.05)
    raise TimeoutError


def done(folder: Path) -> Counter[str]:
    """How often each shard was done."""
    lines = (folder / "log").read_text(encoding="utf-8").splitlines() if (folder / "log").exists() else []
    return Counter(line.split()[0] for line in lines)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, on loopback as far as Ray allows, with quick notice of a lost one. Nothing is left behind."""
    from ray.cluster_utils import Cluster

    os.environ.update(engine.QUIET, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    node = dict(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
    notice = dict(health_check_initial_delay_ms=2000, health_check_period_ms=500, health_check_failure_threshold=3)
    found = Cluster(initialize_head=True, head_node_args=dict(**node, _system_config=notice))
    found.add_node(**node)
    started = psutil.Process().children(recursive=True)
    yield found
    import ray

    ray.shutdown()
    found.shutdown()
    assert not psutil.wait_procs(started, timeout=20)[1]


@pytest.fixture
def entry(tiny: Path, tmp_path: Path, cluster: Any) -> manifest.Manifest:
    return manifest.load(describe(tiny, tmp_path / "manifest", ray=dict(RAY, address=cluster.address)))


def killing(folder: Path, count: int, kill: Callable[[], None]) -> threading.Thread:
    """Kills when so many shards are in the cache."""

    def watch() -> None:
        while finished(folder) < count:
            time.sleep(0.01)
        kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@installed
@pytest.mark.slow
def test_a_driver_and_a_node_killed_in_the_middle_lose_and_double_nothing(cluster, entry, tiny, project):
    """First the command that asked is killed, then, when it is run again, one of the two nodes."""
    alone, folder = project / "alone", project / "fanned"
    alone.mkdir()
    folder.mkdir()
    expected = answered(alone, manifest.load(describe(tiny, alone)))
    manifest.save(entry, folder / "entry.json")
    code = (
        "import sys, pathlib, test_ray; from holdfast.core import manifest; f = pathlib.Path(sys.argv[1]);"
        "test_ray.answered(f, manifest.load(f / 'entry.json'), 0.3)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL)
    killing(folder, 6, driver.kill).join()
    assert driver.wait() == -signal.SIGKILL
    kept = finished(folder)
    assert 6 <= kept < SHARDS - 6
    wait_for(lambda: not working())
    repeated = done(folder).total() - kept
    assert repeated <= RAY["actors"]

    [second] = [node for node in cluster.list_all_nodes() if not node.is_head()]
    watch = killing(folder, kept + 6, lambda: cluster.remove_node(second, allow_graceful=False))
    assert answered(folder, entry, 0.3) == expected
    watch.join()
    assert contents(folder) == contents(alone)  # byte by byte, and no file more
    times = done(folder)
    assert len(times) == SHARDS
    assert times.total() <= SHARDS + repeated + RAY["actors"]
    nodes = {line.split()[1] for line in (folder / "log").read_text(encoding="utf-8").splitlines()}
    assert len(nodes) == 2  # both had their share of the work


@installed
def test_what_the_user_has_to_mend_comes_back_from_an_actor_in_two_lines(tmp_path):
    """What an actor is given and gives, in this process."""

    def refuses(part: list[Any]) -> list[dict]:
        raise UserError("the tokenizer has no single token for each of 1 to 5", where="model 'x'", do="leave it out")

    def back(folder: Path, versions: dict[str, str]) -> dict:
        shard = {"n": np.array([3]), "rows": np.array(['[["q", 1]]'])}
        [n], [text] = engine.Worker(refuses, str(folder), versions)(shard).values()
        assert n == 3
        return json.loads(text)

    assert UserError(**back(tmp_path, engine.list_versions())).args[0].splitlines() == [
        "model 'x': the tokenizer has no single token for each of 1 to 5",
        "  leave it out",
    ]
    assert "a node lacks it" in back(tmp_path / "nothing", engine.list_versions())["what"]
    other = {**engine.list_versions(), "torch": "1.0", "vllm": "9"}
    assert "has another torch, vllm than this one" in back(tmp_path, other)["what"]


@installed
@pytest.mark.slow
def test_an_actor_that_fits_no_node_and_a_cluster_that_is_not_there_are_said_so(cluster, tiny, tmp_path):
    import ray

    def refused(**how: Any) -> str:
        entry = manifest.load(describe(tiny, tmp_path, ray={**RAY, **how}))
        with pytest.raises(UserError) as said:
            next(registry.choose_spread(entry)(work, [ROWS[:1]]))
        assert len(str(said.value).splitlines()) == 2
        return str(said.value)

    assert "no node of the Ray cluster has the 1 CPUs and 8 GPUs" in refused(
        address=cluster.address, cpus=1.0, gpus=8.0
    )
    ray.shutdown()
    assert "no Ray cluster answers at 'nonsense'" in refused(address="nonsense")


def test_without_ray_it_is_said_what_to_install(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    entry = manifest.load(describe(tiny, tmp_path, ray={}))
    with pytest.raises(UserError, match=r"Ray is not installed[\s\S]*pip install 'holdfast\[ray\]'"):
        shards.run_shards("respond", ROWS, SIZE, ["none"], work, workers=registry.choose_spread(entry))


def test_where_shards_are_done_is_no_part_of_what_they_are(tiny, tmp_path):
    plain, fanned = (manifest.load(describe(tiny, tmp_path, ray=how)) for how in (None, RAY))
    assert registry.engine_identity(plain, __file__) == registry.engine_identity(fanned, __file__)


def test_a_shard_that_does_not_come_back_is_an_error_and_not_a_gap(project):
    def loses_one(work: shards.Work, parts: list[list[Any]]) -> Iterator[tuple[int, shards.Shard]]:
        yield from ((n, shards.do_shard(work, part)) for n, part in enumerate(parts) if n != 1)

    with pytest.raises(RuntimeError, match="1 of 3 shards did not come back"):
        shards.run_shards("none", [1, 2, 3], 1, [], lambda part: part, workers=loses_one)
    assert finished(project) == 2
