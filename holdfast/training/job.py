"""The job: what a training gets to know, and what it leaves behind, as files in a scratch folder.

Before: fine_tuning.py makes the job. After: launch.py starts its processes. No heavy library is imported here, since
the stages import this module before they know whether anything is to be trained.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.core.rows import MixRow
from holdfast.params.finetune import Arm, Finetune

ROWS_FILE, REPLAY_FILE, HELD_OUT_FILE = "rows.parquet", "replayed.parquet", "held.parquet"  # in the scratch folder
CHECKSUMS_FILE = "checksums.json"  # in a checkpoint
CHECKPOINT = re.compile(r"checkpoint-\d{1,12}")
LOADED = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.json", "adapter_*", "*_*/")  # what Trainer might load from one
RESULT_FILE, MODEL_FOLDER = "result.json", "model"  # likewise
PLAIN_TOKENS, MAX_PLAIN_TOKENS = 256, 1024  # of a sequence
PLAIN_PART = 0.9  # of the sequences have at most PLAIN_TOKENS, where plain attention is taken
MAX_PARAMETERS_ON_ONE_THREAD = 10_000_000  # up to which a CPU core does best with one thread


@dataclass(frozen=True, slots=True)
class Job:
    """All that a training process needs to know; the encoded rows are files in `scratch`."""

    params: Finetune
    arm_config: Arm
    arm: str
    folder: Path  # the base's files
    fingerprint: str  # of the base
    parameters: int  # of the base
    plain_attention: bool  # matrix products in place of the fused kernel
    bf16: bool
    compiled: bool
    scratch: Path
    parts: int  # micro-batches of an optimiser step, over all processes
    processes: int
    replays: bool  # whether there are replay rows
    kl_weight: float  # of the mean KL on replay rows against the mean cross-entropy; 0: no KL there


@dataclass(frozen=True, slots=True)
class Result:
    """What process 0 reports when a training has ended."""

    history: list[dict[str, Any]]  # Trainer's log, a dict for each line
    steps: int
    train_seconds: float  # of the last start, without loading and saving
    peak_memory_bytes: int  # of process 0
    base_tokens_computed: int  # tokens that passed through the base for its cached log-probabilities, in the last start
    weighed_tokens: int  # tokens that passed forward and back for the Fisher information
    more: dict[str, Any] = field(
        default_factory=dict
    )  # for the arm's ledger: kl_cache, average, masked, distilled, sdft
    own_tokens: int = 0  # tokens of the model's own answers that were trained on, prompts included (distil_steps, sdft)
    own_forward_tokens: int = (
        0  # tokens that passed forward only for them: as they were written, and through the teacher
    )

    def write(self, scratch: Path) -> None:
        storage.write_json(scratch / RESULT_FILE, asdict(self))

    @classmethod
    def read(cls, scratch: Path) -> Result:
        return cls(**storage.read_json(scratch / RESULT_FILE))


def arm_config(params: Finetune, arm: str) -> Arm:
    """The arm's part of the section `finetune`. Raises UserError where it has none."""
    if arm not in params.arms:
        raise UserError(
            f"arm '{arm}' has no entry in finetune.arms",
            where="params.yaml",
            do=f"add finetune.arms.{arm}: {{objective: ce}}",
        )
    return params.arms[arm]


class DivergedError(UserError):
    """The loss, or the gradient's norm, is no finite number any more, or the model is worse than guessing."""


def is_rate_open(params: Finetune, config: Arm) -> bool:
    """Whether the stage `pilot` has to choose the arm's learning rate."""
    return (config.learning_rate or params.learning_rate) == "auto"


def find_rate(params: Finetune, config: Arm) -> float:
    """The arm's peak learning rate, or the section's. Raises UserError where it is yet to be chosen."""
    rate = config.learning_rate or params.learning_rate
    if rate == "auto":
        raise UserError(
            "is auto, which only the stages `pilot` and `finetune` can read",
            where="params.yaml: finetune.learning_rate",
            do="give a number",
        )
    return rate


