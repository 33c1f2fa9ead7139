"""Fine-tuning: encodes the rows of a mixture, checks them, makes the job and has it run.

Before: the stage `finetune` calls `train_arm` with an arm's whole mixture, pilot_runs.py with short ones. After: the
job (job.py) goes to launch.py; results.py writes what came of it. Every row must teach the end of the assistant's turn,
or the tuned model would never stop.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.chat import encoding
from holdfast.core import cache, fingerprint, locks, manifest
from holdfast.core.errors import UserError
from holdfast.core.rows import MixRow, TrainingRow
from holdfast.params.finetune import Arm, Finetune
from holdfast.training import averaging, compiling, distilling, job, launch
from holdfast.training.job import Job, Result
from holdfast.training.losses import IGNORE_INDEX, KL, REPLAY, labels_of
from holdfast.training.trackers import read_trackers

REPLAY_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int64())), ("mask", pa.list_(pa.int64()))])
HELD_OUT_SCHEMA = REPLAY_SCHEMA.append(pa.field("source", pa.string()))


class Labelled(NamedTuple):
    """A row as the loss sees it."""

    input_ids: list[int]
    labels: list[int]


class Masked(NamedTuple):
    """A row with a mask of the answer's tokens."""

    input_ids: list[int]
    mask: list[int]


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that has ended well. The scratch folder goes when the block of `train_arm` ends."""

    arm: str
    arm_config: Arm
    learning_rate: float
    scratch: Path  # holds the tuned model's files in job.MODEL_FOLDER
    result: Result
    rows: list[MixRow]  # that were trained on
    encoded: list[Labelled]  # those rows as the loss sees them
    replay_tokens: int  # of every replay row once
    processes: int
    example: str  # the first row, with what is not trained on masked

    @property
    def tokens_trained_on(self) -> int:
        """Tokens that passed forward and back: of the rows, for the Fisher information, and of the model's own answers."""
        rows = 0 if self.arm_config.sdft != "off" else sum(len(row.input_ids) for row in self.encoded)
        return rows + self.result.weighed_tokens + self.result.own_tokens

    @property
    def tokens_forward_only(self) -> int:
        """Tokens that pass forward alone, mostly through the frozen base. With a cache they are every replay row's once, whichever run computed
        them, so that equal inputs give equal counts."""
        once = self.result.own_forward_tokens
        if self.arm_config.mask_perplexity:  # every domain row, to know what the base finds unlikely
            domain = {tuple(row.input_ids) for row in self.encoded if any(0 <= label < REPLAY for label in row.labels)}
            once += sum(map(len, domain))
        if self.arm_config.target_kl:
            return once + sum(len(row.input_ids) for row in self.encoded)
        if self.arm_config.kl_cache != "off":
            return once + self.replay_tokens
        return once + sum(len(row.input_ids) for row in self.encoded if min(row.labels) <= KL)


@contextmanager
def train_arm(
    params: Finetune, arm: str, arm_config: Arm, base: manifest.Manifest, rows: list[MixRow], source: Path
) -> Iterator[Trained | None]:
    """Trains the base on rows of the contract "mix"; `source` is what errors name.

    Yields None on the processes that torchrun has started beside the first. Raises UserError where the rows do not fit
    the arm, the settings or the model.
    """
    check_strategy(params, arm, arm_config)
    read_trackers()  # a tracker that is missing is said before anything is encoded
    if not rows:
        raise UserError("the mixture has no rows", where=source, do="give ingest.train a file with rows")
    mixture_key, held_out = cache.key(rows), list[MixRow]()
    if arm_config.average == "auto":
        rows, held_out = averaging.hold_out(rows, params.seed, arm)
    check_replay(arm, arm_config, rows, source)
    tokenizer = manifest.load_tokenizer(base.folder())
    alone = arm_config.sdft != "off"
    processes = 1 if alone else launch.count_processes(params, base.parameters, len(rows))
    if processes > 1 and params.processes.strategy == "fsdp2" and manifest.find_device().type == "cpu":
        print(f"{arm}: accelerate shards weights on accelerators only; here every process holds them all, as with ddp")
    launch.preload_libraries(processes)
    encoded, replay = encode_rows(tokenizer, rows, arm_config)
    check_lengths(encoded, params, base, source)
    example = check_turn_ends(tokenizer, rows, encoded)
    settings = [arm_config.model_dump(), params.model_dump(exclude={"arms", "processes"}), processes]
    with scratch_folder([base.fingerprint, mixture_key, *settings, code_version()], arm) as scratch:
        work = make_job(params, arm, arm_config, base, rows, encoded, processes, scratch)
        if launch.rank() == 0:
            write_rows(scratch, encoded, replay, mask_held_out(tokenizer, held_out))
        if alone:
            from holdfast.training import self_distilling

            self_distilling.train(work, base, rows)
        else:
            launch.run_job(work)
        if launch.rank() == 0:
            if arm_config.distil_steps:
                distilling.distil_trained(work, base, rows)
            yield Trained(
                arm=arm,
                arm_config=arm_config,
                learning_rate=job.find_rate(params, arm_config),
                scratch=scratch,
                result=Result.read(scratch),
                rows=rows,
                encoded=encoded,
                replay_tokens=sum(len(row.input_ids) for row in replay),
                processes=processes,
                example=example,
            )
        else:
            yield None


