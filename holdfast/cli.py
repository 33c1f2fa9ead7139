"""The door: one command per stage, in the order of the DAG, then what one calls around the pipeline (holdfast/commands/tools.py,
model_tools.py).

Stages are imported only when their command runs, so that the help is instant. Whatever goes wrong with the user's
input ends here as one to three lines. Exit codes: 0 ok or pass, 1 fail or stale, 2 cannot compare, 3 bad input or a crash.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from contextlib import redirect_stdout
from io import StringIO
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
    "TRL_EXPERIMENTAL_SILENCE": "1",  # versions are locked
}.items():
    os.environ.setdefault(_variable, _value)
if not sys.stderr.isatty():  # in a log, other libraries' progress bars speak only when work is long, and once a minute
    os.environ.setdefault("TQDM_DELAY", "30")
    os.environ.setdefault("TQDM_MININTERVAL", "60")

import typer  # noqa: E402  (the environment comes first: OpenMP reads it when torch loads)
from typer.core import TyperGroup  # noqa: E402

from holdfast.commands import model_tools, tools  # noqa: E402
from holdfast.core import terminal  # noqa: E402
from holdfast.core.errors import ExitCode, RunawayError, UserError, escape_control, first_line  # noqa: E402

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)  # full, read-only or forbidden
EXTRAS = {  # which extra brings what a stage imports
    **dict.fromkeys(
        (
            "accelerate",
            "datasets",
            "dvclive",
            "evidently",
            "great_expectations",
            "httpx2",
            "lm_eval",
            "peft",
            "safetensors",
        )
        + ("sklearn", "tokenizers", "torch", "transformers", "trl"),
        "pipeline",
    ),
    **{"mlflow": "mlflow", "ray": "ray", "sentence_transformers": "embeddings", "vllm": "vllm", "wandb": "wandb"},
    **dict.fromkeys(("huggingface_hub", "numpy", "pandas", "pyarrow", "scipy"), "report"),
}
HELP = (
    "Fine-tune a chat model without forgetting. Exit codes: 0 ok or pass, 1 fail or stale, 2 cannot compare, 3 broken."
)


class Panels(TyperGroup):
    """Lists the commands panel by panel."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        order = [tools.START, tools.PIPELINE, tools.REVIEW]
        return sorted(
            self.commands, key=lambda name: order.index(getattr(self.commands[name], "rich_help_panel", tools.PIPELINE))
        )


app = typer.Typer(cls=Panels, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
app.add_typer(tools.app)  # without a name: its commands stand beside the stages'
app.add_typer(model_tools.app)
silenced = StringIO()  # what --quiet kept back


def print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"holdfast {version('holdfast')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing on success.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if quiet:
        context.with_resource(redirect_stdout(silenced))


@app.command(rich_help_panel=tools.PIPELINE)
def run(
    stage: Annotated[str, typer.Argument(help="A script of stages/, without its ending.")],
    cell: Annotated[str | None, typer.Argument(help="The model or the arm, where the stage has one for each.")] = None,
    seed: Annotated[str | None, typer.Argument(help="Of finetune: the seed of a further training.")] = None,
) -> None:
    """Run one stage, as dvc.yaml does."""
    from holdfast.commands import run as command

    raise typer.Exit(command.main(stage, *(one for one in (cell, seed) if one is not None)))


@app.command(rich_help_panel=tools.PIPELINE)
def code() -> None:
    """Write down which code each stage can reach; `dvc repro` does."""
    from holdfast.commands import code as command

    command.write_code()


@app.command(rich_help_panel=tools.REVIEW)
def gate(
    check: Annotated[
        bool, typer.Option("--check", help="Read the committed verdict and run nothing: the default.")
    ] = True,
    against: Annotated[
        str | None, typer.Option(metavar="REV", help="Also compare each arm with itself at a git revision.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decide anew from the items: here, in DVC's cache or on its remote.")
    ] = False,
    spot: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also ask the tuned models N random items again; implies --verify.")
    ] = 0,
    power: Annotated[
        bool, typer.Option("--power", help="Print what drop the suites can show, and decide nothing.")
    ] = False,
    allow_gate_change: Annotated[
        bool,
        typer.Option("--allow-gate-change", help="With --against: do not fail for a gate that is looser than there."),
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write the verdict as JUnit XML.")
    ] = None,
    github: Annotated[
        bool, typer.Option("--github", help="Also print GitHub's annotations, and add to the job's summary.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print reports/gate.json, for programs.")] = False,
) -> None:
    """The verdict per arm, as committed. Exit 0 pass, 1 fail, 2 cannot-compare or refused; runs nothing."""
    from holdfast.commands import gate as command

    if power:
        command.print_power()
        raise typer.Exit(ExitCode.OK)
    if as_json and against is not None:
        raise UserError("not with --against", where="--json", do="it prints the committed verdict alone")
    if not as_json:
        export = command.Export(junit, github)
        raise typer.Exit(command.main(against, verify, spot, allow_gate_change, export))
    with redirect_stdout(sys.stderr):
        code = command.main(None, verify, spot, export=command.Export(junit))
    typer.echo(command.as_json(code), nl=False)
    raise typer.Exit(code)


