"""Ending on request: SIGINT, SIGTERM and SIGHUP raise `Interrupted`, delayed where something must be finished first."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from segkd.errors import Interrupted

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # no HUP on Windows


class _State:
    """State of the process: which signals are handled here, which one came, and how many blocks hold it back."""

    handled: tuple[int, ...] = ()
    number: int | None = None
    holds = 0
    process = 0
    is_repeated = False


@contextlib.contextmanager
def interruptible(way_on: str = "", is_repeated: bool = False) -> Iterator[None]:
    """Within this the first signal raises `Interrupted`, at once or after `held_back`; a second one kills the process.

    A signal that is ignored, as under ``nohup``, stays ignored. Inside another `interruptible`, or in another thread
    than the main one, no handlers are set.

    Args:
        way_on: tells the user how to go on, unless the error says so already.
        is_repeated: whether the sender repeats a signal until the process ends: later signals are then ignored.
    """
    taken = not _State.handled and threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS} if taken else {}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    if taken:
        _State.handled, _State.number, _State.process = tuple(before), None, os.getpid()
        _State.is_repeated = is_repeated
        claim()
    try:
        yield
    except Interrupted as stop:
        stop.way_on = stop.way_on or way_on
        raise
    finally:
        if taken:
            _State.handled = ()
        for number, handler in before.items():
            signal.signal(number, handler)


def claim() -> None:
    """Take the signals again, after a library has put handlers of its own in place of those of `interruptible`."""
    if threading.current_thread() is threading.main_thread():  # in another, Python refuses and nothing is handled
        for number in _State.handled:
            signal.signal(number, _handle)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within this a signal is only noted, and code can ask for it with `asked`; at the end it raises `Interrupted`."""
    _State.holds += 1
    try:
        yield
    finally:
        _State.holds -= 1
    if not _State.holds:
        raise_if_asked()


def asked() -> int | None:
    """Return the number of the signal that came; None if none has."""
    return _State.number if _State.handled else None


def raise_if_asked() -> None:
    """Raise `Interrupted` if a signal came."""
    number = asked()
    if number is not None:
        raise Interrupted(number)


def _handle(number: int, frame: Any) -> None:
    if _State.number is not None and _State.is_repeated and os.getpid() == _State.process:
        return
    # A second signal, or one to a process that was forked from this one, has its default effect.
    if _State.number is not None or os.getpid() != _State.process:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _State.number = number
    if not _State.holds:
        raise Interrupted(number)