def check_strategy(params: Finetune, arm: str, arm_config: Arm) -> None:
    """Raises UserError where the arm needs the whole model on each process and the weights are sharded, or needs one process and
    a launcher started several."""
    if (field := arm_config.writes_itself) and launch.launcher_world_size() > 1:
        do = "start it without torchrun; finetune.processes spreads the steps before a distillation"
        raise UserError(f"{field} distils in one process", where=f"finetune.arms.{arm}", do=do)
    if params.processes.strategy == "fsdp2" and (arm_config.anchor != "none" or arm_config.adapter):
        part = arm_config.adapter or "an anchor"
        raise UserError(
            f"arm '{arm}' has {part}, which needs the whole model on each process",
            where="finetune.processes",
            do="use the strategy ddp for this arm",
        )


def check_replay(arm: str, arm_config: Arm, rows: list[MixRow], source: Path) -> None:
    """Raises UserError where the arm needs replay rows and there are none, or takes none and there are some."""
    if any(row["source"] == "replay" for row in rows):
        if arm_config.sdft != "off":
            do = f"set mix.arms.{arm}.share: 0, or train it without sdft"
            raise UserError(
                f"arm '{arm}' has replay rows, and sdft is for the domain's rows alone", where=source, do=do
            )
        return
    terms = {
        "the KL objective": arm_config.objective == "kl",
        "ewc": arm_config.anchor == "ewc",
        "distil_steps": arm_config.distil_steps > 0,
    }
    if term := next((name for name, wanted in terms.items() if wanted), None):
        raise UserError(
            f"arm '{arm}' asks for {term} but its mixture has no replay rows",
            where=source,
            do=f"set mix.arms.{arm}.share above 0, or finetune.arms.{arm}: {{objective: ce}} without it",
        )


def check_lengths(encoded: list[Labelled], params: Finetune, base: manifest.Manifest, source: Path) -> None:
    """Raises UserError where a row has more tokens than the settings or the model allow."""
    longest, limit = max(len(row.input_ids) for row in encoded), min(params.max_length, base.context)
    if longest > limit:
        raise UserError(
            f"a row has {longest} tokens, {limit} are allowed",
            where=source,
            do="drop long rows in ingest.max_chars"
            if limit == base.context
            else "raise finetune.max_length, or drop long rows in ingest.max_chars",
        )


def check_turn_ends(tokenizer: Any, rows: list[MixRow], encoded: list[Labelled]) -> str:
    """The first row as text, with a _ for each token that is not trained on.

    Raises UserError where a row does not train on the end of the assistant's turn.
    """
    ends = set(encoding.assistant_stop_ids(tokenizer))
    for row, (ids, labels) in zip(rows, encoded, strict=True):
        taught = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
        if not ends.intersection(taught):
            raise UserError(
                "the end of the assistant's turn is not trained on, so the model would never learn to stop",
                where=f"row {row['id']}",
                do="check the chat template: it must write an end-of-turn token after the assistant's text",
            )
    return "".join(
        "_" if label == IGNORE_INDEX else tokenizer.decode([token])
        for token, label in zip(encoded[0].input_ids, encoded[0].labels, strict=True)
    )


def encode_rows(tokenizer: Any, rows: list[MixRow], arm_config: Arm) -> tuple[list[Labelled], list[Masked]]:
    """Every row as the loss sees it, and every replay row once; a row that returns in another epoch is encoded once."""
    known: dict[tuple[str, ...], tuple[list[int], list[int]]] = {}
    table_start: dict[tuple[int, ...], int] = {}  # of a replay row in the table of the base's log-probabilities
    encoded, replay, tokens = list[Labelled](), list[Masked](), 0
    for row in rows:
        key = row["source"], str(row["messages"]), str(row.get("tools")), str(row.get("thinking"))
        ids, mask = known[key] = known.get(key) or encode_row(tokenizer, row)
        if row["source"] == "replay" and tuple(ids) not in table_start:
            table_start[tuple(ids)] = tokens
            replay.append(Masked(ids, mask))
            tokens += len(ids)
        start = table_start.get(tuple(ids)) if arm_config.kl_cache != "off" else None
        labels = labels_of(ids, mask, row["source"], arm_config.objective, arm_config.kl_tokens, start)
        encoded.append(Labelled(ids, labels))
    return encoded, replay


