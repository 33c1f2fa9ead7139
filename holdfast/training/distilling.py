"""Distillation from the base on what the tuned model itself writes (on-policy): TRL's DistillationTrainer, a few hundred steps.

The tuned model answers instructions that the base wrote; at every token of its own answer it is drawn towards the base's distribution
(GKD, arXiv 2306.13649; thinkingmachines.ai/blog/on-policy-distillation heals a tuned model so). No other data is needed.
Used by fine_tuning.py, for arms with `distil_steps`, and by `holdfast repair`; self_distilling.py shares what is around a trainer.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.chat import encoding
from holdfast.chat.templates import Messages
from holdfast.core import checkpoint, manifest
from holdfast.core.errors import UserError
from holdfast.core.progress import Progress
from holdfast.core.rows import MixRow
from holdfast.training.job import MODEL_FOLDER, Job, Result

FORWARD_KL = (
    0.0  # of TRL's beta: a model that has lost its chat puts no mass on it, and the reverse KL moves it too slowly
)


class Diverged(Exception):
    """The weights are no numbers any more: the learning rate was too high."""


@dataclass(frozen=True)
class Distillation:
    steps: int
    rate: float = 1e-5  # learning rate, constant after a tenth of the steps
    batch: int = 16  # answers of a step
    max_tokens: int = 48  # of an answer: chat is lost at its first tokens
    seed: int = 1


def distil(network: Any, base: manifest.Manifest, chats: list[Messages], plan: Distillation) -> list[dict[str, Any]]:
    """Trains `network` (fp32, in place); returns TRL's log. `chats` end with a user turn. Raises Diverged."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    tokenizer = load_tokenizer(base.folder())
    teacher = manifest.load_model(base.folder(), base.dtype)
    rows = [{"prompt": encoding.escape_messages(tokenizer, chat)} for chat in chats]
    rows *= -(-plan.batch // len(rows))  # fewer than a step holds would make no step
    with tempfile.TemporaryDirectory(prefix="holdfast-") as scratch, stopping_at_turns(network, tokenizer):
        config = DistillationConfig(
            output_dir=str(Path(scratch)),
            bf16=manifest.bf16_usable(),
            max_steps=plan.steps,
            learning_rate=plan.rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=plan.steps // 10,
            per_device_train_batch_size=min(plan.batch, 8),
            gradient_accumulation_steps=max(1, plan.batch // 8),
            max_completion_length=plan.max_tokens,
            temperature=1.0,
            beta=FORWARD_KL,
            activation_checkpointing=False,
            logging_steps=10,
            seed=plan.seed,
            data_seed=plan.seed,
            **quiet_settings(),
        )
        trainer: Any = DistillationTrainer(
            model=network.to(manifest.find_device()),
            teacher_model=teacher,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        run(trainer, network, "distil")
    return [logs for logs in trainer.state.log_history if "loss" in logs]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer as TRL is given it: its template has its clock stopped."""
    tokenizer = manifest.load_tokenizer(folder)
    tokenizer.chat_template = encoding.template_of(tokenizer).source
    return tokenizer


@contextmanager
def stopping_at_turns(network: Any, tokenizer: Any) -> Iterator[None]:
    """Inside, the network's answers end where the assistant's turn does, whatever its files say."""
    former = network.generation_config
    network.generation_config = copy.deepcopy(former)
    network.generation_config.eos_token_id = list(encoding.assistant_stop_ids(tokenizer))
    try:
        yield
    finally:
        network.generation_config = former


def quiet_settings() -> dict[str, Any]:
    """What every trainer of TRL's that writes its own answers is told: our progress, no files, no bad number passed over."""
    return dict(
        use_cpu=manifest.find_device().type == "cpu",
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def run(trainer: Any, network: Any, name: str) -> None:
    """Trains. Raises Diverged."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(make_reporter(name))
    try:
        trainer.train()
    except RuntimeError:  # of sampling, where the weights are no numbers any more
        if is_finite(network):
            raise
    network.eval()
    if not is_finite(network):
        raise Diverged


def distil_trained(work: Job, base: manifest.Manifest, rows: list[MixRow]) -> None:
    """Distils from the base into the model that was trained, in its scratch folder. Raises UserError where it diverges."""
    from holdfast.training import saved_model

    chats = {
        str(row["messages"]): row["messages"][:-1] for row in rows if row["source"] == "replay" and not row.get("tools")
    }
    if not chats:
        do = "raise mix.arms.NAME.share, or reconstruct plain user turns too"
        raise UserError("has no replay row without tools to distil on", where=f"arm '{work.arm}'", do=do)
    network = manifest.load_model(work.scratch / MODEL_FOLDER, "float32")
    plan = Distillation(work.arm_config.distil_steps, work.arm_config.distil_learning_rate, seed=work.params.seed)
    try:
        log = distil(network, base, list(chats.values()), plan)
    except Diverged:
        where = f"finetune.arms.{work.arm}.distil_learning_rate"
        raise UserError("the distillation diverged", where=where, do=f"set it below {plan.rate:g}") from None
    probe = saved_model.probe_rows(work)
    expected = saved_model.next_token_logprobs(network, probe)
    saved_model.save_as_stored(work, network)
    saved_model.check_saved_model(work, expected, probe)
    result = Result.read(work.scratch)
    tokens, *kl = int(log[-1]["num_tokens"]), float(log[0]["loss"]), float(log[-1]["loss"])
    distilled = {"steps": plan.steps, "tokens": tokens, "kl_first": kl[0], "kl_last": kl[1]}
    more = result.more | {"distilled": distilled}
    replace(result, own_tokens=tokens, own_forward_tokens=2 * tokens, more=more).write(work.scratch)


def is_finite(network: Any) -> bool:
    return all(checkpoint.is_finite(weight.detach()) for weight in network.parameters())


def make_reporter(name: str) -> Any:
    """Shows how far the training is, as every long work does."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.progress = Progress(name, state.max_steps, "steps")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.progress.advance(1)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.progress.close()

    return Reporter()
