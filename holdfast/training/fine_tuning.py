"""Trains the base on the rows of a mixture: encodes and checks them, then runs every process of the training.

Used by `finetune` for an arm's whole mixture and by `pilot` for short ones. Before training, a masked row is decoded and the
end of the assistant's turn must be supervised in every row, or the tuned model would never stop.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.chat import encoding, templates
from holdfast.core import cache, manifest, records
from holdfast.core.errors import UserError
from holdfast.params.finetune import Arm, Finetune
from holdfast.training import averaging, compiling, job, launch
from holdfast.training.losses import IGNORED, KL, labels_of

REPLAYED = pa.schema([("input_ids", pa.list_(pa.int64())), ("mask", pa.list_(pa.int64()))])
HELD = REPLAYED.append(pa.field("source", pa.string()))


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that has ended well. The folder goes when the block of `trained` ends."""

    scratch: Path  # holds the tuned model's files in job.MODEL
    result: dict[str, Any]  # what holdfast/training/process.py found
    rows: list[dict]  # that were trained on
    encoded: list[dict]  # the same as the loss sees them
    processes: int
    example: str  # a row, masked


@contextmanager
def trained(
    params: Finetune, arm: str, how: Arm, entry: manifest.Manifest, rows: list[dict], source: Path
) -> Iterator[Trained | None]:
    """Trains on rows of the contract "mix"; `source` is what errors name. Yields None on processes that torchrun has started
    beside the first. Raises UserError where the rows do not fit the arm, the settings or the model."""
    check(params, arm, how)
    if not rows:
        raise UserError("the mixture has no rows", where=source, do="give ingest.train a file with rows")
    identity, held = cache.key(rows), list[dict]()
    if how.average == "auto":
        rows, held = averaging.split(rows, params.seed, arm)
    replays = any(row["source"] == "replay" for row in rows)
    if (how.objective == "kl" or how.anchor == "ewc") and not replays:
        raise UserError(
            f"arm '{arm}' asks for {'the KL objective' if how.objective == 'kl' else 'ewc'} but its mixture has no replay rows",
            where=source,
            do=f"set mix.arms.{arm}.share above 0, or finetune.arms.{arm}: {{objective: ce}}",
        )
    folder = entry.folder()
    tokenizer = manifest.tokenizer(folder)
    processes = launch.count(params, entry.parameters, len(rows))
    if processes > 1 and params.processes.strategy == "fsdp2" and manifest.device().type == "cpu":
        print(f"{arm}: accelerate shards weights on accelerators only; here every process holds them all, as with ddp")
    launch.prepare(processes)
    encoded, replayed = encode(tokenizer, rows, how)
    longest = max(len(row["input_ids"]) for row in encoded)
    limit = min(params.max_length, entry.context)
    if longest > limit:
        raise UserError(
            f"a row has {longest} tokens, {limit} are allowed",
            where=source,
            do="drop long rows in ingest.max_chars"
            if limit == entry.context
            else "raise finetune.max_length, or drop long rows in ingest.max_chars",
        )
    example = preflight(tokenizer, rows, encoded)
    tokens = {
        source: sum(row["trained_tokens"] for row in rows if row["source"] == source) for source in ("domain", "replay")
    }
    flops = 6.0 * entry.parameters * sum(len(row["input_ids"]) for row in encoded)
    per_token = tokens["replay"] / tokens["domain"] if tokens["domain"] else 1.0
    settings = [how.model_dump(), params.model_dump(exclude={"arms", "processes"}), processes]
    with scratch_of([entry.fingerprint, identity, *settings, code()]) as scratch:
        work = job.Job(
            params=params, how=how, arm=arm, folder=folder, fingerprint=entry.fingerprint, parameters=entry.parameters,
            longest=params.max_length if params.packing else longest, scratch=scratch, replays=replays,
            bf16=manifest.bf16_usable() if params.bf16 == "auto" else params.bf16,
            compiled=compiling.pays(params.compile, manifest.device().type, flops / processes), parts=parts(params, processes), processes=processes,
            kl_weight=how.kl_coefficient * per_token if how.objective == "kl" else 0.0,
        )  # fmt: skip
        if launch.rank() == 0:
            pq.write_table(pa.Table.from_pylist(encoded), scratch / job.ROWS)
            pq.write_table(pa.Table.from_pylist(replayed, schema=REPLAYED), scratch / job.REPLAYED)
            pairs = [(row["source"], *encoding.encode(tokenizer, row["messages"])) for row in held]
            kept = [dict(source=source, input_ids=ids, mask=mask) for source, ids, mask in pairs]
            pq.write_table(pa.Table.from_pylist(kept, schema=HELD), scratch / job.HELD)
        launch.run(work)
        first = launch.rank() == 0
        result = records.read_json(scratch / job.RESULT) if first else {}
        yield Trained(scratch, result, rows, encoded, processes, example) if first else None


