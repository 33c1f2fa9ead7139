"""core/errors.py: what a message quotes cannot steer a terminal."""

from __future__ import annotations

import pytest

from holdfast.core.errors import UserError, escape_control


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 東京 🙂", "naïve 東京 🙂"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten\x08", "over\\rwritten\\x08"),
        ("half \ud83d", "half \\ud83d"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_characters_that_steer_a_terminal_are_spelled_out(text, shown):
    assert escape_control(text) == shown
    error = UserError(f"no '{text}'", where=text, do=f"give {text}")
    assert str(error) == f"{shown}: no '{shown}'\n  give {shown}"
    assert error.what == f"no '{shown}'"
