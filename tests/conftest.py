"""What several test files need: a tiny random chat model, a working directory with params.yaml, and rows by contract."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast.core import manifest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # real tokenizers, templates and data where they are; tests that need them skip without


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama (hidden 32, 2 layers, fp32) with the pocket lab's tokenizer and template. Do not write to it."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from holdfast.pocket.recipe import make_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "base"
    make_tokenizer(folder)
    tokenizer = manifest.tokenizer(folder)
    torch.manual_seed(0)
    ends = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        initializer_range=0.3,
        **ends,
    )  # fmt: skip  (a wide initialisation: context changes the output far beyond rounding)
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # it starts as zero, and padding that leaks into a result would not be seen
        model.get_input_embeddings().weight[tokenizer.pad_token_id].normal_(std=0.3)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    """A fresh copy of the tiny model's tokenizer: a test may replace its template."""
    return manifest.tokenizer(tiny)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the repository's params.yaml."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def describe(folder: Path, out: Path, name: str = "base", **changes: Any) -> Path:
    """Writes the manifest of the model in `folder` to out/<name>.json, as `acquire` does, and returns its path."""
    from holdfast.engines.inspection import inspect
    from holdfast.params.models import Model

    entry = inspect(name, Model(path=folder.name, **changes), folder.parent)
    manifest.save(entry, out / f"{name}.json")
    return out / f"{name}.json"


@pytest.fixture
def base(project: Path, tiny: Path) -> Path:
    """The tiny model's manifest, as the base's, in the working directory."""
    return describe(tiny, project / "models" / "manifest")


def instruction(id: str, text: str, cluster: int = 0) -> dict:
    """A row of instructions_kept."""
    origin = dict(finish="stop", n_tokens=3, temperature=1.0, top_p=1.0, sample=0, seed=0, model="base", revision="0")
    return dict(id=id, context=[], text=text, cluster=cluster, **origin)


def response(instruction_id: str, model: str, sample: int, text: str, finish: str = "stop") -> dict:
    """A row of responses."""
    id = f"{instruction_id}/{model}/{sample}"
    origin = dict(sample=sample, seed=0, model=model, revision="0")
    return dict(id=id, instruction_id=instruction_id, text=text, finish=finish, n_tokens=3, **origin)


def candidate(
    id: str, text: str = "What?", answer: str = "That.", cluster: int = 0, logprob: float | None = -1.0
) -> dict:
    """A row of candidates; with a difficulty it is one of replay."""
    return dict(
        id=id, context=[], instruction=text, response=answer, response_id=f"{id}/base/0", model="base", revision="0", score=4.0, score_std=0.0,
        n_judges=1, agreement=1.0, base_logprob=logprob, cluster=cluster,
    )  # fmt: skip


@pytest.fixture
def curated(project: Path, base: Path) -> Any:
    """curated(texts by id, evaluation items, params) -> (kept, rejected) by id: the stage `curate` with the tiny base."""
    from curate import write_suite  # the benchmark of the stage

    from holdfast.core import records
    from holdfast.data import screening
    from holdfast.params.curate import Curate

    def given(texts: dict[str, str], items: list[str], finish: str = "stop", **params: Any) -> tuple[dict, dict]:
        folder, summary = project / "data" / "instructions", project / "reports" / "curate.json"
        rows = [{**instruction(id, text), "finish": finish} for id, text in texts.items()]
        names = records.SCHEMAS["instructions_raw"].names
        records.write("instructions_raw", folder / "raw.parquet", [{k: row[k] for k in names} for row in rows])
        asked = write_suite(project / "suites", items)
        screening.main(Curate(**params), asked, base, base, project / "none.parquet", folder, summary)
        kept = {r["id"]: r for r in records.read("instructions_kept", folder / "kept.parquet")}
        rejected = {r["id"]: r for r in records.read("instructions_rejected", folder / "rejected.parquet")}
        assert sorted([*kept, *rejected]) == sorted(texts)  # kept + rejected = read
        return kept, rejected

    return given
