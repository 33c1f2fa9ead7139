"""Self-distillation (SDFT): the base that sees the gold answer teaches the model that does not see it, on the model's own answers.

Shenfeld et al., arXiv 2601.19897. The model answers each request of the domain itself; at every token of that answer it is drawn
towards what the teacher, shown the gold answer as an example, would say there (forward KL). The teacher is the base (fixed), or follows
the model as an exponential moving average of its weights (moving). Cross-entropy to the gold answers has no part in it.
Used by fine_tuning.py for arms with `sdft`, in the place of process.py; TRL's experimental trainer does the steps.
"""

from __future__ import annotations

import time
from itertools import cycle, islice
from typing import Any

import torch
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl.experimental.sdft.teacher_sync import SyncTeacherModelCallback

from holdfast.chat import encoding
from holdfast.core import manifest, meter
from holdfast.core.errors import UserError
from holdfast.core.rows import MixRow
from holdfast.training import distilling, process, saved_model
from holdfast.training.job import MAX_PARAMETERS_ON_ONE_THREAD, DivergedError, Job, Result, find_rate

TEACHERS = {"fixed": "base", "moving": "ema"}  # by the names of TRL's
FORWARD_KL = 0.0  # of TRL's distillation_alpha: KL(teacher || model), whole distributions
DEMONSTRATION = """{prompt}

This is an example for a response to the question:
{privileged_context}

Now answer with a response of your own."""


class SelfDistillation(SDFTTrainer):
    """TRL's trainer with a teacher that came in as every model does, and tokens counted without padding."""

    own = answers = forward = 0  # tokens trained on; of these, the model's answers; passed forward only

    def __init__(self, *args: Any, teacher: Any, **kwargs: Any) -> None:
        self.given_teacher = teacher
        super().__init__(*args, **kwargs)

    def _setup_teacher_model(self) -> None:
        arguments: Any = self.args
        frozen = self.given_teacher.requires_grad_(False).eval()
        self.teacher_model = self.accelerator.prepare_model(frozen, evaluation_mode=True)
        if arguments.teacher_model_kind == TEACHERS["moving"]:
            self.add_callback(SyncTeacherModelCallback(self.teacher_model, self.accelerator))

    def _prepare_training_batch(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._prepare_training_batch(inputs)
        answers = int(batch["completion_mask"].sum())
        own = int(batch["prompt_mask"].sum()) + answers
        self.answers, self.own = self.answers + answers, self.own + own
        self.forward += own + int(batch["teacher_attention_mask"].sum())
        return batch


def train(job: Job, base: manifest.Manifest, rows: list[MixRow]) -> None:
    """Trains on the domain's rows, in their order; leaves model/ and result.json in the scratch folder. Raises UserError where a row
    cannot be shown to the teacher, and DivergedError."""
    from datasets import Dataset

    params, arm_config = job.params, job.arm_config
    tokenizer = distilling.load_tokenizer(job.folder)
    examples = [show_row(tokenizer, row) for row in rows]
    check_lengths(job, base, tokenizer, examples)
    steps = -(-len(rows) // params.batch_size)
    examples = list(islice(cycle(examples), steps * params.batch_size))  # TRL leaves out a step that is not full
    device = manifest.find_device()
    if device.type == "cpu" and job.parameters <= MAX_PARAMETERS_ON_ONE_THREAD:
        torch.set_num_threads(1)
    network: Any = process.load_base(job)
    micro = params.micro_batch or params.batch_size
    config = SDFTConfig(
        output_dir=str(job.scratch),
        bf16=job.bf16,
        max_steps=steps,
        learning_rate=find_rate(params, arm_config),
        lr_scheduler_type=params.scheduler,
        warmup_steps=params.warmup,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=params.batch_size // micro,
        activation_checkpointing=params.activation_checkpointing,
        num_generations=1,
        shuffle_dataset=False,
        max_prompt_length=None,
        max_completion_length=arm_config.sdft_max_tokens,
        teacher_model_kind=TEACHERS[arm_config.sdft],
        teacher_update_rate=arm_config.sdft_update_rate,
        teacher_prompt_template=DEMONSTRATION,
        distillation_mode="full_logits",
        distillation_alpha=FORWARD_KL,
        logging_steps=params.log_steps,
        seed=params.seed,
        data_seed=params.seed,
        **distilling.quiet_settings(),
    )
    with distilling.stopping_at_turns(network, tokenizer):
        trainer: Any = SelfDistillation(
            model=network.to(device),
            teacher=process.load_base(job),
            args=config,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
        )
        began = time.monotonic()
        try:
            distilling.run(trainer, network, "finetune")
        except distilling.Diverged:
            where = f"finetune.arms, learning rate {config.learning_rate:g}"
            raise DivergedError(
                "the self-distillation diverged", where=where, do="lower finetune.learning_rate"
            ) from None
    seconds = time.monotonic() - began
    peak, more = meter.peak_memory(), {"sdft": {"teacher": arm_config.sdft, "answer_tokens": trainer.answers}}
    if arm_config.average != 1:
        more |= process.move_back(job, network, device)
    probe = saved_model.probe_rows(job)
    expected = saved_model.next_token_logprobs(network, probe)
    saved_model.save_as_stored(job, network)
    saved_model.check_saved_model(job, expected, probe)
    speed = {"tokens_per_second": trainer.own / max(seconds, 1e-9), "memory_gib": peak / 2**30}
    Result(
        history=[logs | speed for logs in trainer.state.log_history if "loss" in logs],
        steps=trainer.state.global_step,
        train_seconds=seconds,
        peak_memory_bytes=peak,
        base_tokens_computed=0,
        weighed_tokens=0,
        more=more,
        own_tokens=trainer.own,
        own_forward_tokens=trainer.forward,
    ).write(job.scratch)


def show_row(tokenizer: Any, row: MixRow) -> dict[str, Any]:
    """A row as TRL's trainer takes it: the turns before the last answer, and that answer as a demonstration. Raises UserError where
    either is more than text."""
    messages = row["messages"]
    plain = all(isinstance(turn.get("content"), str) and not turn.get("tool_calls") for turn in messages)
    if row.get("tools") or not plain or [turn["role"] for turn in messages[-2:]] != ["user", "assistant"]:
        do = "leave such rows out of ingest.train for this arm, or train it without sdft"
        raise UserError(
            "has tools or ends otherwise than with a user's turn and its answer", where=f"row {row['id']}", do=do
        )
    *prompt, answer = encoding.escape_messages(tokenizer, messages)
    return {"prompt": prompt, "privileged_context": answer["content"]}


def check_lengths(job: Job, base: manifest.Manifest, tokenizer: Any, examples: list[dict[str, Any]]) -> None:
    """Raises UserError where what the teacher reads, gold answer and the model's own together, exceeds the context."""
    shown = {
        DEMONSTRATION.format(prompt=one["prompt"][-1]["content"], privileged_context=one["privileged_context"]): one[
            "prompt"
        ]
        for one in examples
    }
    turns = [[*prompt[:-1], {"role": "user", "content": text}] for text, prompt in shown.items()]
    longest = max(len(encoding.tokenise(tokenizer, encoding.render(tokenizer, turn, respond=True))) for turn in turns)
    most = base.context - job.arm_config.sdft_max_tokens
    if longest > most:
        raise UserError(
            f"a request with its gold answer has {longest} tokens, {most} are left beside sdft_max_tokens",
            where=f"finetune.arms.{job.arm}",
            do="lower sdft_max_tokens, or drop long rows in ingest.max_chars",
        )
