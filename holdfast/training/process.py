"""One process of a training: from encoded rows to tuned weights, alone or as one of several that share every step.

Before: launch.py runs `train` in every process. After: trainer.py does the steps. Process 0 leaves the result (job.py)
and the model in the job's scratch folder, where fine_tuning.py reads them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, set_seed
from trl import SFTConfig

from holdfast.chat import encoding
from holdfast.core import checkpoint_files, manifest, meter
from holdfast.core.errors import UserError
from holdfast.training import anchors, averaging, compiling, losses, saved_model, token_masking
from holdfast.training.base_logprobs import Store, build_table
from holdfast.training.held_out import EncodedRow
from holdfast.training.job import (
    HELD_OUT_FILE,
    MAX_PARAMETERS_ON_ONE_THREAD,
    REPLAY_FILE,
    ROWS_FILE,
    Job,
    Result,
    find_rate,
    last_checkpoint,
)
from holdfast.training.monitoring import Watch
from holdfast.training.trackers import prepare_trackers, read_trackers
from holdfast.training.trainer import BaseSide, ForgettingTrainer, LossConfig, Table

MAX_COMPARED_ROWS = 64  # replay rows on which the top-k KL is compared with the whole one


def train(job: Job) -> None:
    """Trains and leaves model/ and result.json in the scratch folder. Resumes from a whole checkpoint there."""
    params, arm_config = job.params, job.arm_config
    cpu = manifest.find_device().type == "cpu"
    if cpu and (job.processes > 1 or job.parameters <= MAX_PARAMETERS_ON_ONE_THREAD):
        torch.set_num_threads(1)  # on matrices this small, handing work to threads takes longer than the work
    set_seed(params.seed)
    arguments = trainer_arguments(job, cpu)
    device = arguments.device  # asking for it joins the other processes
    PartialState().wait_for_everyone()  # process 0 has written the rows before it came here
    tokenizer = manifest.load_tokenizer(job.folder)
    tokenizer.padding_side = "right"
    tuned = load_base(job)
    table, base_tokens_computed = cached_base_side(job, arguments)
    if arm_config.anchor != "none":
        tuned.to(device)  # type: ignore[arg-type]
    rows = pq.read_table(job.scratch / ROWS_FILE)
    more: dict[str, Any] = {}
    if arm_config.mask_perplexity:
        rows, more["masked"] = mask_rows(job, rows, tuned.to(device), tokenizer)  # type: ignore[arg-type]
    fisher_rows = replay_rows(job)[: arm_config.fisher_rows] if arm_config.anchor == "ewc" else []
    base_in_step = arm_config.target_kl or (arm_config.objective == "kl" and table is None)
    base_side = BaseSide(
        model=load_base(job) if base_in_step and not arm_config.adapter else None,
        adapter_off=bool(base_in_step and arm_config.adapter),
        table=table,
        start=anchors.copy_weights(tuned) if arm_config.anchor != "none" else None,
        importance=anchors.fisher(tuned, fisher_rows) if fisher_rows else None,
    )
    loss_config = LossConfig(
        kl_weight=job.kl_weight,
        kl_target=arm_config.kl_target,
        target_kl=arm_config.target_kl,
        dft=arm_config.reweight == "dft",
        replays=job.replays and arm_config.objective == "ce",
        anchor_coefficient=arm_config.anchor_coefficient,
    )
    watch = Watch(job.scratch, len(tokenizer))
    trainer = ForgettingTrainer(
        model=tuned,
        args=arguments,
        train_dataset=Dataset(rows),
        processing_class=tokenizer,
        callbacks=[watch],
        peft_config=adapters(job),
        step_rows=params.batch_size,
        parts=job.parts,
        loss_config=loss_config,
        base_side=base_side,
        bf16=job.bf16,
        compiled=job.compiled,
    )
    trainer.remove_callback(PrinterCallback)  # our own callback logs
    prepared: Any = trainer.train_dataset
    if not params.packing and len(prepared) != len(rows):
        raise RuntimeError(f"TRL kept {len(prepared)} of {len(rows)} rows")
    earlier = last_checkpoint(job.scratch)
    if earlier and (earlier / checkpoint_files.WEIGHTS).is_file():
        check_resumable(earlier, tuned)
    if earlier and trainer.is_world_process_zero():
        print(f"{job.arm}: resuming from {earlier.name}")
    output = trainer.train(resume_from_checkpoint=str(earlier) if earlier else None)
    watch.close()
    model = whole_model(job, trainer)
    compiling.undo(model)
    if not trainer.is_world_process_zero():
        return
    peak_memory = meter.peak_memory()
    if trainer.steering:
        more["kl_steering"] = {"target": arm_config.kl_target, "factor": trainer.steering.factor.item()}
    if table is not None:
        more["kl_cache"] = top_k_error(job, model, table)
    if arm_config.average != 1:
        more |= move_back(job, model, device)
    probe = saved_model.probe_rows(job)
    expected = saved_model.next_token_logprobs(model, probe)
    saved_model.save_as_stored(job, model)
    saved_model.check_saved_model(job, expected, probe)
    Result(
        history=[logs for logs in trainer.state.log_history if "loss" in logs],
        steps=trainer.state.global_step,
        train_seconds=output.metrics["train_runtime"],
        peak_memory_bytes=peak_memory,
        base_tokens_computed=base_tokens_computed,
        weighed_tokens=sum(len(ids) for ids, _ in fisher_rows),
        more=more,
    ).write(job.scratch)


def mask_rows(job: Job, rows: pa.Table, base: PreTrainedModel, tokenizer: Any) -> tuple[pa.Table, dict[str, int]]:
    """The rows without the labels that `mask_perplexity` leaves out, and for the ledger how many these are. Raises UserError
    where nothing but the ends of turns is left."""
    most, ids, labels = (
        job.arm_config.mask_perplexity or 0,
        *(rows[name].to_pylist() for name in ("input_ids", "labels")),
    )
    new, masked, total = token_masking.mask_labels(base, ids, labels, most, encoding.assistant_stop_ids(tokenizer))
    if masked == total:
        raise UserError(
            f"the base finds each of the domain's {total:,} tokens less likely than 1 / {most:g}: nothing is left to train on",
            where=f"finetune.arms.{job.arm}.mask_perplexity",
            do="raise it, or leave it out: this method is for answers that the base could have written",
        )
    table = rows.set_column(
        rows.schema.get_field_index("labels"), "labels", pa.array(new, rows.schema.field("labels").type)
    )
    return table, {"tokens": masked, "of": total}


def check_resumable(folder: Path, model: PreTrainedModel) -> None:
    """Raises UserError where a checkpoint's weights are not the model's: what is missing would keep its value unsaid."""
    headers = checkpoint_files.read_headers(folder, [checkpoint_files.WEIGHTS])
    for name, weight in model.named_parameters():
        if headers.get(name.removeprefix("_orig_mod."), ("", ()))[1] != tuple(weight.shape):
            what = f"does not hold this model's weights ({name[:120]} is missing or has another shape)"
            raise UserError(what, where=folder, do="remove that folder: the run goes on from the one before, or anew")


def trainer_arguments(job: Job, cpu: bool) -> SFTConfig:
    """The job as Trainer's and TRL's settings."""
    params = job.params
    sharded = job.processes > 1 and params.processes.strategy == "fsdp2"  # then accelerate sees to the precision
    trackers = read_trackers()
    prepare_trackers(trackers, job.arm)
    return SFTConfig(
        output_dir=str(job.scratch),
        use_cpu=cpu,
        bf16=job.bf16 and sharded,
        fp16=False,
        num_train_epochs=1,  # the mixture holds all epochs
        learning_rate=find_rate(params, job.arm_config),
        per_device_train_batch_size=max(1, params.batch_size // job.parts),
        gradient_accumulation_steps=job.parts // job.processes,
        lr_scheduler_type=params.scheduler,
        warmup_steps=params.warmup,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        max_length=params.max_length if params.packing else None,
        packing=params.packing,
        packing_strategy="bfd",
        shuffle_dataset=params.packing,
        remove_unused_columns=True,
        save_strategy="steps" if params.checkpoint_steps else "no",
        save_steps=params.checkpoint_steps or 1,
        save_total_limit=1,
        logging_steps=params.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=trackers or "none",
        run_name=f"holdfast {job.arm}",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=params.seed,
        data_seed=params.seed,
        **distributed_arguments(job),
    )


def distributed_arguments(job: Job) -> dict[str, Any]:
    """The launcher's settings as Trainer wants them."""
    processes, checkpointing = job.params.processes, job.params.activation_checkpointing
    if job.processes == 1 or processes.strategy == "ddp":
        return dict(activation_checkpointing=checkpointing, ddp_find_unused_parameters=False)
    fsdp = dict(
        version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        reshard_after_forward=processes.reshard,
        cpu_offload=processes.cpu_offload,
        state_dict_type="FULL_STATE_DICT",
        activation_checkpointing=checkpointing,
    )
    return dict(activation_checkpointing=False, fsdp=True, fsdp_config=fsdp)


