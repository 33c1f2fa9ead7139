"""The section `finetune`: how each arm trains."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from holdfast.params.base import Name, Positive, Section, Seed, auto_or_count

Rate = Annotated[float, Field(gt=0)] | Literal["auto"]


class Arm(Section):
    objective: Literal["ce", "kl"] = "ce"
    """Loss on replay rows: cross-entropy (ce) or KL(base || tuned) (kl); domain rows always have cross-entropy."""
    kl_coefficient: Annotated[float, Field(gt=0)] = 1.0
    """Weight of a replay row's KL against a domain row's cross-entropy, each the mean over tokens: the means of a step
    are weighed with kl_coefficient x replay rows / domain rows, whatever the length of the answers."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """KL on the replay rows, in nats per token, to which their weight is steered during the training (adaptive KL): by up to 2 % a
    step, up where the KL of a step is above, down where it is below; null: kl_coefficient stays as it is."""
    kl_tokens: Literal["response", "all"] = "all"
    """Where the KL is taken: on the assistant's tokens (response) or on the whole row (all)."""
    kl_cache: Literal["off", "topk"] = "off"
    """topk: the base's side of the KL is computed once per replay row and kept in .cache; off: in every step."""
    kl_top_k: Positive = 32
    """Log-probabilities kept per token by topk; the rest counts as one remaining outcome."""
    target_kl: Annotated[float, Field(ge=0)] = 0.0
    """Weight of KL(base || tuned) on the tokens that have cross-entropy."""
    reweight: Literal["none", "dft"] = "none"
    """dft: weigh a token's cross-entropy by its probability."""
    mask_perplexity: Annotated[float, Field(gt=1)] | None = None
    """Tokens of the domain's answers that the base finds less likely than 1 / mask_perplexity are not trained on (STM; its
    authors take 2.5); null: all are. The end of the turn always is."""
    anchor: Literal["none", "l2sp", "ewc"] = "none"
    """Quadratic penalty on the distance from the base's weights; ewc needs replay rows."""
    anchor_coefficient: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the anchor's penalty."""
    fisher_rows: Positive = 256
    """Replay rows from which ewc estimates the Fisher information."""
    lora_rank: Positive | None = None
    """Rank of LoRA adapters on all linear layers, merged at the end; null: train all weights."""
    lora_alpha: Positive = 32
    """LoRA's alpha: adapters are scaled with alpha / rank."""
    osf_rank: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of each linear layer's singular directions, those of its smallest singular values, that is trained while the others
    are kept (OSF); null: train all weights."""
    distil_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of on-policy distillation from the base after the training: the model answers the replay rows' instructions itself and
    is drawn towards the base's distribution at each of its tokens."""
    distil_learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of these steps."""
    sdft: Literal["off", "fixed", "moving"] = "off"
    """Self-distillation in place of cross-entropy: the model answers the domain's requests itself and is drawn towards a teacher
    that is shown the gold answer: the base (fixed), or a moving average of the model's weights (moving). For domain rows alone."""
    sdft_update_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """How far the moving teacher goes towards the model after each step."""
    sdft_max_tokens: Positive = 256
    """Tokens of an answer that the model writes for sdft, at most."""
    average: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 1.0
    """Part of the way from the base's weights to the tuned ones; auto: as far as retention_target allows, measured
    on rows of the mixture that are not trained on."""
    retention_target: Annotated[float, Field(gt=0, lt=1)] = 0.98
    """Retention, as a fraction, that average: auto keeps; measured as in pilot."""
    learning_rate: Rate | None = None
    """Peak learning rate of this arm; auto: as in the section; null: the section's."""

    @property
    def adapter(self) -> str | None:
        """The field because of which only an adapter is trained, and merged at the end."""
        return next((name for name in ("lora_rank", "osf_rank") if getattr(self, name)), None)

    @property
    def writes_itself(self) -> str | None:
        """The field because of which the model is trained on answers of its own."""
        return "sdft" if self.sdft != "off" else "distil_steps" if self.distil_steps else None

    @model_validator(mode="after")
    def sdft_stands_alone(self) -> Arm:
        others = (
            "objective",
            "target_kl",
            "reweight",
            "mask_perplexity",
            "anchor",
            "lora_rank",
            "osf_rank",
            "distil_steps",
        )
        changed = [name for name in others if getattr(self, name) != type(self).model_fields[name].default]
        if self.sdft != "off" and (changed or self.average == "auto"):
            field = changed[0] if changed else "average: auto"
            raise ValueError(
                f"sdft and {field} cannot go together: sdft replaces the loss, and is for domain rows alone"
            )
        return self

    @model_validator(mode="after")
    def parts_fit(self) -> Arm:
        if self.lora_rank and self.osf_rank:
            raise ValueError("lora_rank and osf_rank cannot go together: each says what alone is trained")
        if self.adapter and self.anchor != "none":
            why = (
                "adapters start at zero; use weight_decay" if self.lora_rank else "the base's weights stay as they are"
            )
            raise ValueError(f"{self.adapter} and anchor cannot go together: {why}")
        needs_kl = {"kl_cache": self.kl_cache == "topk", "kl_target": self.kl_target is not None}
        if self.objective != "kl" and any(needs_kl.values()):
            field = next(name for name, is_set in needs_kl.items() if is_set)
            raise ValueError(f"{field} goes with the KL objective on replay rows: set objective: kl")
        return self


