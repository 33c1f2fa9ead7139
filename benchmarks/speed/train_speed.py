"""Tokens per second of `finetune` against TRL's own `trl sft` with its defaults, and what processes and KL change.

    python -m benchmarks.speed.train_speed [--rows 1280]        (about ten minutes; needs data/mixes/holdfast.parquet)

Same base, rows, batch and machine for every line, one epoch; runs take turns, the faster of two counts. Time is what
Hugging Face's Trainer reports for its training loop, in which both end up; tokens are those of the rows, without padding.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANIFEST, MIXTURE = ROOT / "models/manifest/base.json", ROOT / "data/mixes/holdfast.parquet"
BATCH = 32
SECONDS = "train_seconds.json"
CELLS: dict[str, tuple[dict, int] | None] = {  # arm and processes; none: trl sft
    "trl sft, its defaults": None,
    "cross-entropy, 1 process": ({"objective": "ce"}, 1),
    "cross-entropy, 2 processes": ({"objective": "ce"}, 2),
    "KL on the fly, 1 process": ({"objective": "kl"}, 1),
    "KL on the fly, 2 processes": ({"objective": "kl"}, 2),
    "KL cached, 1 process": ({"objective": "kl", "kl_cache": "topk"}, 1),
    "KL cached, 2 processes": ({"objective": "kl", "kl_cache": "topk"}, 2),
}
RATIOS = {
    "one process against trl sft (at least 1.3 wanted)": ("cross-entropy, 1 process", "trl sft, its defaults"),
    "two processes against one, cross-entropy": ("cross-entropy, 2 processes", "cross-entropy, 1 process"),
    "two processes against one, KL on the fly": ("KL on the fly, 2 processes", "KL on the fly, 1 process"),
    "two processes against one, KL cached": ("KL cached, 2 processes", "KL cached, 1 process"),
    "KL cached against cross-entropy (at least 0.87 wanted)": ("KL cached, 1 process", "cross-entropy, 1 process"),
    "KL on the fly against cross-entropy": ("KL on the fly, 1 process", "cross-entropy, 1 process"),
}


def train(arm: dict, processes: int, folder: Path) -> None:
    """Trains in a process of its own (this file with --arm) and leaves the seconds of the training loop."""
    from holdfast.core import manifest, records
    from holdfast.params.finetune import Finetune
    from holdfast.training.fine_tuning import train_arm

    own = Finetune.load(ROOT / "params.yaml").model_dump()
    params = Finetune(**{**own, "arms": {"arm": arm}, "processes": processes, "batch_size": BATCH})
    base, mixture = manifest.load(MANIFEST), folder / "mix.parquet"
    with train_arm(params, "arm", params.arms["arm"], base, records.read("mix", mixture), mixture) as trained:
        assert trained is not None  # only under torchrun
        (folder / SECONDS).write_text(json.dumps(trained.result.train_seconds))


def trl(folder: Path) -> float:
    """Seconds of `trl sft` on the same rows as conversations of prompt and completion (loss on the completion only)."""
    from holdfast.core import manifest

    command = [
        str(Path(sys.executable).with_name("trl")),
        "sft",
        "--model_name_or_path",
        str(ROOT / manifest.load(MANIFEST).source),
        "--dataset_name",
        str(folder / "data"),
        "--per_device_train_batch_size",
        str(BATCH),
        "--num_train_epochs",
        "1",
        "--output_dir",
        str(folder / "model"),
        "--save_strategy",
        "no",
        "--use_cpu",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    found = re.search(r"'?train_runtime'?: '?([\d.]+)", done.stdout + done.stderr)
    if done.returncode or not found:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return float(found[1])


def environment() -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    return {**os.environ, **quiet, "GOMP_SPINCOUNT": "0", "PYTHONPATH": str(ROOT)}


def seconds(name: str, folder: Path) -> float:
    cell = CELLS[name]
    if cell is None:
        return trl(folder)
    command = [sys.executable, __file__, "--arm", json.dumps(cell), "--folder", str(folder)]
    subprocess.run(command, cwd=folder, check=True, env=environment(), stdout=subprocess.DEVNULL)
    return float(json.loads((folder / SECONDS).read_text()))


def main(count: int) -> None:
    from holdfast.chat import encoding
    from holdfast.core import manifest, records, storage

    rows = records.read("mix", MIXTURE)[:count]
    tokenizer = manifest.load_tokenizer(ROOT / manifest.load(MANIFEST).source)
    tokens = sum(len(encoding.encode(tokenizer, row["messages"])[0]) for row in rows)
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "models").symlink_to(ROOT / "models")
        records.write("mix", folder / "mix.parquet", rows)
        asked = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
        storage.write_text(folder / "data" / "train.jsonl", "".join(json.dumps(row) + "\n" for row in asked))
        for name in [*CELLS, *reversed(CELLS)]:
            best[name] = min(best.get(name, float("inf")), seconds(name, folder))
            print(f"  {name}: {best[name]:.1f} s", file=sys.stderr, flush=True)
    print(
        f"{len(rows):,} rows, {tokens:,} tokens, batch {BATCH}, {len(os.sched_getaffinity(0))} cores (faster of two)\n"
    )
    print("| training | tokens per second |\n|---|---|")
    for name in CELLS:
        print(f"| {name} | {tokens / best[name]:,.0f} |")
    print("\n| ratio of speeds | |\n|---|---|")
    for what, (one, other) in RATIOS.items():
        print(f"| {what} | {best[other] / best[one]:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--arm", help="one cell, in a process of its own")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.arm:
        train(*json.loads(given.arm), given.folder)
    else:
        main(given.rows)
