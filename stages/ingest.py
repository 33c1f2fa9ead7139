"""Reads the domain data, normalises it, splits off a test set where none is given, removes train/test overlap."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, storage
from holdfast.data import ingestion, ingestion_report
from holdfast.data.template_fit import TemplateFit
from holdfast.params.ingest import Ingest


def main() -> None:
    params = Ingest.load()
    base = manifest.load(Path("models/manifest/base.json"))
    tokenizer = manifest.load_tokenizer(base.folder())

    splits = {"train": ingestion.read_split("train", params.train, params, TemplateFit(tokenizer))}
    if params.test:
        splits["test"] = ingestion.read_split("test", params.test, params, TemplateFit(tokenizer))
    ingestion.require_group([row for split in splits.values() for row in split.kept], params)
    if params.test:
        train, test = splits["train"].kept, splits["test"].kept
        train, overlapping = ingestion.remove_overlap(train, test, params.folder, params.near_duplicates)
    else:
        train, test = ingestion.split_off_test(splits["train"].kept, params)
        train, overlapping = ingestion.remove_overlap(train, test, params.folder)
    splits["train"].rejected.extend(overlapping)

    rejected = [row for split in splits.values() for row in split.rejected]
    report = ingestion_report.summarise(splits, len(train), len(test))
    ingestion.write_domain(Path("data/domain"), train, test, rejected)
    storage.write_json(Path("reports/ingest.json"), report)
    print(ingestion_report.in_words(report))
