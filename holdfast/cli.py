"""The door: one command per stage, in the order of the DAG, then what one calls around the pipeline (holdfast/commands/tools.py).

Stages are imported only when their command runs, so that the help is instant. Whatever goes wrong with the user's
input ends here as one to three lines and exit code 2.
"""

from __future__ import annotations

import errno
import os
import sys
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

from holdfast.commands import tools  # noqa: E402
from holdfast.core.errors import UserError  # noqa: E402

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(tools.app)  # without a name: its commands stand beside the stages'
REPORTS = Path("reports")


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help="A script of stages/, without its ending.")],
    cell: Annotated[str | None, typer.Argument(help="The model or the arm, where the stage has one for each.")] = None,
) -> None:
    """Run one stage, as dvc.yaml does."""
    from holdfast.commands import run as command

    command.main(stage, cell)


@app.command()
def code() -> None:
    """Write down which code each stage can reach; `dvc repro` does."""
    from holdfast.commands import run as command

    command.write_code()


@app.command()
def gate(
    check: Annotated[
        bool, typer.Option("--check", help="Read the committed verdict and run nothing: the default.")
    ] = True,
    against: Annotated[
        str | None, typer.Option(metavar="REV", help="Also compare each arm with itself at a git revision.")
    ] = None,
) -> None:
    """The verdict per arm, as committed. Exit 0 pass, 1 fail, 2 cannot-compare; runs nothing."""
    from holdfast.evaluation import gate as stage

    evaluations, exit_code = REPORTS / "eval", stage.check(REPORTS / "gate.json")
    if against:
        from holdfast.evaluation import revision
        from holdfast.params.gate import Gate
        from holdfast.params.models import load_arms

        arms = load_arms()
        with TemporaryDirectory() as temporary:
            former, present = Path(temporary) / "former", Path(temporary) / "present"
            revision.evaluations(against, arms, evaluations, former)
            revision.evaluations(None, arms, evaluations, present)
            exit_code = max(exit_code, stage.against(Gate.load(), arms, former, present, against))
    raise typer.Exit(exit_code)


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
