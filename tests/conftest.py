"""What several test files need: a tiny random chat model, a working directory with params.yaml, and rows by contract."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
import shutil
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, describe, environment, instruction, raw, run, run_stage, set_evaluation_items, set_params

from holdfast.core import manifest, meter

frozen = [0]  # how many modules there were when the collector was last told to pass over them
PACKAGED = (
    "holdfast",
    "stages",
    "profiles",
    "data",
    "models",
    ".ci",
    ".github",
    "templates",
)  # what a wheel is built from


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama (hidden 32, 2 layers, fp32) with the pocket lab's tokenizer and template. Do not write to it."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from holdfast.pocket.recipe import make_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "base"
    make_tokenizer(folder)
    tokenizer = manifest.load_tokenizer(folder)
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
    )  # a wide initialisation: context changes the output far beyond rounding
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # it starts as zero, and padding that leaks into a result would not be seen
        model.get_input_embeddings().weight[tokenizer.pad_token_id].normal_(std=0.3)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    """A fresh copy of the tiny model's tokenizer: a test may replace its template."""
    return manifest.load_tokenizer(tiny)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the repository's params.yaml."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def base(project: Path, tiny: Path) -> Path:
    """The tiny model's manifest, as the base's, in the working directory."""
    return describe(tiny, project / "models" / "manifest")


@pytest.fixture
def curated(project: Path, base: Path) -> Any:
    """curated(texts by id, evaluation items, params) -> (kept, rejected) by id: the stage `curate` with the tiny base."""
    from holdfast.core import records

    shutil.copyfile(base, base.with_name("embedder.json"))

    def curate(
        texts: dict[str, str], items: list[str], finish_reason: str = "stop", **params: Any
    ) -> tuple[dict, dict]:
        folder = project / "data" / "instructions"
        rows = [raw({**instruction(id, text), "finish_reason": finish_reason}) for id, text in texts.items()]
        records.write("instructions_raw", folder / "raw.parquet", rows)
        set_evaluation_items(project, items)
        set_params(project, curate=params)
        run_stage("curate")
        kept = {r["id"]: r for r in records.read("instructions_kept", folder / "kept.parquet")}
        rejected = {r["id"]: r for r in records.read("instructions_rejected", folder / "rejected.parquet")}
        held_out = records.read("instructions_kept", folder / "held_out.parquet")
        assert sorted([*kept, *(r["id"] for r in held_out), *rejected]) == sorted(texts)  # every row is accounted for
        return kept, rejected

    return curate


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold slow tests come first: a worker that begins one near the end would run alone for minutes."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup() -> None:
    """Takes what the libraries have made out of the garbage collector's view: a full collection, as a trainer makes one at
    each start, else walks a million objects and takes longer than the training."""
    if len(sys.modules) > frozen[-1] + 200:
        frozen.append(len(sys.modules))
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files that git has, as from a clean clone."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in run(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines():
        if ("/" not in name or name.split("/")[0] in PACKAGED) and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    done = run(clone, sys.executable, "-m", "pip", "wheel", *options, ".")
    assert done.returncode == 0, done.stderr
    return next(out.glob("holdfast-*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which this wheel is installed, and of Holdfast nothing else."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False, symlinks=True)
    site = next((place / "lib").glob("python*")) / "site-packages"
    with zipfile.ZipFile(wheel) as archive:  # a wheel of pure Python is installed by unpacking it
        archive.extractall(site)
    ours = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    (site / "zz-dependencies.pth").write_text(f"{ours}\n")  # found after the wheel; its .pth files do not run
    for name, module in (("holdfast", "holdfast.cli"), ("dvc", "dvc.cli")):
        script = place / "bin" / name
        script.write_text(f"#!{place}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    inherited = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    return {**inherited, "PATH": f"{place}/bin{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(autouse=True)
def fresh_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that run in this process count what they take from zero on, as in a process of their own."""
    monkeypatch.setattr(meter, "total", meter.Spent())
