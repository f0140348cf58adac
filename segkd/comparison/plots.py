"""The plots of a report, as SVG: the differences to the baseline, and the score over steps and over time."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from segkd.comparison.records import Method
from segkd.comparison.tables import measures_of
from segkd.comparison.versus import Versus

COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito, for colour-blind readers; methods also differ in marker and line."""

GREY = "#BBBBBB"
"""The colour of methods that are not told apart, behind the others."""

FEW = 8
"""Up to so many methods are named beside what is drawn of them, more are named below."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)))


def difference_plot(methods: Sequence[Method], baseline: Method, versus: Versus) -> str | None:
    """Return each method's paired difference to the baseline, with its interval and each seed; None without any.

    An interval that is far longer than the spread of all differences is cut off, with an arrow at that end.
    """
    score = measures_of(baseline)[0]
    gains = versus.differences(methods, score)
    found = [(method, gains[method.name]) for method in methods if method.name in gains]
    if not found:
        return None
    figure, axes = figure_of(height=1.1 + (0.42 if len(found) <= FEW else 0.27) * len(found))
    reach = [0.0]
    for row, (method, difference) in enumerate(found):
        color, marker, _ = style_of(methods.index(method))
        pairs = [(record, baseline.records.get(seed)) for seed, record in method.records.items()]
        each = [score.factor * (one.value(score.key) - other.value(score.key)) for one, other in pairs if other]
        reach += [value for value in each if not math.isnan(value)]
        axes.plot(each, [row] * len(each), linestyle="", marker="|", markersize=11, color=color, alpha=0.75)
        if difference.low is not None and difference.high is not None:
            ends = [score.factor * difference.low, score.factor * difference.high]
            axes.plot(ends, [row, row], color=color, linewidth=2)
        axes.plot([score.factor * difference.mean], [row], marker=marker, color=color, markersize=8)
    _keep_near(axes, min(reach), max(reach))
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set_yticks(range(len(found)), [method.name for method, _ in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    unit = ", points" if score.unit == "%" else ""
    axes.set_xlabel(f"{score.heading} to {baseline.name}{unit} (mean and interval; strokes: single seeds)")
    return svg_of(figure)


def _keep_near(axes: Any, low: float, high: float) -> None:
    """Limit the x axis to [low, high] and as much again on either side; arrows mark what is cut off."""
    left, right = axes.get_xlim()
    room = high - low or right - left
    axes.set_xlim(max(left, low - room), min(right, high + room))
    for line in list(axes.lines):
        for end, mark in ((axes.get_xlim()[0], "<"), (axes.get_xlim()[1], ">")):
            if min(line.get_xdata()) < end < max(line.get_xdata()):
                looks = {"color": line.get_color(), "marker": mark, "markersize": 6, "clip_on": False}
                axes.plot([end], [line.get_ydata()[0]], **looks)


def curve_plot(methods: Sequence[Method], baseline: Method, over: str) -> str:
    """Return the score at each validation, over ``steps`` or ``minutes``: the mean, and each seed as a faint line.

    With many methods the first few are told apart; the others are grey behind them, cut off where these end.
    """
    score = measures_of(baseline)[0]
    figure, axes = figure_of(height=3.9)
    end = 0.0
    for index, method in enumerate(methods):
        courses = [
            [(step if over == "steps" else seconds / 60, score.factor * value) for step, seconds, value in record.curve]
            for record in method.records.values()
        ]
        shared = min(map(len, courses))
        mean = np.mean([course[:shared] for course in courses], axis=0)
        if index >= FEW:
            axes.plot(*mean.T, color=GREY, linewidth=1, zorder=1, label="others" if index == FEW else None)
            continue
        color, marker, line = style_of(index)
        label = f" {method.name}" if method.name.startswith("_") else method.name  # else a legend leaves it out
        for course in courses:
            axes.plot(*zip(*course, strict=True), color=color, linewidth=0.8, alpha=0.3)
            end = max(end, course[-1][0])
        axes.plot(*mean.T, color=color, linestyle=line, marker=marker, markersize=5, linewidth=1.8, label=label)
    axes.set_xlabel("optimiser steps" if over == "steps" else "minutes of training, validation left out")
    axes.set_ylabel(", ".join(filter(None, (score.label, score.unit))))
    axes.set_xlim(0, 1.05 * end or None)
    if len(methods) > FEW:
        list_below(figure, axes.get_legend_handles_labels()[0], handlelength=3.2)
    else:
        axes.legend(frameon=False, fontsize=9, handlelength=3.2)
    return svg_of(figure)


def style_of(index: int) -> tuple[str, str, Any]:
    """Return colour, marker and line of a method."""
    return COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)]


def list_below(figure: Any, handles: Sequence[Any], handlelength: float = 0) -> None:
    """Write the names of many methods below a figure."""
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8, handlelength=handlelength
    )


def figure_of(height: float, listed: int = 0) -> tuple[Any, Any]:
    """Return an empty figure, ``height`` inches high, with room below for the names of many methods; and its axes."""
    from matplotlib.figure import Figure  # takes a second to import

    height += 0.17 * math.ceil(listed / 3) if listed > FEW else 0
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def svg_of(figure: Any) -> str:
    """Return a figure as SVG."""
    import matplotlib

    written = io.StringIO()
    # The same runs give the same file: no date, no random names.
    with matplotlib.rc_context({"svg.hashsalt": "segkd"}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()
