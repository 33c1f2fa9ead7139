"""Tokens per second of generation, scoring and training on an NVIDIA GPU, and which part of its matrix rate each reaches.

    python -m benchmarks.speed.gpu [--micro 8 16]   (two or three minutes on one GPU of 80 GB; with --micro 4, of 24 GB)
    python -m benchmarks.speed.gpu --tiny           (a minute on a CPU: whether it runs, nothing more)

The model has the shape of Qwen2.5-0.5B (24 layers of 896, vocabulary 151,936) and random weights: speed does not depend on
what it says. Generation and scoring are the engine's (holdfast/engines/local.py), training is `finetune`, its rate the median of all log lines but the first, in which it warms
up and compiles. The matrix
rate is the best of many large bf16 products on the same chip. Model FLOPs are 2 per parameter and token forward and 6 in
training, plus 4 x layers x width for every token that a token attends to forward and 12 in training (Chowdhery et al.,
arXiv 2204.02311, appendix B); embeddings count once, as the output layer, and only for the tokens whose logits are computed.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.engines import local
from holdfast.engines.inspection import inspect_model
from holdfast.engines.interface import Sampling
from holdfast.params.finetune import Finetune
from holdfast.params.models import Model
from holdfast.planning.shapes import forward_flops
from holdfast.training import results
from holdfast.training.fine_tuning import train_arm

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Size:
    """What is measured: a model's shape, and how many rows of how many tokens."""

    hidden: int = 896
    inner: int = 4864
    layers: int = 24
    heads: int = 14
    shared: int = 2  # heads of keys and values
    vocabulary: int = 151_936
    rows: int = 256
    prompt: int = 128
    written: int = 256
    trained: int = 512  # rows
    length: int = 1024  # tokens of a training row, about
    matrix: int = 8192


MICRO = [16]
ARMS = {"cross-entropy": {"objective": "ce"}, "KL on half of the rows": {"objective": "kl"}}
Found = tuple[float, float, float]
TINY = Size(32, 64, 2, 2, 1, 1024, rows=8, prompt=16, written=8, trained=8, length=64, matrix=256)


def model(size: Size, folder: Path) -> manifest.Manifest:
    """Random weights in bf16 with the pocket lab's tokenizer, as `acquire` describes them."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.shared,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        dtype=torch.bfloat16,
    )
    transformers.Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    manifest.load_tokenizer(ROOT / "models" / "pocket" / "base").save_pretrained(folder)
    entry = inspect_model("base", Model(path=folder.name), folder.parent)
    manifest.save(entry, folder.parent / "base.json")
    return entry


def seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matrix_rate(n: int) -> float:
    """Operations per second of bf16 products of n x n matrices, the best of 20."""
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=manifest.find_device()) for _ in range(2))
    return 2 * n**3 / min(seconds(lambda: a @ b) for _ in range(20))


def flops(size: Size, tokens: float, logits: float, context: float) -> float:
    """Forward, of so many tokens that attend to `context` tokens each on the mean, and so many positions' logits."""
    return forward_flops(
        hidden=size.hidden,
        inner=size.inner,
        layers=size.layers,
        heads=size.heads,
        shared_heads=size.shared,
        vocabulary=size.vocabulary,
        tokens=tokens,
        logits=logits,
        context=context,
    )


