"""Refusing, tool calls and thoughts on the pocket lab: what domain-only loses of them, and what the default keeps.

    python -m benchmarks.lab.abilities base                        goes on training the pocket base until it has them (20 minutes)
    python -m benchmarks.lab.abilities train [--seeds 1 2 ...]     reconstructs with it, then trains and scores both arms
    python -m benchmarks.lab.abilities table > benchmarks/lab/abilities.md

Everything between base and scores is the pipeline's own: its stages run in a folder of their own, with the lab's params.yaml but for
the base and what `init` sets for a base with tools and a switch for thoughts. Items are fresh ones of the invented world, asked and
scored as the core suite asks and scores its own. Each training is a line of data/abilities.jsonl; a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml

from holdfast.chat.templates import template_of
from holdfast.commands import run as stage
from holdfast.core import fingerprint, manifest, records, storage
from holdfast.core_suite import families
from holdfast.core_suite.items import Item, ask
from holdfast.evaluation import backends, core_answers
from holdfast.params.evaluate import Evaluate
from holdfast.params.gate import Gate
from holdfast.params.whole import Params
from holdfast.pocket import abilities, ability_world
from holdfast.verdict import gate, simulation

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).parent / "data" / "abilities.jsonl"
SCRATCH = ROOT / ".cache" / "abilities"
PROJECT = SCRATCH / "project"  # where the stages run
EXAMPLES, SEED, ITEMS = 64_000, 1, 150
ABILITIES = {  # name -> the family of the core suite that asks and scores
    "refusals": "refusals",
    "over_refusals": "over_refusals",
    "tools": "tools",
    "thinking_on": "thinking",
    "thinking_off": "thinking",
}
ARMS = ("domain-only", "holdfast")
SEEDS = (1, 2, 3, 4, 5)
FIRST_STAGES = (
    "acquire",
    "ingest",
    "amount",
    "reconstruct",
    "curate",
    "respond base",
    "judge",
    "consensus",
    "balance",
    "mix domain-only",
    "mix holdfast",
    "evaluate base",
)
Cell = dict[str, Any]


def make_project() -> None:
    """A folder with the lab's stages, data and params, and the base with abilities in the place of the lab's."""
    if (PROJECT / "params.yaml").is_file():
        return
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content |= {"models": {"base": {"path": "base"}}, "panel": ["base"]}
    content["reconstruct"] |= {"tools": {"share": 0.1, "results": 0.0}, "thinking": {"share": 0.1}}
    content["respond"] |= {"k": 1}
    content["consensus"] |= {"strategy": "first"}  # with the base alone: its own first answers, as `init` has it
    for name in ("stages", "data/pocket"):
        shutil.copytree(ROOT / name, PROJECT / name, dirs_exist_ok=True)
    (PROJECT / "data/prompts").mkdir(parents=True, exist_ok=True)
    abilities.write_functions(PROJECT / "data/prompts/tools.json")
    shutil.copytree(SCRATCH / "base", PROJECT / "models/pocket/base", dirs_exist_ok=True)
    (PROJECT / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def run_stage(command: str) -> None:
    """Runs a stage in the project; what it prints goes to a log, and a stage that has ended is not run again."""
    log = PROJECT / "logs" / f"{command.replace(' ', '-')}.txt"
    if log.is_file() and log.read_text(encoding="utf-8").endswith("done\n"):
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        stage.main(*command.split())
        print("done")


def score_abilities(folder: Path, base: manifest.Manifest) -> dict[str, list[dict[str, Any]]]:
    """Rows of the contract `items` by ability, of the model in `folder`."""
    params = Evaluate.load()
    model, _ = backends.load_backend(params, "model", folder, base)
    tokenizer = manifest.load_tokenizer(folder)
    template = template_of(tokenizer)
    rows = {}
    for ability, name in ABILITIES.items():
        family = families.FAMILIES[name]
        asked = [families.pose_item(tokenizer, template, item) for item in draw_items(ability)]
        answers = core_answers.answer(model, params, tokenizer, family, asked)
        rows[ability] = core_answers.score(ability, family, asked, answers)
    return rows


@lru_cache
def draw_items(ability: str) -> tuple[Item, ...]:
    """Fresh ones, as the core suite has them."""
    switch = {"thinking_on": True, "thinking_off": False}.get(ability)
    return tuple(
        Item(
            ask(one.asked),
            one.expected,
            [function.tool() for function in one.functions] or None,
            switch,
            (),
            f"{n:03d}",
        )
        for n, one in enumerate(ability_world.evaluation_examples(ability, ITEMS, "abilities/1"))
    )


def describe_model(folder: Path, base: manifest.Manifest) -> Cell:
    """Scores of the abilities, and every item's outcome as hexadecimal bits in item order; some answers for the eye."""
    rows = score_abilities(folder, base)
    bits = {name: "".join("1" if row["correct"] == 1 else "0" for row in several) for name, several in rows.items()}
    return {
        "scores": {name: fmean(row["correct"] for row in several) for name, several in rows.items()},
        "items": {name: f"{int(text, 2):x}" for name, text in bits.items()},
        "answers": {name: [row["response"][:120] for row in several[:3]] for name, several in rows.items()},
    }


