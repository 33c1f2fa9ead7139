"""What a machine of launch.yaml costs: in `holdfast plan` before, and in `holdfast costs` after."""

from __future__ import annotations

import pytest
import yaml

from holdfast.commands import costs, plan
from holdfast.core import storage
from holdfast.planning import places


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "finetune.py").touch()
    machines = {"box": {"launcher": "ssh", "host": "gpubox", "price": 3.0}}
    content = {"machines": machines, "stages": {"finetune": "box", "finetune@control": "here"}}
    (tmp_path / "launch.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def line(stage: str, seconds: float) -> plan.Line:
    return plan.Line(stage, rows=1, tokens=1, seconds=seconds, hours=seconds / 3600, memory=0, disk=0)


def test_plan_prices_a_stage_by_its_machine(project, capsys):
    lines = [line("finetune@holdfast", 1800), line("finetune@control", 1800), line("report", 60)]
    prices = places.read_prices(one.stage for one in lines)
    assert prices == {"finetune@holdfast": 3.0}
    plan.print_table(lines, [], None, "here", prices)
    printed = capsys.readouterr().out.splitlines()
    money = {row.split()[0]: row.split()[-1] for row in printed if row.startswith(("finetune", "report", "all"))}
    assert money == {"finetune@holdfast": "1.50", "finetune@control": "-", "report": "-", "all": "1.50"}
    assert any("the machine's price in launch.yaml" in row for row in printed)


@pytest.mark.parametrize(("launcher", "price", "processes"), [("slurm", 12.0, 8), ("ssh", 3.0, 4)])
def test_plan_knows_the_jobs_of_a_stage(project, launcher, price, processes):
    """Jobs of a queue are given devices each; the jobs of one machine divide its eight."""
    (project / "stages" / "evaluate.py").touch()
    machines = {"box": {"launcher": launcher, "host": "gpubox", "price": 3.0}}
    content = {"machines": machines, "stages": {"evaluate": {"machine": "box", "jobs": 4}}}
    (project / "launch.yaml").write_text(yaml.safe_dump(content))
    assert places.read_prices(["evaluate@base", "finetune@holdfast"]) == {"evaluate@base": price}
    assert places.count_processes("evaluate@base", 2 if launcher == "slurm" else 1, devices=8) == processes
    assert places.count_processes("finetune@holdfast", 2, devices=8) == 2


def test_costs_name_the_machine_and_the_money(project, capsys):
    timing = {"seconds": 1800.0, "peak_memory_bytes": 2**30, "rows_from_cache": 0}
    storage.write_json(project / ".holdfast/timings/finetune/holdfast.json", {**timing, "machine": "box", "price": 3.0})
    storage.write_json(project / ".holdfast/timings/report.json", timing)
    costs.main(as_json=False)
    rows = [row.split() for row in capsys.readouterr().out.splitlines() if row and not row.startswith("seconds")]
    assert rows[0][-2:] == ["machine", "money"]
    assert [(row[0], *row[-2:]) for row in rows[1:]] == [
        ("finetune@holdfast", "box", "1.50"),
        ("report", "-", "-"),
        ("all", "-", "1.50"),
    ]
