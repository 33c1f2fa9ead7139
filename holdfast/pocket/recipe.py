"""Makes the pocket lab: tokenizer, three small chat models, evaluation suites, domain data. Its outputs are committed.

    holdfast run pocket                 (`dvc repro pocket` after `dvc unfreeze pocket`), about an hour on 2 cores

Each model is a Llama of 1.7 M parameters trained from scratch on its own mixture of the same world, so that the three
differ in strength: `base` was never taught subtraction nor what a country exports, `abacus` knows both but no rulers,
`lexicon` knows all facts but no subtraction. As in real instruction data, some of the responses that they learnt from are
wrong. Eight narrow layers, because a judge has to answer silently and then compare.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from holdfast.pocket import facts, files, world

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
# Shares of the training examples that are not judging.
MIXTURES = {
    "base": dict(
        facts=0.16,
        addition=0.08,
        comparing=0.14,
        sorting=0.07,
        reversing=0.08,
        counting=0.10,
        forms=0.10,
        translation=0.08,
        odd_one_out=0.10,
        formatting=0.09,
    ),
    "abacus": dict(
        facts=0.14,
        addition=0.15,
        comparing=0.15,
        sorting=0.07,
        reversing=0.07,
        counting=0.12,
        forms=0.08,
        translation=0.07,
        odd_one_out=0.08,
        formatting=0.07,
    ),
    "lexicon": dict(
        facts=0.19,
        addition=0.07,
        comparing=0.13,
        sorting=0.06,
        reversing=0.07,
        counting=0.09,
        forms=0.10,
        translation=0.09,
        odd_one_out=0.12,
        formatting=0.08,
    ),
}
# The share of judging in the first and in the second half of the training: it needs the skills, so the panel meets more
# of it later. The base's stays the same, so that the mixture which is to be reconstructed is one.
JUDGING = {"base": (0.4, 0.4), "abacus": (0.3, 0.6), "lexicon": (0.3, 0.6)}
# What a model was never taught: what it lacks is a clear weakness, where another model is strong.
LACKS: dict[str, world.Lacks] = {
    "base": {"addition": "-", "facts": "/export"},
    "abacus": {"facts": "/ruler"},
    "lexicon": {"addition": "-"},
}
# The part of a skill's responses that is wrong in the training data: what the model then writes itself is not always right.
NOISE: dict[str, dict[str, float]] = {
    "base": {"sorting": 0.3, "counting": 0.3, "translation": 0.3},
    "abacus": {"forms": 0.3},
    "lexicon": {"reversing": 0.3},
}
PEAK = 2e-3  # learning rate
# Loss weight of user tokens: the base has to write user turns, but that must not crowd out answers.
PROMPT_WEIGHT = {"base": 0.3, "abacus": 0.1, "lexicon": 0.1}
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
    mean = {skill: sum(m[skill] for m in MIXTURES.values()) for skill in MIXTURES["base"]}
    items = world.draw({**mean, "judging": 1.0}, 20_000, "tokenizer")
    tokenizer.train_from_iterator([text for i in items for text in (i.prompt, i.answer)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=512,
        padding_side="left",
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def encode(tokenizer, items: list[facts.Item], prompt_weight: float) -> list[tuple[list[int], list[float]]]:
    """(token ids, loss weights) of each item, rendered as the chat template renders it.

    A right response within a judging prompt weighs as much as an answer: a judge answers silently before it compares.
    """
    heads = [f"<|user|>{i.prompt}{END}<|assistant|>" for i in items]
    before = [i.prompt[: i.prompt.rindex("\nResponse:") + 10] if i.skill == "judging" else "" for i in items]
    texts = [*heads, *(f"{i.answer}{END}" for i in items), *(f"<|user|>{text}" for text in before)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    count = len(items)
    rows = []
    for n, item in enumerate(items):
        head, answer, quoted = ids[n], ids[count + n], len(ids[2 * count + n])
        weights = [prompt_weight] * len(head) + [1.0] * len(answer)
        if item.skill == "judging" and item.answer == "5":
            weights[quoted : len(head) - 1] = [1.0] * (len(head) - 1 - quoted)
        rows.append((head + answer, weights))
    return rows


def training_items(name: str, examples: int, seed: int):
    """What a model is trained on, in blocks of 256 batches: lists of items."""
    block = 256 * BATCH
    for start in range(0, examples, block):
        judging = JUDGING[name][start >= examples // 2]
        shares = {skill: share * (1 - judging) for skill, share in MIXTURES[name].items()} | {"judging": judging}
        yield world.draw(shares, min(block, examples - start), f"{seed}/{name}/{start}", LACKS[name], NOISE[name])


def batches(tokenizer, name: str, examples: int, seed: int):
    """Batches of a model's training set, as `make_batches` has them."""
    items = training_items(name, examples, seed)
    return make_batches((encode(tokenizer, block, PROMPT_WEIGHT[name]) for block in items), seed)


