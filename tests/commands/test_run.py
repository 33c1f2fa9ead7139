"""holdfast run: a stage whose parameters or inputs are edited while it runs stops, and is not recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT

from holdfast.commands import code, inputs, run
from holdfast.core.errors import UserError

EDITS = {
    "nothing": "",
    "a parameter of its own": "text = Path('params.yaml').read_text(); Path('params.yaml').write_text(text.replace('share: 0.1', 'share: 0.2'))",
    "a parameter of another stage": "text = Path('params.yaml').read_text(); Path('params.yaml').write_text(text.replace('margin: 0.03', 'margin: 0.3'))",
    "a file": "Path('data/in.txt').write_text('other')",
    "a file in a folder": "Path('data/many/more').write_text('x')",
    "a large file": "Path('data/many/large').open('r+b').write(b'x')",
    "a file rewritten as it was": "Path('data/in.txt').write_text('in')",
    "a file gone": "Path('data/in.txt').unlink()",
}
CHANGED = {
    "a parameter of its own": "mix.arms.one of params.yaml was edited while the stage ran",
    "a file": "data/in.txt was changed while the stage ran",
    "a file in a folder": "data/many/more was changed",
    "a large file": "data/many/large was changed",
    "a file gone": "data/in.txt was changed",
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one stage, `mix`, for each arm."""
    monkeypatch.chdir(tmp_path)
    stage = {
        "cmd": "holdfast run mix ${item.arm}",
        "matrix": {"arm": "${arms}"},
        "deps": ["data/in.txt", "${ingest.folder}"],
        "params": ["mix.arms.${item.arm}"],
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"mix": stage}}))
    Path("params.yaml").write_text(
        "arms: [one]\ningest: {folder: data/many}\nmix:\n  arms:\n    one: {share: 0.1}\ngate: {margin: 0.03}\n"
    )
    for name, content in {"data/in.txt": b"in", "data/many/large": bytes(2**21), "data/many/a": b"a"}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    Path("stages").mkdir()
    return tmp_path


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_while_a_stage_runs_stops_it(small, edit):
    (small / "stages" / "mix.py").write_text(
        f"from pathlib import Path\n\ndef main(arm: str) -> None:\n    {EDITS[edit] or 'pass'}\n"
    )
    if edit not in CHANGED:
        run.main("mix", "one")
        assert (small / "reports/costs/mix/one.json").is_file()
        return
    with pytest.raises(UserError) as caught:
        run.main("mix", "one")
    assert CHANGED[edit] in str(caught.value)
    assert "run `dvc repro` again" in str(caught.value)
    assert not (small / "reports").exists()


SPELLINGS: dict[str, dict[str, Any]] = {
    "foreach": {"foreach": "${arms}", "do": {"cmd": "holdfast run mix ${item}"}},
    "foreach over a mapping": {"foreach": {"one": 1}, "do": {"cmd": "holdfast run mix ${key}"}},
    "after a variable": {"cmd": "OMP_NUM_THREADS=4 .venv/bin/holdfast run mix one"},
    "one of two commands": {"cmd": ["echo begin", "holdfast run mix one > log"]},
    "keys of a file": {"cmd": "holdfast run mix one", "params": [{"params.yaml": ["mix"]}]},
    "another file": {"cmd": "holdfast run mix one", "params": [{"other.yaml": ["mix"]}]},
    "a file as a whole": {"cmd": "holdfast run mix one", "params": [{"other.yaml": None}]},
    "a dependency with more": {"cmd": "holdfast run mix one", "deps": [{"other.yaml": {"desc": "x"}}]},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_edit_is_seen_however_dvc_yaml_spells_the_stage(small, spelling):
    stage = SPELLINGS[spelling]
    inner = stage.get("do", stage)
    if not {"params", "deps"} & inner.keys():
        inner = inner | {"params": ["mix"]}
    other = {"cmd": "holdfast run mix two"}
    entry = stage | {"do": inner} if "do" in stage else inner
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"other": other, "mix": entry}}))
    Path("other.yaml").write_text("mix: 1\n")
    before = inputs.read_inputs("mix", "one")
    inputs.refuse_changes(before, "mix", "one")
    Path("other.yaml").write_text("mix: 2\n")
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("share: 0.1", "share: 0.2"))
    with pytest.raises(UserError, match="while the stage ran"):
        inputs.refuse_changes(before, "mix", "one")


