"""The results of a run in sentences that the page and the Markdown report both show. Nothing is escaped here."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.params.evaluate import CORE
from holdfast.reporting.markup import NONE, VERDICTS, count, decimal, is_number, percent, points, score
from holdfast.verdict.fields import SET_ASIDE, UNMEASURED

if TYPE_CHECKING:
    from holdfast.verdict.outcomes import Pairs
from holdfast.evaluation.settings import CHOICES

Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Everything the report reads. A missing input is an empty dict or list."""

    gate: Json
    pairs: Pairs
    settings: Json  # of the base's evaluation
    calibration: dict[str, Json] = field(default_factory=dict)  # by model: "ece", "brier"
    reconstruct: Json = field(default_factory=dict)
    consensus: Json = field(default_factory=dict)
    quality: Json = field(default_factory=dict)
    drift: Json = field(default_factory=dict)
    ingest: Json = field(default_factory=dict)
    curate: Json = field(default_factory=dict)
    balance: Json = field(default_factory=dict)
    ledgers: dict[str, Json] = field(default_factory=dict)  # by arm
    costs: dict[str, Json] = field(default_factory=dict)  # by stage, or "stage/cell"
    pilots: dict[str, Json] = field(default_factory=dict)  # by arm: short runs that chose its share
    mixes: dict[str, Json] = field(default_factory=dict)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(
        default_factory=dict
    )  # metric -> arm -> (step, value)
    replay: list[Json] = field(default_factory=list)  # a few rows
    models: list[Json] = field(default_factory=list)  # manifests of the panel
    base: Json = field(default_factory=dict)  # the base's manifest
    lock: Json = field(default_factory=dict)  # dvc.lock
    links: list[tuple[str, str]] = field(default_factory=list)  # (words, path relative to the report)
    trained_here: bool = True  # False: two models were compared, and there is nothing to say of data and training

    def arms(self) -> dict[str, Json]:
        """The arms that decide first, the control last."""
        control = self.gate.get("control")
        return dict(sorted(self.gate["arms"].items(), key=lambda item: item[0] == control))

    def is_control(self, arm: str) -> bool:
        """Whether the arm is the control; alone, it decides like any other arm."""
        return arm == self.gate.get("control") and len(self.gate["arms"]) > 1

    def margin(self, arm: str) -> Any:
        """How much the arm's general score may drop, as a fraction of the scale: what a per cent of the base's score comes to."""
        return part(self.gate, "arms", arm, "general").get("margin", self.gate.get("margin"))

    def title(self, arm: str) -> str:
        return f"{arm} (control)" if self.is_control(arm) else arm


