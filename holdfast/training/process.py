"""One process of a fine-tuning run: from encoded rows to tuned weights, alone or as one of several that share every step.

Process 0 writes; what it leaves in the job's scratch folder, `finetune` puts in its place when the run has ended well.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel, PrinterCallback, set_seed
from trl import SFTConfig

from holdfast.core import manifest, records
from holdfast.training import anchors, averaging, base_logprobs, compiling, held_out, losses
from holdfast.training.job import HELD, MODEL, REPLAYED, RESULT, ROWS, SMALL, Job, last_checkpoint
from holdfast.training.monitoring import Watch
from holdfast.training.trainer import ForgettingTrainer, Table, peak_memory

ERROR_ROWS = 64  # replay rows on which the top-k KL is compared with the whole one


def train(job: Job) -> None:
    """Trains and leaves model/ and result.json in the scratch folder. Goes on from a whole checkpoint there."""
    params, how = job.params, job.how
    cpu = manifest.device().type == "cpu"
    if cpu and (job.processes > 1 or job.parameters <= SMALL):
        torch.set_num_threads(1)  # on matrices this small, handing work to threads takes longer than the work
    set_seed(params.seed)
    sharded = job.processes > 1 and params.processes.strategy == "fsdp2"  # accelerate sees to its precision
    arguments = SFTConfig(
        output_dir=str(job.scratch), use_cpu=cpu, bf16=job.bf16 and sharded, fp16=False, num_train_epochs=1,  # the mixture holds all epochs
        learning_rate=how.learning_rate or params.learning_rate,
        per_device_train_batch_size=max(1, params.batch_size // job.parts), gradient_accumulation_steps=job.parts // job.processes,
        lr_scheduler_type=params.scheduler, warmup_steps=params.warmup, weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm, max_length=params.max_length if params.packing else None,
        packing=params.packing, packing_strategy="bfd", shuffle_dataset=params.packing, remove_unused_columns=True,
        save_strategy="steps" if params.checkpoint_steps else "no", save_steps=params.checkpoint_steps or 1, save_total_limit=1,
        logging_steps=params.log_steps, logging_first_step=True, logging_nan_inf_filter=False, report_to="none", disable_tqdm=True,
        dataloader_pin_memory=False, seed=params.seed, data_seed=params.seed, **distributed(job),
    )  # fmt: skip
    device = arguments.device  # asking for it joins the other processes
    PartialState().wait_for_everyone()  # process 0 has written the rows before it came here
    tokenizer = manifest.tokenizer(job.folder)
    tokenizer.padding_side = "right"
    tuned = load(job.folder, job.longest)
    table, forward = base_side(job, arguments)
    extra: dict[str, Any] = {}
    if how.lora_rank:
        from peft import LoraConfig

        extra["peft_config"] = LoraConfig(
            r=how.lora_rank, lora_alpha=how.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    if how.anchor != "none":
        tuned.to(device)  # type: ignore[arg-type]
    rows, weighed = pq.read_metadata(job.scratch / ROWS).num_rows, list[tuple[list[int], list[int]]]()
    if how.anchor == "ewc":
        weighed = replay_rows(job)[: how.fisher_rows]
    watch = Watch(job.scratch, len(tokenizer))
    trainer = ForgettingTrainer(
        model=tuned, args=arguments, train_dataset=Dataset(pq.read_table(job.scratch / ROWS)), processing_class=tokenizer,
        callbacks=[watch], step_rows=params.batch_size, parts=job.parts,
        base=load(job.folder, job.longest) if how.target_kl or (how.objective == "kl" and table is None) else None, table=table,
        coefficient=job.kl_weight, target_kl=how.target_kl,
        weigh_tokens=how.reweight == "dft", replays=job.replays and how.objective == "ce",
        start=anchors.copied(tuned) if how.anchor != "none" else None,
        importance=anchors.fisher(tuned, weighed) if weighed else None,
        anchor_coefficient=how.anchor_coefficient, bf16=job.bf16, compiled=job.compiled, **extra,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # our own callback logs
    prepared: Any = trainer.train_dataset
    if not params.packing and len(prepared) != rows:
        raise RuntimeError(f"TRL kept {len(prepared)} of {rows} rows")
    last = last_checkpoint(job.scratch)
    if last and trainer.is_world_process_zero():
        print(f"{job.arm}: going on from {last.name}")
    trained = trainer.train(resume_from_checkpoint=str(last) if last else None)
    watch.close()
    finished = whole(job, trainer)
    compiling.undo(finished)
    if not trainer.is_world_process_zero():
        return
    result: dict[str, Any] = {
        "history": [logs for logs in trainer.state.log_history if "loss" in logs],
        "steps": trainer.state.global_step,
        "train_seconds": trained.metrics["train_runtime"],
        "peak_memory_bytes": peak_memory(),
        "cached_tokens": forward,
        "weighed_tokens": sum(len(ids) for ids, _ in weighed),
    }
    if table is not None:
        result["kl_cache"] = top_k_error(job, finished, table)
    if how.average != 1:
        start, part = anchors.copied(load(job.folder, job.longest)), how.average
        if part == "auto":
            result["average"] = averaging.chosen(finished, start, *held_rows(job, arguments), how.retention_target)
            part = result["average"]["chosen"]
        anchors.average(finished, start, part)
    stored = stored_dtype(job.folder) or getattr(torch, str(finished.config.dtype or "float32").removeprefix("torch."))
    finished.to(device="cpu", dtype=stored).save_pretrained(job.scratch / MODEL)  # type: ignore[call-arg]
    records.write_json(job.scratch / RESULT, result)


def distributed(job: Job) -> dict[str, Any]:
    """The launcher's settings as Trainer wants them."""
    given, checkpointing = job.params.processes, job.params.activation_checkpointing
    if job.processes == 1 or given.strategy == "ddp":
        return dict(activation_checkpointing=checkpointing, ddp_find_unused_parameters=False)
    fsdp = dict(
        version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP", reshard_after_forward=given.reshard,
        cpu_offload=given.cpu_offload, state_dict_type="FULL_STATE_DICT", activation_checkpointing=checkpointing,
    )  # fmt: skip
    return dict(activation_checkpointing=False, fsdp=True, fsdp_config=fsdp)


