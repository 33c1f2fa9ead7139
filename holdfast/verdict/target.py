"""A branch judged by the gate of its target: what the target's settings decide, and what stays the branch's."""

from __future__ import annotations

from holdfast.evaluation.settings import DECIDING
from holdfast.params.evaluate import Evaluate
from holdfast.verdict import yardstick
from holdfast.verdict.snapshot import Json, Snapshot, part


def leave_to_target(there: Snapshot, here: Snapshot) -> Snapshot:
    """`here` as it is judged by the gate of `there`, whose settings, code and scripts decide: what is measured stays that of `here`."""
    gate = {"gate": there.params["gate"]} if "gate" in there.params else {}
    params = {key: value for key, value in here.params.items() if key != "gate"} | gate
    return here._replace(params=params, gate=there.gate, scripts=there.scripts)


def list_judged(snapshot: Snapshot) -> dict[str, Json]:
    """Role and chance of every suite that decides: as the base was evaluated, or else as params.yaml names them."""
    suites = part(snapshot.settings, "suites") or part(yardstick.section(snapshot, "evaluate", Evaluate), "suites")
    listed = {name: part(suites, name) for name in suites}
    return {
        name: {key: suite.get(key) for key in ("role", "chance")}
        for name, suite in listed.items()
        if suite.get("role") != "self" or name in DECIDING
    }
