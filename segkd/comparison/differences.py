"""Paired differences to a baseline, seed by seed, corrected for the number of methods."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

ALPHA = 0.05
"""The chance that is accepted of calling any difference in a column clear where there is none."""


@dataclass(frozen=True)
class Difference:
    """A mean paired difference; of a single pair only the mean is known, and all else is None.

    Attributes:
        mean: of the differences.
        low: the lower end of its interval.
        high: the upper end.
        p: its p-value, adjusted by Holm's procedure for all methods of the column: the chance of a difference at least
            as large where there is none, if the differences are normal.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether Holm's procedure rejects that there is no difference; the interval then lies on one side of zero."""
        return self.p is not None and self.p <= ALPHA


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (of a sample, n - 1); None for the deviation of one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Scatter:
    """How far runs lie from what their method and their seed predict.

    Attributes:
        std: standard deviation of one run.
        degrees: degrees of freedom of that estimate.
    """

    std: float
    degrees: int


def pooled_scatter(values: Sequence[Mapping[int, float]]) -> Scatter | None:
    """Return one scatter of all methods, as in an analysis of variance with seeds as blocks; None without any repeats.

    A run's value is the sum of what its method and its seed contribute, fitted by least squares, and a residual, which
    is assumed to be normal with the same variance for each method. With M methods of the same S seeds the residual has
    (M - 1) (S - 1) degrees of freedom, the difference of two methods alone S - 1. Seeds may be missing.

    Args:
        values: for each method its value by seed; those that are NaN are left out.
    """
    runs = [(k, seed, one) for k, each in enumerate(values) for seed, one in each.items() if not math.isnan(one)]
    seeds = sorted({seed for _, seed, _ in runs})
    design = np.zeros((len(runs), len(values) + len(seeds)))
    for row, (method, seed, _) in enumerate(runs):
        design[row, [method, len(values) + seeds.index(seed)]] = 1
    known = np.array([value for _, _, value in runs])
    fitted, _, rank, _ = np.linalg.lstsq(design, known)
    degrees = len(runs) - int(rank)
    if degrees < 1:
        return None
    return Scatter(float(np.linalg.norm(known - design @ fitted)) / degrees**0.5, degrees)


def paired_differences(
    pairs: Mapping[str, Sequence[tuple[float, float]]], scatter: Scatter | None = None
) -> dict[str, Difference]:
    """Return, by method, the mean of ``value - baseline`` over its pairs, with its interval and p-value.

    Pairs that share a seed share the student's first weights and the order of the images, so that what a seed
    changes for both cancels in the difference. Each difference is tested against zero by Student's paired t-test,
    which assumes that differences are normal; the p-values are corrected for how many methods are tested by Holm's
    procedure (1979), which holds whatever the methods have in common.

    With k methods, the smallest p-value is tested at 5 % / k, the next at 5 % / (k - 1), and so on; from the first that
    is not small enough, no further one is rejected. A method's interval is Student's t at the level of its step (100 %
    minus 5 % / k, ...), and from where the procedure stops at the level of that step. So it excludes zero exactly where
    the procedure rejects, and is never narrower than the 95 % interval of that method alone. The chance that any method
    of the column is called clear and has no difference is at most 5 %; that all intervals hold at once is less certain.

    Args:
        pairs: by method a value and the baseline's value for each seed that both have; a method without any, or with
            one that is NaN, is not tested.
        scatter: of all methods' runs, see `pooled_scatter`, used in place of the scatter of each method's own
            differences; then a method with one pair is tested too.
    """
    found: dict[str, Difference] = {}
    tested: dict[str, tuple[float, float, int]] = {}
    for name, each in pairs.items():
        mean, std = mean_std([value - other for value, other in each]) if each else (math.nan, None)
        found[name] = Difference(mean)
        if math.isnan(mean):
            continue
        if scatter is not None:
            tested[name] = mean, scatter.std * (2 / len(each)) ** 0.5, scatter.degrees
        elif std is not None:
            tested[name] = mean, std / len(each) ** 0.5, len(each) - 1
    raw = {name: _two_sided(*each) for name, each in tested.items()}
    left, p, step = len(raw), 0.0, ALPHA
    for name in sorted(raw, key=lambda name: raw[name]):
        if p <= ALPHA:  # all so far were rejected
            step = ALPHA / left
        p = max(p, min(raw[name] * left, 1.0))
        left -= 1
        mean, error, degrees = tested[name]
        half = float(student_t.ppf(1 - step / 2, degrees)) * error
        found[name] = Difference(mean, mean - half, mean + half, p)
    return found


def _two_sided(mean: float, error: float, degrees: int) -> float:
    if error == 0:  # all differences are the same
        return 1.0 if mean == 0 else 0.0
    return float(2 * student_t.sf(abs(mean) / error, degrees))
