"""Which levels of two FPNs a method compares."""

from collections.abc import Sequence

from segkd.errors import SegkdError


def compared_strides(name: str, shared: Sequence[int], strides: Sequence[int] | None) -> list[int]:
    """Return the strides of the levels to compare; None: all shared ones, of two-stage detectors (from 4 on) up to 32.

    Args:
        name: of the method, for the error.
        shared: those that student and teacher have.
        strides: those that are asked for.

    Raises:
        SegkdError: not both have the levels, or there are none.
    """
    wanted = [s for s in shared if 4 not in shared or s <= 32] if strides is None else list(strides)
    if not wanted or not {*wanted} <= {*shared}:
        raise SegkdError(
            f"{name} compares levels of strides {wanted or 'that both have'}, and student and teacher share "
            f"{list(shared)}"
        )
    return wanted