def adapters(job: Job) -> Any:
    """peft's settings for `lora_rank` or `osf_rank`; None where all weights are trained."""
    arm_config = job.arm_config
    if not arm_config.adapter:
        return None
    from peft import LoraConfig, OSFConfig

    where: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    if arm_config.lora_rank:
        return LoraConfig(r=arm_config.lora_rank, lora_alpha=arm_config.lora_alpha, **where)
    return OSFConfig(effective_rank=1 - (arm_config.osf_rank or 0), **where)


def load_base(job: Job) -> PreTrainedModel:
    """The base in fp32."""
    attention = "eager" if job.plain_attention else "sdpa"
    return manifest.load_model(job.folder, "float32", device="cpu", attention=attention)


def load_frozen_base(job: Job, device: Any) -> PreTrainedModel:
    return load_base(job).to(device).eval()


def cached_base_side(job: Job, arguments: SFTConfig) -> tuple[Table | None, int]:
    """The cached top-k log-probabilities of the replay rows, and the tokens that passed through the base for them."""
    if job.arm_config.kl_cache == "off":
        return None, 0
    return build_table(
        Store(job.fingerprint, job.bf16, job.arm_config.kl_top_k),
        [ids for ids, _ in replay_rows(job)],
        partial(load_frozen_base, job, arguments.device),
        autocast=job.bf16,
        rank=arguments.process_index,
        world=arguments.world_size,
        wait=PartialState().wait_for_everyone,
    )