def part(content: Any, *keys: str) -> Any:
    """A value some levels down; an empty dict where anything on the way is missing or null."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return {} if content is None else content


def describe_trainings(run: Run) -> str:
    """Whether the verdict is on models or on a method, as a sentence."""
    if methods := part(run.gate, "methods"):
        counts = [f"{name} over {len(method['arms'])} trainings" for name, method in sorted(methods.items())]
        return f"The verdict is on {', '.join(counts)}: bounds cover the choice of items and of seeds."
    return "Intervals cover the choice of items, not another training: the verdict is on the models that were trained."


def describe_base(run: Run) -> str:
    """The base model and the start of its revision, for the head of the page; empty where it is not known."""
    source, revision = run.base.get("source"), str(run.base.get("revision") or "")[:12]
    return f" · base {source}{f' @ {revision}' if revision else ''}" if source else ""


def headline(run: Run) -> tuple[str, str, str]:
    """The verdict in capitals, the claim, and what backs it: three parts of one sentence, about the arm that decided."""
    if method := deciding_method(run):
        return word(run).upper().replace(UNMEASURED.upper(), UNMEASURED), *claim_of_method(run, *method)
    statement, backing = claim(run, deciding_arm(run))
    deciding_arms = [a for a in run.arms() if not run.is_control(a)]
    if len(deciding_arms) > 1 and run.gate["verdict"] != "cannot-compare":
        passed = sum(part(run.gate, "arms", a, "verdict") == "pass" for a in deciding_arms)
        backing += f"; {passed} of {len(deciding_arms)} arms pass"
    return word(run).upper().replace(UNMEASURED.upper(), UNMEASURED), statement, backing


def deciding_method(run: Run) -> tuple[str, Json] | None:
    """The first method of several trainings that has the verdict of the whole; None where one arm alone has it."""
    methods = part(run.gate, "methods")
    return next(((n, m) for n, m in sorted(methods.items()) if m["verdict"] == run.gate["verdict"]), None)


def claim_of_method(run: Run, name: str, method: Json) -> tuple[str, str]:
    """(the claim about several trainings of one method, what backs it)."""
    general, count_of = part(method, "general"), f"{name} over {len(method['arms'])} trainings"
    reasons = part(method, "reasons") or ["no reason given"]
    if method["verdict"] == "cannot-compare" or not is_number(general.get("change")):
        return f"{count_of} cannot be compared with the base", str(reasons[0])
    moved = "loses" if general["change"] < 0 else "gains"
    statement = (
        f"{count_of} {moved} {score(abs(general['change']))} points (limit {score(run.margin(method['arms'][0]))})"
    )
    backing = (
        f"bound {points(general.get('bound'))}, standard deviation between trainings {score(general.get('between'))}"
    )
    return statement, backing + (f"; {reasons[0]}" if method["verdict"] == "fail" else "")


def word(run: Run) -> str:
    """The verdict in words: a pass says where the domain was not measured."""
    shown = VERDICTS[run.gate["verdict"]][1]
    return f"{shown} ({UNMEASURED})" if run.gate["verdict"] == "pass" and not run.gate["domain_measured"] else shown


def claim(run: Run, arm: str) -> tuple[str, str]:
    """(the claim about one arm, what backs it)."""
    entry = part(run.gate, "arms", arm)
    general, domain, verdict = part(entry, "general"), part(entry, "domain"), entry.get("verdict")
    reasons = part(entry, "reasons") or []
    if verdict == "cannot-compare":
        return f"{arm} cannot be compared with the base", str(reasons[0] if reasons else "no reason given")
    keeps = percent(general.get("retention")) if is_number(general.get("retention")) else "an unknown part"
    backing = f"bound {points(general.get('bound'))} points {side(run, arm)} margin {score(run.margin(arm))}"
    if is_number(domain.get("change")):
        verb = "gains" if domain["change"] >= 0 else "loses"
        backing += f"; {verb} {score(abs(domain['change']))} points on the domain"
    if is_number(change := part(entry, "self").get("change")):
        backing += f"; self score {points(change)}"
    if run.gate.get("only_choices"):
        backing += f"; {CHOICES}"
    backing += "".join(f"; {one}" for one in describe_families(run, arm))
    if verdict != "fail":
        return f"{arm} keeps {keeps} of general ability", backing
    limited = [s for s in part(entry, "suites").values() if is_number(part(s, "margin"))]
    past = sum(part(s, "verdict") == "fail" for s in limited)
    if side(run, arm) == "outside" and is_number(general.get("change")):
        moved = f"lost {score(-general['change'])}" if general["change"] < 0 else "may have lost too many"
        lost = f"{arm} {moved} points (limit {score(run.margin(arm))})"
    else:  # it failed for something else than the general score
        lost = f"{arm} keeps {keeps} of general ability, and fails"
        backing += "".join(f"; {reason}" for reason in reasons[:1])
    return lost + (f"; {past} of {len(limited)} suites past their margin" if past else ""), backing


def describe_families(run: Run, arm: str) -> list[str]:
    """The family of the core suite that lost most, where that is past its margin and it counts; and what could not be asked."""
    suites = part(run.gate, "arms", arm, "suites")
    drops = {
        name.removeprefix(f"{CORE}/"): (-suite["change"], suite["margin"])
        for name, suite in suites.items()
        if name.startswith(f"{CORE}/") and part(suite, "verdict") != SET_ASIDE
        if is_number(part(suite, "change")) and is_number(part(suite, "margin"))
    }
    lines = []
    if drops:
        family, (drop, margin) = max(drops.items(), key=lambda item: item[1][0])
        lines += [f"of the core suite, {family} lost most, {score(drop)} points"] if drop > margin else []
    if left_out := part(run.settings, "left_out"):
        names = ", ".join(str(name).removeprefix(f"{CORE}/") for name in left_out)
        lines.append(f"not asked, since template or context do not allow it: {names}")
    return lines


def describe_calibration(run: Run, arm: str) -> str:
    """How far the probabilities of choices can be trusted, before and after; "" where that was not measured."""
    before, after = run.calibration.get("base", {}), run.calibration.get(arm, {})
    if not all(is_number(part(side, key)) for side in (before, after) for key in ("ece", "brier")):
        return ""
    ece, brier = (f"{decimal(before[key], 3)} to {decimal(after[key], 3)}" for key in ("ece", "brier"))
    return f"Calibration error (ECE) went from {ece}, the Brier score from {brier}. "


def explanation(run: Run) -> str:
    """The headline in full sentences, for the page."""
    _, _, backing = headline(run)
    if deciding_method(run):
        return f"{backing[:1].upper()}{backing[1:]}. {describe_trainings(run)}"
    arm = deciding_arm(run)
    general, domain = part(run.gate, "arms", arm, "general"), part(run.gate, "arms", arm, "domain")
    if run.gate["verdict"] == "cannot-compare" or not is_number(general.get("change")):
        return backing[:1].upper() + backing[1:] + ("" if backing.endswith(".") else ".")
    bound, margin = general.get("bound"), score(run.margin(arm))
    text = f"The general score went from {score(general.get('before'))} to {score(general.get('after'))}, a change of {points(general['change'])} points. "
    if is_number(bound):
        fall = f"fell by no more than {score(-bound)}" if bound < 0 else f"rose by at least {score(bound)}"
        text += f"With {percent(run.gate.get('confidence'), 0)} confidence it {fall}: {side(run, arm)} the margin of {margin}. "
    if is_number((own := part(run.gate, "arms", arm, "self")).get("change")):
        text += f"The self score went from {score(own.get('before'))} to {score(own.get('after'))}. "
    if run.gate.get("only_choices"):
        text += f"{CHOICES[0].upper()}{CHOICES[1:]}. "
    text += "".join(f"{one[0].upper()}{one[1:]}. " for one in describe_families(run, arm))
    text += describe_calibration(run, arm)
    if is_number(domain.get("change")):
        text += f"The domain score went from {score(domain.get('before'))} to {score(domain.get('after'))}. "
    if run.gate["verdict"] == "fail" and side(run, arm) == "inside":
        text += "".join(f"Yet: {reason}. " for reason in (part(run.gate, "arms", arm, "reasons") or [])[:1])
    deciding_arms = [a for a in run.arms() if a != run.gate.get("control")]
    if len(deciding_arms) > 1:
        text += f"Arms that pass: {sum(part(run.gate, 'arms', a, 'verdict') == 'pass' for a in deciding_arms)} of {len(deciding_arms)}."
    return text.strip()


def deciding_arm(run: Run) -> str:
    """The first arm that has the verdict of the whole, the control left out."""
    together = {name for method in part(run.gate, "methods").values() for name in method["arms"]}
    deciding_arms = [a for a in run.arms() if a != run.gate.get("control") and a not in together]
    deciding_arms = deciding_arms or [a for a in run.arms() if a != run.gate.get("control")] or list(run.arms())
    return next(
        (a for a in deciding_arms if part(run.gate, "arms", a, "verdict") == run.gate["verdict"]), deciding_arms[0]
    )


def side(run: Run, arm: str) -> str:
    bound, margin = part(run.gate, "arms", arm, "general", "bound"), run.margin(arm)
    return "inside" if is_number(bound) and is_number(margin) and bound > -margin else "outside"


def describe_flows(run: Run) -> str:
    """What the table of instructions' drift holds: the methods and thresholds that the drift stage was given."""
    set_to = {key: str(value) for key, value in part(run.drift, "methods").items()}
    text = "Characters and words: {length_method}, threshold {length_threshold}; difficulty alike, {difficulty_threshold}; clusters: "
    text += "{cluster_method}, {cluster_threshold}; embeddings: area under the ROC curve of a classifier that tells the two sets "
    text += "apart, 0.5 being not at all, {embedding_threshold}. ▲: past its threshold."
    return text.format_map(defaultdict(lambda: NONE, set_to))


