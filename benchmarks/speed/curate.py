"""How fast `curate` is and how much memory it takes, on synthetic rows.

    python -m benchmarks.speed.curate [rows]        (100,000 by default)

Rows are sentences of 12 to 60 words from a vocabulary of 20,000 with the frequencies of a real language (Zipf), 2 % exact
and 2 % near copies, and 0.5 % evaluation items with other words around them. Embedding costs what the base costs, so
random vectors of the full width stand in for it: the memory is that of the stage, the time is the stage's own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from holdfast.core import manifest, meter, records, storage
from holdfast.data import clustering, screening
from holdfast.data.row_checks import RowChecker
from holdfast.engines.inspection import inspect_model
from holdfast.evaluation import suites
from holdfast.params.curate import Curate
from holdfast.params.evaluate import Evaluate, Suite
from holdfast.params.models import Model

ROOT = Path(__file__).resolve().parents[2]

TASK = """\
task: asked
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "x"
generation_kwargs: {{until: [], max_gen_toks: 4}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


class Standin:
    """An engine that knows no text and gives vectors around 100 centres."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(2)
        self.centres = self.rng.standard_normal((100, clustering.MAX_WIDTH), dtype=np.float32)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        near = self.rng.standard_normal((len(texts), clustering.MAX_WIDTH), dtype=np.float32)
        return self.centres[self.rng.integers(0, 100, len(texts))] + 0.3 * near


def sentences(count: int, rng: np.random.Generator, vocabulary: np.ndarray) -> list[str]:
    weights = 1 / (np.arange(len(vocabulary)) + 10)
    lengths = rng.integers(12, 60, count)
    drawn = vocabulary[rng.choice(len(vocabulary), int(lengths.sum()), p=weights / weights.sum())]
    ends = np.cumsum(lengths)
    return [" ".join(drawn[end - length : end]) + "?" for end, length in zip(ends, lengths, strict=True)]


def raw_rows(ids: list[str], texts: list[str]) -> pa.Table:
    """Texts as rows of instructions_raw."""
    n = len(texts)
    columns = dict(
        id=ids,
        family=["plain"] * n,
        context=[[]] * n,
        text=texts,
        finish_reason=["stop"] * n,
        n_tokens=[40] * n,
        temperature=[1.0] * n,
        top_p=[1.0] * n,
        sample=list(range(n)),
        seed=[0] * n,
        model=["base"] * n,
        revision=["0"] * n,
    )
    return pa.table(columns, schema=records.SCHEMAS["instructions_raw"])


def write_rows(path: Path, count: int, items: list[str], rng: np.random.Generator, vocabulary: np.ndarray) -> None:
    """In slices, so that the benchmark's own memory stays out of the measurement."""
    slices = []
    for start in range(0, count, 20_000):
        texts = sentences(min(20_000, count - start), rng, vocabulary)
        for i in range(50, len(texts), 50):
            texts[i] = texts[i - 25]
            texts[i - 1] = texts[i - 26].replace(" ", " indeed ", 1)
        for i in range(10, len(texts), 200):
            texts[i] = f"Tell me this: {items[(start + i) % len(items)]} Thank you."
        slices.append(raw_rows([f"{n:08d}" for n in range(start, start + len(texts))], texts))
    records.write_table("instructions_raw", path, pa.concat_tables(slices))


def time_call(step: Callable[..., Any], *arguments: Any) -> Any:
    """The step's result; prints what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = step(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{step.__name__:28}{wall:9.1f} s ({cpu:.1f} s of CPU)   peak so far {meter.peak_memory() / 2**30:.2f} GiB",
        flush=True,
    )
    return result


def write_suite(folder: Path, items: list[str]) -> Evaluate:
    """One evaluation suite, `asked`, of these items, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "asked.jsonl").write_text("".join(json.dumps({"prompt": item}) + "\n" for item in items))
    (folder / "asked.yaml").write_text(TASK.format(file=folder / "asked.jsonl"))
    return Evaluate(tasks=str(folder), suites={"asked": Suite(role="general")})


def main(count: int) -> None:
    rng = np.random.default_rng(1)
    syllables = list("abcdefghiklmnoprstuvz")
    vocabulary = np.array(["".join(rng.choice(syllables, rng.integers(2, 10))) for _ in range(20_000)])
    items = sentences(2000, rng, vocabulary)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "raw.parquet", count, items, rng, vocabulary)
        time_call(curate, folder, items)


def curate(folder: Path, items: list[str]) -> None:
    """The steps of stages/curate.py with the stand-in for the base's embeddings."""
    params = Curate(clusters=100)
    rows = time_call(screening.ScreenedRows, records.read_table("instructions_raw", folder / "raw.parquet"))
    base = inspect_model("base", Model(path="base"), ROOT / "models" / "pocket")
    by_suite = suites.prompts(write_suite(folder / "suites", items), folder / "none")
    checker = RowChecker(params, manifest.load_tokenizer(base.folder()), base.name)

    time_call(screening.reject_unfit_rows, rows, checker)
    time_call(screening.reject_copies_and_overlap, rows, by_suite, params)
    time_call(screening.reject_near_duplicates, rows, by_suite, params)
    clusters = time_call(clustering.cluster_by_meaning, rows, by_suite, Standin().embed, params)
    kept, _, rejected = rows.split(clusters)
    records.write_table("instructions_kept", folder / "kept.parquet", kept)
    records.write_table("instructions_rejected", folder / "rejected.parquet", rejected)
    storage.write_json(folder / "curate.json", screening.summarise(rows, clusters, by_suite))
    print(f"kept {len(kept):,} of {len(rows):,}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