def make_base() -> None:
    began = time.monotonic()
    if not (SCRATCH / "base/model.safetensors").is_file():
        abilities.train_model(ROOT / "models/pocket/base", SCRATCH / "base", EXAMPLES, SEED)
    make_project()
    os.chdir(PROJECT)
    run_stage("acquire")
    base = manifest.load(Path("models/manifest/base.json"))
    scores = describe_model(base.folder(), base)["scores"]
    seconds = time.monotonic() - began
    print(", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items()), f"({seconds:.0f} s)")


def train(seeds: list[int], arms: list[str]) -> None:
    make_project()
    os.chdir(PROJECT)
    for command in FIRST_STAGES:
        run_stage(command)
    base = manifest.load(Path("models/manifest/base.json"))
    shared = identify(base)
    done = {cell["cell"]: cell for cell in read()}
    if other := [name for name, cell in done.items() if cell["inputs"] != shared]:
        raise SystemExit(f"{len(other)} lines of {FILE.name} are of other inputs ({other[0]}): move the file away")
    if "base" not in done:
        replay = describe_replay()
        keep({"cell": "base", "inputs": shared, "replay": replay, **score("base", base.folder(), base)})
    for seed in seeds:
        for arm in arms:
            if f"{arm}_{seed}" in done:
                continue
            began = time.monotonic()
            run_stage(f"finetune {arm} {seed}")
            model = f"{arm}-{seed}"
            cell = {"cell": f"{arm}_{seed}", "arm": arm, "seed": seed, "inputs": shared}
            cell |= score(model, Path("models") / model, base)
            cell |= {"mix": storage.read_json(Path(f"reports/mix/{arm}.json"))["families"]}
            keep(cell | {"seconds": round(time.monotonic() - began, 1)})


def score(model: str, folder: Path, base: manifest.Manifest) -> Cell:
    """The abilities, and the lab's own suites (scores by suite)."""
    run_stage(f"evaluate {model}")
    return describe_model(folder, base) | {"suites": storage.read_json(Path(f"reports/eval/{model}/scores.json"))}


def identify(base: manifest.Manifest) -> str:
    """Fingerprint of what all trainings share: base, replay rows, params and items."""
    rows = [[row["id"], row["response"]] for row in records.read("replay", Path("data/replay/replay.parquet"))]
    items = [[item.text(), item.expected] for name in ABILITIES for item in draw_items(name)]
    content = [base.fingerprint, rows, items, Path("params.yaml").read_text(encoding="utf-8")]
    return fingerprint.digest(json.dumps(content, sort_keys=True))[:16]


def describe_replay() -> Cell:
    """What is replayed: rows by family, and refusals."""
    content = storage.read_json(Path("reports/balance.json"))
    return {"rows": content["rows"], "families": content["families"], "refusals": content["refusals"]}


def read() -> list[Cell]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()] if FILE.is_file() else []


def keep(cell: Cell) -> None:
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("a", encoding="utf-8") as file:
        file.write(json.dumps(cell, sort_keys=True, ensure_ascii=False) + "\n")
    scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in cell["scores"].items())
    print(f"{cell['cell']}: {scores}, {cell.get('seconds', 0)} s", flush=True)


