"""HOLDFAST_REPORT_TO: off by default, and a tracker that cannot be had is said before anything is trained."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from holdfast.core.errors import UserError
from holdfast.training.trackers import TRACKERS, prepare_trackers, read_trackers

MISSING = [name for name in TRACKERS if find_spec(name) is None]


def test_nothing_is_reported_by_default(monkeypatch):
    monkeypatch.delenv("HOLDFAST_REPORT_TO", raising=False)
    assert read_trackers() == []
    monkeypatch.setenv("HOLDFAST_REPORT_TO", "none")
    assert read_trackers() == []


def test_an_unknown_tracker_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.setenv("HOLDFAST_REPORT_TO", "wandbb")
    with pytest.raises(
        UserError, match=r"'wandbb', which is no tracker\n  name one or more of wandb, mlflow, tensorboard"
    ):
        read_trackers()


@pytest.mark.skipif(not MISSING, reason="every tracker is installed here")
def test_a_tracker_that_is_not_installed_is_said_with_its_extra(monkeypatch):
    monkeypatch.setenv("HOLDFAST_REPORT_TO", MISSING[0])
    with pytest.raises(UserError, match=rf"not installed\n  pip install 'holdfast\[{MISSING[0]}\]'"):
        read_trackers()


def test_tensorboard_files_are_not_left_in_the_scratch_folder(monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    prepare_trackers(["tensorboard"], "arm")
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == os.path.join("runs", "arm")
