"""The one error that a user's input can cause, and the hint that names the nearest valid choice."""

import difflib
from collections.abc import Iterable


class SegkdError(ValueError):
    """Something the user gave is wrong. The message is one line: what was given, where, and what was expected.

    The command line prints it without a traceback and exits with status 2.
    """


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
