"""`holdfast repair`: from two models to a repaired one, its verdict, and what was won back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from model_lab import ModelLab, open_lab

from holdfast.commands import repair as command
from holdfast.core import manifest
from holdfast.repair import choosing
from holdfast.repair.weights import Ends, find_between, save_model


@pytest.fixture(scope="module")
def lab(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelLab]:
    with open_lab(tmp_path_factory.mktemp("repair"), tiny) as made:
        yield made


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(manifest.load_model(folder, "float32").named_parameters())


def test_the_repaired_model_lies_between_both_and_the_verdict_is_on_all_three(
    lab: ModelLab, capsys: pytest.CaptureFixture[str]
) -> None:
    code = lab.run("repair", "half", "--part", "0.5", "--margin", "0.9", "--suite-margin", "0.9")
    out, printed = lab.folder / "half", capsys.readouterr().out
    base, tuned, repaired = (weights(folder) for folder in (lab.base, lab.tuned, out / "model"))
    for name, weight in repaired.items():
        assert torch.allclose(weight, (base[name] + tuned[name]) / 2, atol=1e-6)
    content, summary = (json.loads((out / f"{name}.json").read_text()) for name in ("gate", "repair"))
    assert content["control"] == "tuned" and set(content["arms"]) == {"tuned", "repaired"}
    assert code == {"pass": 0, "fail": 1, "cannot-compare": 2}[content["arms"]["repaired"]["verdict"]]
    assert (summary["method"], summary["part"], summary["tried"]) == ("average", 0.5, [])
    assert "average, 0.5 of the way from the base" in printed and "repaired" in (out / "report.md").read_text()
    assert manifest.load_tokenizer(out / "model").chat_template


def test_both_ends_are_saved_as_they_are(lab: ModelLab, tmp_path: Path) -> None:
    for part, model in ((0.0, lab.base), (1.0, lab.tuned)):
        save_model(find_between(Ends(lab.base, lab.tuned, "average", 1.0), part), lab.tuned, tmp_path / f"{part}")
        saved, meant = weights(tmp_path / f"{part}"), weights(model)
        assert saved.keys() == meant.keys() and all(torch.equal(saved[name], meant[name]) for name in meant)


def test_methods_keep_a_part_of_the_change(lab: ModelLab, tmp_path: Path) -> None:
    ends = Ends(lab.base, lab.tuned, "trim", 0.1)
    moved = sum(int((weight != ends.base[name]).sum()) for name, weight in ends.end.items())
    assert 0 < moved <= ends.counts["kept"] and 0.09 < ends.counts["kept"] / ends.counts["of"] < 0.11
    spectral = Ends(lab.base, lab.tuned, "spectral", 1.0)  # noise was added, and nothing else
    assert spectral.end and spectral.counts["kept"] == 0


@pytest.mark.parametrize(
    ("models", "more", "code", "says"),
    [
        ({}, ["--method", "magic"], 3, "no method 'magic'"),
        ({}, ["--part", "1.5"], 3, "less than or equal to 1"),
        ({}, [], 3, "--part 0.5"),  # the random base writes no fit user turns
        ({"base": "nowhere"}, [], 2, "no such folder"),  # the teacher is missing
        ({"tuned": "BASE"}, ["--part", "0.5"], 2, "nothing was tuned"),
        ({"tuned": "OTHER"}, ["--part", "0.5"], 2, "another model than the base (its parameters"),
    ],
)
def test_bad_input_gets_few_lines(
    lab: ModelLab, capsys: pytest.CaptureFixture[str], models: dict[str, str], more: list[str], code: int, says: str
) -> None:
    places = {"BASE": str(lab.base), "OTHER": str(ROOT / "models/pocket/base")}
    assert lab.run("repair", "bad", *more, **{key: places.get(name, name) for key, name in models.items()}) == code
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and (code == 3 or len(error.strip().splitlines()) <= 3)


def test_a_model_that_kept_enough_has_nothing_to_repair(
    lab: ModelLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers import instruction

    from holdfast.comparison import questions

    rows = [instruction(f"q{n}", f"Sort: {n} 1 2") for n in range(80)]
    monkeypatch.setattr(questions, "draw_instructions", lambda base, wanted: rows[:wanted])
    measured = {"retention": 0.97, "likelihood": 0.9, "chat": 1.0}
    monkeypatch.setattr(choosing.Scale, "measure", lambda *_: measured)
    assert lab.run("repair", "sound") == 2
    assert "nothing to repair: it keeps 97.0%" in capsys.readouterr().err
    assert not (lab.folder / "sound" / command.MODEL).exists()