def base_side(job: Job, arguments: SFTConfig) -> tuple[Table | None, int]:
    """The cached top-k log-probabilities of the replay rows, and the tokens that passed through the base for them."""
    if job.how.kl_cache == "off":
        return None, 0
    code = base_logprobs.cache.code_version(*base_logprobs.files())
    store = base_logprobs.Store([job.fingerprint, job.bf16, arguments.device.type, code], job.how.kl_top_k)
    return base_logprobs.table(
        store, [ids for ids, _ in replay_rows(job)], partial(base_model, job, arguments.device),
        job.bf16, arguments.process_index, arguments.world_size, PartialState().wait_for_everyone,
    )  # fmt: skip


def held_rows(job: Job, arguments: SFTConfig) -> tuple[list[tuple[str, held_out.Row]], Table]:
    """Rows that were not trained on, with their source, and the base's side of them."""
    columns = pq.read_table(job.scratch / HELD).to_pydict()
    rows = list(zip(columns["input_ids"], columns["mask"], strict=True))
    code = base_logprobs.cache.code_version(*base_logprobs.files())
    store = base_logprobs.Store([job.fingerprint, False, arguments.device.type, code], job.how.kl_top_k)
    ids = [ids for ids, _ in rows]
    table, _ = base_logprobs.table(store, ids, partial(base_model, job, arguments.device), False, 0, 1, lambda: None)
    return list(zip(columns["source"], rows, strict=True)), table


def base_model(job: Job, device: Any) -> PreTrainedModel:
    return load(job.folder, job.longest).to(device).eval()


def replay_rows(job: Job) -> list[tuple[list[int], list[int]]]:
    """Every replay row once, in the order of the table of the base's log-probabilities: token ids and answer mask."""
    columns = pq.read_table(job.scratch / REPLAYED).to_pydict()
    return list(zip(columns["input_ids"], columns["mask"], strict=True))


def load(folder: Path, longest: int) -> PreTrainedModel:
    """The base in fp32, to be trained on rows of up to `longest` tokens."""
    # In bf16 on CPU the backward pass of fused attention takes ten times as long on short rows (benchmarks/attention.py).
    plain = manifest.device().type == "cpu" and longest <= 256
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True,
        attn_implementation="eager" if plain else "sdpa",
    )  # fmt: skip


def whole(job: Job, trainer: ForgettingTrainer) -> PreTrainedModel:
    """The tuned model in the base's own shape, on every process (with fsdp2: on process 0)."""
    if job.processes > 1 and job.params.processes.strategy == "fsdp2":
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        model = load(job.folder, job.longest)
        if trainer.is_world_process_zero():
            model.load_state_dict(state)
        return model
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.merge_and_unload() if job.how.lora_rank else model


@torch.inference_mode()
def top_k_error(job: Job, tuned: PreTrainedModel, table: Table) -> dict[str, float]:
    """What the cache leaves out: probability mass per token, and the KL per token with and without it at the end."""
    base, rows = base_model(job, tuned.device), [ids for ids, _ in replay_rows(job)][:ERROR_ROWS]
    tuned.eval()
    kl, kl_top_k, tokens, start = 0.0, 0.0, 0, 0
    for ids in rows:
        one = torch.tensor([ids], device=tuned.device)
        before, after = (m(input_ids=one, use_cache=False).logits[0, :-1] for m in (base, tuned))  # (T-1, V)
        kept, logprobs = (part[start + 1 : start + len(ids)].to(tuned.device) for part in table)
        kl += losses.kl_sum(before, after).item()
        kl_top_k += losses.kl_top_k_sum(kept.long(), logprobs, after).item()
        tokens, start = tokens + len(ids) - 1, start + len(ids)
    left = (1 - table[1].exp().sum(-1)).clamp(min=0).mean().item()
    return {"k": job.how.kl_top_k, "mass_left": left, "kl_whole": kl / tokens, "kl_top_k": kl_top_k / tokens}


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The dtype of the base's weights on disk: the tuned model is stored alike."""
    from safetensors import safe_open

    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    with safe_open(sorted(folder.glob("*.safetensors"))[0], framework="pt") as tensors:
        return names.get(tensors.get_slice(next(iter(tensors.keys()))).get_dtype())
