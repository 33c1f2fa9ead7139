"""What `finetune` and the processes that train leave for one another in the scratch folder. No library is imported here:
`finetune` itself only starts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.params.finetune import Arm, Finetune

ROWS, REPLAYED, HELD = "rows.parquet", "replayed.parquet", "held.parquet"
RESULT, MODEL = "result.json", "model"
SMALL = 10_000_000  # parameters up to which a CPU core does best with one thread


@dataclass(frozen=True, slots=True)
class Job:
    params: Finetune
    how: Arm
    arm: str
    folder: Path  # the base's files
    fingerprint: str
    parameters: int
    longest: int  # tokens of the longest sequence that passes through the model
    bf16: bool
    compiled: bool
    scratch: Path
    parts: int  # micro-batches of an optimiser step, over all processes
    processes: int
    replays: bool  # whether there are replay rows
    kl_weight: float  # of the mean KL on replay rows against the mean cross-entropy; 0: no KL there


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole: Trainer writes its state last, so one that a kill cut short has none."""
    found = [file.parent for file in folder.glob("checkpoint-*/trainer_state.json")]
    return max(found, key=lambda checkpoint: int(checkpoint.name.split("-")[1]), default=None)
