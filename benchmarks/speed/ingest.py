"""How fast, and in how much memory, `ingest` reads JSONL, beside `datasets.load_dataset("json")` with `map`.

python -m benchmarks.speed.ingest [--rows 1000000] [--runs 3] [--folder DIR]     prints seconds of CPU, peak memory (GB), ratios as JSON

Each side runs in a process of its own and does the same to each row: parse, check the order of roles, give it an id. `ingest`
removes duplicates, splits and writes as well: that is timed, too, and told apart. The sides take turns, since a machine's speed
changes with what else it does. The rows are chats of two and four turns.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [f"word{n}" for n in range(5000)]


def write_rows(path: Path, rows: int) -> None:
    dice = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            texts = [" ".join(dice.choices(WORDS, k=12)) for _ in range(2 if number % 3 else 4)]
            turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
            file.write(json.dumps({"messages": turns}) + "\n")


def time_ingest(path: Path) -> dict[str, float]:
    from holdfast.core import manifest
    from holdfast.data import ingestion
    from holdfast.data.template_fit import TemplateFit
    from holdfast.params.ingest import Ingest

    fit = TemplateFit(manifest.load_tokenizer(Path("models/pocket/base")))
    params = Ingest.model_validate({"folder": str(path.parent), "train": {"path": path.name}})
    start = time.process_time()
    split = ingestion.read_split("train", params.train, params, fit)
    read = time.process_time() - start
    train, test = ingestion.split_off_test(split.kept, params)
    train, _ = ingestion.remove_overlap(train, test, "")
    ingestion.write_domain(path.parent / "domain", train, test, split.rejected)
    return {"seconds_read": read, "seconds_all": time.process_time() - start}


def time_datasets(path: Path) -> dict[str, float]:
    import datasets

    from holdfast.core import records

    def normalise(row: dict) -> dict:
        turns = [{"role": turn["role"], "content": turn["content"].strip()} for turn in row["messages"]]
        if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError("roles")
        return {"messages": turns, "id": records.text_id(json.dumps(turns, ensure_ascii=False))}

    datasets.disable_progress_bars()
    start = time.process_time()
    cache = str(path.parent / "cache")
    datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache).map(normalise)
    return {"seconds_all": time.process_time() - start}


def run_apart(side: str, path: Path) -> dict[str, float]:
    """One side in a process of its own; peak memory is the process's."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.ingest", "--side", side, "--folder", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    parser.add_argument("--folder", type=Path, help="where the file is written; default: a temporary folder")
    parser.add_argument("--side", choices=["ingest", "datasets"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        seconds = (time_ingest if options.side == "ingest" else time_datasets)(options.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({**{key: round(value, 1) for key, value in seconds.items()}, "peak_gb": round(peak, 2)}))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows)
        pairs = []
        for _ in range(options.runs):
            pairs.append((run_apart("ingest", path), run_apart("datasets", path)))
            shutil.rmtree(Path(folder) / "cache")  # else datasets takes its former result
    ratios = [round(theirs["seconds_all"] / ours["seconds_read"], 2) for ours, theirs in pairs]
    sides = {"ingest": [ours for ours, _ in pairs], "datasets": [theirs for _, theirs in pairs]}
    print(json.dumps({"rows": options.rows, **sides, "times_as_fast": ratios, "median": statistics.median(ratios)}))


if __name__ == "__main__":
    main()
