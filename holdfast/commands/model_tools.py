"""What people call on models outside a pipeline: two of them compared, one repaired, an adapter merged, a template looked at.

Like in tools.py, what a command needs is imported only when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from holdfast.commands.tools import MODELS, REVIEW, START

if TYPE_CHECKING:
    from holdfast.comparison.asking import Wanted
    from holdfast.params.gate import Gate

app = typer.Typer()
BaseModel = Annotated[str | None, typer.Option(metavar="MODEL", help="A folder, or OWNER/NAME@COMMIT of the hub.")]
TunedModel = Annotated[str | None, typer.Option(metavar="MODEL|ADAPTER", help="What was tuned from it, wherever.")]


class Asking(NamedTuple):
    """The options of `compare` and `repair` on what both models are asked and when the verdict is a pass."""

    suites: Annotated[str, typer.Option(metavar="A,B", help="core, and names of lm-eval's tasks.")] = "core"
    domain: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Test rows of your domain, of any known format.")
    ] = None
    columns: Annotated[str | None, typer.Option(metavar="prompt=Q,response=A", help="Of --domain.")] = None
    tasks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Local lm-eval task files that --suites names.")
    ] = None
    instructions: Annotated[
        int, typer.Option(min=0, help="User turns that the base writes and both answer; 0: none.")
    ] = 100
    template: Annotated[str, typer.Option(metavar="own|base", help="base: both speak in the base's.")] = "own"
    limit: Annotated[int | None, typer.Option(min=1, help="Items per suite, for trials.")] = None
    batch: Annotated[int, typer.Option(min=1, help="Requests at once on the device.")] = 32
    margin: Annotated[float, typer.Option(min=0, max=1, help="Largest acceptable drop of the mean, as a fraction.")] = (
        0.03
    )
    suite_margin: Annotated[float, typer.Option(min=0, max=1, help="Largest acceptable drop of one suite.")] = 0.1
    min_domain_gain: Annotated[
        float, typer.Option(min=-1, max=1, help="Of two models: smallest gain of the domain score.")
    ] = 0.0
    confidence: Annotated[float, typer.Option(min=0.5, max=1, help="Of bounds and intervals.")] = 0.95
    chance: Annotated[
        list[str] | None, typer.Option(metavar="SUITE=0.25", help="Accuracy of guessing in a suite; repeat it.")
    ] = None

    def limits(self) -> tuple[Gate, dict[str, float]]:
        """(limits of the verdict, accuracy of guessing by suite). Raises UserError."""
        from holdfast.commands.compare import parse_options

        return parse_options(self.margin, self.suite_margin, self.confidence, self.chance or [], self.min_domain_gain)

    def questions(self, chances: dict[str, float], instructions: int, url: str | None) -> Wanted:
        """Raises UserError."""
        from holdfast.commands.compare_models import read_questions

        return read_questions(
            self.suites, chances, self.tasks, self.domain, self.columns, instructions, self.limit, self.batch, url
        )


def with_asking(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of Asking in the place of its parameter `asking`."""

    def run(**options: Any) -> None:
        asking = Asking(*(options.pop(name) for name in Asking._fields))
        command(**options, asking=asking)

    hints = get_type_hints(Asking, include_extras=True)
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=Asking._field_defaults[name], annotation=hints[name])
        for name in Asking._fields
    ]
    own = [each for each in signature(command, eval_str=True).parameters.values() if each.name != "asking"]
    parameters = [*(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own), *shared]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@app.command(rich_help_panel=REVIEW)
