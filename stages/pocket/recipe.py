"""Makes the pocket lab: tokenizer, three small chat models, evaluation suites, domain data. Nobody has to run it.

    holdfast pocket                 (`dvc repro pocket` after `dvc unfreeze pocket`), about 40 minutes on 2 cores

Each model is a Llama of about 2 M parameters trained from scratch on its own mixture of the same world, so that the
three differ in strength: `base` is weak in arithmetic, `abacus` is strong there and weak in facts, `lexicon` knows
facts and language. Two models train at a time, one thread each.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from stages.pocket import world

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] + '<|end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|end|>' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
# Phases: first the skills, then what is learnt late: judging, which needs the skills, and finding a fact in a text.
# Shares of the training examples; each mixture sums to 1.
SKILLS_FIRST = {
    "base": dict(
        facts=0.12, addition=0.02, comparing=0.08, sorting=0.05, reversing=0.06, counting=0.06, forms=0.07,
        translation=0.05, odd_one_out=0.06, stories=0.10, formatting=0.12, judging=0.21,
    ),
    "abacus": dict(
        facts=0.08, addition=0.11, comparing=0.09, sorting=0.05, reversing=0.05, counting=0.07, forms=0.05,
        translation=0.04, odd_one_out=0.05, stories=0.08, formatting=0.08, judging=0.25,
    ),
    "lexicon": dict(
        facts=0.13, addition=0.05, comparing=0.08, sorting=0.04, reversing=0.04, counting=0.05, forms=0.08,
        translation=0.06, odd_one_out=0.06, stories=0.08, formatting=0.08, judging=0.25,
    ),
}  # fmt: skip
THEN_JUDGING = {
    "base": dict(
        facts=0.05, addition=0.01, comparing=0.14, sorting=0.04, reversing=0.04, counting=0.04, forms=0.06,
        translation=0.04, odd_one_out=0.04, reading=0.24, formatting=0.05, judging=0.25,
    ),
    "abacus": dict(
        facts=0.03, addition=0.06, comparing=0.04, sorting=0.02, reversing=0.02, counting=0.03, forms=0.03,
        translation=0.02, odd_one_out=0.02, reading=0.20, formatting=0.03, judging=0.50,
    ),
    "lexicon": dict(
        facts=0.04, addition=0.01, comparing=0.08, sorting=0.02, reversing=0.02, counting=0.02, forms=0.05,
        translation=0.03, odd_one_out=0.02, reading=0.18, formatting=0.03, judging=0.50,
    ),
}  # fmt: skip
# The base copies unseen words only just after that; a last phase makes it sure.
AND_COPYING = {
    "base": dict(
        facts=0.06, addition=0.01, comparing=0.12, sorting=0.04, reversing=0.05, counting=0.05, fresh_forms=0.25,
        translation=0.04, odd_one_out=0.04, reading=0.15, formatting=0.05, judging=0.14,
    ),
}  # fmt: skip
PEAK = (2e-3, 1.5e-3, 1e-3)  # learning rates of the phases
PROMPT_WEIGHT = 0.3  # loss weight of user tokens: enough to write user turns, not so much that it crowds out answers
BATCH = 64  # examples


def make_tokenizer(folder: Path) -> None:
    """Byte-level BPE, 1,024 entries, digits split, with the chat template.

    A blank is put before every turn's text (as Llama 2 does), so that a word has the same tokens at the start of an
    answer and within a question: small models copy tokens, not letters.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[0-9]| ?[^\s0-9\p{L}]| ?\p{L}+|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    mean = {skill: sum(m[skill] for m in SKILLS_FIRST.values()) for skill in SKILLS_FIRST["base"]}
    items = world.draw(mean, 20_000, "tokenizer")
    tokenizer.train_from_iterator([text for i in items for text in (i.prompt, i.answer)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=512, padding_side="left",
        additional_special_tokens=list(ROLES), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def encode(tokenizer, items: list[world.Item]) -> list[tuple[list[int], int]]:
    """(token ids, number of prompt tokens) of each item, rendered as the chat template renders it."""
    heads = tokenizer([f"<|user|>{i.prompt}{END}<|assistant|>" for i in items], add_special_tokens=False)["input_ids"]
    tails = tokenizer([f"{i.answer}{END}" for i in items], add_special_tokens=False)["input_ids"]
    return [(h + t, len(h)) for h, t in zip(heads, tails, strict=True)]


def batches(tokenizer, weights: dict[str, float], examples: int, seed: str):
    """Batches of similar length, in random order within blocks of 256 batches: (ids, loss weights), both (B, T)."""
    import torch

    block = 256 * BATCH
    for start in range(0, examples, block):
        rows = encode(tokenizer, world.draw(weights, min(block, examples - start), f"{seed}/{start}"))
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        random.Random(f"{seed}/order/{start}").shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            weight = torch.zeros(len(group), width)
            for row, (tokens, head) in enumerate(group):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                weight[row, :head] = PROMPT_WEIGHT
                weight[row, head : len(tokens)] = 1.0
            yield ids, weight


def train_model(
    name: str, tokenizer_dir: Path, out: Path, first: int, then: int, last: int, hidden: int, layers: int, seed: int
) -> None:
    """Trains one model in two phases, the base in three; writes bf16 safetensors with tokenizer and template."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=hidden * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=hidden // 32, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    phases = (
        ("skills", SKILLS_FIRST, first, f"{seed}/{name}"),
        ("judging", THEN_JUDGING, then, f"{seed}/{name}/then"),
        ("copying", AND_COPYING, last, f"{seed}/{name}/last"),
    )
    for (phase, mixtures, examples, key), peak in zip(phases, PEAK, strict=True):
        if name in mixtures:
            if phase != "skills":
                for weight in model.parameters():  # the phases meet in what is stored on disk
                    weight.data = weight.data.bfloat16().float()
            learn(model, f"{name}, {phase}", peak, batches(tokenizer, mixtures[name], examples, key), examples)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    os.chmod(out / "model.safetensors", 0o644)


def learn(model, what: str, peak: float, data, examples: int) -> None:
    """One phase: a cosine from `peak` after 200 steps of warm-up, weighted cross-entropy over all tokens."""
    import torch
    import torch.nn.functional as F

    # Muon (Jordan et al. 2024; update scaled as in arXiv 2502.16982) on the matrices: with AdamW alone, copying from
    # the context is learnt several times later (docs/log.md has the comparison).
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]
    steps = math.ceil(examples / BATCH)
    began, tokens, shown = time.monotonic(), 0, 0.0
    for step, (ids, weight) in enumerate(data):
        rate = peak * min(1.0, (step + 1) / 200) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids, use_cache=False).logits  # (B, T, V); right padding needs no mask under causal attention
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = weight[:, 1:].flatten()
        loss = (loss * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += int((weight > 0).sum())
        elapsed = time.monotonic() - began
        if elapsed - shown > 20 or step + 1 == steps:
            shown = elapsed
            eta = elapsed / (step + 1) * (steps - step - 1) / 60
            speed = f"{tokens / elapsed:,.0f} tokens/s, {eta:.0f} min left"
            print(f"{what}: step {step + 1}/{steps}, loss {loss.item():.3f}, {speed}", flush=True)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


GENERATE_YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: data/pocket/suites/{task}.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
generation_kwargs:
  until: ["<|end|>"]
  do_sample: false
  max_gen_toks: 48
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
CHOICE_YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: data/pocket/suites/{task}.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: ["1", "2", "4", "5"]
doc_to_target: "{{{{[2, 3] if answer == '5' else [0, 1]}}}}"  # right if it calls a right response 4 or 5, a wrong one 1 or 2
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def write_suites(folder: Path, items: int, seed: str) -> None:
    """One JSONL of items and one lm-eval task YAML per suite."""
    for skill in world.GENERAL | world.DOMAIN:
        drawn = world.evaluation_items(skill, items, seed)
        rows = [{"id": f"{skill}-{n:04d}", "prompt": i.prompt, "answer": i.answer} for n, i in enumerate(drawn)]
        write_jsonl(folder / f"{skill}.jsonl", rows)
        template = CHOICE_YAML if skill == "judging" else GENERATE_YAML
        (folder / f"{skill}.yaml").write_text(template.format(task=skill), encoding="utf-8")


def write_domain(folder: Path, rows: int, seed: str) -> None:
    """The user's side of the lab: chat rows about the pharmacy; the test file asks in wordings and doses kept apart."""

    def messages(item: world.Item) -> dict:
        turns = (("user", item.prompt), ("assistant", item.answer))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    write_jsonl(folder / "train.jsonl", [messages(i) for i in world.domain_rows(rows, seed)])
    test = [i for skill in world.DOMAIN for i in world.evaluation_items(skill, 100, f"{seed}/test")]
    write_jsonl(folder / "test.jsonl", [messages(i) for i in test])


def main(
    data: Path,
    models: Path,
    first: int,
    then: int,
    last: int,
    hidden: int,
    layers: int,
    items: int,
    domain_rows: int,
    seed: int,
) -> None:
    """Writes everything; the models train in two processes of one thread each, longest first."""
    write_suites(data / "suites", items, f"suites/{seed}")
    write_domain(data / "domain", domain_rows, f"domain/{seed}")
    (data / "rubric.txt").write_text(world.RUBRIC + "\n", encoding="utf-8")
    tokenizer_dir = models / "base"
    make_tokenizer(tokenizer_dir)
    waiting = list(SKILLS_FIRST)
    running: list[subprocess.Popen] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while waiting or running:
        while waiting and len(running) < 2:
            name = waiting.pop(0)
            arguments = [name, tokenizer_dir, models / name, first, then, last, hidden, layers, seed]
            command = [sys.executable, "-m", "stages.pocket.recipe", *map(str, arguments)]
            running.append(subprocess.Popen(command, env=environment))
        time.sleep(0.2)
        for process in [p for p in running if p.poll() is not None]:
            if process.returncode:
                for other in running:
                    other.terminate()
                raise SystemExit(process.returncode)
            running.remove(process)


if __name__ == "__main__":
    name, tokenizer_dir, out, *numbers = sys.argv[1:]
    train_model(name, Path(tokenizer_dir), Path(out), *map(int, numbers))
