"""A stage that the device cannot hold says so before it starts."""

from __future__ import annotations

import pytest
from helpers import set_params

from holdfast.commands import run
from holdfast.planning import fit, room, shapes
from holdfast.planning.shapes import Shape

SHAPE = Shape(parameters=10**9, layers=2, hidden=8, heads=4, cache=64, vocabulary=10, context=512)


@pytest.fixture
def small(project, monkeypatch):
    """A machine of 1 GiB for models of 1 B parameters, on a CPU."""
    monkeypatch.setattr(fit, "device_memory", lambda: 2**30)
    monkeypatch.setattr(shapes, "find_shape", lambda model, folder: SHAPE)
    return project


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("finetune", "holdfast"), "finetune@holdfast holds"),
        (("finetune", "holdfast", "2"), "processes.strategy: fsdp2"),
        (("evaluate", "base"), "tensor_parallel_size: N"),
        (("respond", "abacus"), "`vllm: {tensor_parallel_size: N}`"),
        (("curate",), "`embedder`"),
        (("judge",), "judge holds"),
    ],
)
def test_what_the_device_does_not_hold_is_named_with_what_helps(small, call, says):
    shortage = room.find_shortage(*call)
    assert shortage is not None
    assert says in shortage
    assert "and this machine has 1" in shortage


def test_what_it_holds_what_a_server_does_and_what_runs_no_model_is_not_named(small, monkeypatch):
    assert room.find_shortage("gate") is None
    server = {"endpoint": "http://localhost:1/v1", "model": "m", "path": "abacus"}
    set_params(small, models__abacus=server)
    assert room.find_shortage("respond", "abacus") is None
    set_params(small, models__base={**server, "path": "base"})
    assert room.find_shortage("reconstruct") is None
    assert "judge holds" in str(room.find_shortage("judge")), "likelihoods are of the weights"
    set_params(small, evaluate__backend="vllm")
    assert room.find_shortage("evaluate", "base") is None
    monkeypatch.setattr(fit, "device_memory", lambda: 2**40)
    assert room.find_shortage("finetune", "holdfast") is None


def test_params_that_cannot_be_read_are_left_to_the_stage(small):
    (small / "params.yaml").write_text("models: 3\n")
    assert room.find_shortage("finetune", "holdfast") is None


def test_it_is_said_before_the_stage_starts(small, capfd):
    (small / "stages" / "finetune.py").write_text("def main(arm: str) -> None:\n    print('starts')\n")
    run.main("finetune", "holdfast")
    output = capfd.readouterr()
    assert "warning: finetune@holdfast holds" in output.err
    assert "starts" in output.out
