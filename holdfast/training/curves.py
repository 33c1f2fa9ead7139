"""Training curves as DVCLive files, one for each metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError, first_line

NAMES = ("loss", "domain_loss", "replay_loss", "kl", "kl_factor", "target_kl", "anchor", "learning_rate", "grad_norm")
SPEED_NAMES = ("tokens_per_second", "memory_gib")  # of all processes, of the first; these differ from run to run


def open_live(folder: Path) -> Any:
    """Raises UserError in a git repository without a commit, where DVCLive does not start."""
    from dvclive import Live
    from scmrepo.exceptions import SCMError

    try:
        return Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)
    except SCMError as error:
        do = "`git add . && git commit -m start`; then `dvc repro` goes on where it stopped"
        raise UserError(f"git: {first_line(error)}: training needs a first commit", where=Path.cwd(), do=do) from None


def write_line(live: Any, step: int, logs: dict[str, Any], names: tuple[str, ...] = NAMES) -> None:
    """Adds a line of Trainer's log: those of its numbers that are curves."""
    live.step = step
    for name in names:
        if name in logs:
            live.log_metric(f"train/{name}", float(logs[name]))
    live.sync()


def write_curves(folder: Path, history: list[dict[str, Any]]) -> None:
    """The curves of a whole run, from Trainer's own history, which a run that was resumed has whole.

    Speed and memory are left out: the same inputs give the same bytes.
    """
    live = open_live(folder)
    for logs in history:
        write_line(live, logs["step"], logs)
    live.end()
