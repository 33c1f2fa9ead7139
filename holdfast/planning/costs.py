"""What each stage will move and hold: rows, tokens, memory, disk, from params.yaml and a few means. Pure arithmetic.

Used by `holdfast plan`. A forward pass takes 2 floating-point operations per parameter and token, training 6 (Kaplan et al.,
arXiv 2001.08361, sec. 2.1). What cannot be known before a run is in Means, and is printed with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from holdfast.data import holding_out, mixture
from holdfast.params.finetune import Arm
from holdfast.params.whole import Params
from holdfast.planning.kinds import OwnSuite
from holdfast.planning.shapes import Shape
from holdfast.reconstruction import amount
from holdfast.training.distilling import Distillation
from holdfast.training.job import is_rate_open

UNDECIDED = 0.5  # part of the instructions for which a further judge is asked, where no earlier run of the panel tells
MAX_SCORED_TOKENS = 1024  # tokens that pass through a model at once on a CPU (TOKENS of engines/local.py)
STATE_BYTES = 16  # bytes per trained parameter: weights, gradient and two moments of AdamW in fp32


@dataclass(frozen=True, slots=True)
class Means:
    """Per row: measured, or else a guess."""

    turn: float = 60.0  # tokens of an instruction
    answer: float = 300.0  # tokens of a response
    kept: float = 0.7  # part of the samples that curate keeps
    distinct: float = 1.0  # part of all responses to an instruction that differ from the others
    leading: float = 1.0  # part of them, equal ones once, that are as frequent as any other
    undecided: float = UNDECIDED  # part of the instructions, but for the sample, for which a further judge is asked
    prefix: float = 40.0  # tokens that the template puts around a turn


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of one process."""

    write: float  # generated
    read: float  # passed forward to be scored
    train: float = 0.0  # passed forward and back, optimiser included
    base: float = 0.0  # passed through the frozen base in training, KL and its gradient included


@dataclass(frozen=True, slots=True)
class Domain:
    rows: int = 0  # of the training split
    tokens: int = 0
    answers: int = 0  # tokens that are trained on
    items: int = 0  # of all suites
    suites: Mapping[str, OwnSuite] = field(default_factory=dict)  # those of them that Holdfast asks itself
    tools: float = 0.0  # tokens that a row's tools add to its prompt


@dataclass(frozen=True, slots=True)
class Work:
    """What one stage, or one cell of its matrix, does with one model."""

    stage: str
    model: str = ""  # none: no model runs
    rows: float = 0
    written: float = 0  # tokens generated, one by one
    read: float = 0  # tokens that pass forward at once
    trained: float = 0  # tokens that pass forward and back

    @property
    def tokens(self) -> float:
        return self.written + self.read + self.trained


def split_stage(stage: str) -> tuple[str, str]:
    """(script, cell) of a stage's name, a further training being its arm's: finetune-retrain@holdfast-2 is (finetune, holdfast)."""
    name, _, cell = stage.partition("@")
    script, _, suffix = name.partition("-")
    return script, cell.rpartition("-")[0] if suffix == "retrain" else cell


