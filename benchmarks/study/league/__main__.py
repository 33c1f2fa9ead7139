"""The league: every method at the same domain score.

    python -m benchmarks.study.league table > benchmarks/study/league/table.md
    python -m benchmarks.study.league picture                   writes league.svg beside this file
    python -m benchmarks.study.league row "EWC" [--seeds 1]     trains a method's points again; its row, recorded and anew

The trainings are those of the study (../data/results.jsonl) and of league.yaml (results.jsonl, from
`python -m benchmarks.study.run --study benchmarks/study/league/league.yaml`). `row` needs `dvc repro acquire ingest`. Shares count rows
there; trainings of the study that counted trained tokens are trained with the rows and the weight of the KL that they had.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.study import run, table
from benchmarks.study.league import fronts, picture
from benchmarks.study.league.fronts import Method, Reading
from benchmarks.study.table import Study

CONTROL, DEFAULT = "domain-only_0.00065", "rows-35_0.0005"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["table", "picture", "row"])
    parser.add_argument("method", nargs="?", default="", help="how its name begins")
    parser.add_argument("--seeds", nargs="*", type=int, default=[1])
    options = parser.parse_args()
    study = fronts.load_study()
    methods = fronts.load_methods(study)
    if options.what == "table":
        print_table(study, methods)
    elif options.what == "picture":
        picture.draw(study, methods, fronts.find_levels(methods), fronts.HERE / "league.svg")
    else:
        matching = [method for method in methods if method.name == options.method]
        matching = matching or [method for method in methods if method.name.startswith(options.method)]
        if len(matching) != 1:
            names = "\n  ".join(method.name for method in methods)
            raise SystemExit(f"'{options.method}' begins the names of {len(matching)} methods; these are:\n  {names}")
        reproduce(study, methods, matching[0], options.seeds)


def print_table(study: Study, methods: list[Method]) -> None:
    levels = fronts.find_levels(methods)
    cells = {cell["cell"] for method in methods for cell in fronts.find_cells(study, method)}
    best = max(methods, key=lambda method: method.best)
    print("# The league: what each method forgets at the same domain score\n")
    print(
        f"`python -m benchmarks.study.league table`: {len(methods)} methods, {len(cells)} trainings of the pocket lab. A method's front runs "
        f"over its knob. Between two of its points it is read off by straight interpolation, at 50, 75 and 90 % of the best domain score of "
        f"all ({100 * best.best:.1f}, {best.name}). *Lost*: points of the general score below the base's "
        f"{100 * study.base['evaluation']['general']:.1f}, with 95 % bootstrap intervals over seeds and items (one seed: over items alone). "
        "*n*: seeds of the points that it is read between. *Cost*: operations of the training, and in brackets with the synthesis of the "
        "whole replay set, which is done once for all arms, ÷ domain alone's training. *-*: no point reaches the score. *(0.7 at 59.0)*: all points "
        "lie above it, and the best of them loses so much there. Smallest loss at 75 % first, then at 50 %.\n"
    )
    heads = " | ".join(f"lost at {100 * level:.1f} | n | cost" for level in levels)
    print(f"| method | knob | points | best domain | {heads} |")
    print("|---|---|---:|---:|" + "---:|---:|---:|" * len(levels))
    for method in sorted(methods, key=lambda method: rank(study, method, levels)):
        print(row_of(study, method, levels))
    names = {method.name for method in methods}
    if missing := [name for name in fronts.list_names() if name not in names]:
        print(
            "\nNot trained yet (`python -m benchmarks.study.run --study benchmarks/study/league/league.yaml`): "
            + "; ".join(missing)
            + "."
        )
    print_rivals(study, methods)


def print_rivals(study: Study, methods: list[Method]) -> None:
    """Every method that reaches the default's domain score, against it."""
    default = study.cells[DEFAULT]
    level, base = study.mean(DEFAULT, "domain"), study.base["evaluation"]["general"]
    lost = base - study.mean(DEFAULT, "general")
    print(f"\n## At the domain score of the default, {100 * level:.1f}\n")
    at = next(point for method in methods for point in method.points if point.key == DEFAULT)
    print(
        f"The default ({DEFAULT.replace('_', ' at ')}, {len(default)} seeds) loses {100 * lost:.1f} {table.interval(study.lost(DEFAULT))} there, "
        f"at a cost of {cost(study, at)}. *More*: points that a method loses beyond that, paired by item.\n"
    )
    print("| method | lost | more than the default | n | cost |")
    print("|---|---:|---:|---:|---:|")
    readings = [(fronts.read_off(study, method, level), method) for method in methods if "default" not in method.name]
    for reading, method in sorted(((r, m) for r, m in readings if r), key=lambda pair: pair[0].lost):
        difference = table.interval(reading.drawn - study.lost(DEFAULT))
        print(
            f"| {method.name} | {100 * reading.lost:.1f} | {100 * (reading.lost - lost):+.1f} {difference} | {reading.seeds} | {cost(study, reading)} |"
        )