@with_asking
def compare(
    asking: Asking,
    before: Annotated[
        Path | None, typer.Argument(metavar="BASE", help="Results before: a file of items, or a folder of such files.")
    ] = None,
    after: Annotated[Path | None, typer.Argument(metavar="TUNED", help="Results after, of the same items.")] = None,
    base: BaseModel = None,
    tuned: TunedModel = None,
    url: Annotated[
        str | None, typer.Option(help="A server that answers for both, up to /v1; --tuned is its name for the model.")
    ] = None,
    base_name: Annotated[
        str | None, typer.Option("--base-name", help="With --url: the server's name for the base.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the results of two models go.")] = Path(
        "comparison"
    ),
    metric: Annotated[
        str | None, typer.Option(help="Of results: which number of an item counts; none: the tool's first.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Did a model forget anything? Two models (--base, --tuned), or results of lm-eval, promptfoo or nel. Exit codes as of `gate`."""
    import json

    from holdfast.commands import compare as results
    from holdfast.core.errors import UserError

    if base is None and tuned is None and before is not None and after is not None:
        params, chances = results.parse_options(
            asking.margin, asking.suite_margin, asking.confidence, asking.chance or []
        )
        raise typer.Exit(results.main(before, after, params, chances, metric, as_json))
    if base is None or tuned is None or before is not None or metric is not None:
        do = "two models: --base MODEL --tuned MODEL; or results of other tools: holdfast compare BASE TUNED"
        raise UserError("give two models, or two files of results", where="compare", do=do)

    from holdfast.commands import compare_models as command
    from holdfast.verdict.fields import EXIT_CODES

    params, chances = asking.limits()
    wanted = asking.questions(chances, 0 if url else asking.instructions, url)
    say = partial(print, file=sys.stderr) if as_json else print
    content = command.main(base, tuned, wanted, params, out, command.read_template(asking.template), base_name, say)
    print(
        json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) if as_json else command.describe(content, out)
    )
    raise typer.Exit(EXIT_CODES[content["verdict"]])


@app.command(rich_help_panel=START)
@with_asking
def repair(
    asking: Asking,
    base: Annotated[str, typer.Option(metavar="MODEL", help="A folder, or OWNER/NAME@COMMIT of the hub.")],
    tuned: Annotated[str, typer.Option(metavar="MODEL|ADAPTER", help="What was tuned from it, wherever.")],
    method: Annotated[
        str, typer.Option(metavar="average|trim|spectral", help="What is kept of the change that tuning made.")
    ] = "average",
    retention: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the base's self score that the repaired model is to keep.")
    ] = 0.95,
    part: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of the way from base to tuned; none: as far as --retention allows."),
    ] = None,
    keep: Annotated[float, typer.Option(min=0, max=1, help="Part of the numbers that trim keeps.")] = 0.2,
    distil: Annotated[
        int,
        typer.Option(metavar="STEPS", min=0, help="Then distil from the base on the model's own answers; 0: do not."),
    ] = 0,
    distil_rate: Annotated[float, typer.Option("--distil-rate", min=0, help="Learning rate of these steps.")] = 1e-5,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the repaired model and the results go.")] = Path(
        "repaired"
    ),
) -> None:
    """Win back what a tuning lost, without its training data, from the two models alone. Exit codes as of `gate`."""
    from holdfast.commands import compare_models as models
    from holdfast.commands import repair as command
    from holdfast.verdict.fields import EXIT_CODES

    params, chances = asking.limits()
    wanted = asking.questions(chances, asking.instructions, None)
    options = command.Options(command.read_method(method), retention, part, keep, distil, distil_rate)
    content = command.main(base, tuned, wanted, params, options, out, models.read_template(asking.template), print)
    print(command.describe(content, out))
    raise typer.Exit(EXIT_CODES[content["verdict"]])


@app.command(rich_help_panel=START)
def template(
    source: Annotated[str, typer.Argument(help="A model folder, a jinja file, or a model's name in params.yaml.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What a chat template does to a user turn, and a self-test. Exit 0 passed, 1 failed, 3 cannot be used."""
    import json

    from holdfast.chat import template_check, template_text
    from holdfast.core import manifest as models
    from holdfast.core.errors import escape_control

    acquired = MODELS / "manifest" / f"{source}.json"
    report = template_check.examine_in_child(str(models.load(acquired).folder()) if acquired.is_file() else source)
    print(json.dumps(report, indent=2) if as_json else escape_control(template_text.format_findings(report)))
    raise typer.Exit(0 if report["passed"] else 1)


@app.command(rich_help_panel=START)
def merge(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The adapter's folder, as PEFT writes it.")],
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder, for the whole model.")],
    base: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Its base; none: the one that the adapter names.")
    ] = None,
) -> None:
    """Merge an adapter into its base: a model that `init` and every stage can take."""
    from holdfast.engines import adapters

    merged_into = adapters.merge_adapter(adapter, base, into)
    print(f"{into}: {adapter} merged into {merged_into}; use it as --base {into}")
