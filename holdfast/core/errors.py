"""The one exception that users see: what is wrong, where, and what to do. And the exit codes of every command."""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from functools import partial


class ExitCode(IntEnum):
    """Of every command. A crash and a wrong call are BROKEN: neither a pass nor a fail."""

    OK = 0  # done; the verdict is pass; up to date; all there
    FAIL = 1  # the verdict is fail; stale; something is missing
    CANNOT_COMPARE = 2  # the evaluations cannot be compared
    BROKEN = 3  # bad input, wrong usage, a missing file, or a crash
    INTERRUPTED = 130


def escape_control(text: str) -> str:
    """Text for a terminal: characters that would steer it (escape sequences, marks that turn the order of text) are spelled out.
    Line breaks stay."""
    if text.isprintable():
        return text
    return "".join(
        c if c == "\n" or c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in text
    )


class UserError(Exception):
    """Bad input. `what` and `where` on the first line, `do` on the second; never a traceback. Whatever it quotes is escaped."""

    code = ExitCode.BROKEN  # with which the command ends

    def __init__(self, what: str, *, where: object, do: str) -> None:
        self.what, self.where, self.do = escape_control(what), escape_control(str(where)), escape_control(do)
        super().__init__(f"{self.where}: {self.what}\n  {self.do}")

    def __reduce__(self) -> tuple[object, ...]:
        """Crosses from a worker process whole: the default would call __init__ with the message alone."""
        return partial(type(self), where=self.where, do=self.do), (self.what,)


class CannotCompare(UserError):
    """Two models, or two results, between which no comparison says anything."""

    code = ExitCode.CANNOT_COMPARE


class RunawayError(BaseException):
    """A program of somebody else's, such as a chat template, that does not end. Not an Exception: where any fault of it counts as
    an answer, this one does not, for the next start would take as long. `error` is what the user reads."""

    def __init__(self, error: UserError) -> None:
        super().__init__(error)
        self.error = error


def first_line(error: Exception) -> str:
    """What an exception says, short enough for one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
