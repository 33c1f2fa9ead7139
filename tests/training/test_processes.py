"""Fine-tuning on several processes: how many there are, that they give what one gives, and how their errors come back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers import ROOT, mixture, read_curves, set_params, train_arm

from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.params import base as parameters
from holdfast.params.finetune import Finetune
from holdfast.training import fine_tuning, launch
from holdfast.training.job import prefers_plain_attention

SMALL, LARGE, MANY = 2_000_000, 2_000_000_000, 100_000
SECTION = dict(
    arms={"arm": {"objective": "kl", "kl_cache": "topk"}},
    learning_rate=1e-3,
    batch_size=4,
    micro_batch=2,
    bf16=False,
    log_steps=1,
    warmup=0.0,
    seed=1,
)


def settings(**changes) -> Finetune:
    return parameters.parse(Finetune, SECTION | changes, "finetune")


@pytest.fixture
def count(monkeypatch):
    """count(parameters, rows, settings) with nothing in the environment."""
    for variable in ("HOLDFAST_WORKERS", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: None)  # a test worker is one too

    def run(size: int = SMALL, rows: int = MANY, **changes) -> int:
        return launch.count_processes(settings(**changes), size, rows)

    return run


def test_on_a_cpu_two_processes_train_a_small_model_unless_the_environment_says_otherwise(count, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert count() == 1
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert count() == 2
    monkeypatch.setenv("HOLDFAST_WORKERS", "4")
    assert count() == 4
    monkeypatch.setenv("HOLDFAST_WORKERS", "2")
    assert count(size=LARGE) == 1  # threads share its work as well
    assert count(rows=100) == 1  # not worth the start
    assert count(batch_size=3, micro_batch=None) == 1  # cannot be shared


def test_a_given_number_is_taken(count, monkeypatch):
    assert count(rows=100, processes=4) == 4
    monkeypatch.setenv("HOLDFAST_WORKERS", "3")
    assert count(batch_size=6) == 3
    assert count(batch_size=4) == 2  # three cannot share four rows
    monkeypatch.setenv("HOLDFAST_WORKERS", "1")
    assert count() == 1
    monkeypatch.setenv("HOLDFAST_WORKERS", "many")
    with pytest.raises(UserError, match="HOLDFAST_WORKERS is 'many'"):
        count()


def test_under_torchrun_there_are_as_many_as_it_started(count, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert count(processes=4) == 2
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 processes cannot share 4 rows"):
        count()


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        (3, "3 processes cannot share batch_size 4 evenly"),
        (0, "'finetune.processes.count'"),
        ("all", "'finetune.processes.count'"),
        ({"count": 2, "strategy": "fsdp"}, "'finetune.processes.strategy' = 'fsdp'"),
        ({"strateg": "ddp"}, "did you mean 'strategy'"),
    ],
)
def test_settings_that_cannot_be_are_refused(processes, said):
    with pytest.raises(UserError) as caught:
        settings(processes=processes)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_sharded_training_refuses_what_needs_the_whole_model(project, base):
    mixture(project)
    sharded = dict(processes={"count": 2, "strategy": "fsdp2"}, arms={"arm": {"anchor": "l2sp"}})
    with pytest.raises(UserError, match="an anchor, which needs the whole model"):
        train_arm(project, SECTION | sharded)
    assert not (project / "models/arm").exists()


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "parts"),
    [(32, 16, 1, 2), (32, 16, 2, 2), (32, 32, 2, 2), (32, 8, 2, 4), (12, 4, 2, 6)],
)
def test_every_process_gets_the_same_number_of_micro_batches(batch, micro, processes, parts):
    assert fine_tuning.count_parts(settings(batch_size=batch, micro_batch=micro), processes) == parts


def kill_one_after_a_checkpoint(project: Path, seen: list[Path]) -> None:
    """Ends a training process, and nothing else, once a checkpoint is whole."""
    ends = time.monotonic() + 300
    while not seen and time.monotonic() < ends:
        seen += project.glob(".cache/finetune/*/checkpoint-*/trainer_state.json")
        time.sleep(0.002)
    for server in psutil.Process().children():
        for worker in server.children():
            worker.kill()
            return


def test_two_processes_give_what_one_gives_and_so_they_do_when_one_was_killed(project, base):
    """Curves equal to 1e-5, and with as many micro-batches per step even the same bytes."""
    mixture(project, domain=5, replay=4, epochs=30)  # the last step has fewer rows than it could
    one = train_arm(project, SECTION | dict(processes=1, checkpoint_steps=2))
    expected = (project / "models/arm/model.safetensors").read_bytes()
    seen: list[Path] = []
    killer = threading.Thread(target=kill_one_after_a_checkpoint, args=(project, seen))
    killer.start()
    with pytest.raises(UserError, match="ended from outside by signal 9"):
        train_arm(project, SECTION | dict(processes=2, checkpoint_steps=2))
    killer.join()
    assert seen
    assert list(project.glob(".cache/finetune/*/checkpoint-*"))
    two = train_arm(project, SECTION | dict(processes=2, checkpoint_steps=2))
    assert set(two) == set(one) >= {"loss", "domain_loss", "kl", "grad_norm", "learning_rate"}
    for curve in one:
        assert two[curve] == pytest.approx(one[curve], rel=1e-5, abs=1e-6), curve
    assert (project / "models/arm/model.safetensors").read_bytes() == expected
    assert not list((project / ".cache/finetune").iterdir())


def test_two_processes_that_share_the_weights_give_what_one_gives(project, base):
    """FSDP2 on gloo: curves equal to 1e-5, weights to 1e-6."""
    mixture(project, domain=5, replay=4, epochs=2)
    one = train_arm(project, SECTION | dict(processes=1))
    expected = manifest.load_model(project / "models/arm", "float32").state_dict()
    set_params(project, finetune=SECTION | dict(processes={"count": 2, "strategy": "fsdp2"}))
    script = str(Path(__file__).with_name("fsdp2_on_cpu.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sharded 4 modules: LlamaDecoderLayer LlamaForCausalLM" in done.stdout
    two = read_curves(project)
    assert set(two) == set(one)
    for curve in one:
        assert two[curve] == pytest.approx(one[curve], rel=1e-5, abs=1e-6), curve
    for name, weight in manifest.load_model(project / "models/arm", "float32").state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_a_bad_loss_on_two_processes_is_said_once_and_leaves_nothing(project, base, capfd):
    mixture(project, epochs=4)
    with pytest.raises(
        UserError, match=r"(loss|gradient's norm|cross-entropy) is [\s\S]*finetune.learning_rate"
    ) as caught:
        train_arm(project, SECTION | dict(processes=2, learning_rate=1e30, max_grad_norm=1e30))
    assert len(str(caught.value).splitlines()) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert not (project / "models/arm").exists()
    assert not (project / "reports").exists()
    assert not list((project / ".cache/finetune").iterdir())


@pytest.mark.parametrize(
    ("lengths", "plain"),
    [
        ([256] * 9 + [257], True),
        ([256] * 8 + [257] * 2, False),
        ([10] * 99 + [1024], True),
        ([10] * 99 + [1025], False),
    ],
)
def test_a_few_longer_rows_do_not_make_a_cpu_training_take_fused_attention(lengths, plain, monkeypatch):
    assert prefers_plain_attention(lengths) == plain
    monkeypatch.setattr(manifest, "find_device", lambda: torch.device("cuda"))
    assert not prefers_plain_attention(lengths)