class Processes(Section):
    """How training spreads over devices. `auto` or a number in place of the mapping means {count: ...}."""

    count: Literal["auto"] | Positive = "auto"
    """Training processes. auto: one per accelerator; on a CPU, for a small model, HOLDFAST_WORKERS or two. The
    batch stays the same for any number."""
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """ddp: every process holds the whole model; fsdp2: its part of it."""
    reshard: bool = True
    """fsdp2: free a layer's gathered weights after its forward pass; less memory, more traffic."""
    cpu_offload: bool = False
    """fsdp2: keep weights, gradients and optimiser state in the host's memory."""

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        return value if isinstance(value, (dict, Processes)) else {"count": value}

    @field_validator("count", mode="before")
    @classmethod
    def auto_or_number(cls, value: Any) -> Any:
        return auto_or_count(value, "processes")


class Finetune(Section):
    section: ClassVar[str] = "finetune"

    arms: dict[Name, Arm]
    """How each arm trains, by its name."""
    learning_rate: Rate
    """Peak learning rate, for arms that set none; auto: the stage pilot chooses it for each arm by short runs."""
    batch_size: Positive = 16
    """Rows per optimiser step, whatever the number of processes."""
    micro_batch: Positive | None = None
    """Tokens at once on a device, value as rows of equal length; null: batch_size / processes. Must divide
    batch_size."""
    processes: Processes = Processes()
    """How training spreads over devices: auto, a number of processes, or a mapping."""
    max_length: Positive = 2048
    """Tokens of a training row, at most; a longer one is an error, not a silent cut."""
    packing: bool = False
    """Put several rows into one sequence; they never attend to one another."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate runs after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Part of all steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm to which gradients are clipped."""
    bf16: Literal["auto", True, False] = "auto"
    """Mixed precision; auto: where the hardware has it."""
    compile: Literal["auto", True, False] = "auto"
    """torch.compile of the decoder's blocks and the losses; auto: on a GPU where training is long enough to gain
    by it."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    log_steps: Positive = 10
    """Optimiser steps between two lines of the training log."""
    checkpoint_steps: Positive | None = None
    """Optimiser steps between checkpoints, from which a killed run resumes; null: it starts again."""
    seed: Seed = 0
    """Seed of new weights, those of adapters, and with packing of the order of rows, which is otherwise that of the mixture
    (mix.seed). A further training (retrain.seeds) orders the rows of each epoch by its own seed."""

    @model_validator(mode="after")
    def micro_divides(self) -> Finetune:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        if isinstance(count := self.processes.count, int) and self.batch_size % count:
            raise ValueError(f"{count} processes cannot share batch_size {self.batch_size} evenly: it must divide")
        return self
