import dataclasses
import itertools
import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from rich.console import Console

from segkd.comparison.gains import gain_plot, write_labels
from segkd.comparison.plots import FEW, figure_of
from segkd.comparison.records import Method, find_baseline, group, read_records
from segkd.comparison.versus import ways_to_compare


@pytest.fixture
def methods(compared: Path) -> list[Method]:
    return group(read_records([compared / "out"], Console(quiet=True)))


def test_it_is_svg_with_names_or_numbers(methods: list[Method]):
    baseline = find_baseline(methods)
    others = [method for method in methods if method is not baseline]
    many = [dataclasses.replace(others[k % 2], name=f"method_{k}") for k in range(FEW + 4)]
    for shown in (others, many):
        ways = ways_to_compare([baseline, *shown], baseline)
        svg = gain_plot([baseline, *shown], baseline, ways, {shown[0].name: 1.25})
        assert ET.fromstring(svg).tag.endswith("svg")
        assert svg == gain_plot([baseline, *shown], baseline, ways, {shown[0].name: 1.25})
        # matplotlib leaves what a text says as a comment beside its outlines
        assert all(f"<!-- {number}  {each.name} -->" in svg for number, each in enumerate(shown, 1)) is (shown is many)
        assert (f"<!-- {shown[0].name} -->" in svg) is (shown is others)
    assert gain_plot([baseline], baseline, ways_to_compare([baseline], baseline)) is None


@pytest.mark.parametrize("labels", [[str(k) for k in range(30)], ["a_method_of_a_long_name", "another_one", "kd"]])
def test_labels_touch_neither_each_other_nor_a_point(labels: list[str]):
    rng = random.Random(0)
    figure, axes = figure_of(4.4)
    FigureCanvasAgg(figure)
    points = [(rng.uniform(1.1, 1.16), rng.uniform(0, 3)) for _ in labels]
    axes.plot(*zip(*points, strict=True), "o", markersize=7)
    axes.set(xlim=(0.9, 1.5), ylim=(-2, 6))  # all in one heap
    figure.draw_without_rendering()
    write_labels(axes, labels, points, points)
    figure.canvas.draw()
    assert [text.get_text() for text in axes.texts] == labels
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the stroke to its point
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    heap = axes.transData.transform(points)
    assert not any(box.contains(*point) for box in boxes for point in heap)


def test_a_method_that_costs_many_times_more_does_not_push_the_others_together(methods: list[Method]):
    baseline = find_baseline(methods)
    ways = ways_to_compare(methods, baseline)
    one, other = (method.name for method in methods if method is not baseline)
    axes = {}
    for times in (1.5, 9.0):
        svg = gain_plot(methods, baseline, ways, {one: 1.0, other: times})
        axes[times] = re.findall(r"<!-- (\d+(?:\.\d+)?) -->", svg.split("seconds a step")[0])
    assert {"1", "2", "5"} <= set(axes[9.0])  # on a logarithmic scale, in plain numbers
    assert "1.2" in axes[1.5] or "1.20" in axes[1.5]