def plan_work(params: Params, domain: Domain, means: Means, rubric: int) -> list[Work]:
    """Every stage in the order of the DAG. `rubric`: tokens."""
    means = include_lookalikes(params, domain, means)
    drawn = count_samples(params, domain, means)
    fit_rows = drawn * means.kept
    held_out = min(params.evaluate.self_suite.rows, fit_rows * holding_out.MAX_PART)
    kept_rows = fit_rows - held_out
    turn, both = means.turn + means.prefix, means.turn + means.answer + means.prefix
    beside, thinking = count_kinds(params, domain)
    further = params.reconstruct.turns.share * params.reconstruct.turns.extra if params.reconstruct.turns else 0.0
    spoken = 0.0  # tokens of an answer that a conversation goes on from
    if params.reconstruct.turns:
        spoken = stretch_answer(means.answer, params.respond.max_tokens, params.reconstruct.turns.max_tokens)
    stages = [
        Work("acquire"),
        Work("ingest", rows=domain.rows),
        Work("amount"),
        Work(
            "reconstruct",
            params.base,
            drawn,
            written=drawn * (means.turn + further * (spoken + means.turn)),
            read=drawn * (means.prefix + beside * domain.tools + further * (2 * turn + spoken)),
        ),
        Work("curate", params.base, drawn, read=drawn * means.turn),
    ]
    answers = kept_rows * params.respond.k
    plain = 1 - beside - thinking  # of the rows the part that the whole panel answers, and judges
    for name in params.panel:
        each, written, read = plain, plain * means.answer, plain * turn
        if name == params.base:
            calls = stretch_answer(means.answer, params.respond.max_tokens, params.respond.tools_max_tokens)
            thoughts = stretch_answer(means.answer, params.respond.max_tokens, params.respond.thinking_max_tokens)
            again = 1 + (params.reconstruct.tools.results if params.reconstruct.tools else 0.0)  # after a result
            each, written = 1.0, written + beside * again * calls + thinking * thoughts
            read += beside * (again * (turn + domain.tools) + (again - 1) * calls) + thinking * turn
        stages.append(Work(f"respond@{name}", name, answers * each, written=answers * written, read=answers * read))
    sampled = min(1.0, params.judge.audit / max(kept_rows, 1)) if params.judge.adaptive else 1.0
    for name in params.panel if params.consensus.strategy != "first" else []:
        first = name == params.base
        others = choosable_part(params, means) * (1 if first else means.undecided)
        calls = plain * answers * len(params.panel) * (sampled * means.distinct + (1 - sampled) * others)
        likelihood = calls * both if first else 0
        stages.append(Work(f"judge@{name}", name, calls, read=calls * (rubric + both) + likelihood))
    chosen = min(kept_rows, params.balance.rows)
    stages += [
        Work("consensus", rows=answers * len(params.panel)),
        Work("balance", rows=kept_rows),
        Work("quality", rows=kept_rows),
        Work("baseline", rows=domain.items),
    ]
    for arm in params.arms:
        rows, tokens, replay = training_size(params, arm, domain, means, chosen)
        arm_config = params.finetune.arms[arm]
        extra = base_passes(arm_config, tokens, replay, chosen * both, domain.tokens)
        healed = count_distilled(arm_config, turn)
        training = Work("", params.base, rows, written=healed, read=extra + healed, trained=tokens + healed)
        if arm_config.sdft != "off":
            own_answer = stretch_answer(means.answer, params.respond.max_tokens, arm_config.sdft_max_tokens)
            training = count_self_taught(rows, tokens, domain, own_answer, params.base)
        runs = count_short_runs(params, arm)
        pilot = Work(f"pilot@{arm}", params.base if runs else "", runs * rows, read=runs * extra, trained=runs * tokens)
        words = domain.answers if params.mix.arms[arm].targets == "rewritten" else 0
        model, tries = params.base if words else "", 2 * params.mix.rewrite.k
        written, read = tries * words, tries * domain.tokens
        stages += [
            pilot,
            Work(f"mix@{arm}", model, domain.rows + chosen, written=written, read=read if words else 0),
            *(replace(training, stage=f"finetune{cell}") for cell in name_cells(arm, params.trainings[arm])),
        ]
    own_answer = stretch_answer(means.answer, params.respond.max_tokens, params.evaluate.self_suite.max_tokens)
    questions = min(held_out, params.evaluate.limit or held_out)  # of the self suite
    suite_answers = count_suite_answers(domain, means.answer, params.respond.max_tokens)
    prompts = sum(own.items * own.prompt for own in domain.suites.values())
    prompts += (domain.items - sum(own.items for own in domain.suites.values())) * turn
    trained = [cell for arm, several in params.trainings.items() for cell in name_cells(arm, several)]
    for cell in ("@base", *trained):
        passes = 1  # likelihood of the base's answers
        if params.evaluation_backend == "transformers" and cell != "@base":  # KL along them; the base's side is kept
            passes += 2 if cell == trained[0] else 1
        evaluation = Work(
            f"evaluate{cell}",
            params.base,
            domain.items + questions,
            written=suite_answers + questions * own_answer,
            read=prompts + questions * (turn + passes * (turn + own_answer)),
        )
        stages.append(evaluation)
    return [*stages, Work("drift", rows=kept_rows), Work("gate", rows=domain.items), Work("report", rows=kept_rows)]


