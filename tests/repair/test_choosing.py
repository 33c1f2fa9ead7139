"""How far a repair goes, on what it is chosen, and what it came to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, describe, instruction, perturb

from holdfast.core import cache, manifest, records, storage
from holdfast.params.evaluate import Evaluate
from holdfast.params.gate import Gate
from holdfast.repair import choosing, outcome
from holdfast.repair.weights import Ends

POCKET = ROOT / "models" / "pocket" / "base"
ASKED = ["What is the capital of Velkan?", "Sort: 3 1 2", "Reverse: abc", "How many legs has a cat?"]


def test_the_largest_part_that_keeps_the_target_is_chosen() -> None:
    tried: list[float] = []

    def measure(part: float) -> dict[str, float]:
        tried.append(part)
        return {"retention": 1 - part**2}

    choice = choosing.choose_part(measure, 0.75)
    assert (choice.part, choice.met) == (0.5, True) and tried == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert choosing.choose_part(measure, 0.999)[:2] == (0.1, False)


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scale")
    base = manifest.load(describe(POCKET, folder))
    tuned = perturb(POCKET, folder / "tuned", 2.0)
    rows = [instruction(f"q{n}", text) for n, text in enumerate(ASKED)]
    records.write("domain", folder / "domain.parquet", [])
    params = Evaluate(tasks="none", suites={"core": {"role": "general"}}, batch=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "FOLDER", folder / "kept")
        other = manifest.load(describe(tuned, folder, "tuned"))
        base, other = (storage_at(model, place) for model, place in ((base, POCKET), (other, tuned)))
        yield choosing.Scale(params, base, other, rows, folder / "domain.parquet")


def storage_at(model: manifest.Manifest, folder: Path) -> manifest.Manifest:
    return replace(model, source=str(folder), dtype="float32")


def test_both_ends_of_the_way_are_the_models_themselves(scale: choosing.Scale) -> None:
    ends = Ends(scale.base.folder(), scale.tuned.folder(), "average", 1.0)
    of_base = scale.measure_base()
    assert scale.measure(ends, 0.0) == {
        "likelihood": pytest.approx(of_base["likelihood"], abs=1e-5),
        "chat": of_base["chat"],
        "retention": pytest.approx(1.0, abs=1e-5),
    }
    network, expected = scale.model.engine.model, manifest.load_model(scale.tuned.folder(), "float32")
    far, middle = scale.measure(ends, 1.0), scale.measure(ends, 0.5)
    assert far["likelihood"] < middle["likelihood"] < of_base["likelihood"]
    scale.ask_at(ends, 1.0, of_base["answers"])
    for name, weight in expected.named_parameters():
        assert torch.equal(network.get_parameter(name), weight)


def test_what_was_measured_is_not_measured_again(scale: choosing.Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends(scale.base.folder(), scale.tuned.folder(), "average", 1.0)
    first = scale.measure(ends, 0.5)
    monkeypatch.setattr(choosing.Scale, "ask_at", lambda *_: pytest.fail("it asked"))
    assert scale.measure(ends, 0.5) == first


def test_what_was_won_back_by_hand(tmp_path: Path) -> None:
    right = {"base": 90, "tuned": 50, "repaired": 80}
    of_domain = {"base": 0, "tuned": 50, "repaired": 45}
    for name in right:
        rows = []
        for suite, correct in (("known", right[name]), ("domain_test", of_domain[name])):
            for n in range(100):
                row = {
                    "id": f"{suite}/{n:03d}",
                    "suite": suite,
                    "item_id": f"{n:03d}",
                    "item_group": None,
                    "item_hash": "h",
                }
                row |= {"prompt_hash": "p", "prompt": "q", "target": "t", "response": f"{n} {name}"}
                rows.append(row | {"correct": float(n < correct)})
        records.write("items", tmp_path / name / "items.parquet", rows)
        suites = {"known": "general", "domain_test": "domain"}
        described = {s: {"role": role, "chance": 0.0, "items": 100, "written": True} for s, role in suites.items()}
        storage.write_json(tmp_path / name / "settings.json", {"schema": 1, "engine": {}, "suites": described})
    params = Gate(resamples=500, control="tuned")
    measured = outcome.measure(params, tmp_path, decide(params, tmp_path))
    assert (measured["general"]["base"], measured["general"]["tuned"], measured["general"]["repaired"]) == (
        0.9,
        0.5,
        0.8,
    )
    assert measured["general"]["won_back"] == pytest.approx(0.75) and measured["general"]["change"] == pytest.approx(
        0.3
    )
    assert 0.2 < measured["general"]["low"] < 0.3 < measured["general"]["high"] < 0.4
    assert measured["domain"]["won_back"] == pytest.approx(0.1)
    lines = outcome.describe(measured)
    assert "general: base 90.0, tuned 50.0, repaired 80.0" in lines[0] and lines[0].endswith("75% of the loss is back")
    assert lines[1].endswith("90% of the gain is kept")
    barely = {"base": 0.289, "tuned": 0.291, "repaired": 0.249, "change": -0.042, "low": -0.129, "high": 0.04}
    assert outcome.describe({"general": barely | {"won_back": 21.0}})[0].endswith("on the tuned model)")


def decide(params: Gate, folder: Path) -> dict[str, Any]:
    from holdfast.evaluation import results
    from holdfast.verdict import gate

    base, described = results.load(folder / "base")
    return {name: gate.decide_arm(params, base, described, folder / name) for name in ("tuned", "repaired")}
