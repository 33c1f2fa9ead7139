"""What the suites can show of this base, before an arm is trained; stops the pipeline where no arm could pass."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import storage
from holdfast.core.errors import UserError
from holdfast.evaluation import settings
from holdfast.params.gate import Gate
from holdfast.verdict import baseline, power


def main() -> None:
    params, evaluation = Gate.load(), Path("reports/eval/base")
    prospects = power.assess(params, baseline.read_suites(evaluation))
    print(power.table(prospects, params))
    is_trial = settings.read(evaluation)["engine"].get("limit") is not None
    if prospects.blocked and not is_trial:
        do = "change the suites under evaluate.suites, or what the gate asks for; nothing has been trained yet"
        raise UserError(prospects.blocked[0], where=evaluation, do=do)
    # what comes next depends on this file alone: another evaluation of the base trains nothing anew
    storage.write_json(Path("reports/baseline.json"), {"schema": 1, "measurable": True})
