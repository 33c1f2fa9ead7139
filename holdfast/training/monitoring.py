"""What is watched while training goes on: progress with time left, curves, and a loss that is no number or explodes.

Used by process.py, as a callback of the trainer.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from holdfast.core.progress import Progress
from holdfast.training import curves
from holdfast.training.job import DivergedError, last_checkpoint, seal_checkpoint

EXPLODED_RATIO = 2.0  # to the cross-entropy of guessing, or of the first step where that was worse


class Watch(TrainerCallback):
    """Writes curves while training goes on (process 0), and checks every line before a checkpoint is written."""

    def __init__(self, scratch: Path, vocabulary: int) -> None:
        self.scratch, self.guessing = scratch, math.log(vocabulary)
        self.live: Any = None
        self.progress: Progress | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step
        if state.is_world_process_zero:
            left = state.max_steps - state.global_step  # packed rows make fewer steps, a checkpoint leaves fewer
            self.progress = Progress("finetune", left, "steps")
            self.live = curves.open_live(self.scratch / "curves")

    def on_step_end(self, args, state, control, **kwargs):
        if self.progress:
            self.progress.advance(state.global_step - self.step)
        self.step = state.global_step
        saves = args.save_strategy == "steps" and state.global_step % args.save_steps == 0
        control.should_log |= saves or state.global_step == state.max_steps  # a line is checked before the checkpoint

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        worst = max(self.guessing, state.log_history[0]["domain_loss"])
        watched = {"loss": logs["loss"], "gradient's norm": logs.get("grad_norm", 0.0)}
        bad = [f"{name} is {value}" for name, value in watched.items() if not math.isfinite(value)]
        if logs["domain_loss"] > EXPLODED_RATIO * worst:
            bad.append(f"cross-entropy is {logs['domain_loss']:.4g}, worse than guessing")
        if bad:
            checkpoint = last_checkpoint(self.scratch)
            raise DivergedError(
                f"the {bad[0]} at step {state.global_step}",
                where=f"finetune.arms, learning rate {args.learning_rate:g}",
                do="lower finetune.learning_rate"
                + (f"; the last good checkpoint is {checkpoint}" if checkpoint else ""),
            )
        if self.live:
            curves.write_line(self.live, state.global_step, logs, (*curves.NAMES, *curves.SPEED_NAMES))

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process writes a file of its own
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def close(self) -> None:
        if self.progress:
            self.progress.close()
            self.live.end()