def count_short_runs(params: Params, arm: str) -> float:
    """What the pilot of an arm trains, in whole trainings of the arm."""
    pilot, runs = params.pilot, 0.0
    if params.mix.arms[arm].share == "auto":
        runs += sum(pilot.parts) * len(pilot.learning_rates) * len(pilot.shares)
    if is_rate_open(params.finetune, params.finetune.arms[arm]):
        runs += max(pilot.parts) * len(pilot.rate_factors)
    return runs


def name_cells(arm: str, trainings: list[str]) -> list[str]:
    """What stands behind the stage's name for each training of an arm: @holdfast, -retrain@holdfast-2."""
    return [f"@{name}" if name == arm else f"-retrain@{name}" for name in trainings]


def count_kinds(params: Params, domain: Domain) -> tuple[float, float]:
    """(part of the rows that is written beside tools, part that is answered with thoughts)."""
    tools, thinking = params.reconstruct.tools, params.reconstruct.thinking
    return tools.share if tools and domain.tools else 0.0, thinking.share if thinking else 0.0


def count_suite_answers(domain: Domain, mean: float, limit: int) -> float:
    """Tokens that a model writes for all items, where answers cut at `limit` have `mean`: suites of Holdfast's own have limits of
    their own, others the mean length."""
    own = domain.suites.values()
    written = sum(suite.items * stretch_answer(mean, limit, suite.answer) for suite in own if suite.answer)
    return written + max(domain.items - sum(suite.items for suite in own), 0) * mean


def stretch_answer(mean: float, limit: int, other_limit: float) -> float:
    """Mean tokens of answers cut at `other_limit`, where those cut at `limit` have `mean`: lengths are taken to be geometric."""

    def cut_mean(ends: float, tokens: float) -> float:  # `ends`: probability that an answer ends after any token
        return (1 - (1 - ends) ** tokens) / ends

    low, high = 1e-6, 1.0
    for _ in range(50):  # the mean falls as answers end more often
        ends = (low + high) / 2
        low, high = (ends, high) if cut_mean(ends, limit) > mean else (low, ends)
    return cut_mean(high, other_limit)


def include_lookalikes(params: Params, domain: Domain, means: Means) -> Means:
    """`means`, of turns that the base writes as it likes, over all turns, where a part may be no longer than the domain's."""
    if not params.reconstruct.lookalikes or not domain.rows:
        return means
    share, limit = params.reconstruct.lookalikes.share, params.reconstruct.max_tokens
    longest = min(max(1, round((domain.tokens - domain.answers) / domain.rows - means.prefix)), limit)
    ends = 1 / means.turn  # lengths are taken to be geometric
    turn = share * stretch_answer(means.turn, limit, longest) + (1 - share) * means.turn
    in_time = share * (1 - (1 - ends) ** longest) + 1 - share
    return replace(means, turn=turn, kept=means.kept * in_time)


def count_samples(params: Params, domain: Domain, means: Means) -> float:
    """Instructions that will be drawn."""
    samples, wanted = params.reconstruct.samples, params.reconstruct.keep
    if samples == "auto":
        wanted = wanted or amount.count_instructions(
            amount.count_replay_rows(params.mix, params.pilot, params.arms, domain.rows)
        )
        samples = amount.BUDGET * wanted
    return min(samples, wanted / means.kept) if wanted else samples


def choosable_part(params: Params, means: Means) -> float:
    """Part of all responses, equal ones once, that the strategy could choose."""
    base_only = means.distinct / len(params.panel)
    return {"agreement": means.leading, "base_best_of_k": base_only}.get(params.consensus.strategy, means.distinct)


def training_size(params: Params, arm: str, domain: Domain, means: Means, chosen: float) -> tuple[float, float, float]:
    """(rows, tokens, tokens of replay rows) that one arm trains on, as `mix` makes it."""
    setting, epochs = params.mix.arms[arm].share, params.mix.arms[arm].epochs or params.mix.epochs
    share = (
        max(params.pilot.shares) if setting == "auto" else setting
    )  # what auto will choose is not known yet: an upper bound
    rows = min(mixture.count_replay(domain.rows * epochs, share), chosen * params.mix.max_repeats)
    beside, _ = count_kinds(params, domain)
    replay = rows * (means.turn + means.answer + means.prefix + beside * domain.tools)
    return domain.rows * epochs + rows, domain.tokens * epochs + replay, replay


