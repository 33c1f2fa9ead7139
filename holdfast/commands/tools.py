"""What people call around the pipeline, beside the commands of its stages in holdfast/cli.py: to begin, to look, to review.

Like there, what a command needs is imported only when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
MODELS, REPORTS = Path("models"), Path("reports")
START, PIPELINE, REVIEW = "Start", "Pipeline", "Review"  # panels of the help


@app.command(rich_help_panel=PIPELINE)
def validate() -> None:
    """Check every parameter in params.yaml, and the names of suites; run nothing."""
    import importlib.util

    from holdfast.params.whole import Params

    params = Params.load().evaluate
    if importlib.util.find_spec("lm_eval") is not None:  # it comes with the extra `pipeline`
        from holdfast.evaluation import suites

        suites.check_names(params, suites.make_manager(params))
        print("params.yaml: valid")
    else:
        print("params.yaml: valid; the names of suites were not checked, since lm-eval is not installed")


@app.command(rich_help_panel=PIPELINE)
def check(
    against: Annotated[
        str | None,
        typer.Option(metavar="REV", help="A stage that is frozen and was not at this revision is stale too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Is dvc.lock up to date? Exit 1 names each stale stage and why; runs no stage, needs no data and no GPU."""
    from holdfast.commands import check as command

    raise typer.Exit(command.main(as_json, against))


@app.command(rich_help_panel=REVIEW)
def history(
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A copy of the page, which gets them as a section.")
    ] = None,
) -> None:
    """List the last results of this branch, from git; or put them into a copy of the page."""
    from holdfast.commands import history as command

    command.main(page)


@app.command(rich_help_panel=PIPELINE)
def repro(
    targets: Annotated[list[str] | None, typer.Argument(metavar="STAGE", help="As of dvc repro; none: all.")] = None,
    here: Annotated[int, typer.Option(min=1, metavar="N", help="Stages at once on this machine.")] = 1,
) -> None:
    """As dvc repro, with independent stages side by side on the machines of launch.yaml."""
    from holdfast.commands import repro as command

    raise typer.Exit(command.main(targets or [], here))


@app.command(rich_help_panel=REVIEW)
def comment(
    against: Annotated[
        str | None, typer.Option("--against", help="Git revision, such as origin/main: list what changed since it.")
    ] = None,
    pages: Annotated[str | None, typer.Option("--pages", help="Address where the HTML pages can be had.")] = None,
) -> None:
    """Print the comment of a pull request: the committed report and what the branch changed. Runs no stage."""
    from holdfast.commands import comment as command
    from holdfast.params.base import PARAMS

    report, metrics = REPORTS / "report.md", REPORTS / "metrics.json"
    typer.echo(command.main(report, PARAMS, metrics, against, pages), nl=False)


profile_app = typer.Typer(no_args_is_help=True, help="Complete params files for real models.")
app.add_typer(profile_app, name="profile", rich_help_panel=START)
Force = Annotated[bool, typer.Option("--force", help="Replace what is there, edits that git does not have included.")]


@profile_app.command("list")
def profile_list() -> None:
    """The profiles; the one that params.yaml is, is marked."""
    from holdfast.commands import profile as command

    command.show()


@profile_app.command("use")
def profile_use(
    name: Annotated[str, typer.Argument(help="One of `holdfast profile list`.")], force: Force = False
) -> None:
    """Make a profile params.yaml. Refuses where edits would be lost."""
    from holdfast.commands import profile as command

    command.use(name, force)


launch_app = typer.Typer(no_args_is_help=True, help="Jobs of stages that launch.yaml sends to other machines.")
app.add_typer(launch_app, name="launch", rich_help_panel=PIPELINE)
Sent = Annotated[str, typer.Argument(metavar="STAGE[@CELL][:NUMBER]", help="One of `holdfast launch status`.")]


@launch_app.command("status")
def launch_status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """The last job of each stage, where it is, and whether it still runs."""
    from holdfast.commands import launch as command

    command.print_status(as_json)


@launch_app.command("logs")
def launch_logs(name: Sent) -> None:
    """What a job has written so far. Without a number that of the first."""
    from holdfast.commands import launch as command

    command.print_log(name)


@launch_app.command("cancel")
def launch_cancel(name: Sent) -> None:
    """End a job; without a number all jobs of the stage. Their caches stay on the machine."""
    from holdfast.commands import launch as command

    command.cancel(name)


@app.command("init", rich_help_panel=START)
def initialise(
    base: Annotated[
        str | None, typer.Option(metavar="FOLDER|HUB", help="A chat model: a folder, or OWNER/NAME.")
    ] = None,
    domain: Annotated[Path | None, typer.Option(metavar="FILE", help="Your data: JSONL, JSON, CSV or Parquet.")] = None,
    test: Annotated[Path | None, typer.Option(metavar="FILE", help="Test rows; none: a tenth is split off.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="COMMIT", help="Hub: the full commit hash.")] = None,
    columns: Annotated[str | None, typer.Option(metavar="prompt=Q,response=A", help="Which fields hold what.")] = None,
    pocket: Annotated[
        bool, typer.Option("--pocket", help="The built-in lab, which needs no model and no data.")
    ] = False,
    into: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to, such as a subfolder of a repository.")
    ] = Path(),
    ci: Annotated[
        str | None, typer.Option(metavar="github|gitlab", help="Also write the workflows of this forge.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a project here: pipeline, stages, and params.yaml for your model and data."""
    from holdfast.commands import init as command

    command.main(base, domain, test, revision, columns, force, pocket, into, ci)  # type: ignore[arg-type]


@app.command(rich_help_panel=START)
def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False,
) -> None:
    """Bring the project up to this Holdfast: merge what changed with what you edited."""
    from holdfast.commands import upgrade as command

    raise typer.Exit(command.main(dry_run, yes))


@app.command(rich_help_panel=START)
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Is everything here that params.yaml needs? Exit 1 if not; every line is ok or says what to do."""
    from holdfast.commands import doctor as command

    raise typer.Exit(command.main(as_json))


@app.command(rich_help_panel=START)
def plan(
    price: Annotated[float | None, typer.Option(min=0, help="Of one device for one hour, in your currency.")] = None,
    device: Annotated[str | None, typer.Option(help="Reckon for this device, measure nothing: h100, a100 ...")] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What a run will take: rows, tokens, device-hours, memory, disk and money of every stage. Runs none."""
    from holdfast.commands import plan as command

    command.main(price, device, devices, as_json)


@app.command(rich_help_panel=PIPELINE)
def costs(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """What every stage took: tokens and operations, and seconds and memory of its last run on this machine."""
    from holdfast.commands import costs as command

    command.main(as_json)


@app.command(rich_help_panel=START)
def explain(
    name: Annotated[str | None, typer.Argument(help="A section or a field, such as gate or gate.margin.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="All sections, as in docs/params.md.")] = False,
) -> None:
    """What a parameter means, its unit, range and default, and which stages a change of it runs again."""
    from holdfast.commands import explain as command

    command.main(name, markdown)