def passed(how: Arm, done: Trained) -> tuple[int, int]:
    """Tokens that passed forward and back (trained on, or for the Fisher information), and those through the frozen base."""
    seen = sum(len(one["input_ids"]) for one in done.encoded)
    held = sum(len(one["input_ids"]) for one in done.encoded if min(one["labels"]) <= KL)
    reference = seen if how.target_kl else held if how.kl_cache == "off" else done.result["cached_tokens"]
    return seen + done.result["weighed_tokens"], reference


def check(params: Finetune, arm: str, how: Arm) -> None:
    if params.processes.strategy == "fsdp2" and (how.anchor != "none" or how.lora_rank):
        raise UserError(
            f"arm '{arm}' has {'an anchor' if how.anchor != 'none' else 'lora_rank'}, which needs the whole model on each process",
            where="finetune.processes",
            do="use the strategy ddp for this arm",
        )


def parts(params: Finetune, processes: int) -> int:
    """Micro-batches of an optimiser step over all processes: as many as micro_batch asks for, at least one each."""
    wanted = params.batch_size // (params.micro_batch or params.batch_size)
    return math.lcm(wanted, processes) if params.batch_size % math.lcm(wanted, processes) == 0 else wanted * processes


def code() -> str:
    """Hash of the code that decides what is trained: a checkpoint of other code is not gone on from."""
    here = sorted(Path(__file__).parent.glob("*.py"))
    return cache.code_version(encoding.__file__, templates.__file__, *map(str, here))


@contextmanager
def scratch_of(identity: list) -> Iterator[Path]:
    """A folder for checkpoints that only a run with the same base, mixture, settings and code finds again; it goes when the
    run has ended well."""
    folder = cache.FOLDER / "finetune" / cache.key(identity)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
        if launch.rank() == 0:  # of several that torchrun has started, the first one clears up
            shutil.rmtree(folder)
    except BaseException:
        if launch.rank() == 0 and job.last_checkpoint(folder) is None:
            shutil.rmtree(folder)
        raise


def encode(tokenizer: Any, rows: list[dict], how: Arm) -> tuple[list[dict], list[dict]]:
    """Token ids and labels of every row, and every replay row once; a row that returns is encoded once."""
    seen: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    start: dict[tuple[int, ...], int] = {}  # of a replay row in the table of the base's log-probabilities
    encoded, replayed, tokens = [], [], 0
    for row in rows:
        key = row["source"], str(row["messages"])
        ids, mask = seen[key] = seen.get(key) or encoding.encode(tokenizer, row["messages"])
        if row["source"] == "replay" and tuple(ids) not in start:
            start[tuple(ids)] = tokens
            replayed.append({"input_ids": ids, "mask": mask})
            tokens += len(ids)
        table = start.get(tuple(ids)) if how.kl_cache != "off" else None
        labels = labels_of(ids, mask, row["source"], how.objective, how.kl_tokens, table)
        encoded.append({"input_ids": ids, "labels": labels})
    return encoded, replayed


def preflight(tokenizer, rows: list[dict], encoded: list[dict]) -> str:
    """Every row must supervise the end of the assistant's turn; returns one row as the loss sees it."""
    ends = set(encoding.assistant_stop_ids(tokenizer))
    for row, one in zip(rows, encoded, strict=True):
        taught = [token for token, label in zip(one["input_ids"], one["labels"], strict=True) if label != IGNORED]
        if not ends.intersection(taught):
            raise UserError(
                "the end of the assistant's turn bears no loss, so the model would never learn to stop",
                where=f"row {row['id']}",
                do="check the chat template: it must write an end-of-turn token after the assistant's text",
            )
    one = encoded[0]
    marked = [
        "_" if label == IGNORED else tokenizer.decode([token])
        for token, label in zip(one["input_ids"], one["labels"], strict=True)
    ]
    return "".join(marked)
