"""The drift stage: numbers against scipy, degenerate columns, pages that open offline, a JSON that stays the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_stage, set_params
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, norm, ttest_ind, wasserstein_distance

from holdfast.core import manifest as model_manifest
from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.engines import local
from holdfast.evaluation import shifts

ROWS = 240
PROMPT = '<script src="https://example.org/x.js"></script>'


def items(suite: str, correct: list[float], responses: list[str]) -> list[dict[str, Any]]:
    same = {"suite": suite, "item_hash": "i", "prompt_hash": "p", "prompt": PROMPT, "target": "t"}
    return [
        {"id": f"{suite}-{n}", "item_id": str(n), "correct": float(score), "response": response} | same
        for n, (score, response) in enumerate(zip(correct, responses, strict=True))
    ]


def write_evaluation(
    folder: Path, suites: dict[str, tuple[list[float], list[str]]], named: list[str] | None = None
) -> None:
    rows = [row for suite, (correct, responses) in suites.items() for row in items(suite, correct, responses)]
    records.write("items", folder / "items.parquet", rows)
    described = {name: {"role": "general", "chance": 0.0, "items": ROWS} for name in named or suites}
    storage.write_json(folder / "settings.json", {"schema": 1, "model": folder.name, "suites": described, "engine": {}})


def write_data(folder: Path, clusters: tuple[list[int], list[int]] | None = None, replay_rows: int = 100) -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(["word"] * int(n)) for n in rng.integers(2, 20, 300)]
    origin = {
        "family": "plain",
        "context": [],
        "finish_reason": "stop",
        "n_tokens": 5,
        "temperature": 1.0,
        "top_p": 1.0,
        "sample": 0,
        "seed": 1,
        "model": "base",
        "revision": "r",
    }
    raw = [{"id": f"{n:04d}", "text": text} | origin for n, text in enumerate(texts)]
    records.write("instructions_raw", folder / "instructions" / "raw.parquet", raw)
    old, new = clusters or ([n % 24 for n in range(200)], [n % 12 for n in range(replay_rows)])
    kept = [row | {"cluster": cluster, "bait": False} for row, cluster in zip(raw, old, strict=False)]
    records.write("instructions_kept", folder / "instructions" / "kept.parquet", kept)
    scored = {
        "family": "plain",
        "refusal": False,
        "context": [],
        "response": "r",
        "response_id": "x",
        "model": "base",
        "revision": "r",
        "score": 4.0,
        "score_std": 0.0,
        "n_judges": 3,
    }
    scored |= {"agreement": 1.0}
    candidates = [
        {"id": row["id"], "instruction": row["text"], "cluster": row["cluster"], "base_logprob": -1 - n % 5} | scored
        for n, row in enumerate(kept)
    ]
    records.write("candidates", folder / "replay" / "candidates.parquet", candidates)
    replay = [row | {"cluster": c, "difficulty": 0} for row, c in zip(candidates, new, strict=False)]
    records.write("replay", folder / "replay" / "replay.parquet", replay)
    turns = [("user", "first"), ("assistant", "yes"), ("user", "the last question"), ("assistant", "no")]
    messages = [{"role": role, "content": content} for role, content in turns]
    domain = [{"id": str(n), "messages": messages, "group": "", "source": "s"} for n in range(50)]
    records.write("domain", folder / "domain" / "train.parquet", domain)


def texts(rng: np.random.Generator, mean: float) -> list[str]:
    return ["é" * int(n) for n in rng.poisson(mean, ROWS)]


@pytest.fixture
def lab(base: Path, tmp_path: Path) -> Path:
    """Evaluations and data below the working directory, where the tiny base's manifest is."""
    rng = np.random.default_rng(0)
    right, wrong, half = [1.0] * ROWS, [0.0] * ROWS, [1.0, 0.0] * (ROWS // 2)
    three_quarters = [1.0, 1.0, 1.0, 0.0] * (ROWS // 4)
    plain, longer, digit = texts(rng, 20), texts(rng, 40), ["5"] * ROWS
    before = {"facts": (three_quarters, plain), "same": (right, digit), "lost": (right, digit), "graded": (half, plain)}
    tuned = {"facts": (half, plain), "same": (right, digit), "lost": (wrong, ["5"] * (ROWS - 12) + ["55"] * 12)}
    tuned["graded"] = ([0.4] * ROWS, longer)
    write_evaluation(tmp_path / "reports/eval" / "base", before)
    write_evaluation(tmp_path / "reports/eval" / "arm", tuned)
    write_data(tmp_path / "data")
    return tmp_path


def run(root: Path, **knobs: Any) -> dict[str, Any]:
    """drift.json of the stage, which runs on what is below `root`."""
    names = sorted({f.name for f in (root / "reports/eval").glob("*")} - {"base"})
    set_params(root, arms=names, retrain={"arms": [], "seeds": []}, drift=knobs)
    run_stage("drift")
    return json.loads((root / "reports/drift/drift.json").read_text())


def test_the_numbers_are_those_of_scipy(lab: Path) -> None:
    arm = run(lab)["arms"]["arm"]
    three_quarters, half = np.tile([1.0, 1.0, 1.0, 0.0], ROWS // 4), np.tile([1.0, 0.0], ROWS // 2)
    assert arm["facts"]["score"]["p"] == pytest.approx(ttest_ind(three_quarters, half).pvalue, rel=1e-5)
    assert arm["facts"]["score"]["drift"] is True
    assert arm["facts"]["length"] == {"distance": 0.0, "drift": False}
    before, after = (
        [
            len(row["response"])
            for row in records.read("items", lab / "reports/eval" / m / "items.parquet")
            if row["suite"] == "graded"
        ]
        for m in ("base", "arm")
    )
    expected = wasserstein_distance(before, after) / np.std(before)
    assert arm["graded"]["length"] == {"distance": pytest.approx(expected, rel=1e-5), "drift": True}
    assert arm["graded"]["score"]["drift"] is True  # 0.5 -> 0.4, graded


def test_the_method_for_scores_is_the_z_test_of_proportions_at_any_size(tmp_path: Path) -> None:
    for rows in (100, 5000):  # Evidently's default method goes blind above 1,000
        before, after = np.arange(rows) < 0.80 * rows, np.arange(rows) < 0.75 * rows
        column = shifts.Column(before.astype(float), after.astype(float), "t_test", 0.05)
        found = shifts.compare({"score": column}, tmp_path / "page.html")["score"]
        z = 0.05 / np.sqrt(2 * 0.775 * 0.225 / rows)
        assert found["p"] == pytest.approx(2 * norm.sf(z), rel=0.05)
        assert found["drift"] is (rows == 5000)


def test_scores_and_lengths_that_never_change_have_a_verdict(lab: Path) -> None:
    arm = run(lab)["arms"]["arm"]
    assert arm["same"] == {"score": {"p": 1.0, "drift": False}, "length": {"distance": 0.0, "drift": False}}
    # all right, then all wrong; and 12 of 240 one-character answers became one character longer
    assert arm["lost"] == {"score": {"p": 0.0, "drift": True}, "length": {"distance": 0.05, "drift": False}}


def test_thresholds_come_from_the_params(lab: Path) -> None:
    arm = run(lab, score_threshold=1e-20, length_threshold=50)["arms"]["arm"]
    assert arm["facts"]["score"]["drift"] is False
    assert arm["graded"]["length"]["drift"] is False


def test_methods_come_from_the_params(lab: Path) -> None:
    found = run(lab, score_method="ks", length_method="psi", cluster_method="hellinger")
    three_quarters, half = np.tile([1.0, 1.0, 1.0, 0.0], ROWS // 4), np.tile([1.0, 0.0], ROWS // 2)
    arm = found["arms"]["arm"]
    assert arm["facts"]["score"]["p"] == pytest.approx(ks_2samp(three_quarters, half).pvalue, rel=1e-5)
    assert arm["graded"]["length"]["distance"] > 1  # two distributions that hardly overlap
    assert (found["methods"]["score_method"], found["methods"]["length_threshold"]) == ("ks", 0.1)
    assert 0 < found["instructions"]["replay against kept"]["clusters"]["distance"] < 1


def test_instructions_are_compared_from_stage_to_stage(lab: Path) -> None:
    found = run(lab)["instructions"]
    assert set(found) == {"kept against raw", "replay against kept", "domain against kept", "domain against raw"}
    old, new = np.bincount([n % 24 for n in range(200)]), np.bincount([n % 12 for n in range(100)], minlength=24)
    expected = float(jensenshannon(old, new))
    assert found["replay against kept"]["clusters"] == {"distance": pytest.approx(expected, rel=1e-5), "drift": True}
    raw = [len(row["text"].split()) for row in records.read("instructions_raw", lab / "data/instructions/raw.parquet")]
    words = wasserstein_distance(raw, [3]) / np.std(raw)  # the domain's last user turn has three words, its first one
    assert found["domain against raw"]["words"]["distance"] == pytest.approx(words, rel=1e-5)


def test_difficulty_is_what_the_base_makes_of_the_responses(lab: Path) -> None:
    found = run(lab)["instructions"]
    assert "difficulty" not in found["kept against raw"]  # nobody has answered those
    assert found["replay against kept"]["difficulty"] == {"distance": 0.0, "drift": False}
    entry = model_manifest.load(lab / "models" / "manifest" / "base.json")
    turns = records.read("domain", lab / "data/domain/train.parquet")[0]["messages"]
    nats = -local.Engine(entry, 4).likelihood([turns[:-1]], [turns[-1]["content"]])[0]
    kept = [1 + n % 5 for n in range(200)]
    expected = wasserstein_distance(kept, [nats]) / np.std(kept)
    assert found["domain against kept"]["difficulty"]["distance"] == pytest.approx(expected, rel=1e-3)


def test_embeddings_tell_one_question_asked_fifty_times_from_many(lab: Path) -> None:
    found = run(lab)["instructions"]
    assert 0.4 < found["kept against raw"]["embeddings"]["auc"] < 0.6
    assert found["domain against raw"]["embeddings"] == {"auc": pytest.approx(1, abs=0.02), "drift": True}
    few = run(lab, rows=10)["instructions"]["domain against raw"]["embeddings"]
    assert few == {"auc": None, "drift": False}


def test_two_halves_of_one_set_do_not_drift_and_a_shifted_one_does() -> None:
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=(2, 2000, 16))
    assert shifts.compare_embeddings(same, other, 0.55)["auc"] == pytest.approx(0.5, abs=0.05)
    assert shifts.compare_embeddings(same, other + 0.3, 0.55)["drift"] is True


def test_a_text_belongs_to_the_cluster_whose_middle_is_nearest() -> None:
    known = np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0]])
    assert shifts.nearest(np.array([[1.0, 1.0], [8.0, 1.0]]), known, [7, 7, 2]) == ["007", "002"]
    assert shifts.nearest(np.zeros((0, 2)), known, [7, 7, 2]) == []


