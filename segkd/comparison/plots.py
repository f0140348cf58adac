"""The plots of a report, as SVG: the differences to the baseline, and the score over steps and over time."""

import io
from collections.abc import Sequence
from typing import Any

from segkd.comparison.records import Method, Record
from segkd.comparison.tables import difference_of, measures_of

COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind people can tell apart; each method has a marker and a line of its own too."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)))


def difference_plot(methods: Sequence[Method], baseline: Method) -> str | None:
    """Return each method's paired difference to the baseline, with its interval and each seed; None without any."""
    score = measures_of(baseline)[0]
    others = [method for method in methods if method is not baseline and difference_of(method, baseline, score)]
    if not others:
        return None
    figure, axes = _figure(height=1.1 + 0.42 * len(others))
    for row, method in enumerate(others):
        difference = difference_of(method, baseline, score)
        assert difference is not None
        color, marker, _ = _style(methods.index(method))
        seeds = [seed for seed in method.records if seed in baseline.records]
        each = [
            score.factor * (method.records[s].value(score.key) - baseline.records[s].value(score.key)) for s in seeds
        ]
        axes.plot(each, [row] * len(each), linestyle="", marker="|", markersize=11, color=color, alpha=0.75)
        if difference.low is not None and difference.high is not None:
            axes.plot([100 * difference.low, 100 * difference.high], [row, row], color=color, linewidth=2)
        axes.plot([100 * difference.mean], [row], marker=marker, color=color, markersize=8)
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set_yticks(range(len(others)), [method.name for method in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    unit = ", points" if score.unit == "%" else ""
    axes.set_xlabel(f"{score.heading} to {baseline.name}{unit} (mean, 95 % interval; strokes: single seeds)")
    return _svg(figure)


def curve_plot(methods: Sequence[Method], baseline: Method, over: str) -> str:
    """Return the score at each validation: the mean over the seeds, and each seed as a faint line.

    Args:
        methods: what is drawn.
        baseline: whose measures these are.
        over: ``steps`` or ``minutes`` of training.
    """
    score = measures_of(baseline)[0]
    figure, axes = _figure(height=3.9)
    for index, method in enumerate(methods):
        color, marker, line = _style(index)
        courses = [_course(record, over) for record in method.records.values()]
        for xs, ys in courses:
            axes.plot(xs, ys, color=color, linewidth=0.8, alpha=0.3)
        length = min(len(xs) for xs, _ in courses)
        xs = [sum(course[0][k] for course in courses) / len(courses) for k in range(length)]
        ys = [sum(course[1][k] for course in courses) / len(courses) for k in range(length)]
        axes.plot(xs, ys, color=color, linestyle=line, marker=marker, markersize=5, linewidth=1.8, label=method.name)
    axes.set_xlabel("optimiser steps" if over == "steps" else "minutes of training, validation left out")
    axes.set_ylabel(f"{score.label}, {score.unit}")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9, handlelength=3.2)
    return _svg(figure)


def _course(record: Record, over: str) -> tuple[list[float], list[float]]:
    xs = [float(step) if over == "steps" else seconds / 60 for step, seconds, _ in record.curve]
    return xs, [100 * value for _, _, value in record.curve]


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
