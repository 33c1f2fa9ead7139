"""Training curves as DVCLive files, one per metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TIMES = ("tokens_per_second", "memory_gib")  # of all processes, of the first; these differ from run to run
NAMES = ("loss", "domain_loss", "replay_loss", "kl", "target_kl", "anchor", "learning_rate", "grad_norm", *TIMES)


def start(folder: Path) -> Any:
    from dvclive import Live

    return Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)


def line(live: Any, step: int, logs: dict[str, Any]) -> None:
    live.step = step
    for name in NAMES:
        if name in logs:
            live.log_metric(f"train/{name}", float(logs[name]))
    live.sync()


def write(folder: Path, history: list[dict[str, Any]]) -> None:
    """The curves of a whole run, from the trainer's own history: a run that went on from a checkpoint has it whole."""
    live = start(folder)
    for logs in history:
        line(live, logs["step"], logs)
    live.end()