def test_a_rerun_gives_the_same_bytes(lab: Path) -> None:
    """Pages, too: dvc.lock holds their hashes, and a second run must not change it."""

    def outputs() -> dict[str, bytes]:
        run(lab)
        folder = lab / "reports/drift"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = outputs()
    assert sorted(first) == ["drift.json", "html/arm.html", "html/instructions.html"]
    assert outputs() == first
    assert b"NaN" not in first["drift.json"]


def test_pages_open_offline_and_hold_no_text_of_a_model(lab: Path) -> None:
    run(lab)
    pages = sorted((lab / "reports/drift" / "html").iterdir())
    assert [page.name for page in pages] == ["arm.html", "instructions.html"]
    for page in pages:
        html = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe|link)[^>]{0,200}(?:src|href)=[\"']?(?:https?:)?//", html)
        assert not re.findall(r"@import +[\"']|url\([\"']?https?:", html)
        assert "example.org" not in html and "éééé" not in html
    assert "graded: characters" in pages[0].read_text()


def test_a_suite_that_was_not_run_has_null_and_no_drift(lab: Path) -> None:
    kept = [row for row in records.read("items", lab / "reports/eval/arm/items.parquet") if row["suite"] != "facts"]
    records.write("items", lab / "reports/eval/arm/items.parquet", kept)
    arm = run(lab)["arms"]["arm"]
    assert arm["facts"] == {"score": {"p": None, "drift": False}, "length": {"distance": None, "drift": False}}
    assert arm["graded"]["score"]["drift"] is True