def describe_drift(run: Run) -> str:
    """In how many of its suites each arm's answers drifted, as a sentence; empty where that is not known."""
    counts = []
    for arm in run.arms():
        suites = part(run.drift, "arms", arm)
        moved = sum(any(part(s, what, "drift") is True for what in ("score", "length")) for s in suites.values())
        counts += [f"{run.title(arm)} {moved} of {len(suites)}"] if suites else []
    return f"Suites whose scores or answer lengths drifted: {', '.join(counts)}." if counts else ""


def describe_independence(run: Run) -> str:
    """To how many independent judges the panel amounts, as a sentence; empty where that is not known."""
    amount, panel = part(run.consensus, "agreement", "effective_judges"), len(part(run.consensus, "judges"))
    return f"{panel} judges count as {decimal(amount, 1)} independent ones." if is_number(amount) else ""


def describe_reconstruction(run: Run) -> str:
    """How many user turns the base wrote, and why it stopped, as a sentence; empty where that is not known."""
    rows, fit, why = (run.reconstruct.get(key) for key in ("rows", "fit", "stopped"))
    if not is_number(rows):
        return ""
    text = f"{count(rows)} user turns were reconstructed"
    text += f", {count(fit)} of them fit to be kept" if is_number(fit) else ""
    return f"{text} ({why})." if why else f"{text}."


