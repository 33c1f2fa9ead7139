"""Resolves base and panel, safetensors only, and hashes every file. What cannot be used is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

from holdfast.chat.encoding import find_pre_query
from holdfast.core import manifest, storage
from holdfast.engines.inspection import inspect_folder, inspect_model
from holdfast.panel import probe, selection
from holdfast.params.consensus import SelectionRule
from holdfast.params.judge import Judge
from holdfast.params.models import Models


def main() -> None:
    params = Models.load()
    folder, embedder = Path(params.model_folder), params.embedder or params.base
    models = {name: inspect_model(name, params.models[name], folder, name == params.base) for name in params.panel}
    if embedder not in models:
        models[embedder] = inspect_folder(embedder, params.models[embedder], folder, chats=False)
    base = models[params.base]
    find_pre_query(
        manifest.load_tokenizer(base.folder()), f"base '{params.base}' ({base.source})"
    )  # can it write user turns?

    rule, judging = SelectionRule.load(), Judge.load()
    if selection.asks_judges(rule):
        probe.require_judges([models[name] for name in params.panel], judging)

    with storage.replacing_folder(Path("models/manifest")) as manifests:
        for name in params.panel:
            manifest.save(models[name], manifests / f"{name}.json")
        manifest.save(base, manifests / "base.json")
        manifest.save(models[embedder], manifests / "embedder.json")
    for name, model in models.items():
        role = "base" if name == params.base else "panel" if name in params.panel else "embedder"
        size = f"{model.parameters / 1e6:,.1f} M parameters" if model.files else "weights unknown"
        print(f"{role} {name}: {model.architecture}, {size}, {model.fingerprint[:12]}")
