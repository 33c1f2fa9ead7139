"""holdfast/engines/embedder.py: the base's hidden states, or a sentence-transformers model that acquire has hashed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import instruction, raw, run_stage, set_evaluation_items, set_params

from holdfast.core import manifest, records
from holdfast.core.errors import UserError
from holdfast.engines import embedder
from holdfast.params.models import Models

TEXTS = ["What is 1 + 2?", "Sort these: 3 1 2", "What is 1 + 2?"]


@pytest.fixture
def sentences(project: Path, tiny: Path) -> Path:
    """models/pocket/{base,sentences}: the tiny model, and a sentence-transformers model around it."""
    pytest.importorskip("sentence_transformers", reason="the extra 'embeddings' is not installed")
    from sentence_transformers import SentenceTransformer, models

    folder = project / "models" / "pocket"
    shutil.copytree(tiny, folder / "base")
    words = models.Transformer(str(tiny), max_seq_length=64)
    words.tokenizer.pad_token = words.tokenizer.eos_token
    pooling = models.Pooling(words.get_embedding_dimension(), pooling_mode="max")
    SentenceTransformer(modules=[words, pooling], device="cpu").save_pretrained(str(folder / "sentences"))
    return folder / "sentences"


def acquired(embeds: str | None) -> manifest.Manifest:
    models = {"base": {"path": "base"}, "sentences": {"path": "sentences"}}
    names = dict(base="base", embedder=embeds, panel=["base"], arms=["a"], retrain={"arms": [], "seeds": []})
    set_params(Path(), model_folder="models/pocket", models=models, consensus={"strategy": "first"}, **names)
    run_stage("acquire")
    return manifest.load(Path("models/manifest/embedder.json"))


def test_without_an_embedder_the_base_embeds(sentences):
    assert acquired(None) == manifest.load(Path("models/manifest/base.json")) == acquired("base")
    assert not Path("models/manifest/sentences.json").exists(), "it neither answers nor judges"


def test_a_sentence_transformers_model_is_hashed_with_all_its_modules_and_embeds(sentences):
    entry = acquired("sentences")
    assert entry.architecture == manifest.SENTENCE_TRANSFORMER
    assert {"modules.json", "model.safetensors"} < set(entry.files)
    assert any(name.endswith("_Pooling/config.json") for name in entry.files), "a module's folder counts too"
    vectors = embedder.load_embedder(entry, 8)(TEXTS)
    base = embedder.load_embedder(manifest.load(Path("models/manifest/base.json")), 8)(TEXTS)
    assert vectors.shape == base.shape == (3, 32)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-6)
    assert not np.allclose(vectors, base, atol=1e-2), "pooled otherwise"


def test_a_changed_module_is_noticed(sentences):
    entry = acquired("sentences")
    (sentences / "modules.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="changed since"):
        embedder.load_embedder(entry, 8)


def test_a_module_of_foreign_code_is_refused_in_one_line(sentences, tmp_path, monkeypatch):
    modules = json.loads((sentences / "modules.json").read_text())
    modules[1]["type"] = "evil.Pooling"
    (sentences / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Pooling: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    shutil.copy(tmp_path / "lib/evil.py", sentences / "evil.py")
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        embedder.load_embedder(acquired("sentences"), 8)
    assert len(str(caught.value).splitlines()) <= 3
    assert not Path("ran").exists()


def test_without_the_package_the_message_says_what_to_install(sentences, monkeypatch):
    entry = acquired("sentences")
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"holdfast\[embeddings\]"):
        embedder.load_embedder(entry, 8)


def test_curate_clusters_by_the_embedder(sentences, monkeypatch):
    entry, asked = acquired("sentences"), []
    told = embedder.load_embedder
    monkeypatch.setattr(embedder, "load_embedder", lambda found, batch: asked.append(found) or told(found, batch))
    rows = [raw(instruction(f"i{n}", f"Say the number {n} aloud.")) for n in range(6)]
    folder = Path("data/instructions")
    records.write("instructions_raw", folder / "raw.parquet", rows)
    set_evaluation_items(Path.cwd(), ["Which river runs through Tresa?"])
    set_params(Path.cwd(), curate={"clusters": 2, "near_duplicate": 1.0})
    run_stage("curate")
    assert asked == [entry]
    assert {row["cluster"] for row in records.read("instructions_kept", folder / "kept.parquet")} == {0, 1}


@pytest.mark.parametrize(
    ("embeds", "said"), [("nobody", "has no entry in models"), ("far", "a server's embeddings are not used")]
)
def test_an_embedder_that_cannot_be_is_refused(embeds, said):
    models = {"base": {"path": "base"}, "far": {"endpoint": "http://localhost:1/v1", "model": "m"}}
    with pytest.raises(ValueError, match=said):
        Models.model_validate(
            dict(model_folder="m", models=models, base="base", embedder=embeds, panel=["base"], arms=["a"])
        )
