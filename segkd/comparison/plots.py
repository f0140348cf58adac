"""The plots of a report, as SVG: the differences to the baseline, and the score over steps and over time."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from segkd.comparison.records import Method
from segkd.comparison.tables import measures_of
from segkd.comparison.versus import Versus

COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind people can tell apart; each method has a marker and a line of its own too."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)))


def difference_plot(methods: Sequence[Method], baseline: Method, versus: Versus) -> str | None:
    """Return each method's paired difference to the baseline, with its interval and each seed; None without any."""
    score = measures_of(baseline)[0]
    gains = versus.differences(methods, score)
    found = [(method, gains[method.name]) for method in methods if method.name in gains]
    if not found:
        return None
    figure, axes = _figure(height=1.1 + 0.42 * len(found))
    for row, (method, difference) in enumerate(found):
        color, marker, _ = _style(methods.index(method))
        pairs = [(record, baseline.records.get(seed)) for seed, record in method.records.items()]
        each = [score.factor * (one.value(score.key) - other.value(score.key)) for one, other in pairs if other]
        axes.plot(each, [row] * len(each), linestyle="", marker="|", markersize=11, color=color, alpha=0.75)
        if difference.low is not None and difference.high is not None:
            ends = [score.factor * difference.low, score.factor * difference.high]
            axes.plot(ends, [row, row], color=color, linewidth=2)
        axes.plot([score.factor * difference.mean], [row], marker=marker, color=color, markersize=8)
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set_yticks(range(len(found)), [method.name for method, _ in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    unit = ", points" if score.unit == "%" else ""
    axes.set_xlabel(f"{score.heading} to {baseline.name}{unit} (mean and interval; strokes: single seeds)")
    return _svg(figure)


def curve_plot(methods: Sequence[Method], baseline: Method, over: str) -> str:
    """Return the score at each validation, over ``steps`` or ``minutes``: the mean, and each seed as a faint line."""
    score = measures_of(baseline)[0]
    figure, axes = _figure(height=3.9)
    for index, method in enumerate(methods):
        color, marker, line = _style(index)
        courses = [
            [(step if over == "steps" else seconds / 60, score.factor * value) for step, seconds, value in record.curve]
            for record in method.records.values()
        ]
        for course in courses:
            axes.plot(*zip(*course, strict=True), color=color, linewidth=0.8, alpha=0.3)
        shared = min(map(len, courses))
        mean = np.mean([course[:shared] for course in courses], axis=0)
        axes.plot(*mean.T, color=color, linestyle=line, marker=marker, markersize=5, linewidth=1.8, label=method.name)
    axes.set_xlabel("optimiser steps" if over == "steps" else "minutes of training, validation left out")
    axes.set_ylabel(f"{score.label}, {score.unit}")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9, handlelength=3.2)
    return _svg(figure)


def _style(index: int) -> tuple[str, str, Any]:
    return COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)]


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    written = io.StringIO()
    # The same runs give the same file: no date, no random names.
    with matplotlib.rc_context({"svg.hashsalt": "segkd"}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()
