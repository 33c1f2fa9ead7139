"""What `holdfast doctor` says of the machine: python, torch's device, DVC remotes, memory, disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.core import manifest
from holdfast.params.whole import Params
from holdfast.planning import shapes

OK, NOTE, UNKNOWN, NEEDED = "ok", "--", "??", "!!"  # present; would help; could not be checked; needed and missing
Line = tuple[str, str]  # one of these marks, and the text
PLUGINS = {
    "s3": "dvc_s3",
    "gs": "dvc_gs",
    "azure": "dvc_azure",
    "ssh": "dvc_ssh",
    "sftp": "dvc_ssh",
    "gdrive": "dvc_gdrive",
}
STATE_BYTES = 16  # bytes per parameter that is trained: weights, gradient and two moments of AdamW, all in fp32
GIB = 2**30
PATIENCE = 10.0  # seconds for a remote to answer


def check_python() -> Iterator[Line]:
    version = sys.version.split()[0]
    yield (
        (OK, f"python {version}")
        if sys.version_info >= (3, 11)
        else (NEEDED, f"python {version}: install 3.11 or later")
    )


def check_device() -> Iterator[Line]:
    import torch

    where = manifest.find_device()
    name = torch.cuda.get_device_name() if where.type == "cuda" else f"{where.type}, {os.cpu_count()} cores"
    count = torch.accelerator.device_count() if where.type != "cpu" else 1
    yield OK, f"torch {torch.__version__} on {count} x {name}"
    if where.type == "cpu":
        yield NOTE, "no accelerator: enough for the pocket lab; for real models, a machine with a GPU or an 'endpoint'"


def check_remote() -> Iterator[Line]:
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCM

    try:
        with Repo(".") as repo:
            config = repo.config
            remotes, chosen = config["remote"], config["core"].get("remote")
            empty = not isinstance(repo.scm, NoSCM) and repo.scm.no_commits
    except NotDvcRepoError:
        yield NEEDED, "dvc: no DVC project here; go to the project's folder, or make one with `holdfast init`"
        return
    if empty:
        yield NEEDED, "git: no commit yet, and training needs one: `git add . && git commit -m start`"
    if not remotes:
        yield NOTE, "dvc remote: none, so results stay on this machine; `dvc remote add -d NAME URL`"
    elif chosen is None:
        yield NOTE, f"dvc remote: none is the default; `dvc remote default {sorted(remotes)[0]}`"
    for name, settings in remotes.items():
        url = settings["url"]
        scheme = url.partition("://")[0] if "://" in url else ""
        if scheme in PLUGINS and importlib.util.find_spec(PLUGINS[scheme]) is None:
            yield (
                NEEDED,
                f"dvc remote {name}: {scheme} needs a plugin; pip install dvc-{PLUGINS[scheme].removeprefix('dvc_')}",
            )
        elif not scheme and not Path(url).is_dir():
            yield (
                NOTE,
                f"dvc remote {name}: {url} is not there yet; `dvc push` makes it, or correct it with `dvc remote modify`",
            )
        elif scheme:
            yield check_reading(config, name, url)
        else:
            yield OK, f"dvc remote {name}: {url}"


def check_reading(config: Any, name: str, url: str) -> Line:
    """Whether a remote elsewhere can be read from here. `config`: of DVC's repository."""
    from dvc.fs import get_cloud_fs

    answers: list[bool | str] = []

    def look() -> None:
        try:
            file_system, settings, path = get_cloud_fs(config, name=name)
            answers.append(bool(file_system(**settings).exists(path)))
        except Exception as error:  # each file system, and each of its libraries, has errors of its own
            answers.append(type(error).__name__)  # its text may hold a password

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    where = f"dvc remote {name}: {url.partition('@')[2] or url}"
    if not answers:
        return UNKNOWN, f"{where} does not answer in {PATIENCE:.0f} s; `dvc status --cloud -r {name}` waits longer"
    (answer,) = answers
    if isinstance(answer, str):
        do = f"`dvc status --cloud -r {name}` says more; credentials go into `dvc remote modify --local`"
        return NEEDED, f"{where} cannot be read from here ({answer}): {do}"
    if answer:
        return OK, f"{where} can be read"
    if url.startswith("http"):  # a server seldom shows folders, and what does not answer looks the same
        return UNKNOWN, f"{where} shows no folder; `dvc status --cloud -r {name}` tells whether it can be read"
    return NOTE, f"{where} is not there yet; `dvc push` makes it, or correct it with `dvc remote modify`"


def check_memory(params: Params) -> Iterator[Line]:
    """Of the device, against what training holds at least: weights and optimiser state, activations not counted."""
    import psutil
    import torch

    where = manifest.find_device()
    spread = params.finetune.processes.strategy == "fsdp2" and where.type != "cpu"
    count = torch.accelerator.device_count() if spread else 1
    total = torch.cuda.get_device_properties(0).total_memory if where.type == "cuda" else psutil.virtual_memory().total
    base = params.models[params.base]
    lost = base.path is not None and not (Path(params.model_folder) / base.path).is_dir()  # said beside the models
    shape = None if lost else shapes.find_shape(base, Path(params.model_folder))
    what = f"memory: {total / GIB:,.0f} GiB on {where.type}" + (f", x {count} shared by fsdp2" if count > 1 else "")
    if shape is None:
        yield UNKNOWN, f"{what}; the base's size is not known before it is here"
        return
    whole = any(params.finetune.arms[arm].lora_rank is None for arm in params.arms)
    kl = any(
        params.finetune.arms[arm].objective == "kl" and not params.finetune.arms[arm].adapter for arm in params.arms
    )
    needed = shape.parameters * ((STATE_BYTES if whole else 4) + (4 if kl else 0)) / count
    if needed < total:
        yield (
            OK,
            f"{what}; training {shape.parameters / 1e6:,.1f} M parameters holds {needed / GIB:,.1f} GiB and activations",
        )
    else:
        do = "more GPUs, or cpu_offload" if spread else "set lora_rank, or processes.strategy: fsdp2 over several GPUs"
        yield NEEDED, f"{what}; training {shape.parameters / 1e9:,.1f} B parameters holds {needed / GIB:,.0f} GiB: {do}"


def check_disk(params: Params) -> Iterator[Line]:
    free = shutil.disk_usage(".").free
    shape = shapes.find_shape(params.models[params.base], Path(params.model_folder))
    models = sum(map(len, params.trainings.values()))
    needed = (2 * models + 1) * 2 * shape.parameters if shape else 0  # bf16; each model also in DVC's cache
    text = f"disk: {free / GIB:,.1f} GiB free; base and tuned models take about {needed / GIB:,.1f} GiB"
    if needed < free:
        yield OK, text
    else:
        yield NEEDED, f"{text}: make room, or `dvc config cache.type reflink,hardlink,copy`"