def generation(engine: local.Engine, size: Size) -> tuple[float, float]:
    """(tokens written per second, model FLOPs per second) of rows that all run to the same length."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(2, 1000, (size.rows, size.prompt), generator=generator).tolist()
    seeds, sampling = list(range(size.rows)), Sampling(1.0, 1.0, size.written)

    def write() -> None:
        assert all(done.n_tokens == size.written for done in engine.complete(prompts, seeds, sampling))

    engine.complete(prompts[:2], seeds[:2], Sampling(1.0, 1.0, 4))
    took = seconds(write)
    new, seen = size.rows * size.written, size.rows * size.prompt
    work = flops(size, seen, size.rows, size.prompt / 2) + flops(size, new, new, size.prompt + size.written / 2)
    return new / took, work / took


def scoring(engine: local.Engine, size: Size) -> tuple[float, float]:
    """(tokens read per second, model FLOPs per second) of log-likelihoods of answers."""
    generator = torch.Generator().manual_seed(2)
    whole = torch.randint(2, 1000, (size.rows, size.prompt + size.written), generator=generator).tolist()
    asked, said = [row[: size.prompt] for row in whole], [row[size.prompt :] for row in whole]
    engine.logprob(asked[:2], said[:2])
    took = seconds(lambda: engine.logprob(asked, said))
    tokens, logits = size.rows * (size.prompt + size.written), size.rows * size.written
    return tokens / took, flops(size, tokens, logits, (size.prompt + size.written) / 2) / took


def training(
    model: manifest.Manifest, folder: Path, size: Size, arm: dict[str, Any], micro: int, compiled: bool
) -> Found:
    """(tokens trained on per second, model FLOPs per second, GiB) of `finetune` on all weights."""
    tokenizer = manifest.load_tokenizer(model.folder())
    each = len(encoding.tokenise(tokenizer, " 7" * 100)) / 100
    answer = " 7" * int((size.length - 32) / each)
    messages = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": answer}]
    tokens, mask = encoding.encode(tokenizer, messages)
    row = dict(epoch=0, repeat=0, messages=messages, trained_tokens=sum(mask))
    sources = ["domain", "replay"] if arm["objective"] == "kl" else ["domain"]
    rows = [
        dict(id=f"{n:06d}", source_id=f"{n:06d}", source=sources[n % len(sources)], **row) for n in range(size.trained)
    ]
    params = Finetune(
        arms={"arm": arm},
        learning_rate=1e-5,
        batch_size=32,
        micro_batch=micro,
        max_length=size.length,
        processes=1,
        compile=compiled,
        log_steps=2,
    )
    with train_arm(params, "arm", params.arms["arm"], model, rows, folder) as trained:
        assert trained is not None  # only under torchrun
        timings = results.timings(trained)
        passes = (
            3 + trained.tokens_forward_only / trained.tokens_trained_on
        )  # the base's forward pass, where there is one
    rate = timings["tokens_per_second"]
    return rate, passes * flops(size, rate, rate, len(tokens) / 2), timings["peak_memory_bytes"] / 2**30


def main(size: Size, micro: list[int]) -> None:
    gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if gpu else "CPU: a trial, no measurement"
    print(f"{where}, torch {torch.__version__}, transformers {transformers.__version__}")
    if gpu:
        ask = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
        print(
            "driver, power limit, clock: "
            + subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = model(size, folder / "base")
        rate = matrix_rate(size.matrix)
        print(f"{base.parameters / 1e6:,.1f} M parameters; bf16 products of {size.matrix}: {rate / 1e12:,.2f} T/s\n")
        print("| | tokens per second | model FLOPs, T/s | part of the matrix rate | GiB |\n|---|---|---|---|---|")
        engine = local.Engine(base, size.rows)
        tell("generation", *generation(engine, size), peak(), rate)
        tell("scoring", *scoring(engine, size), peak(), rate)
        del engine
        for name, arm in ARMS.items():
            for batch in micro:
                for compiled in (False, True) if gpu else (False,):
                    if gpu:
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats()
                    how = f"{name}, {batch} rows at once" + ", compiled" * compiled
                    tell(how, *training(base, folder, size, arm, batch, compiled), rate)


def peak() -> float:
    """GiB of the GPU's memory, at most so far."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else math.nan


def tell(what: str, tokens: float, done: float, memory: float, rate: float) -> None:
    print(f"| {what} | {tokens:,.0f} | {done / 1e12:,.3f} | {done / rate:.1%} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro", type=int, nargs="*", default=MICRO, help="rows at once in training")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, also where there is no GPU")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        raise SystemExit(
            "no GPU: nothing is measured; `python -m benchmarks.speed.gpu --tiny` tries the code on the CPU"
        )
    main(TINY if given.tiny else Size(), [2] if given.tiny else given.micro)
