"""What a command prints is mostly quoted: names in files, answers of models, errors of servers. On a terminal nothing of that
steers it: escape sequences and marks that turn the order of text are spelled out, wherever they come from.

Files and pipes get the bytes as they are.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from holdfast.core.errors import escape_control

BAR = ("\r\x1b[K", "\r", "\x1b[A")  # what a progress bar begins with, or goes a line up with: on standard error alone


class SafeStream:
    """A terminal's stream that spells out what would steer the terminal."""

    def __init__(self, stream: TextIO, bars: bool) -> None:
        self.stream, self.bars = stream, bars

    def write(self, text: str) -> int:
        if not text.isprintable():
            start = next((bar for bar in BAR if text.startswith(bar)), "") if self.bars else ""
            text = start + "\t".join(map(escape_control, text.removeprefix(start).split("\t")))
        return self.stream.write(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def guard_streams() -> Iterator[None]:
    """Inside, standard output and standard error are safe where they are terminals."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty():
            setattr(sys, name, SafeStream(stream, bars=name == "stderr"))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def guard_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with safe streams around it."""

    @functools.wraps(command)
    def call_safely(*arguments: Any, **options: Any) -> Any:
        with guard_streams():
            return command(*arguments, **options)

    return call_safely
