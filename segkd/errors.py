"""The errors that a person meets: of the input, of a full disk; and the hint that names the nearest valid choice."""

import difflib
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


def nearest(given: object, valid: Iterable[object], limit: int = 8) -> str:
    """Return a hint such as ``did you mean 'conv1x1'?``, or the valid names when none is close.

    Args:
        given: what the user wrote.
        valid: the names that would have been accepted.
        limit: how many names to list when none is close.
    """
    names = [str(name) for name in valid]
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    listed = ", ".join(names[:limit])
    return f"valid: {listed}" + (f", ... ({len(names)} in all)" if len(names) > limit else "")
