"""The sections `pilot`, `mix` and `finetune`, the last two with an entry for each arm."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stages.core.sections.base import Name, Positive, Section, Seed


class MixArm(Section):
    # part of the trained tokens that comes from the replay set; auto: the smallest that meets pilot.retention_target
    share: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"]
    epochs: Annotated[float, Field(gt=0)] | None = None  # none: the section's
    # rewritten: the base's own words where they agree with the gold answer
    targets: Literal["gold", "rewritten"] = "gold"

    @field_validator("share", mode="before")
    @classmethod
    def number_or_auto(cls, given: Any) -> Any:
        if given != "auto" and (isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 1):
            raise ValueError(f"{str(given)[:40]!r} is neither auto nor a number from 0 to below 1")
        return float(given) if given != "auto" else given


class Rewrite(Section):
    """How the base rewrites the domain's answers, for arms with `targets: rewritten`."""

    prompt: str = "profiles/rewrite.txt"  # file; {instruction} and {answer} (gold) are replaced in one pass
    k: Positive = 4  # samples of the request alone, and as many with the gold answer shown
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 512
    # of long answers: F1 of shared words from which they say the same
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.6
    shard: Positive = 256
    batch: Positive = 256
    seed: Seed = 0


class Mix(Section):
    arms: dict[Name, MixArm]
    epochs: Annotated[float, Field(gt=0)] = 1.0  # how often each domain row is trained on; replay rows differ by epoch
    max_repeats: Positive = 4  # how often a replay row may be used, over all epochs, to reach the share
    rewrite: Rewrite = Rewrite()
    seed: Seed = 0


class Pilot(Section):
    """Short runs that find the share of an arm that says `share: auto`. They train on a part of its rows and are measured on
    rows of both sources that they have not seen."""

    # 1 - total variation distance between base and tuned on held-out replay answers, mean over tokens: see docs/training.md
    retention_target: Annotated[float, Field(gt=0, lt=1)] = 0.98
    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=2)] = [0.05, 0.2, 0.5]
    # lengths of the runs, as parts of the arm's whole one
    parts: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.1, 0.3]
    # over the arm's own; others are fitted too, and reported
    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [1.0]
    held_out: Positive = 300  # rows of each source, at most a fifth of them
    # that the share meets the target, by the bootstrap of the fit
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    max_share: Annotated[float, Field(gt=0, lt=1)] = 0.83  # never more than this, whatever the target
    seed: Seed = 0


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
