"""Training curves: DVCLive files, progress with time left, and a stop when the loss is no number."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stages.core.errors import UserError
from stages.core.progress import Progress


class Curves(TrainerCallback):
    """Training curves through DVCLive, progress with time left, and a stop when the loss is no number."""

    NAMES = ("loss", "domain_loss", "kl", "target_kl", "anchor", "learning_rate", "grad_norm")

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.live = folder, self.start(folder)
        self.progress, self.step = Progress("finetune", steps, "steps"), 0

    @staticmethod
    def start(folder: Path) -> Any:
        from dvclive import Live

        return Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.advance(state.global_step - self.step)
        self.step = state.global_step
        control.should_log |= state.global_step == state.max_steps

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"the loss is {logs['loss']} at step {state.global_step}",
                where="finetune",
                do="lower finetune.learning_rate",
            )
        self.write(state.global_step, logs)

    def write(self, step: int, logs: dict[str, Any]) -> None:
        self.live.step = step
        for name in self.NAMES:
            if name in logs:
                self.live.log_metric(f"train/{name}", float(logs[name]))
        self.live.sync()

    def finish(self, history: list[dict[str, Any]]) -> list[float]:
        """Writes the curves anew from the trainer's own history, which a run that went on from a checkpoint has whole;
        returns the losses."""
        self.progress.close()
        self.live.end()
        shutil.rmtree(self.folder)
        self.live = self.start(self.folder)
        kept = [logs for logs in history if "loss" in logs]
        for logs in kept:
            self.write(logs["step"], logs)
        self.live.end()
        return [float(logs["loss"]) for logs in kept]