def count_distilled(arm_config: Arm, turn: float) -> float:
    """Tokens, at most, of the answers that `distil_steps` asks for, with their prompts."""
    return arm_config.distil_steps * Distillation.batch * (turn + Distillation.max_tokens)


def count_self_taught(rows: float, tokens: float, domain: Domain, answer: float, model: str) -> Work:
    """A training with sdft: of each row the model writes an answer of its own, which the teacher reads after the gold answer."""
    own = rows * answer
    requests = tokens * (1 - domain.answers / max(domain.tokens, 1))
    return Work("", model, rows, written=own, read=requests + tokens + own, trained=requests + own)


def base_passes(arm_config: Arm, tokens: float, replay: float, once: float, domain: float) -> float:
    """Tokens that pass through the frozen base: all with target_kl, else replay rows; from a cache each row `once`; for
    mask_perplexity each row of the domain."""
    first = domain if arm_config.mask_perplexity else 0.0
    if arm_config.target_kl:
        return first + tokens
    if arm_config.objective != "kl":
        return first
    return first + (min(replay, once) if arm_config.kl_cache == "topk" else replay)


def memory(params: Params, stage: str, shape: Shape, bytes_each: int, processes: int, compiled: bool = False) -> float:
    """Bytes on one device: weights, and what grows with the batch. `bytes_each`: of a weight when it only runs, 4 on a CPU;
    `compiled`: training is."""
    weights = shape.parameters * bytes_each
    name, arm = split_stage(stage)
    if name in ("finetune", "pilot"):
        finetune = params.finetune
        arm_config = finetune.arms[arm]
        taught = arm_config.sdft != "off"  # by a second model, in fp32
        beside = taught or arm_config.target_kl or (arm_config.objective == "kl" and arm_config.kl_cache == "off")
        frozen = (
            0 if not beside or arm_config.adapter else 4 if taught or finetune.bf16 is False or bytes_each == 4 else 2
        )  # the base, cast once
        state = 4 if arm_config.lora_rank else STATE_BYTES
        held = shape.parameters * (state / (processes if finetune.processes.strategy == "fsdp2" else 1) + frozen)
        micro = finetune.micro_batch or finetune.batch_size
        # Of each logit: itself and its gradient, the base's beside them; not compiled, copies in fp32 and their log-probabilities
        each = (6 if beside else 4) if compiled else (24 if beside else 16)
        logits = micro * finetune.max_length * shape.vocabulary * each
        # Activations of all layers: s b h L (34 + 5 a s / h) bytes, with checkpoints 2 s b h L, in half precision (Korthikanti et
        # al., arXiv 2205.05198, eq. 2 and sec. 5); 16 more where, as here, the residual stream is in fp32. The second term is that
        # of plain attention, which only a CPU computes. Both sums are within a fifth of benchmarks/gpu.py's on an H100.
        plain = 5 * shape.heads * finetune.max_length / shape.hidden if bytes_each == 4 else 0.0
        stored = 4.0 if finetune.activation_checkpointing else 50 + plain
        activations = finetune.max_length * micro * shape.hidden * shape.layers * stored
        return held + logits + activations
    longest = params.reconstruct.max_tokens + params.respond.max_tokens
    rows = {"reconstruct": params.reconstruct.batch, "respond": params.respond.batch, "evaluate": params.evaluate.batch}
    if name in rows:  # keys and values of every row at full length
        return weights + rows[name] * longest * shape.cache * bytes_each
    if name == "curate":  # one pass: hidden states of a few layers at a time
        return weights + params.curate.batch * longest * shape.cache * bytes_each / 4
    # keys and values beside those of what all prompts begin with, joined layer by layer; on a CPU of few tokens at once
    tokens = params.judge.batch * longest if bytes_each < 4 else max(MAX_SCORED_TOKENS, longest)
    return weights + 2 * tokens * shape.cache * bytes_each


def disk(params: Params, stage: str, rows: float, tokens: float, shape: Shape | None) -> float:
    """Bytes that a stage leaves: texts of about 4 bytes a token, compressed to half; tuned weights in 2 bytes each, kept once
    more in DVC's cache."""
    if stage.startswith("finetune"):
        return 2 * 2 * shape.parameters if shape else 0.0
    return 2 * (60 * rows + 2 * tokens) if stage not in ("acquire", "gate") else 0.0
