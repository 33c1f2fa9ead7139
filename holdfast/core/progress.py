"""Progress with rate and time left: a bar on a terminal, one line a minute in a log."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts towards `total`; writes to standard error only, so that output stays comparable."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.began, self.shown = 0, time.monotonic(), time.monotonic()
        self.terminal = sys.stderr.isatty()

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 60) and self.done < self.total:
            return
        self.shown = now
        rate = self.done / max(now - self.began, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        line = f"{self.what}: {self.done:,}/{self.total:,} {self.unit}, {speed}/s, {left:,.0f} s left"
        if self.terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif self.done < self.total:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
