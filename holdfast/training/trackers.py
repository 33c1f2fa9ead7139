"""Experiment trackers that a fine-tuning run also reports to: HOLDFAST_REPORT_TO=wandb, mlflow or tensorboard. Off by default.

The variable is no parameter, so `dvc.lock` is the same with and without. What a tracker needs (keys, addresses) it reads from
its own variables. TensorBoard files go to runs/ARM unless TENSORBOARD_LOGGING_DIR says otherwise.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from holdfast.core.errors import UserError

VARIABLE = "HOLDFAST_REPORT_TO"
TRACKERS = ("wandb", "mlflow", "tensorboard")


def read_trackers() -> list[str]:
    """The trackers that the environment names. Raises UserError where one is unknown or not installed."""
    names = [name for name in os.environ.get(VARIABLE, "").replace(",", " ").split() if name != "none"]
    for name in names:
        if name not in TRACKERS:
            do = f"name one or more of {', '.join(TRACKERS)}, separated by commas, or unset it"
            raise UserError(f"{VARIABLE} names '{name}', which is no tracker", where="environment", do=do)
        if find_spec(name) is None:
            do = f"pip install 'holdfast[{name}]', or unset it"
            raise UserError(f"{VARIABLE} names '{name}', which is not installed", where="environment", do=do)
    return names


def prepare_trackers(names: list[str], arm: str) -> None:
    """Sets where TensorBoard files go: the scratch folder, Trainer's default, is removed after a run."""
    if "tensorboard" in names:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", os.path.join("runs", arm))
