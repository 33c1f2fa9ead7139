"""The door: one command per stage, in the order of the DAG, then what one calls around the pipeline (stages/tools.py).

Stages are imported only when their command runs, so that the help is instant. Whatever goes wrong with the user's
input ends here as one to three lines and exit code 2.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
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

from stages import tools  # noqa: E402
from stages.core import params  # noqa: E402
from stages.core.errors import UserError  # noqa: E402
from stages.core.sections.instructions import RowChecks  # noqa: E402

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(tools.app)  # without a name: its commands stand beside the stages'
DATA, MODELS, REPORTS = Path("data"), Path("models"), Path("reports")
ModelName = Annotated[str, typer.Option("--model", help="A panel member's name in params.yaml.")]
ArmName = Annotated[str, typer.Option("--arm", help="An arm's name in params.yaml.")]


@app.command()
def acquire() -> None:
    """Resolve base and panel, hash their files, fail early."""
    with cost("acquire"):
        from stages import acquire as stage

        stage.main(params.load_lineup(), MODELS / "manifest")


@app.command()
def ingest() -> None:
    """Read the domain data, normalise, split, remove overlap."""
    with cost("ingest"):
        from stages import ingest as stage

        stage.main(params.load("ingest"), DATA / "domain")


@app.command()
def reconstruct() -> None:
    """Let the base write user turns from its pre-query prefix."""
    with cost("reconstruct"):
        from stages import reconstruct as stage

        leaves = params.load_leaves(
            "curate",
            "finished_only",
            "min_chars",
            "max_chars",
            "personal_data",
            "refusal_bait",
            "languages",
            "max_repetition",
        )
        raw, summary = DATA / "instructions" / "raw.parquet", REPORTS / "reconstruct.json"
        stage.main(
            params.load("reconstruct"), RowChecks(**leaves), manifest("base"), manifest("embedder"), raw, summary
        )


@app.command()
def curate() -> None:
    """Remove leakage, junk, duplicates and evaluation items; cluster the rest."""
    with cost("curate"):
        from stages import curate as stage

        test, summary = DATA / "domain" / "test.parquet", REPORTS / "curate.json"
        models = manifest("base"), manifest("embedder")
        stage.main(params.load("curate"), params.load("evaluate"), *models, test, DATA / "instructions", summary)


@app.command()
def respond(model: ModelName) -> None:
    """Let one panel member answer every instruction k times."""
    with cost("respond", model):
        from stages import respond as stage

        kept = DATA / "instructions" / "kept.parquet"
        stage.main(params.load("respond"), manifest(model), kept, DATA / "responses" / f"{model}.parquet")


@app.command()
def judge() -> None:
    """Let the panel score responses from 1 to 5, one judge after the other, while the choice could still change."""
    with cost("judge"):
        from stages import judge as stage

        strategy = params.load_leaves("consensus", "strategy", "finished_only", "min_judges")
        stage.main(params.load("judge"), strategy, params.load_names("panel"), MODELS / "manifest", DATA)


@app.command()
def consensus() -> None:
    """Average the scores, choose one response per instruction, audit the judges."""
    with cost("consensus"):
        from stages import consensus as stage

        stage.main(params.load("consensus"), params.load_names("panel"), DATA, REPORTS / "consensus.json")


@app.command()
def balance() -> None:
    """Choose the replay set: clusters x difficulty bins, even quotas."""
    with cost("balance"):
        from stages import balance as stage

        stage.main(params.load("balance"), manifest("base"), DATA / "replay", REPORTS / "balance.json")


@app.command()
def quality() -> None:
    """Great Expectations on instructions and replay set; a critical failure stops the pipeline."""
    with cost("quality"):
        from stages import quality as stage

        stage.main(params.load("quality"), params.load_names("panel"), DATA, REPORTS / "quality")


@app.command()
def pilot(arm: ArmName) -> None:
    """Find the replay share of an arm that says `share: auto`, by short runs and a fit."""
    with cost("pilot", arm):
        from stages import pilot as stage

        sections = params.load("pilot"), params.load("mix"), params.load("finetune")
        stage.main(*sections, arm, manifest("base"), DATA, REPORTS / "pilot" / f"{arm}.json")


@app.command()
def mix(arm: ArmName) -> None:
    """Build one arm's training mixture, share counted in trained tokens."""
    with cost("mix", arm):
        from stages import mix as stage

        stage.main(params.load("mix"), arm, manifest("base"), DATA, DATA / "mixes" / f"{arm}.parquet", REPORTS)


