"""The whole DAG on real data behind a real tokenizer and chat template. The model is random, so its text is noise and its
scores mean nothing; that everything passes through does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, checkout, repro, run, set_params

SHARED = ROOT.parent / "shared"


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "pubmedqa").is_dir(), reason="../shared with PubMedQA is not there")
@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="../shared with real tokenizers is not there")
def test_pubmedqa_passes_through_a_qwen2_shaped_model(tmp_path: Path):
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    project = checkout(tmp_path)
    model = project / "models" / "local" / "base"
    shutil.copytree(SHARED / "tokenizers" / "qwen2.5-0.5b-instruct", model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(model)

    source = next((SHARED / "data" / "pubmedqa").glob("ori_pqal*.json"))
    rows = list(json.loads(source.read_text(encoding="utf-8")).items())[:40]
    (project / "data" / "local").mkdir()
    (project / "data" / "local" / "pubmedqa.json").write_text(json.dumps(dict(rows)), encoding="utf-8")
    set_params(
        project,
        model_folder="models/local",
        models={"base": {"path": "base"}},
        panel=["base"],
        arms=["holdfast"],
        gate__control=None,
        ingest={
            "folder": "data/local",
            "train": {"path": "pubmedqa.json"},
            "format": "columns",
            "columns": {"prompt": "QUESTION", "context": "CONTEXTS", "response": "final_decision"},
            "test_fraction": 0.2,
        },
        reconstruct__samples=48,
        reconstruct__max_tokens=12,
        respond__k=2,
        respond__max_tokens=6,
        judge__min_mass=0.0,
        judge__rubric="profiles/rubric.txt",
        curate__finished_only=False,
        curate__max_repetition=1.0,
        curate__min_chars=0,
        curate__clusters=3,
        consensus__finished_only=False,
        consensus__min_score=1.0,
        quality__min_rows=1,
        quality__min_clusters=1,
        quality__max_unfinished=1.0,
        quality__deny=[],
        quality__max_model_share=1.0,
        mix__arms__holdfast__share=0.2,
        mix__max_repeats=50,
        mix__epochs=1,
        mix__arms__holdfast__epochs=1,
        finetune__max_length=2048,
        finetune__micro_batch=2,
        finetune__batch_size=8,
        evaluate__suites={"facts": {"role": "general"}},
        evaluate__domain_test="exact_match",
        evaluate__max_tokens=4,
        evaluate__limit=8,
    )
    ran, output = repro(project)
    assert "evaluate@holdfast" in ran
    prefix = "<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n<|im_start|>user\\n"
    assert prefix in output
    gate = json.loads((project / "reports" / "gate.json").read_text())
    assert gate["verdict"] == "cannot-compare"  # the base knows nothing: at chance nothing can be lost
    suites = json.loads((project / "reports" / "eval" / "base" / "settings.json").read_text())["suites"]
    assert suites["domain_test"]["role"] == "domain"
    done = run(project, "holdfast", "gate", "--check")
    assert done.returncode == 2
