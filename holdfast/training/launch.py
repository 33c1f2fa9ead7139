"""The launch: how many processes train, and their start with torchrun's launcher. Errors of a process come back as its
own.

Before: fine_tuning.py makes the job (job.py). After: process.py runs in every process. Where `torchrun` or `accelerate
launch` has started the stage, on one machine or several, the stage is one of their processes and starts none.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import re
from multiprocessing import forkserver
from pathlib import Path

from holdfast.core import cache, manifest, shards, storage
from holdfast.core.errors import UserError
from holdfast.params.finetune import Finetune
from holdfast.training.job import MAX_PARAMETERS_ON_ONE_THREAD, DivergedError, Job

PROCESS_MODULE = "holdfast.training.process"
ERROR_FILE = "error-{rank}.json"  # in the scratch folder: what the user should read
USER_ERROR = 2  # exit code of a process that ended with an error that the user should read
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAILED_WRITE = (
    r"os error (27|28|122)\b|PytorchStreamWriter failed|iostream error"  # what safetensors and torch say of it
)
MIN_ROWS_FOR_TWO_PROCESSES = (
    2000  # with fewer rows of a small model, a second process takes longer to start than it saves
)


def launcher_world_size() -> int:
    """Processes of the launcher that started this one; 0 where none did."""
    return int(os.environ.get("WORLD_SIZE", "0")) if "RANK" in os.environ else 0


def rank() -> int:
    """This process's number among those of the launcher; 0 where there is none."""
    return int(os.environ.get("RANK", "0"))


def count_processes(params: Finetune, parameters: int, rows: int) -> int:
    """Processes to train a model of `parameters` on `rows` rows with.

    On a CPU, HOLDFAST_WORKERS decides as it does for generation; where it is not set, two processes train a small
    model, which is faster (`python -m benchmarks.speed.train_speed`). Raises UserError where the number that is asked
    for cannot share the batch, or is more than there are accelerators.
    """
    wanted, device = params.processes.count, manifest.find_device()
    if launched := launcher_world_size():
        if params.batch_size % launched:
            raise UserError(
                f"{launched} processes cannot share {params.batch_size} rows evenly",
                where="finetune.batch_size",
                do="choose a multiple of the number of processes",
            )
        return launched
    if wanted != "auto":
        available = 0 if device.type == "cpu" else count_accelerators()
        if available and wanted > available:
            raise UserError(
                f"{wanted} processes, but {available} accelerators",
                where="finetune.processes",
                do="give at most one process per accelerator, or auto",
            )
        return wanted
    if device.type != "cpu":
        return largest_divisor(params.batch_size, count_accelerators())
    small = parameters <= MAX_PARAMETERS_ON_ONE_THREAD  # of a larger model, threads share the work as well
    worker = multiprocessing.parent_process() is not None  # one of several already
    if rows < MIN_ROWS_FOR_TWO_PROCESSES or not small or worker:
        return 1
    return largest_divisor(params.batch_size, shards.count_workers(2 if (os.cpu_count() or 1) > 1 else 1))


def count_accelerators() -> int:
    import torch

    return torch.accelerator.device_count()


def largest_divisor(batch: int, limit: int) -> int:
    """The largest number up to `limit`, at least 1, that divides `batch`."""
    return max(n for n in range(1, max(limit, 1) + 1) if batch % n == 0)


def preload_libraries(processes: int) -> None:
    """Imports the libraries in the background, once for all processes, while the caller encodes its rows."""
    if processes > 1 and not launcher_world_size():
        multiprocessing.set_forkserver_preload([PROCESS_MODULE])
        forkserver.ensure_running()


def run_job(job: Job) -> None:
    """Runs process.train(job) in all its processes. Raises the UserError that one of them ended with."""
    if job.processes == 1 or launcher_world_size():
        train_here(job)
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # what goes wrong is reported below
    for file in job.scratch.glob(ERROR_FILE.format(rank="*")):
        file.unlink()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        run_id=job.scratch.name,
        max_restarts=0,
        start_method="forkserver",
    )
    try:
        elastic_launch(config, run_worker)(job)
    except SignalException as stopped:  # Ctrl-C, or a scheduler's polite end: the processes have ended too
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as error:
        for file in sorted(job.scratch.glob(ERROR_FILE.format(rank="*"))):
            content = storage.read_json(file)
            raise (DivergedError if content.pop("diverged") else UserError)(**content) from None
        failure = error.get_first_failure()[1]
        if failure.exitcode == USER_ERROR:  # and not even the reason could be written
            raise cache.unwritable_error(OSError("is the disk full?"), job.scratch) from None
        if failure.exitcode < 0:
            raise UserError(
                f"a training process was ended from outside by signal {-failure.exitcode} (is the memory enough?)",
                where=f"finetune, arm '{job.arm}'",
                do="run it again, with finetune.processes: 1 if need be; it resumes from its last checkpoint, if any",
            ) from None
        raise


def train_here(job: Job) -> None:
    """This process's part. Raises UserError where a disk is full, whichever library was writing."""
    from holdfast.training import process

    try:
        process.train(job)
    except UserError:
        raise
    except Exception as error:  # torch and safetensors have kinds of their own for a failed write
        full = isinstance(error, OSError) and error.errno in FULL
        if full or re.search(FAILED_WRITE, str(error)):
            raise cache.unwritable_error(error, Path(getattr(error, "filename", None) or job.scratch)) from None
        raise


def run_worker(job: Job) -> None:
    """One of several processes. An error that the user should read goes to a file, since only an exit code comes
    back."""
    shards.start_worker()
    try:
        train_here(job)
    except (UserError, OSError) as error:
        if not isinstance(error, UserError):
            error = cache.unwritable_error(error, Path(error.filename or job.scratch))
        content = {
            "what": error.what,
            "where": error.where,
            "do": error.do,
            "diverged": isinstance(error, DivergedError),
        }
        with contextlib.suppress(OSError):  # where the disk is full, the exit code has to do
            storage.write_json(job.scratch / ERROR_FILE.format(rank=rank()), content)
        os._exit(USER_ERROR)  # at once: the others wait for this process in a collective call, and torchrun ends them
