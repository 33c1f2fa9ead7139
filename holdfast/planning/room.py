"""Does the device hold what a stage is about to load? By the plan's arithmetic (costs.memory), before the stage starts.

It is asked before every stage; the arithmetic is imported for those alone that load a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.errors import UserError

if TYPE_CHECKING:
    from holdfast.params.whole import Params

GIB = 2**30
REMEDIES = {  # by stage: what takes less memory of one device
    "reconstruct": "a smaller reconstruct.batch; or `vllm: {tensor_parallel_size: N}` or an `endpoint` for the base",
    "curate": "a smaller curate.batch; or another `embedder`",
    "respond": "a smaller respond.batch; or `vllm: {tensor_parallel_size: N}` or an `endpoint` for the model",
    "judge": "a smaller judge.batch; or `vllm: {tensor_parallel_size: N}` for the model; the base's likelihoods are not a server's",
    "pilot": "lora_rank, a smaller finetune.micro_batch, activation_checkpointing, or processes.strategy: fsdp2 over more GPUs",
    "finetune": "lora_rank, a smaller finetune.micro_batch, activation_checkpointing, or processes.strategy: fsdp2 over more GPUs",
    "evaluate": "a smaller evaluate.batch; or `vllm: {tensor_parallel_size: N}` for the base, or evaluate.url of a server",
}
WRITING = ("reconstruct", "respond", "judge")  # what a server or vLLM can do


def describe_shortage(stage: str, needed: float, total: float, device: str) -> str:
    """One sentence. `stage`: with its cell; `needed`, `total`: bytes."""
    from holdfast.planning import costs

    name, _ = costs.split_stage(stage)
    what = f"{stage} holds {needed / GIB:,.0f} GiB by plan, and {device} has {total / GIB:,.0f}"
    return f"{what}; try {REMEDIES[name]}" if name in REMEDIES else what


def find_shortage(stage: str, *cells: str) -> str | None:
    """What this machine's device does not hold of a stage; None where it does, or where nobody knows. `cells`: a model or an arm."""
    if stage not in REMEDIES:
        return None
    from holdfast.core import manifest
    from holdfast.params.whole import Params
    from holdfast.planning import costs, fit, shapes

    try:
        params = Params.load()
        sizes = [
            shapes.find_shape(params.models[model], Path(params.model_folder))
            for model in list_models(params, stage, *cells)
        ]
        known = [size for size in sizes if size is not None]
        if not known:
            return None
        largest = max(known, key=lambda size: size.parameters)
        training = stage in ("pilot", "finetune")
        processes = count_processes(params, largest.parameters) if training else 1
        name = f"{stage}@{cells[0]}" if cells else stage
        accelerated = manifest.find_device().type != "cpu"
        needed = costs.memory(params, name, largest, 2 if accelerated else 4, processes, compiled=accelerated)
    except (UserError, KeyError):  # the stage says it better
        return None
    total = fit.device_memory()
    device = "a device here" if accelerated else "this machine"
    return describe_shortage(name, needed, total, device) if needed > total else None


def list_models(params: Params, stage: str, *cells: str) -> list[str]:
    """Models that the stage loads on a device of its process."""
    if stage == "evaluate" and params.evaluation_backend != "transformers":
        return []
    if stage == "curate":
        return [params.embedder or params.base]  # hidden states: not through a server
    if stage not in WRITING:
        return [params.base]
    models = params.panel if stage == "judge" and not cells else list(cells[:1]) or [params.base]
    return [model for model in models if not params.models[model].served or is_scored_here(params, stage, model)]


def is_scored_here(params: Params, stage: str, model: str) -> bool:
    """Whether `judge` computes likelihoods on the base's weights, since a server gives none of a text that it is shown."""
    return stage == "judge" and model == params.base and params.models[model].endpoint is not None


def count_processes(params: Params, parameters: int) -> int:
    from holdfast.training import launch

    return launch.count_processes(params.finetune, parameters, params.balance.rows)