for _entry in (
    *app.registered_commands,
    *tools.app.registered_commands,
    *model_tools.app.registered_commands,
    *tools.profile_app.registered_commands,
    *tools.launch_app.registered_commands,
):
    if _entry.callback is not None:
        _entry.callback = terminal.guard_command(_entry.callback)  # their help, which is ours, keeps its colours


def main() -> NoReturn:
    try:
        code = flush(exit_code())
    except OSError:  # of standard error, as on a full disk: 1 would say that the model forgot
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        code = ExitCode.BROKEN
    sys.exit(code)


def flush(code: int) -> int:
    """Writes what is still to be written to standard output; returns the exit code, another where that cannot be."""
    try:
        if code != ExitCode.OK:
            with terminal.guard_streams():
                print(silenced.getvalue(), end="")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: that changes no verdict
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: standard output: {error.strerror}", file=sys.stderr)
        print("  make room, or write it elsewhere", file=sys.stderr)
        return ExitCode.BROKEN
    return code


def exit_code() -> int:
    """Run the command line; print what went wrong to stderr."""
    try:
        done = app(standalone_mode=False)
        return done if isinstance(done, int) else ExitCode.OK
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except RunawayError as runaway:
        print(f"error: {runaway.error}", file=sys.stderr)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except (
        SystemExit
    ) as stop:  # of a stage script or a library; 1 would say that the model forgot; a signal's code is passed on
        if isinstance(stop.code, int) and stop.code > ExitCode.BROKEN:
            return stop.code
        if isinstance(stop.__context__, BrokenPipeError):  # the reader closed it before the end: no verdict is known
            return ExitCode.BROKEN
        print(f"error: stopped by exit({stop.code!r})", file=sys.stderr)
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, in Typer's own words
            error.show()  # type: ignore[attr-defined]
        elif isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").partition(".")[0])):
            if extra == "report" and not {"gate", "report"} & set(sys.argv):  # what needs them needs torch as well
                extra = "pipeline"
            print(f"error: {error.name}: is not installed", file=sys.stderr)
            print(f"  pip install 'holdfast[{extra}]'", file=sys.stderr)
        elif isinstance(error, FileNotFoundError) and error.filename == "git":
            print("error: git: is not installed, or not on the PATH", file=sys.stderr)
            print("  install it: results are compared between its commits", file=sys.stderr)
        elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(f"error: {escape_control(str(error.filename)[:60])}...: the name is too long", file=sys.stderr)
            print("  give a shorter one", file=sys.stderr)
        elif isinstance(error, OSError) and error.errno in DISK:  # outputs are replaced only when they are whole
            print(f"error: {escape_control(str(error.filename or 'disk'))}: {error.strerror or error}", file=sys.stderr)
            print("  make room or allow access, and run it again; earlier outputs are unchanged", file=sys.stderr)
        else:
            print(escape_control(traceback.format_exc()), end="", file=sys.stderr)
            print(f"error: {type(error).__name__}: {escape_control(first_line(error))}", file=sys.stderr)
            print("  this is a bug of Holdfast: please report it with the lines above", file=sys.stderr)
    return ExitCode.BROKEN


if __name__ == "__main__":
    main()
