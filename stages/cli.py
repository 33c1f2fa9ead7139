"""The door: one command per stage, in the order of the DAG. `holdfast --help` lists them.

Stages are imported only when their command runs, so that the help is instant. Whatever goes wrong with the user's
input ends here as one to three lines and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # OpenMP threads that spin slow every busy neighbour down 12 to 45 times
for _variable, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}.items():
    os.environ.setdefault(_variable, _value)
if not sys.stderr.isatty():  # in a log, other libraries' progress bars speak only when work is long, and once a minute
    os.environ.setdefault("TQDM_DELAY", "30")
    os.environ.setdefault("TQDM_MININTERVAL", "60")

import typer  # noqa: E402  (the environment comes first: OpenMP reads it when torch loads)

from stages.core import params  # noqa: E402
from stages.core.errors import UserError  # noqa: E402

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
DATA, MODELS, REPORTS = Path("data"), Path("models"), Path("reports")
ModelName = Annotated[str, typer.Option("--model", help="A panel member's name in params.yaml.")]
ArmName = Annotated[str, typer.Option("--arm", help="An arm's name in params.yaml.")]


@app.command()
def validate() -> None:
    """Check every parameter in params.yaml, and run nothing."""
    params.load_all()


@app.command()
def acquire() -> None:
    """Resolve base and panel, hash their files, fail early."""
    from stages import acquire as stage

    stage.main(params.load_lineup(), MODELS / "manifest")


@app.command()
def ingest() -> None:
    """Read the domain data, normalise, split, remove overlap."""
    from stages import ingest as stage

    stage.main(params.load("ingest"), DATA / "domain")


@app.command()
def reconstruct() -> None:
    """Let the base write user turns from its pre-query prefix."""
    from stages import reconstruct as stage

    stage.main(params.load("reconstruct"), manifest("base"), DATA / "instructions" / "raw.parquet")


@app.command()
def curate() -> None:
    """Remove leakage, junk, duplicates and evaluation items; cluster the rest."""
    from stages import curate as stage

    test, summary = DATA / "domain" / "test.parquet", REPORTS / "curate.json"
    stage.main(params.load("curate"), params.load("evaluate"), manifest("base"), test, DATA / "instructions", summary)


@app.command()
def respond(model: ModelName) -> None:
    """Let one panel member answer every instruction k times."""
    from stages import respond as stage

    kept = DATA / "instructions" / "kept.parquet"
    stage.main(params.load("respond"), manifest(model), kept, DATA / "responses" / f"{model}.parquet")


@app.command()
def judge(model: ModelName) -> None:
    """Let one panel member score every response from 1 to 5."""
    from stages import judge as stage

    kept, responses = DATA / "instructions" / "kept.parquet", DATA / "responses"
    scores, panel = DATA / "scores" / f"{model}.parquet", params.load_names("panel")
    stage.main(params.load("judge"), panel, manifest(model), kept, responses, scores)


@app.command()
def consensus() -> None:
    """Average the scores, choose one response per instruction, audit the judges."""
    from stages import consensus as stage

    stage.main(params.load("consensus"), params.load_names("panel"), DATA, REPORTS / "consensus.json")


@app.command()
def balance() -> None:
    """Choose the replay set: clusters x difficulty bins, even quotas."""
    from stages import balance as stage

    stage.main(params.load("balance"), DATA / "replay", REPORTS / "balance.json")


@app.command()
def quality() -> None:
    """Great Expectations on instructions and replay set; a critical failure stops the pipeline."""
    from stages import quality as stage

    stage.main(params.load("quality"), params.load_names("panel"), DATA, REPORTS / "quality")


@app.command()
def mix(arm: ArmName) -> None:
    """Build one arm's training mixture, share counted in trained tokens."""
    from stages import mix as stage

    stage.main(params.load("mix"), arm, manifest("base"), DATA, DATA / "mixes" / f"{arm}.parquet")


@app.command()
def finetune(arm: ArmName) -> None:
    """Fine-tune the base on one arm's mixture with TRL."""
    from stages import finetune as stage

    mixture, curves = DATA / "mixes" / f"{arm}.parquet", REPORTS / "training" / arm
    stage.main(params.load("finetune"), arm, manifest("base"), mixture, MODELS / arm, curves)


@app.command()
def evaluate(model: Annotated[str, typer.Option("--model", help="'base' or an arm's name.")]) -> None:
    """Run the suites with lm-eval and keep every item's outcome."""
    from stages import evaluate as stage

    stage.main(
        params.load("evaluate"),
        model,
        manifest("base"),
        MODELS,
        DATA / "domain" / "test.parquet",
        REPORTS / "eval" / model,
    )


@app.command()
def drift() -> None:
    """Evidently: before against after, reconstructed against kept and domain."""
    from stages import drift as stage

    stage.main(params.load("drift"), params.load_names("arms"), DATA, REPORTS / "eval", REPORTS / "drift")


@app.command()
def gate(
    check: Annotated[
        bool, typer.Option("--check", help="Read the committed verdict, run nothing, set the exit code.")
    ] = False,
) -> None:
    """The verdict per arm. With --check: exit 0 pass, 1 fail, 2 cannot-compare."""
    from stages import gate as stage

    if check:
        raise typer.Exit(stage.check(REPORTS / "gate.json"))
    arms, out, metrics = params.load_names("arms"), REPORTS / "gate.json", REPORTS / "metrics.json"
    stage.main(params.load("gate"), arms, REPORTS / "eval", out, metrics)


@app.command()
def report() -> None:
    """Write what a reviewer reads: reports/report.md and reports/index.html."""
    from stages import report as stage

    stage.main(params.load("report"), DATA, MODELS, REPORTS)


@app.command()
def pocket() -> None:
    """The recipe of the built-in models and suites (frozen; nobody has to run it)."""
    from stages.pocket import recipe

    recipe.main(DATA / "pocket", MODELS / "pocket", **params.load("pocket").model_dump())


def manifest(model: str) -> Path:
    """The manifest of a panel member; 'base' stands for whichever member is the base."""
    return MODELS / "manifest" / f"{model}.json"


def main() -> NoReturn:
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
