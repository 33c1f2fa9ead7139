"""The section `finetune`: how each arm trains."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from holdfast.params.base import Name, Positive, Section, Seed


class Arm(Section):
    objective: Literal["ce", "kl"] = "ce"  # on replay rows: cross-entropy, or KL(base || tuned); domain rows: always ce
    # a trained replay token's mean KL against a domain token's cross-entropy, so that it holds at any share: the means of a
    # step are weighed with kl_coefficient x replay's trained tokens / the domain's
    kl_coefficient: Annotated[float, Field(gt=0)] = 1.0
    kl_tokens: Literal["response", "all"] = "all"  # where the KL is taken: the assistant's tokens, or the whole row
    # topk: the base's side of the KL on replay rows is computed once per row and kept in .cache; off: in every step
    kl_cache: Literal["off", "topk"] = "off"
    kl_top_k: Positive = 32  # log-probabilities kept per token by topk; the rest counts as one remaining outcome
    target_kl: Annotated[float, Field(ge=0)] = 0.0  # weight of KL(base || tuned) on the tokens that bear cross-entropy
    reweight: Literal["none", "dft"] = "none"  # dft: a token's cross-entropy counts as much as it is likely
    anchor: Literal["none", "l2sp", "ewc"] = "none"  # quadratic penalty on the way from the base; ewc needs replay rows
    anchor_coefficient: Annotated[float, Field(gt=0)] = 1.0
    fisher_rows: Positive = 256  # replay rows that the Fisher information of ewc is taken from
    lora_rank: Positive | None = None  # train adapters of this rank on all linear layers; merged at the end
    lora_alpha: Positive = 32
    # part of the way from the base's weights to the tuned ones; auto: as far as retention_target allows, measured on rows of the
    # mixture that are not trained on
    average: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 1.0
    retention_target: Annotated[float, Field(gt=0, lt=1)] = 0.98  # for average: auto; measured as in pilot
    learning_rate: Annotated[float, Field(gt=0)] | None = None  # none: the section's

    @model_validator(mode="after")
    def parts_fit(self) -> Arm:
        if self.lora_rank and self.anchor != "none":
            raise ValueError("lora_rank and anchor cannot go together: adapters start at zero; use weight_decay")
        if self.kl_cache == "topk" and self.objective != "kl":
            raise ValueError("kl_cache goes with the KL objective on replay rows: set objective: kl")
        return self


class Processes(Section):
    """How training spreads over devices. `auto` or a number in place of the mapping stands for {count: ...}."""

    # auto: one per accelerator; on CPU HOLDFAST_WORKERS, else one; the global batch is the same whatever the number
    count: Literal["auto"] | Positive = "auto"
    strategy: Literal["ddp", "fsdp2"] = "ddp"  # every process holds the whole model, or its part of it
    reshard: bool = True  # fsdp2: free a layer's gathered weights after its forward pass; less memory, more traffic
    cpu_offload: bool = False  # fsdp2: keep weights, gradients and optimiser state in the host's memory

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, given: Any) -> Any:
        return given if isinstance(given, (dict, Processes)) else {"count": given}

    @field_validator("count", mode="before")
    @classmethod
    def auto_or_number(cls, given: Any) -> Any:
        if given != "auto" and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise ValueError(f"{str(given)[:40]!r} is neither auto nor a number of processes")
        return given


class Finetune(Section):
    section: ClassVar[str] = "finetune"

    arms: dict[Name, Arm]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Positive = 16  # rows per optimiser step, whatever the number of processes
    # tokens at once on a device, given as rows of equal length; none: batch_size / processes. Must divide batch_size
    micro_batch: Positive | None = None
    processes: Processes = Processes()  # auto, a number, or a launcher's settings
    max_length: Positive = 2048  # tokens; a longer row is an error, not a silent cut
    packing: bool = False  # several rows per sequence, never attending to one another
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03  # part of all steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    bf16: Literal["auto", True, False] = "auto"  # mixed precision; auto: where the hardware has it
    # torch.compile of the decoder's blocks and the losses; auto: on a GPU where training is long enough to win by it
    compile: Literal["auto", True, False] = "auto"
    activation_checkpointing: bool = False  # less memory, about a third more time
    log_steps: Positive = 10
    checkpoint_steps: Positive | None = None  # a killed run goes on from the last checkpoint; none: it starts again
    seed: Seed = 0

    @model_validator(mode="after")
    def micro_divides(self) -> Finetune:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        if isinstance(count := self.processes.count, int) and self.batch_size % count:
            raise ValueError(f"{count} processes cannot share batch_size {self.batch_size} evenly: it must divide")
        return self