def fill_in_rate(params: Finetune, config: Arm, pilot_report: Path) -> Arm:
    """The arm with the learning rate that the pilot has chosen, where it is auto. Raises UserError where it has chosen none."""
    if not is_rate_open(params, config):
        return config
    rate = storage.read_json(pilot_report).get("learning_rate")
    if rate is None:
        raise UserError(
            "holds no learning rate", where=pilot_report, do="run `dvc repro`: a pilot runs before its arm's training"
        )
    return config.model_copy(update={"learning_rate": rate})


def use_seed(params: Finetune, seed: str | None) -> Finetune:
    """The section with another seed, as dvc.yaml writes it. Raises UserError where it is none."""
    if seed is None:
        return params
    if not seed.isdecimal() or int(seed) >= 2**31:
        raise UserError(f"'{seed[:40]}' is no seed", where="holdfast run finetune", do="give a whole number from 0 on")
    return params.model_copy(update={"seed": int(seed)})


def order_rows(rows: list[MixRow], seed: str | None) -> list[MixRow]:
    """The rows in the order of the mixture; with a seed, as dvc.yaml writes it, in one of its own within each epoch.

    The order is all that sets two trainings of one mixture apart: there is no dropout, and all weights begin as the base's.
    """
    if seed is None:
        return rows
    return sorted(rows, key=lambda row: (row["epoch"], records.text_id(seed, "order", row["id"])))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. Its checksums are written last, so one that a kill cut short has none."""
    whole = [one for one in list_checkpoints(folder) if (one / CHECKSUMS_FILE).is_file()]
    return max(whole, key=count_steps, default=None)


def list_checkpoints(folder: Path) -> list[Path]:
    """What Trainer may have written, and no copies under other names, files or links."""
    return sorted(
        one
        for one in folder.glob("checkpoint-*")
        if CHECKPOINT.fullmatch(one.name) and one.is_dir() and not one.is_symlink()
    )


def count_steps(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def seal_checkpoint(checkpoint: Path) -> None:
    """Writes down what the files of a checkpoint hold, once all are there."""
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != CHECKSUMS_FILE)
    sums = {file.relative_to(checkpoint).as_posix(): storage.file_sha256(file) for file in files}
    storage.write_json(checkpoint / CHECKSUMS_FILE, sums)


def find_damage(checkpoint: Path) -> str | None:
    """The first file of a checkpoint that is not as it was written, or was added and might be loaded; None where all are."""
    try:
        sums = json.loads((checkpoint / CHECKSUMS_FILE).read_text(encoding="utf-8"))
        known = {CHECKSUMS_FILE, *(name.partition("/")[0] for name in sums)}
        if added := sorted({f.name for pattern in LOADED for f in checkpoint.glob(pattern)} - known):
            return added[0]
        for name, expected in sums.items():
            if storage.file_sha256(checkpoint / name) != expected:
                return str(name)
        return None if sums else CHECKSUMS_FILE
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return Path(str(getattr(error, "filename", None) or CHECKSUMS_FILE)).name


def remove_damaged_checkpoints(folder: Path, arm: str) -> None:
    """Before a run resumes: reads every checkpoint, says which is damaged, and removes it, so that an earlier one is taken, or
    the run starts anew."""
    for checkpoint in list_checkpoints(folder):
        if damaged := find_damage(checkpoint):
            if (checkpoint / CHECKSUMS_FILE).exists():  # else a kill cut it short
                print(f"{arm}: {checkpoint.name} is damaged ({damaged[:80]!r}), and not used")
            shutil.rmtree(checkpoint)
    for other in sorted(set(folder.glob("checkpoint-*")) - set(list_checkpoints(folder))):
        print(f"{arm}: {other.name[:80]!r} is no checkpoint that Holdfast has written, and not used")
        shutil.rmtree(other) if other.is_dir() and not other.is_symlink() else other.unlink()


def prefers_plain_attention(lengths: list[int]) -> bool:
    """Whether plain attention is the faster one for sequences of so many tokens: on a CPU, where most are short.

    In bf16 there, the backward pass of fused attention takes ten times as long on short rows (benchmarks/speed/attention.py). A few
    longer rows change nothing, up to a length where the memory of plain attention, quadratic in it, would matter.
    """
    short = sum(length <= PLAIN_TOKENS for length in lengths)
    most_are_short = short >= PLAIN_PART * len(lengths) and max(lengths) <= MAX_PLAIN_TOKENS
    return most_are_short and manifest.find_device().type == "cpu"