def describe_judging(run: Run) -> str:
    """What the scores cost, as a sentence; empty where that is not known."""
    calls, whole, rows = (run.consensus.get(key) for key in ("calls_per_kept_row", "calls_of_the_full_panel", "kept"))
    if not is_number(calls):
        return ""
    text = f"{decimal(calls)} judge calls per kept row"
    text += f" ({decimal(whole / rows)} if every judge had scored every response)" if is_number(whole) and rows else ""
    tokens = run.consensus.get("tokens_per_kept_row")
    return text + (f", {count(tokens)} tokens of judges' prompts." if is_number(tokens) else ".")


SYNTHESIS = ("reconstruct", "curate", "respond", "judge", "consensus", "balance")  # what makes the replay set


def describe_price(run: Run) -> str:
    """What the replay set and each arm took, in operations, as sentences; empty where that is not known."""
    stages = [ledger for name, ledger in run.costs.items() if name.partition("/")[0] in SYNTHESIS]
    replay_flops = sum(amounts(stages, "flops"))
    if not replay_flops:
        return ""
    text = f"The replay set took {decimal(replay_flops / 1e12, 1)} TFLOP to make"
    whole = {
        arm: ledger["flops"] + (replay_flops if part(ledger, "rows").get("replay") else 0)
        for arm, ledger in run.ledgers.items()
        if is_number(ledger.get("flops"))
    }
    control = whole.get(str(run.gate.get("control")))
    times = [f"{arm} takes {decimal(n / control, 1)} times" for arm, n in whole.items() if control and n > control]
    return text + (f". With it, {', '.join(times)} what {run.gate['control']} takes." if times else ".")


def amounts(ledgers: list[Json], key: str) -> list[float]:
    return [value for ledger in ledgers if is_number(value := ledger.get(key))]


def describe_noise(run: Run) -> str:
    """The noise floor as a sentence; empty where the base was evaluated once."""
    floor = part(run.gate, "noise")
    if not floor:
        return ""
    moved = f", and the general score by {score(abs(floor['change']))} points" if is_number(floor.get("change")) else ""
    return f"Noise floor: {count(floor.get('changed'))} of {count(floor.get('items'))} outcomes differ when the base is asked again{moved}."
