"""How many processes train, and their start: torchrun's launcher, whose errors come back as ours.

Started by `torchrun` or `accelerate launch`, on one machine or several, `holdfast finetune` is one of their processes and
starts none of its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path

from holdfast.core import cache, manifest, records
from holdfast.core.errors import UserError
from holdfast.params.finetune import Finetune
from holdfast.training.job import SMALL, Job

WORK = "holdfast.training.process"
ERROR = "error-{rank}.json"
WORTH = 2000  # rows of a small model below which a second process takes longer to start than it saves


def started() -> int:
    """Processes of the launcher that started this one; 0: none did."""
    return int(os.environ.get("WORLD_SIZE", "0")) if "RANK" in os.environ else 0


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def count(params: Finetune, parameters: int, rows: int) -> int:
    """Processes to train with. HOLDFAST_WORKERS, where set, decides for CPUs as it does for generation; else two train a
    small model, which is faster (`python benchmarks/train_speed.py`)."""
    wanted, device = params.processes.count, manifest.device()
    if there := started():
        if params.batch_size % there:
            raise UserError(
                f"{there} processes cannot share {params.batch_size} rows evenly",
                where="finetune.batch_size",
                do="choose a multiple of the number of processes",
            )
        return there
    if wanted != "auto":
        here = 0 if device.type == "cpu" else accelerators()
        if here and wanted > here:
            raise UserError(
                f"{wanted} processes, but {here} accelerators",
                where="finetune.processes",
                do="give at most one process per accelerator, or auto",
            )
        return wanted
    if device.type != "cpu":
        return divisor(params.batch_size, accelerators())
    if rows < WORTH or parameters > SMALL or multiprocessing.parent_process():
        return 1  # starting takes longer than it saves, threads do as well, or this is a worker among others already
    return divisor(params.batch_size, cache.workers(2 if (os.cpu_count() or 1) > 1 else 1))


def accelerators() -> int:
    import torch

    return torch.accelerator.device_count()


def divisor(batch: int, most: int) -> int:
    return max(n for n in range(1, max(most, 1) + 1) if batch % n == 0)


def prepare(processes: int) -> None:
    """Imports the libraries, in the background and once for all processes, while the caller encodes its rows."""
    if processes > 1 and not started():
        multiprocessing.set_forkserver_preload([WORK])
        forkserver.ensure_running()


def run(job: Job) -> None:
    """training.train(job) in all its processes. Raises the UserError that one of them ended with."""
    if job.processes == 1 or started():
        from holdfast.training import process

        process.train(job)
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # we say ourselves what went wrong
    for file in job.scratch.glob(ERROR.format(rank="*")):
        file.unlink()
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=job.processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        local_addr="localhost", run_id=job.scratch.name, max_restarts=0, start_method="forkserver",
    )  # fmt: skip
    try:
        elastic_launch(config, guarded)(job)
    except SignalException as stopped:  # Ctrl-C, or a scheduler's polite end: the processes have ended with us
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as error:
        for file in sorted(job.scratch.glob(ERROR.format(rank="*"))):
            raise UserError(**records.read_json(file)) from None
        failure = error.get_first_failure()[1]
        if failure.exitcode < 0:
            raise UserError(
                f"a training process was ended from outside by signal {-failure.exitcode} (is the memory enough?)",
                where=f"finetune, arm '{job.arm}'",
                do="run it again, with finetune.processes: 1 if need be; it goes on from its last checkpoint, if any",
            ) from None
        raise


def guarded(job: Job) -> None:
    """One process's part; what the user should hear is left in a file, since only an exit code comes back."""
    cache.start_worker()
    try:
        from holdfast.training import process

        process.train(job)
    except (UserError, OSError) as error:
        said = error if isinstance(error, UserError) else cache.unwritable(error, Path(error.filename or job.scratch))
        records.write_json(
            job.scratch / ERROR.format(rank=rank()), {"what": said.what, "where": said.where, "do": said.do}
        )
        os._exit(2)  # at once: the others wait for this process in a collective call, and torchrun ends them
