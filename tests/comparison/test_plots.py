import dataclasses
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from segkd.comparison.plots import COLORS, FEW, GREY, LINES, MARKERS, curve_plot, difference_plot
from segkd.comparison.records import Method, find_baseline, group, read_records
from segkd.comparison.tables import measures_of
from segkd.comparison.versus import ways_to_compare


@pytest.fixture
def methods(compared: Path) -> list[Method]:
    return group(read_records([compared / "out"], Console(quiet=True)))


@pytest.mark.parametrize("over", ["steps", "minutes"])
def test_curves_are_svg_with_a_colour_for_each_method(methods: list[Method], over: str):
    svg = curve_plot(methods, find_baseline(methods), over)
    assert ET.fromstring(svg).tag.endswith("svg")
    assert {color for color in COLORS if color.lower() in svg.lower()} >= set(COLORS[:3])


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(methods: list[Method]):
    named = dataclasses.replace(methods[1], name="_kd")
    assert "<!--  _kd -->" in curve_plot([methods[0], named], methods[0], "steps")


@pytest.mark.parametrize("over", ["steps", "minutes"])
def test_of_many_methods_the_first_are_told_apart(methods: list[Method], over: str):
    many = [dataclasses.replace(methods[k % 3], name=f"method_{k}") for k in range(FEW + 5)]
    svg = curve_plot(many, methods[0], over)
    named = [f"<!-- {method.name} -->" in svg for method in many]
    assert named == [True] * FEW + [False] * 5
    assert "<!-- others -->" in svg
    assert svg.lower().count(GREY.lower()) >= 5
    assert "others" not in curve_plot(many[:FEW], methods[0], over)


def test_differences_are_svg_without_the_baseline(methods: list[Method]):
    svg = difference_plot(methods, methods[0], ways_to_compare(methods, methods[0])[0])
    assert ET.fromstring(svg).tag.endswith("svg")
    assert COLORS[1].lower() in svg
    assert COLORS[2].lower() in svg


def test_no_differences_to_itself_alone(methods: list[Method]):
    assert difference_plot(methods[:1], methods[0], ways_to_compare(methods[:1], methods[0])[0]) is None


def test_a_very_long_interval_does_not_hide_the_others(methods: list[Method]):
    """Two seeds and many methods: intervals of hundreds of points."""
    random = np.random.default_rng(0)
    many = [methods[0]]
    for number in range(12):
        records = {}
        for seed, record in methods[0].records.items():
            student = {**record.result["student"], "miou": 0.5 + random.normal(0, 0.01)}
            records[seed] = dataclasses.replace(record, result={**record.result, "student": student})
        many.append(Method(f"method_{number}", records))
    way = ways_to_compare(many, methods[0])[0]
    svg = difference_plot(many, methods[0], way)
    ticks = [float(text.replace("\N{MINUS SIGN}", "-")) for text in re.findall(r"<!-- ([\d.\N{MINUS SIGN}]+) -->", svg)]
    score = measures_of(methods[0])[0]
    seeds = [
        100 * (one.value("miou") - methods[0].records[seed].value("miou"))
        for method in many[1:]
        for seed, one in method.records.items()
    ]
    room = max(*seeds, 0) - min(*seeds, 0)
    assert max(100 * each.high for each in way.differences(many, score).values()) > 4 * room
    assert min(*seeds, 0) - room <= min(ticks) < max(ticks) <= max(*seeds, 0) + room


def test_the_same_runs_give_the_same_file(methods: list[Method]):
    first, second = (curve_plot(methods, methods[0], "steps") for _ in range(2))
    assert first == second
    assert not re.search(r"20\d\d-\d\d-\d\d", first)


def test_runs_with_other_numbers_of_validations(methods: list[Method]):
    record = methods[0].records[0]
    methods[0].records[0] = dataclasses.replace(record, curve=[(1, 0.1, 0.2), (2, 0.2, 0.3), (4, 0.4, float("nan"))])
    assert ET.fromstring(curve_plot(methods, methods[0], "minutes")).tag.endswith("svg")


def test_no_two_of_a_dozen_methods_look_alike():
    looks = {(COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)], str(LINES[k % len(LINES)])) for k in range(12)}
    assert len(looks) == 12


def test_colours_stay_apart_for_colour_blind_eyes():
    """By the simulation of Machado et al. (2009) for complete protanopia and deuteranopia, in linear RGB."""
    simulate = {
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    }
    rgb = np.array([[int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)] for color in COLORS])
    for kind, matrix in simulate.items():
        seen = np.clip(rgb**2.2 @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 9 * np.eye(len(seen))
        assert distances.min() > 0.1, kind