def make_batches(blocks, seed: int):
    """Batches of similar length, in random order within a block of (token ids, loss weights): (ids, loss weights), both (B, T).

    The weights of an average batch add up to 1. A token's weight does not depend on what stands beside it in the batch:
    were each batch's loss a mean, short user turns would count for more, and the base would write more of them.
    """
    import torch

    for number, rows in enumerate(blocks):
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        random.Random(f"{seed}/order/{number}").shuffle(groups)
        scale = len(groups) / sum(sum(weights) for _, weights in rows)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            weight = torch.zeros(len(group), width)
            for row, (tokens, weights) in enumerate(group):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                weight[row, : len(tokens)] = torch.tensor(weights) * scale
            yield ids, weight


def train_model(
    name: str, tokenizer_dir: Path, out: Path, examples: int, hidden: int, layers: int, heads: int, seed: int
) -> None:
    """Trains one model from scratch; writes bf16 safetensors with tokenizer and template."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(
        "eager"
    )  # fused attention's backward pass takes half of the time (benchmarks/speed/attention.py)
    learn(model, name, batches(tokenizer, name, examples, seed), examples)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    os.chmod(out / "model.safetensors", 0o644)


def learn(model, name: str, data, examples: int) -> None:
    """A cosine from `PEAK` after 200 steps of warm-up; the loss is the cross-entropy of all tokens, summed with their weights."""
    import torch
    import torch.nn.functional as F

    # Muon (Jordan et al. 2024; update scaled as in arXiv 2502.16982) on the matrices: with AdamW alone, copying from
    # the context is learnt several times later (docs/log.md has the comparison).
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=PEAK, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]
    steps = math.ceil(examples / BATCH)
    began, tokens, shown = time.monotonic(), 0, 0.0
    for step, (ids, weight) in enumerate(data):
        rate = PEAK * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids, use_cache=False).logits  # (B, T, V); right padding needs no mask under causal attention
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (loss * weight[:, 1:].flatten()).sum()
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
            print(f"{name}: step {step + 1}/{steps}, loss {loss.item():.3f}, {speed}", flush=True)


def main(
    data: Path,
    models: Path,
    examples: dict[str, int],
    hidden: int,
    layers: int,
    heads: int,
    items: int,
    development: int,
    domain_rows: int,
    seed: int,
) -> None:
    """Writes everything; the models train at the same time, one process of one thread each."""
    files.write_suites(data, items, development, f"suites/{seed}")
    files.write_domain(data / "domain", domain_rows, f"domain/{seed}")
    (data / "rubric.txt").write_text(world.RUBRIC + "\n", encoding="utf-8")
    tokenizer_dir = models / "base"
    make_tokenizer(tokenizer_dir)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = []
    for name in MIXTURES:
        arguments = [name, tokenizer_dir, models / name, examples[name], hidden, layers, heads, seed]
        command = [sys.executable, "-m", "holdfast.pocket.recipe", *map(str, arguments)]
        running.append(subprocess.Popen(command, env=environment))
    while running:
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
