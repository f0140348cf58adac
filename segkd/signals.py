"""Ending when asked to: SIGINT, SIGTERM and SIGHUP raise `Interrupted`, held back where something must be finished."""

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
    """Of the process: which signals are handled here, which one came, and how many blocks hold it back."""

    handled: tuple[int, ...] = ()
    number: int | None = None
    holds = 0
    process = 0
    is_repeated = False


@contextlib.contextmanager
def interruptible(way_on: str = "", is_repeated: bool = False) -> Iterator[None]:
    """Within this the first signal raises `Interrupted`, at once or where `raise_if_asked` is called; a second kills.

    A signal that is ignored, as under ``nohup``, stays ignored. Within another `interruptible`, or in a thread, the
    signals are not taken again.

    Args:
        way_on: how to go on then, where nobody within has said it.
        is_repeated: whether who asks repeats it until it is followed: a second signal counts for nothing then.
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
    """Within this a signal is only noted: whoever is inside asks for it, see `asked`. At the end it raises."""
    _State.holds += 1
    try:
        yield
    finally:
        _State.holds -= 1
    if not _State.holds:
        raise_if_asked()


def asked() -> int | None:
    """Return the number of the signal that came, None before it."""
    return _State.number if _State.handled else None


def raise_if_asked() -> None:
    """Raise `Interrupted` if a signal came."""
    number = asked()
    if number is not None:
        raise Interrupted(number)


def _handle(number: int, frame: Any) -> None:
    if _State.number is not None and _State.is_repeated and os.getpid() == _State.process:
        return
    # A second signal, or one to a process that was forked from this one, does what signals do.
    if _State.number is not None or os.getpid() != _State.process:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _State.number = number
    if not _State.holds:
        raise Interrupted(number)
