"""What the self suite says of models that lost little and much: beside the general suites' loss, cell by cell.

    python -m benchmarks.study.self_suite                  trains and asks what is missing, prints the table
    python -m benchmarks.study.self_suite --freeze         renews the questions (after `dvc repro curate` with another reconstruct.seed)
    python -m benchmarks.study.self_suite --real PROJECT CELLS.jsonl
                                                           everyday answers of real/cells.py's models: which are none

A model is an arm of study.yaml at one rate; a cell is the model or a point on the line from the base to it (averaging of
weights, which costs no training), or another model of the lab. A finished cell is not run again. General and domain are
those of the development suites. The questions lie beside this file: instructions that the base wrote with another seed,
without those that come near a row of the study's replay set.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study import replay, run

HERE = Path(__file__).parent
RESULTS, QUESTIONS = HERE / "data" / "self_suite.jsonl", HERE / "data" / "self_questions.parquet"
MODELS = run.SCRATCH / "models"  # tuned models are kept: 7 MB each
SEED = 1
CELLS = {  # arm of study.yaml, learning rate -> parts of the way from the base to it: from next to no loss to most of it
    ("domain-only", 6.5e-4): (0.25, 0.5, 0.7, 0.8, 0.9, 1.0),
    ("light-weak", 5.0e-4): (1.0,),
}
OTHERS = ("lexicon", "abacus")  # chat models of the lab that know nearly the same, in their own words


def main() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1"}
    os.chdir(run.ROOT)
    if "--freeze" in sys.argv:
        freeze_questions()
        return
    if "--real" in sys.argv:
        count_collapsed(*map(Path, sys.argv[2:4]))
        return
    study = yaml.safe_load((HERE / "study.yaml").read_text())
    for source in replay.SOURCES:
        replay.write(source, run.ROOT, run.SCRATCH / source)
    done = read_results()
    keep(done, "base", None)
    for name in OTHERS:
        keep(done, name, Path("models/pocket") / name)
    for (arm, rate), parts in CELLS.items():
        for part in parts:
            name = f"{arm}_{rate:g}_{SEED}" + (f"_{part:g}" if part < 1 else "")
            if name not in done:
                tuned = train_cell(study, arm, rate)
                keep(done, name, tuned if part == 1 else average(tuned, part, MODELS / name))
    print_table(read_results())


def keep(done: dict[str, dict[str, Any]], name: str, folder: Path | None) -> None:
    """Adds the cell to the results, unless it is there."""
    if name not in done:
        with RESULTS.open("a") as file:
            file.write(json.dumps({"cell": name, **score_model(name, folder)}, sort_keys=True) + "\n")


def freeze_questions() -> None:
    """Writes the questions from data/instructions/held_out.parquet."""
    from holdfast.core import records
    from holdfast.data import overlap
    from holdfast.params.curate import Curate

    params = Curate.load()
    rows = records.read("instructions_kept", Path("data/instructions/held_out.parquet"))
    replayed = [row["instruction"] for row in records.read("replay", replay.REPLAY)]
    texts = {overlap.words(text) for text in replayed}
    index = overlap.EvaluationIndex(
        {"replay": replayed}, params.overlap_ngram, params.overlap_common, params.overlap_coverage
    )
    rows = [row for row in rows if overlap.words(row["text"]) not in texts and not index.match(row["text"])]
    records.write("instructions_kept", QUESTIONS, rows)
    print(f"{len(rows)} questions")


def count_collapsed(project: Path, cells: Path) -> None:
    """Prints, for every cell of real/cells.py, which of its answers to everyday questions are none. The base's responses
    to the instructions of the project stand for the rest of the self suite."""
    from holdfast.core import records
    from holdfast.evaluation import collapse

    domain = [row["messages"][-1]["content"] for row in records.read("domain", project / "data/domain/train.parquet")]
    responses = records.read("responses", project / "data/responses/base.parquet")
    others = [row["text"] for row in responses][:230]
    results = [json.loads(line) for line in cells.read_text().splitlines()]
    base = results[0]["answers"]
    for cell in results:
        signs = collapse.find_signs([*base, *others], [*cell["answers"], *others], domain)[: len(base)]
        print(f"{cell['cell']}: probability {cell['probability']:.3f}, {sum(map(bool, signs))} of {len(base)} are none")
        for sign, text in zip(signs, cell["answers"], strict=True):
            print(f"    {sign or '-':8}{' '.join(text.split())[:90]}")


def read_results() -> dict[str, dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    return {cell["cell"]: cell for cell in map(json.loads, lines)}


def train_cell(study: dict[str, Any], arm: str, rate: float) -> Path:
    """The folder of the tuned model, which is trained where there is none."""
    folder = MODELS / f"{arm}_{rate:g}_{SEED}"
    if not (folder / "config.json").is_file():
        arm_config = {**study["main"], **study["reference"]}[arm] | {"learning_rate": rate}
        run.train_model(arm_config, SEED, study, folder)
    return folder


def average(tuned: Path, part: float, out: Path) -> Path:
    """Writes the model that lies at this part of the way from the base to the tuned one."""
    from holdfast.core import manifest
    from holdfast.training import anchors

    network, base = manifest.load_model(tuned), manifest.load_model(manifest.load(run.BASE).folder())
    anchors.average(network, anchors.copy_weights(base), part)
    network.save_pretrained(out)
    manifest.load_tokenizer(tuned).save_pretrained(out)
    return out


def score_model(name: str, folder: Path | None) -> dict[str, Any]:
    """Suite by suite the mean outcome, general and domain as the gate has them, and what the self suite shows."""
    from holdfast.core import manifest, records, storage
    from holdfast.evaluation import harness, self_outcomes, self_suite
    from holdfast.params.evaluate import Evaluate

    params = Evaluate.load().model_copy(update={"domain_test": "off", "tasks": "data/pocket/development"})
    base, evaluations = manifest.load(run.BASE), run.SCRATCH / "self"
    base_folder = evaluations / "base"
    base_items = None if folder is None else base_folder / "items.parquet"
    inputs = self_suite.load_inputs(params, QUESTIONS, Path("data/domain/train.parquet"), base_items)
    same_as = None if folder is None else base_folder
    evaluation = harness.evaluate_model(params, name, folder or base.folder(), base, Path("none"), same_as, inputs)
    here = evaluations / name
    records.write("items", here / "items.parquet", evaluation.items)
    storage.write_json(here / "settings.json", evaluation.settings)
    found: dict[str, Any] = {"scores": evaluation.scores}
    for role in ("general", "domain"):
        parts = [
            (evaluation.scores[suite] - given.chance) / (1 - given.chance)
            for suite, given in params.suites.items()
            if given.role == role
        ]
        found[role] = sum(parts) / len(parts)
    figures = self_outcomes.describe(base_folder / "items.parquet", here / "items.parquet")
    return storage.round_floats(found | {"self": figures._asdict() if figures else {}})


def print_table(done: dict[str, dict[str, Any]]) -> None:
    """The cells by general score, and each measure's rank correlation with it over the tuned ones."""
    from scipy.stats import spearmanr

    measures = {
        "likelihood": lambda cell: cell["scores"]["self_likelihood"],
        "chat": lambda cell: cell["scores"]["self_chat"],
        "self score": lambda cell: (cell["scores"]["self_likelihood"] + cell["scores"]["self_chat"]) / 2,
        "chrF": lambda cell: cell["scores"]["self_agreement"],
        "overlap": lambda cell: cell["scores"]["self_overlap"],
        "same answer": lambda cell: cell["self"]["equal"],
    }
    print("| cell | general | " + " | ".join(measures) + " | KL | domain |")
    print("|---|" + "---:|" * (len(measures) + 3))
    for cell in sorted(done.values(), key=lambda cell: -cell["general"]):
        numbers = [cell["general"], *(measure(cell) for measure in measures.values())]
        kl, domain = cell["self"]["kl"], cell["domain"]
        print(
            f"| {cell['cell']} | "
            + " | ".join(f"{100 * n:.1f}" for n in numbers)
            + f" | {kl:.3f} | {100 * domain:.1f} |"
        )
    tuned = [cell for name, cell in done.items() if name not in ("base", *OTHERS)]
    for name, measure in measures.items():
        rank = spearmanr([cell["general"] for cell in tuned], [measure(cell) for cell in tuned]).statistic
        print(f"{name}: rank correlation with the general score {rank:.3f} over {len(tuned)} cells")


if __name__ == "__main__":
    main()
