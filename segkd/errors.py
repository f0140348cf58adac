"""What a person meets: errors of the input, a full disk, being interrupted; and a hint at the nearest valid choice."""

import difflib
import math
import signal
from collections.abc import Iterable


class SegkdError(ValueError):
    """Something the user gave is wrong. The message is one line: what was given, where, and what was expected.

    The command line prints it without a traceback and exits with status 2.
    """


class DiskFull(OSError):
    """A file could not be written whole, and is as it was before. The message is one line: which file, what it needs.

    Not a `SegkdError`: no other input would help. The command line prints it alike and exits with status 1.
    """

    way_on = ""
    """What to do once there is room, where that is known."""

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.args[0], self.way_on)))


class Interrupted(BaseException):
    """A signal asked the process to end. The message is one line: which signal, and how to go on.

    As `KeyboardInterrupt` it is no `Exception`. The command line exits with `status`.

    Args:
        number: of the signal.
    """

    way_on = ""
    """How to go on with what was stopped, where that is known."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """Return the exit status that shells give to an end by this signal."""
        return 128 + self.number

    def __str__(self) -> str:
        return ": ".join(filter(None, (f"interrupted by {signal.Signals(self.number).name}", self.way_on)))


def is_number(value: object) -> bool:
    """Whether a value is a finite number: no text, and neither true nor false."""
    return hasattr(value, "__float__") and not isinstance(value, bool) and math.isfinite(value.__float__())


def check_count(what: str, value: object, least: int) -> None:
    """Raise unless a value is a whole number, of at least so many."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SegkdError(f"{what} must be a whole number of at least {least}, got {value!r}")


def nearest(given: object, valid: Iterable[object], limit: int = 20) -> str:
    """Return a hint such as ``did you mean 'conv1x1'?``, or the valid names when none is close.

    Args:
        given: what the user wrote.
        valid: the names that would have been accepted.
        limit: when none is close, so many are listed in their order; of more, those that are somewhat alike, nearest
            first, or the first few of the names where none is.
    """
    names = [str(name) for name in valid]
    wanted = str(given)[:100].lower()
    spelled = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(wanted, spelled, n=1, cutoff=0.5)
    if close:
        return f"did you mean {spelled[close[0]]!r}?"
    if not names:
        return "there are none"
    if len(names) <= limit:
        return f"valid: {', '.join(names)}"

    def likeness(name: str) -> float:
        # A name that holds what was written, or is part of it, is nearer than one of as many letters.
        part = wanted in name.lower() or name.lower() in wanted
        return part + difflib.SequenceMatcher(None, wanted, name.lower()).ratio()

    alike = sorted((name for name in names if likeness(name) >= 0.3), key=likeness, reverse=True)
    if not alike:
        return f"valid: {', '.join(names[:5])}, ... ({len(names)} in all)"
    return f"the nearest: {', '.join(alike[:limit])} ({len(names)} in all)"
