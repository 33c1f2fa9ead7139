"""Bounds on one rendering of a chat template: processor time and length, wherever it is rendered.

A template is a program. `template_check` renders it first in a child process, which bounds memory too; but it may behave there
and loop on the conversations of a data set.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.core.errors import RunawayError, UserError

SECONDS = 20.0  # of processor time for one conversation; the longest take a tenth of a second
LONGEST = 1_000_000  # characters that a template may write besides 20 for each one of the conversation

_started: float | None = None  # the rendering under way: when it began, in seconds of this thread's processor time
_seconds = SECONDS


def set_limit(seconds: float) -> None:
    """Processor time of one rendering in this process from now on."""
    global _seconds
    _seconds = seconds


@contextmanager
def limit_rendering(messages: Any) -> Iterator[Callable[[str], None]]:
    """Inside, a rendering ends with RunawayError after SECONDS of processor time, or where memory does not suffice; what is
    yielded raises it for a text that is too long. Signals reach the main thread alone: in others time is not bounded."""
    main = threading.current_thread() is threading.main_thread()
    try:
        if main:
            start_alarm()
        yield lambda text: check_length(text, messages)
    except MemoryError:
        raise run_away("needs more memory than there is") from None
    finally:
        if main:
            stop_alarm()


def start_alarm() -> None:
    """Has `look_at_clock` called when the process has used as much processor time as one rendering may."""
    global _started
    if signal.getsignal(signal.SIGPROF) is not look_at_clock:
        signal.signal(signal.SIGPROF, look_at_clock)
    _started = time.thread_time()
    signal.setitimer(signal.ITIMER_PROF, _seconds)


def stop_alarm() -> None:
    global _started
    _started = None
    signal.setitimer(signal.ITIMER_PROF, 0)


def look_at_clock(*_: Any) -> None:
    """Raises RunawayError if this thread has used the time itself; otherwise sets the alarm again."""
    if _started is None:
        return
    left = _seconds - (time.thread_time() - _started)
    if left <= 0:
        raise run_away(f"does not finish within {_seconds:g} s")
    signal.setitimer(signal.ITIMER_PROF, max(left, 0.01))


def check_length(text: str, messages: Any) -> None:
    if len(text) > LONGEST and len(text) > LONGEST + 20 * len(json.dumps(messages, default=str)):
        raise run_away(f"writes {len(text):,} characters for one conversation")


def run_away(what: str) -> RunawayError:
    return RunawayError(UserError(what, where="chat template", do="do not use it: it loops or writes without end"))
