"""Judges are probed before anything is written: one that puts its probability elsewhere is said, and stops the run if it is alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from holdfast.core.errors import UserError
from holdfast.engines import registry
from holdfast.panel import probe, scoring
from holdfast.params.judge import Judge

RUBRIC = "Rate from 1 to 5.\n{instruction}\n{response}"
PARAMS = Judge(rubric="rubric.txt", min_mass=0.5)


def says(monkeypatch: pytest.MonkeyPatch, mass: float, answer: object) -> None:
    """From now on every judge puts `mass` on the digits, all of it on the one that `answer` gives for a prompt."""

    def scores(chats: list, attempts: int) -> np.ndarray:
        rows = np.zeros((len(chats), 5))
        for row, chat in zip(rows, chats, strict=True):
            row[answer(chat[0]["content"]) - 1] = mass  # type: ignore[operator]
        return rows

    monkeypatch.setattr(registry, "load_engine", lambda judge, batch: SimpleNamespace(scores=scores))


def test_a_judge_that_tells_right_from_wrong(monkeypatch):
    wrong = {scoring.fill_rubric(RUBRIC, question, answer) for question, _, answer in probe.PAIRS}
    says(monkeypatch, 0.9, lambda prompt: 2 if prompt in wrong else 5)
    found = probe.probe_judge(SimpleNamespace(name="good"), RUBRIC, PARAMS)  # type: ignore[arg-type]
    assert (found.judge, found.right) == ("good", len(probe.PAIRS))
    assert found.mass == pytest.approx(0.9)
    assert "warning" not in found.describe(PARAMS)
    probe.refuse_silent_panel([found], PARAMS)


def test_a_judge_whose_probability_is_elsewhere_is_said_and_stops_the_run_alone(monkeypatch):
    says(monkeypatch, 0.2, lambda prompt: 3)
    found = probe.probe_judge(SimpleNamespace(name="small"), RUBRIC, PARAMS)  # type: ignore[arg-type]
    assert found.right == 0
    assert found.describe(PARAMS).startswith("warning: judge small cannot judge")
    with pytest.raises(UserError, match="0.20 of its probability") as caught:
        probe.refuse_silent_panel([found], PARAMS)
    assert "consensus.strategy: first" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    probe.refuse_silent_panel([found, probe.Probe("good", 0.9, 8)], PARAMS)


def test_a_score_that_could_not_be_read_has_no_mass(monkeypatch):
    def scores(chats: list, attempts: int) -> np.ndarray:
        return np.full((len(chats), 5), np.nan)

    monkeypatch.setattr(registry, "load_engine", lambda judge, batch: SimpleNamespace(scores=scores))
    assert probe.probe_judge(SimpleNamespace(name="mute"), RUBRIC, PARAMS) == ("mute", 0.0, 0)  # type: ignore[arg-type]


def test_the_pocket_lab_s_judges_can_judge():
    from helpers import ROOT

    from holdfast.engines.inspection import inspect_model
    from holdfast.params.models import Model

    rubric = scoring.read_rubric(ROOT / "data/pocket/rubric.txt")
    base = inspect_model("base", Model(path="base"), Path(ROOT / "models/pocket"))
    found = probe.probe_judge(base, rubric, PARAMS)
    assert found.mass > 0.9 and found.right >= 5
