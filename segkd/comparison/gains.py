"""The plot of what methods gain against what they cost, legible with three methods and with thirty."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segkd.comparison.plots import FEW, figure_of, list_below, style_of, svg_of
from segkd.comparison.records import Method
from segkd.comparison.tables import measures_of, seconds_per_step
from segkd.comparison.versus import Versus

DEAR = 4
"""Where one method costs more than so many times another, costs are drawn on a logarithmic scale."""

SIZE = 8.0
"""Font size of a label, in points."""


def gain_plot(
    methods: Sequence[Method], baseline: Method, ways: Sequence[Versus], times: Mapping[str, float] | None = None
) -> str | None:
    """Return an SVG of each method's gain, in each way to compare, over what its step costs; None without any method.

    Args:
        methods: that are compared.
        baseline: what they are compared to.
        ways: the same steps, and the same time where it was compared.
        times: how many of the baseline's steps one of a method costs, where that was timed; else the runs tell it.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    score, gains = measures_of(baseline)[0], []
    for versus in ways:
        found = versus.differences(methods, score)
        gains.append({name: score.factor * each.mean for name, each in found.items() if not math.isnan(each.mean)})
    shown = [method for method in methods if method.name in gains[0]]
    if not shown:
        return None
    second = seconds_per_step(baseline)
    costs = {each.name: (times or {}).get(each.name) or seconds_per_step(each) / second for each in shown}
    is_numbered = len(shown) > FEW  # then points have numbers
    figure, axes = figure_of(height=4.4, listed=len(shown))
    axes.axhline(0, color="#555555", linewidth=1)
    axes.axvline(1, color="#555555", linewidth=1)
    looks: list[dict[str, Any]] = [
        {"marker": "o"},
        {"marker": "v", "fillstyle": "none"},
        {"marker": "^", "fillstyle": "none"},
    ]
    points = []
    for method in shown:
        color, _, _ = style_of(methods.index(method))
        x, heights = costs[method.name], [each[method.name] for each in gains if method.name in each]
        axes.plot([x, x], [min(heights), max(heights)], color=color, linewidth=0.8)
        for height, look in zip(heights, looks, strict=False):
            axes.plot([x], [height], color=color, linestyle="", markersize=7, **look)
        points += [(x, height) for height in heights]
    if max(costs.values()) > DEAR * min(costs.values()):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"seconds a step, times {baseline.name}")
    axes.set_ylabel(f"{score.heading} to {baseline.name}" + (", points" if score.unit == "%" else ""))
    if len(ways) > 1:
        symbols = [
            Line2D([], [], color="#333333", linestyle="", label=versus.heading, **look)
            for versus, look in zip(ways, looks, strict=False)
        ]
        figure.legend(handles=symbols, loc="outside upper right", ncols=len(ways), frameon=False, fontsize=9)
    labels = [str(number) if is_numbered else method.name for number, method in enumerate(shown, 1)]
    if is_numbered:
        texts = [f"{label}  {method.name}" for label, method in zip(labels, shown, strict=True)]
        list_below(figure, [Line2D([], [], linestyle="", label=text) for text in texts])
    axes.margins(0.08, 0.1)
    figure.draw_without_rendering()  # only now is it known where a point lies on the page
    write_labels(axes, labels, [(costs[method.name], gains[0][method.name]) for method in shown], points)
    return svg_of(figure)


def write_labels(
    axes: Any, labels: Sequence[str], places: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]]
) -> None:
    """Write labels beside their places, each as near as it can be without touching another one or a point."""
    unit = 72 / axes.figure.dpi  # pixels to points
    boxes = [(x * unit - 4, y * unit - 4, x * unit + 4, y * unit + 4) for x, y in axes.transData.transform(points)]
    edge = axes.get_window_extent()
    page = (edge.x0 * unit, edge.y0 * unit, edge.x1 * unit, edge.y1 * unit)
    for label, place in zip(labels, places, strict=True):
        x, y = axes.transData.transform(place) * unit
        width, height = 0.62 * SIZE * len(label), 1.15 * SIZE
        offsets = [
            (far * math.cos(turn * math.pi / 8), far * math.sin(turn * math.pi / 8))
            for far in range(9, 120, 5)
            for turn in range(16)
        ]
        for dx, dy in offsets:
            left = x + dx - (width if dx < -1 else 0 if dx > 1 else width / 2)
            box = (left, y + dy - height / 2, left + width, y + dy + height / 2)
            inside = box[0] > page[0] and box[1] > page[1] and box[2] < page[2] and box[3] < page[3]
            if inside and not any(_touch(box, other) for other in boxes):
                break
        boxes.append(box)
        axes.annotate(
            label,
            place,
            xytext=(box[0] - x, dy),
            textcoords="offset points",
            fontsize=SIZE,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )


def _touch(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