def rank(study: Study, method: Method, levels: list[float]) -> tuple[float, float, float]:
    """At 75 %, then 50 %, then the best domain score: methods that reach less come last."""
    readings = [fronts.read_off(study, method, levels[n]) for n in (1, 0)]
    losses = [reading.lost if reading else 1e3 for reading in readings]
    return losses[0], losses[1], -method.best


def row_of(study: Study, method: Method, levels: list[float]) -> str:
    fields = [field for level in levels for field in level_fields(study, method, level)]
    head = f"| {method.name} | {method.knob} | {len(method.points)} | {100 * method.best:.1f} |"
    return f"{head} {' | '.join(fields)} |"


def level_fields(study: Study, method: Method, level: float) -> list[str]:
    reading = fronts.read_off(study, method, level)
    if reading:
        return [f"{100 * reading.lost:.1f} {table.interval(reading.drawn)}", reading.seeds, cost(study, reading)]
    if method.best < level:
        return ["-", "", ""]
    above = max((point for point in method.points if point.domain > level), key=lambda point: point.general)
    lost = study.base["evaluation"]["general"] - above.general
    return [f"({100 * lost:.1f} at {100 * above.domain:.1f})", f"{above.seeds}", cost(study, above)]


def cost(study: Study, at: Any) -> str:
    """Training, and training with synthesis, in trainings on the domain alone."""
    alone = study.cells[CONTROL][0]["ledger"]["flops"]
    training = at.training if isinstance(at, Reading) else at.flops
    return f"{training / alone:.1f} ({(training + at.synthesis) / alone:.1f})"


def reproduce(study: Study, methods: list[Method], method: Method, seeds: list[int]) -> None:
    """Trains the method's points with `seeds` into a file of their own, and prints its row, recorded and anew."""
    results = run.SCRATCH / "league" / f"{method.name.split(' (')[0].replace(' ', '-').replace(',', '')}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    arms: dict[str, dict[str, Any]] = {}
    for point in method.points:
        cell = study.cells[point.key][0]
        arms.setdefault(cell["arm"], {**in_rows(cell), "rates": []})["rates"].append(cell["rate"])
    new = run.read_study(fronts.LEAGUE) | {"results": results, "seeds": seeds, "main": arms, "reference": {}}
    run.run_study(new, jobs=1, only=[])
    levels = fronts.find_levels(methods)
    again = fronts.load_study((Path(results),))
    once = fronts.load_methods(again)
    print("recorded", row_of(study, method, levels))
    again.cells |= {CONTROL: study.cells[CONTROL]}
    print("anew    ", row_of(again, next(each for each in once if each.name == method.name), levels))


def in_rows(cell: dict[str, Any]) -> dict[str, Any]:
    """The settings of a training, without its rate, with share and KL as they are counted now."""
    settings = {name: value for name, value in cell["how"].items() if name not in ("learning_rate", "rates", "seeds")}
    if cell.get("counts") != "rows" and settings["share"]:
        rows, tokens = cell["ledger"]["rows"], cell["ledger"]["trained_tokens"]
        settings["share"] = rows["replay"] / (rows["domain"] + rows["replay"])
        if settings["objective"] == "kl":
            settings["kl_coefficient"] *= tokens["replay"] / tokens["domain"] * rows["domain"] / rows["replay"]
    return settings


if __name__ == "__main__":
    main()