def encode_row(tokenizer: Any, row: TrainingRow) -> tuple[list[int], list[int]]:
    """(token ids, loss mask) of a row of a mixture, rendered as it was drawn."""
    return encoding.encode(tokenizer, row["messages"], row.get("tools"), row.get("thinking"))


def mask_held_out(tokenizer: Any, rows: list[MixRow]) -> list[dict[str, Any]]:
    """Rows of HELD_OUT_SCHEMA."""
    return [{"source": row["source"], **Masked(*encode_row(tokenizer, row))._asdict()} for row in rows]


def trained_tokens(rows: list[MixRow], source: str) -> int:
    return sum(row["trained_tokens"] for row in rows if row["source"] == source)


def make_job(
    params: Finetune,
    arm: str,
    arm_config: Arm,
    base: manifest.Manifest,
    rows: list[MixRow],
    encoded: list[Labelled],
    processes: int,
    scratch: Path,
) -> Job:
    """The job, with what is decided once for all processes: precision, compilation, micro-batches, the KL's weight."""
    flops = 6.0 * base.parameters * sum(len(row.input_ids) for row in encoded)
    domain, replay = (sum(row["source"] == source for row in rows) for source in ("domain", "replay"))
    replay_over_domain = replay / domain if domain else 1.0
    return Job(
        params=params,
        arm_config=arm_config,
        arm=arm,
        folder=base.folder(),
        fingerprint=base.fingerprint,
        parameters=base.parameters,
        plain_attention=job.prefers_plain_attention(
            [params.max_length] if params.packing else [len(row.input_ids) for row in encoded]
        ),
        bf16=manifest.bf16_usable() if params.bf16 == "auto" else params.bf16,
        compiled=compiling.pays_off(params.compile, manifest.find_device().type, flops / processes),
        scratch=scratch,
        parts=count_parts(params, processes),
        processes=processes,
        replays=any(row["source"] == "replay" for row in rows),
        kl_weight=arm_config.kl_coefficient * replay_over_domain if arm_config.objective == "kl" else 0.0,
    )


def count_parts(params: Finetune, processes: int) -> int:
    """Micro-batches of an optimiser step over all processes: as many as micro_batch asks for, at least one each."""
    wanted = params.batch_size // (params.micro_batch or params.batch_size)
    common = math.lcm(wanted, processes)
    return common if params.batch_size % common == 0 else wanted * processes


def write_rows(scratch: Path, encoded: list[Labelled], replay: list[Masked], held_out: list[dict[str, Any]]) -> None:
    """Leaves the rows where the processes read them."""
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in encoded]), scratch / job.ROWS_FILE)
    masked = pa.Table.from_pylist([row._asdict() for row in replay], schema=REPLAY_SCHEMA)
    pq.write_table(masked, scratch / job.REPLAY_FILE)
    pq.write_table(pa.Table.from_pylist(held_out, schema=HELD_OUT_SCHEMA), scratch / job.HELD_OUT_FILE)


def code_version() -> str:
    """Hash of the code that decides what is trained: a run is not resumed from a checkpoint of other code."""
    return fingerprint.of_modules(__name__)


@contextmanager
def scratch_folder(identity: list[Any], arm: str) -> Iterator[Path]:
    """A folder for checkpoints that only a run with equal base, mixture, settings and code finds again.

    It is removed when the run has ended well, and after a failure when it holds no checkpoint. Raises UserError where another
    process works in it.
    """
    folder = cache.FOLDER / "finetune" / cache.key(identity)
    if launch.rank() != 0:  # of several that torchrun has started, the first one locks and clears up
        make_folder(folder)
        yield folder
        return
    with locks.hold_lock(folder.with_name(f"{folder.name}.lock"), f"finetune, arm '{arm}'"):
        make_folder(folder)
        job.remove_damaged_checkpoints(folder, arm)
        try:
            yield folder
            shutil.rmtree(folder)
        except BaseException:
            if job.last_checkpoint(folder) is None:
                shutil.rmtree(folder)
            raise


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache.unwritable_error(error, folder) from None
