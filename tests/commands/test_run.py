"""holdfast run: a stage whose parameters or inputs are edited while it runs stops, and is not recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from holdfast.commands import inputs, run
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
    found = inputs.read_inputs(*command)
    assert found is not None
    assert dep in found.files
    assert found.params and None not in [value for key, value in found.params.items() if "." not in key]
    assert not [name for name in [*found.files, *found.params] if "$" in name]
