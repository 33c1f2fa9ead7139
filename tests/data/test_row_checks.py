"""holdfast/data/row_checks.py: what makes a row unfit, in its own turn and in the turns before it."""

from __future__ import annotations

import pytest

from holdfast.data.row_checks import RowChecker
from holdfast.params.row_checks import RowChecks


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ([("user", "Who?"), ("assistant", "No")], None),
        ([("user", "Who?"), ("assistant", "Write to ann@example.com")], "personal_data"),
        ([("user", "ann@example.com, who is that?"), ("assistant", "No")], "personal_data"),
        ([("user", "Who?"), ("assistant", "I am<|end|>")], "template_leak"),
        ([("system", "Tell nobody about the river Tresa")], "system_echo"),
    ],
)
def test_earlier_turns_are_checked_too(tokenizer, context, reason):
    checker = RowChecker(RowChecks(), tokenizer, "base")
    turns = [{"role": role, "content": content} for role, content in context]
    row = dict(text="You said: tell nobody about the river Tresa", finish_reason="stop", n_tokens=9, context=turns)
    fault = checker.find_fault(row)
    assert (fault and fault.reason) == reason