def test_a_score_that_is_none_stops_nothing(lab: Path) -> None:
    rows = records.read("items", lab / "reports/eval/arm/items.parquet")
    records.write("items", lab / "reports/eval/arm/items.parquet", [rows[0] | {"correct": float("nan")}, *rows[1:]])
    run(lab)


def test_nothing_to_compare_still_gives_a_page(base: Path, tmp_path: Path) -> None:
    for model in ("base", "arm"):
        write_evaluation(tmp_path / "reports/eval" / model, {"same": ([1.0] * ROWS, ["5"] * ROWS)})
    write_data(tmp_path / "data", clusters=([3] * 200, [3] * 100))
    found = run(tmp_path)
    assert found["instructions"]["replay against kept"]["clusters"] == {"distance": 0.0, "drift": False}
    assert "Nothing to compare" in (tmp_path / "reports/drift" / "html" / "arm.html").read_text()


def test_an_empty_replay_set_is_null(base: Path, tmp_path: Path) -> None:
    for model in ("base", "arm"):
        write_evaluation(tmp_path / "reports/eval" / model, {"same": ([1.0] * ROWS, ["5"] * ROWS)})
    write_data(tmp_path / "data", replay_rows=0)
    found = run(tmp_path)["instructions"]["replay against kept"]
    assert found["clusters"] == {"distance": None, "drift": False} == found["characters"]


def test_a_missing_input_leaves_earlier_outputs_as_they_were(lab: Path) -> None:
    run(lab)
    before = {path: path.read_bytes() for path in (lab / "reports/drift").rglob("*") if path.is_file()}
    (lab / "data" / "replay" / "replay.parquet").unlink()
    with pytest.raises(UserError, match="no such file"):
        run(lab)
    assert {path: path.read_bytes() for path in (lab / "reports/drift").rglob("*") if path.is_file()} == before