def replay_rows(job: Job) -> list[EncodedRow]:
    """Every replay row once, in the order of the table of the base's log-probabilities."""
    columns = pq.read_table(job.scratch / REPLAY_FILE).to_pydict()
    return list(zip(columns["input_ids"], columns["mask"], strict=True))


def held_out_rows(job: Job) -> list[tuple[str, EncodedRow]]:
    """Rows that were not trained on, with their source."""
    columns = pq.read_table(job.scratch / HELD_OUT_FILE).to_pydict()
    return list(zip(columns["source"], zip(columns["input_ids"], columns["mask"], strict=True), strict=True))


def whole_model(job: Job, trainer: ForgettingTrainer) -> PreTrainedModel:
    """The tuned model in the base's own shape, on every process (with fsdp2: on process 0)."""
    if job.processes > 1 and job.params.processes.strategy == "fsdp2":
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        model = load_base(job)
        if trainer.is_world_process_zero():
            model.load_state_dict(state)
        return model
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.merge_and_unload() if job.arm_config.adapter else model


def move_back(job: Job, tuned: PreTrainedModel, device: torch.device) -> dict[str, Any]:
    """Moves the weights back towards the base's, in place, as `average` says. For the ledger: how `auto` was
    decided."""
    start, part = anchors.copy_weights(load_base(job)), job.arm_config.average
    decided: dict[str, Any] = {}
    if part == "auto":
        held = held_out_rows(job)
        store = Store(job.fingerprint, False, job.arm_config.kl_top_k)
        table, _ = build_table(store, [ids for _, (ids, _) in held], partial(load_frozen_base, job, device))
        choice = averaging.choose_average(tuned, start, held, table, job.arm_config.retention_target)
        print(averaging.sentence(choice))
        decided, part = {"average": choice}, choice["chosen"]
    anchors.average(tuned, start, part)
    return decided


@torch.inference_mode()
def top_k_error(job: Job, tuned: PreTrainedModel, table: Table) -> dict[str, float]:
    """What the cache leaves out: probability mass per token, and the KL per token with and without it at the end."""
    base, rows = load_frozen_base(job, tuned.device), [ids for ids, _ in replay_rows(job)][:MAX_COMPARED_ROWS]
    tuned.eval()
    kl, kl_top_k, tokens, start = 0.0, 0.0, 0, 0
    for ids in rows:
        one = torch.tensor([ids], device=tuned.device)
        before, after = (m(input_ids=one, use_cache=False).logits[0, :-1] for m in (base, tuned))  # (T-1, V)
        top, logprobs = (part[start + 1 : start + len(ids)].to(tuned.device) for part in table)
        kl += losses.kl_sum(before, after).item()
        kl_top_k += losses.kl_top_k_sum(top.long(), logprobs, after).item()
        tokens, start = tokens + len(ids) - 1, start + len(ids)
    left = (1 - table[1].exp().sum(-1)).clamp(min=0).mean().item()
    return {"k": job.arm_config.kl_top_k, "mass_left": left, "kl_whole": kl / tokens, "kl_top_k": kl_top_k / tokens}
