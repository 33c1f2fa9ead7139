"""launch.yaml: what is wrong in it is said in two lines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from holdfast.core import fingerprint
from holdfast.core.errors import UserError
from holdfast.launch import script, settings
from holdfast.launch.settings import Machine
from holdfast.planning import elsewhere
from holdfast.planning.machine import NEEDED, NOTE

BOX = "machines: {box: {launcher: ssh, host: gpubox}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stages").mkdir()
    for name in ("finetune", "evaluate"):
        (tmp_path / "stages" / f"{name}.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_cell_comes_before_its_stage_and_here_is_no_machine(folder):
    (folder / "launch.yaml").write_text(BOX + "stages: {finetune: box, finetune@control: here}\n")
    launch = settings.load()
    assert launch.find("finetune", "holdfast") == "box"
    assert launch.find("finetune", "holdfast", "2") == "box"
    assert launch.find("finetune", "control", "2") is None
    assert launch.find("finetune", "control") is None
    assert launch.find("evaluate", "base") is None
    assert launch.find("evaluate") is None


def test_no_file_means_here(folder):
    assert settings.load() is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOX + "stages: {finetune: bx}\n", "stages.finetune: no machine 'bx'; known: box, here"),
        (BOX + "stages: {finetuen: box}\n", "did you mean 'finetune'?"),
        ("machines: {box: {launcher: ssh, hots: x}}\nstages: {}\n", "did you mean 'host'?"),
        ("machines: {box: {launcher: ssh}}\nstages: {}\n", "ssh needs 'host'"),
        ("machines: {box: {launcher: ssh, host: -oProxyCommand=x}}\nstages: {}\n", "machines.box.host"),
        ("machines: {box: {launcher: ssh, host: 'a b'}}\nstages: {}\n", "machines.box.host"),
        ("machines: {box: {launcher: rsh, host: a}}\nstages: {}\n", "machines.box.launcher"),
        ("machines: {box: {launcher: ssh, host: a, options: [-x]}}\nstages: {}\n", "'options' belongs to slurm"),
        ("machines: {box: {launcher: kubernetes, image: i}}\nstages: {}\n", "kubernetes needs 'claim'"),
        ("machines: {box: {launcher: kubernetes, image: i, claim: c, folder: a}}\nstages: {}\n", "begin it with /"),
        (
            "machines: {box: {launcher: kubernetes, image: i, claim: c, pod: {containers: []}}}\nstages: {}\n",
            "cannot set",
        ),
        ("machines: {box: {launcher: skypilot, host: a, image: i}}\nstages: {}\n", "not to skypilot"),
        ("machines: {box: {launcher: ssh, host: a, secrets: ['A B']}}\nstages: {}\n", "machines.box.secrets.0"),
        ("machines: {box: {launcher: ssh, host: a, there: [../x]}}\nstages: {}\n", "inside the project"),
        ('machines: {box: {launcher: ssh, host: a, python: "a \'b"}}\nstages: {}\n', "machines.box.python"),
        ('machines: {box: {launcher: ssh, host: a, setup: ["a\\nb"]}}\nstages: {}\n', "give one line of text"),
        ("machines: {box: {launcher: ssh, host: a, price: free}}\nstages: {}\n", "machines.box.price"),
        ("machines: {box: {launcher: local, host: a}}\nstages: {}\n", "not to local"),
        ("machines: {box: {launcher: ssh, host: a, folder: ~me/x}}\nstages: {}\n", "machines.box.folder"),
        ("machines: {box: {launcher: ssh, host: a, folder: ../x}}\nstages: {}\n", "a folder of its own"),
        (BOX + "stages: {evaluate: {machine: bx, jobs: 2}}\n", "stages.evaluate: no machine 'bx'"),
        (BOX + "stages: {evaluate: {machine: box, job: 2}}\n", "did you mean 'jobs'?"),
        (BOX + "stages: {evaluate: {machine: box, jobs: 0}}\n", "stages.evaluate.jobs"),
        (BOX + "stages: {evaluate: {machine: box, jobs: many}}\n", "stages.evaluate.jobs"),
        (BOX + "stages: {evaluate: {jobs: 2}}\n", "missing key 'stages.evaluate.machine'"),
        (BOX + "stages: {evaluate: {machine: box, jobs: '2'}}\n", "'stages.evaluate.jobs' = '2'"),
        (BOX + "stages: {evaluate: {machine: box, jobs: 2.0}}\n", "'stages.evaluate.jobs' = 2.0"),
        (BOX + "stages: {evaluate: 3}\n", "'stages.evaluate' = 3: give a machine, 'here', or {machine: NAME, jobs: N}"),
        (BOX + "stages: {evaluate: }\n", "'stages.evaluate' = None: give a machine"),
        (BOX + "stages: {evaluate: [box]}\n", "'stages.evaluate' = ['box']: give a machine"),
        (BOX + "stages: {'evaluate@base:2': box}\n", "'base:2' cannot be a model or an arm"),
        (BOX + "stages: {evaluate@: box}\n", "'' cannot be a model or an arm"),
        (BOX + "stages: {evaluate: {machine: here, jobs: 2}}\n", "`launcher: local`"),
        (BOX + "stages: {finetune: {machine: box, jobs: 2}}\n", "'jobs' is for reconstruct, respond, judge, evaluate"),
        ("machines: {here: {launcher: ssh, host: a}}\nstages: {}\n", "stands for this machine"),
        ("machines: [", "line 1"),
        ("3\n", "launch.yaml"),
    ],
)
def test_what_is_wrong_is_named(folder, text, says):
    (folder / "launch.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        settings.load()
    assert says in str(caught.value)
    assert "launch.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "place"), [("~/a b/c", "a b/c"), ("scratch/", "scratch"), ("/scratch/it's", "/scratch/it's")]
)
def test_a_folder_may_begin_in_the_home_folder(text, place):
    assert Machine(launcher="ssh", host="a", folder=text).place() == place


def test_another_clone_has_another_folder(folder, tmp_path, monkeypatch):
    machine = settings.Machine(launcher="ssh", host="a")
    first = machine.place()
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    assert machine.place() != first
    assert settings.Machine(launcher="ssh", host="a", folder="/scratch/me/").place() == "/scratch/me"


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("python3", "python3"),
        ("venv/bin/python", "~/venv/bin/python"),
        ("~/a b/python", "~/a b/python"),
        ("apptainer exec --nv 'an image.sif' python", "apptainer exec --nv 'an image.sif' python"),
    ],
)
def test_python_may_be_a_path_or_a_container(python, command):
    machine = settings.Machine(launcher="ssh", host="a", python=python.replace("a b", "ab"))
    assert machine.command() == command.replace("a b", "ab")
    assert f"{machine.command()} -P -m holdfast.cli run finetune control\n" in script.write_job(
        machine, "finetune", ["control"]
    )


def test_a_container_without_the_driver_is_said() -> None:
    machine = Machine.model_validate({"launcher": "ssh", "host": "box", "python": "apptainer exec holdfast.sif python"})
    probe = 'holdfast-probe {"python": "3.11.9", "torch": "2.0", "folder": true, "driver": false}'
    lines = list(elsewhere.check_python("machine box", machine, ["gpu 10, 80000, NVIDIA H100", probe]))
    assert [mark for mark, text in lines if "--nv" in text] == [NEEDED]
    assert not any("--nv" in text for _, text in elsewhere.check_python("machine box", machine, [probe]))


@pytest.mark.parametrize(
    ("gpus", "noted"),
    [
        (0, ["4 jobs of evaluate share the CPU"]),
        (1, ["share one GPU"]),
        (3, ["4 jobs of evaluate share 3 GPUs"]),
        (4, []),
    ],
)
def test_doctor_counts_the_jobs_that_share_devices(gpus, noted):
    stages = {"evaluate": settings.Place(machine="box", jobs=4), "respond": settings.Place(machine="box")}
    lines = list(elsewhere.check_jobs("machine box", stages, gpus))
    assert [mark for mark, _ in lines] == [NOTE] * len(noted)
    assert all(part in text for part, (_, text) in zip(noted, lines, strict=True))


def test_doctor_names_a_cell_that_there_is_not(folder):
    (folder / "params.yaml").write_text("panel: [base, gemma-2]\nmix: {arms: {holdfast: {}}}\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n  judge:\n    cmd: holdfast run judge\n  x: {cmd: holdfast run evaluate ${item}}\n"
    )
    right = ["evaluate", "evaluate@base", "evaluate@gemma-2", "evaluate@holdfast-2", "judge"]
    wrong = ["evaluate@holfdast", "evaluate@other-2", "judge@base"]
    lines = list(elsewhere.check_cells([*right, *wrong]))
    assert [text.split(": ")[1] for _, text in lines] == [f"stages.{stage}" for stage in wrong]
    assert "write judge" in lines[-1][1]


@pytest.mark.parametrize(
    ("gpus", "jobs", "each"),
    [("H100:8", 1, "H100:8"), ("H100:8", 3, "H100:2"), ("H100:2", 4, "H100:1"), ("H100", 2, "H100"), (None, 2, None)],
)
def test_jobs_of_a_skypilot_cluster_ask_for_a_part_of_its_gpus(gpus, jobs, each):
    """Else each would wait until the one before it has ended."""
    assert Machine(launcher="skypilot", host="a", gpus=gpus).share(jobs).gpus == each


@pytest.mark.parametrize(
    ("devices", "jobs", "given"),
    [(8, 3, ["0,1", "2,3,4", "5,6,7"]), (2, 3, ["0", "0", "1"]), (1, 2, ["0", "0"]), (0, 2, ["unset", "unset"])],
)
def test_jobs_without_a_queue_divide_the_devices(tmp_path, devices, jobs, given):
    (tmp_path / "nvidia-smi").write_text(
        f"#!/bin/sh\nfor i in $(seq {devices}); do echo GPU $i:; echo '  MIG 1g'; done\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    show = f'{script.SHARE_DEVICES}; echo "${{CUDA_VISIBLE_DEVICES-unset}}"'
    lines = f"for i in $(seq {jobs}); do HOLDFAST_PART=$i/{jobs}; ({show}); done"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for more, expected in (({}, given), ({"CUDA_VISIBLE_DEVICES": "5"}, ["5"] * jobs)):
        done = subprocess.run(["bash", "-c", lines], env=environment | more, capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected


def test_the_code_of_a_further_job_is_that_of_the_first(tmp_path):
    """It runs in a folder of its own: code that were links would be known by another name there, and refused as edited."""
    tree, job = tmp_path / "tree", tmp_path / "jobs" / "a"
    files = {
        "stages/judge.py": "import helping\n",
        "helping.py": "FILE = 'a b.txt'\n",
        "a b.txt": "x",
        "rows": "y" * 2_000_000,
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    (tree / "model").mkdir()
    job.mkdir(parents=True)
    (job / "inputs").write_text("".join(f"{'0' * 64}  ./{name}\n" for name in files), encoding="utf-8")
    links = script.LINK_INPUTS.format(names="judge", there="model")
    for _ in range(2):  # a job that was submitted again finds what the first had made
        text = f"job={job}; root={tmp_path}; cd {tree}; work() {{\n{links}\n}}; work"
        subprocess.run(["bash", "-c", text], check=True)
    assert (job / "tree/rows").is_symlink() and (job / "tree/model").is_symlink()
    assert (job / "tree/.cache/judge").resolve() == tree / ".cache/judge"
    there, here = (fingerprint.of_file(folder / "stages/judge.py", folder) for folder in (tree, job / "tree"))
    assert here == there and list(here) == ["a b.txt", "helping", "stages.judge"]
