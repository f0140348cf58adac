"""Means over seeds, and what can be said of a difference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from segkd.errors import SegkdError

LEVEL = 0.95
"""Of the confidence intervals."""


@dataclass(frozen=True)
class Difference:
    """A mean difference and its confidence interval; ``low`` and ``high`` are None where there is one pair."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (of a sample, n - 1); None for the deviation of one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the mean of ``values - baseline`` and its Student-t interval over the pairs.

    Pairs that share a seed share the student's first weights and the order of the images, so that what a seed
    changes for both falls out of the difference. Of few pairs the interval is wide: with 3 it is the mean and 2.5 times
    the standard deviation of the differences either way. It supposes that the differences are normal, and is not
    corrected for how many methods are compared.

    Args:
        values: n measures of a method.
        baseline: those of the baseline, with the same seeds in the same order.

    Raises:
        SegkdError: no values, or another number of them.
    """
    if not values or len(values) != len(baseline):
        raise SegkdError(f"paired_difference takes two lists of one length, got {len(values)} and {len(baseline)}")
    mean, std = mean_std([a - b for a, b in zip(values, baseline, strict=True)])
    if std is None:
        return Difference(mean, None, None, 1)
    count = len(values)
    half = float(student_t.ppf((1 + LEVEL) / 2, count - 1)) * std / count**0.5
    return Difference(mean, mean - half, mean + half, count)