def read_bits(cell: Cell, ability: str) -> np.ndarray:
    """Right (1.0) or wrong (0.0) of each item, (N,)."""
    number = len(draw_items(ability))
    return np.array([float(bit) for bit in f"{int(cell['items'][ability], 16):0{number}b}"])


def interval(values: list[float]) -> str:
    """Mean and 95 % interval over trainings, by Student's t; the mean alone of one."""
    mean = fmean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]"


def print_table() -> None:
    """Scores by ability, what is kept of the base's, and the gate's word on the arms with these items."""
    cells = read()
    base = next(cell for cell in cells if cell["cell"] == "base")
    trained = sorted((cell for cell in cells if "arm" in cell), key=lambda cell: cell["seed"])
    by_arm = {arm: [cell for cell in trained if cell["arm"] == arm] for arm in ARMS}
    print("# Refusals, tool calls and thoughts on the pocket lab\n")
    print(
        "`python -m benchmarks.lab.abilities table > benchmarks/lab/abilities.md`; scores in points of 100, what is kept in per"
    )
    print("cent of the base's, means over trainings with 95 % intervals (Student's t).\n")
    trainings = ", ".join(f"{len(several)} of {arm}" for arm, several in by_arm.items())
    print(f"Trainings: {trainings}. Replay: {base['replay']['rows']:,} rows.\n")
    print("| ability | items | base | domain-only | kept | default | kept |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for ability in ABILITIES:
        of_base = 100 * base["scores"][ability]
        row = [ability, str(len(draw_items(ability))), f"{of_base:.1f}"]
        for several in by_arm.values():
            scores = [100 * cell["scores"][ability] for cell in several]
            row += (
                [interval(scores), interval([100 * score / max(of_base, 1e-9) for score in scores])]
                if scores
                else ["", ""]
            )
        print(f"| {' | '.join(row)} |")
    for role in ("general", "domain"):
        row = [f"the lab's {role} suites", "", f"{100 * pool(base, role):.1f}"]
        for several in by_arm.values():
            row += [interval([100 * pool(cell, role) for cell in several]) if several else "", ""]
        print(f"| {' | '.join(row)} |")
    families_of = base["replay"]["families"]
    print("\n| family of replay rows | candidates | rows | share |\n|---|---:|---:|---:|")
    for name, counts in families_of.items():
        print(f"| {name} | {counts['candidates']} | {counts['rows']} | {100 * counts['share']:.1f} % |")
    refusals = base["replay"]["refusals"]
    print(
        f"| refusals, of any family | {refusals['candidates']} | {refusals['rows']} | {100 * refusals['rows'] / base['replay']['rows']:.1f} % |"
    )
    print("\nThe gate, with the margins of a profile for real models, asked with these items:\n")
    for arm, several in by_arm.items():
        for cell in several:
            decided = judge(base, cell)
            why = next((reason for reason in decided["reasons"] if reason.startswith("suites that dropped")), "")
            print(f"- {arm}, seed {cell['seed']}: {decided['verdict']}. {why}".rstrip())


def pool(cell: Cell, role: str) -> float:
    """Mean score of the lab's suites of a role, chance-adjusted."""
    params = Params.load(ROOT / "params.yaml").evaluate.suites
    scores = [
        (cell["suites"][name] - suite.chance) / (1 - suite.chance)
        for name, suite in params.items()
        if suite.role == role
    ]
    return fmean(scores)


def judge(base: Cell, cell: Cell) -> dict[str, Any]:
    suites = {name: {"role": "general", "chance": 0.0, "items": len(draw_items(name))} for name in ABILITIES}
    sides = [{name: simulation.answers(name, read_bits(one, name)) for name in suites} for one in (base, cell)]
    demands = Gate(resamples=1000, min_domain_gain=-1.0, suite_margins=dict.fromkeys(suites, 0.05))
    return gate.compare(demands, suites, sides[0].__getitem__, sides[1].__getitem__, [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["base", "train", "table"])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOLDFAST_WORKERS": "1"}
    if options.what == "base":
        make_base()
    elif options.what == "train":
        train(options.seeds, options.arms)
    else:
        print_table()