@app.command()
def finetune(arm: ArmName) -> None:
    """Fine-tune the base on one arm's mixture with TRL."""
    with cost("finetune", arm):
        from stages import finetune as stage

        mixture, curves = DATA / "mixes" / f"{arm}.parquet", REPORTS / "training" / arm
        stage.main(params.load("finetune"), arm, manifest("base"), mixture, MODELS / arm, curves)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option("--model", help="'base' or an arm's name.")],
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Once more, in batches of half the size: the noise floor. Base only.")
    ] = False,
) -> None:
    """Run the suites with lm-eval and keep every item's outcome."""
    settings, out = params.load("evaluate"), REPORTS / "eval" / model
    if repeat:
        if model != "base":
            what, do = "the noise floor is that of the base", "use it with --model base, or leave it out"
            raise UserError(what, where="--repeat", do=do)
        settings, out = settings.model_copy(update={"batch": max(1, settings.batch // 2)}), REPORTS / "eval/base-repeat"
    with cost("evaluate", model) if not repeat else nullcontext():
        from stages import evaluate as stage

        stage.main(settings, model, manifest("base"), MODELS, DATA / "domain" / "test.parquet", out)


@app.command()
def drift() -> None:
    """Evidently: before against after, reconstructed against kept and domain."""
    with cost("drift"):
        from stages import drift as stage

        arms, evaluations = params.load_names("arms"), REPORTS / "eval"
        stage.main(params.load("drift"), arms, manifest("base"), DATA, evaluations, REPORTS / "drift")


@app.command()
def gate(
    check: Annotated[
        bool, typer.Option("--check", help="Read the committed verdict, run nothing, set the exit code.")
    ] = False,
    against: Annotated[
        str | None, typer.Option(metavar="REV", help="As --check; also compare each arm with itself at a git revision.")
    ] = None,
) -> None:
    """The verdict per arm. With --check or --against: exit 0 pass, 1 fail, 2 cannot-compare."""
    from stages import gate as stage

    evaluations, out = REPORTS / "eval", REPORTS / "gate.json"
    if not (check or against):
        with cost("gate"):
            stage.main(params.load("gate"), params.load_names("arms"), evaluations, out, REPORTS / "metrics.json")
        return
    code = stage.check(out)
    if against:
        from stages.evaluation import revision

        arms = params.load_names("arms")
        with TemporaryDirectory() as temporary:
            former, present = Path(temporary) / "former", Path(temporary) / "present"
            revision.evaluations(against, arms, evaluations, former)
            revision.evaluations(None, arms, evaluations, present)
            code = max(code, stage.against(params.load("gate"), arms, former, present, against))
    raise typer.Exit(code)


@app.command()
def report() -> None:
    """Write what a reviewer reads: reports/report.md, reports/index.html and a model card per arm."""
    from stages import report as stage

    stage.main(params.load("report"), DATA, MODELS, REPORTS, Path("dvc.lock"))


@app.command()
def pocket() -> None:
    """The recipe of the built-in models and suites (frozen; nobody has to run it)."""
    from stages.pocket import recipe

    recipe.main(DATA / "pocket", MODELS / "pocket", **params.load("pocket").model_dump())


def cost(stage: str, cell: str | None = None) -> AbstractContextManager[None]:
    """What the block takes goes to reports/costs/."""
    from stages.core import ledger

    return ledger.kept(REPORTS / "costs", stage, cell)


def manifest(model: str) -> Path:
    """The manifest of a panel member; 'base' stands for whichever member is the base."""
    return MODELS / "manifest" / f"{model}.json"


def main() -> NoReturn:
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a disk that is full or read-only; outputs are replaced only when they are whole
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        print(f"error: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
        print("  make room or allow access, and run it again; earlier outputs stand as they were", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