def test_of_two_stages_with_one_command_the_one_that_dvc_started_counts(small, monkeypatch):
    stages = {name: {"cmd": "holdfast run mix one", "params": [name]} for name in ("mix", "gate")}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    monkeypatch.setenv("DVC_STAGE", "sub/dvc.yaml:gate@one")
    state = inputs.read_inputs("mix", "one")
    assert state and list(state.params) == ["gate"]


@pytest.mark.parametrize(
    "edit",
    [
        "stages: {mix: {cmd: holdfast run other}}",
        "stages: {mix: {cmd: holdfast run mix one, params: [gate]}}",
        "<<<<<<< HEAD\nstages: {}\n",
        "- 1",
        "[" * 5000,
    ],
)
def test_a_pipeline_edited_while_a_stage_runs_stops_it(small, edit):
    before = inputs.read_inputs("mix", "one")
    Path("dvc.yaml").write_text(edit)
    with pytest.raises(UserError, match="while the stage ran"):
        inputs.refuse_changes(before, "mix", "one")


CODE_EDITS = {
    "nothing": "pass",
    "a comment": "file.write_text('# new\\n' + file.read_text())",
    "a statement": "file.write_text('VALUE = 2\\n')",
    "another module": "Path('stages/more.py').write_text('X = 1\\n'); file.write_text('from stages import more\\n' + file.read_text())",
}


@pytest.mark.parametrize("edit", CODE_EDITS)
def test_code_edited_while_dvc_runs_a_stage_stops_it(small, monkeypatch, edit):
    """DVC records the code that `holdfast code` saw when `dvc repro` began; a module may be imported hours later."""
    (small / "stages/mine.py").write_text("VALUE = 1\n")
    script = "from pathlib import Path\n\ndef later():\n    from stages import mine\n\ndef main(arm: str) -> None:\n"
    (small / "stages/mix.py").write_text(f"{script}    file = Path('stages/mine.py')\n    {CODE_EDITS[edit]}\n")
    monkeypatch.setenv("DVC_STAGE", "mix@one")
    code.write_code()
    if edit in ("nothing", "a comment"):
        run.main("mix", "one")
        return
    for _ in ("while it runs", "before it began"):
        with pytest.raises(UserError, match=r"stages\.mine.* was edited after `holdfast code` looked"):
            run.main("mix", "one")
        assert not (small / "reports").exists()
    monkeypatch.delenv("DVC_STAGE")
    run.main("mix", "one")  # by hand nothing is recorded


@pytest.mark.parametrize(
    ("command", "dep"),
    [
        (("respond", "abacus"), "models/manifest/abacus.json"),
        (("evaluate", "base"), "models/manifest/base.json"),
        (("evaluate", "holdfast"), "reports/eval/base/settings.json"),
        (("evaluate", "holdfast-2"), "data/instructions/held_out.parquet"),
        (("finetune", "holdfast"), "data/mixes/holdfast.parquet"),
        (("finetune", "holdfast", "2"), "data/mixes/holdfast.parquet"),
        (("curate",), "data/instructions/raw.parquet"),
    ],
)
def test_what_a_stage_of_the_pipeline_reads_is_found(monkeypatch, command, dep):
    monkeypatch.chdir(ROOT)
    state = inputs.read_inputs(*command)
    assert state is not None
    assert dep in state.files
    assert state.params and None not in [value for key, value in state.params.items() if "." not in key]
    assert not [name for name in [*state.files, *state.params] if "$" in name]
