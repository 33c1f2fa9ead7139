"""The stage `finetune` with FSDP2 in gloo processes on a CPU, which accelerate (1.15) itself shards on accelerators only.

torchrun --nproc_per_node 2 tests/training/fsdp2_on_cpu.py        (in a project's folder; test_processes.py starts it)

PyTorch's fully_shard runs on gloo. Here accelerate takes the CPU for an accelerator, and nothing else differs from a run
on GPUs. Prints how many modules were sharded.
"""

from __future__ import annotations

import torch.distributed.fsdp
from accelerate import PartialState
from accelerate.utils import DistributedType
from helpers import run_stage

begin, shard, sharded = PartialState.__init__, torch.distributed.fsdp.fully_shard, []


def as_accelerator(self, *args, **kwargs) -> None:
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_XPU


def count_sharded(module, *args, **kwargs):
    sharded.append(type(module).__name__)
    return shard(module, *args, **kwargs)


if __name__ == "__main__":
    PartialState.__init__ = as_accelerator
    torch.distributed.fsdp.fully_shard = count_sharded
    run_stage("finetune", "arm")
    print(f"sharded {len(sharded)} modules: {' '.join(sorted(set(sharded)))}")
