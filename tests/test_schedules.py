import math

import pytest

from segkd.errors import SegkdError
from segkd.schedules import Linear, alw


class TestLinear:
    @pytest.mark.parametrize(("progress", "factor"), [(0.0, 2.0), (0.25, 1.75), (0.5, 1.5), (1.0, 1.0)])
    def test_is_a_straight_line(self, progress: float, factor: float) -> None:
        assert Linear(2.0, 1.0)(progress) == factor

    @pytest.mark.parametrize(("progress", "factor"), [(0.0, 0.0), (0.2, 0.0), (0.4, 0.5), (0.6, 1.0), (1.0, 1.0)])
    def test_is_constant_outside_begin_and_until(self, progress: float, factor: float) -> None:
        assert Linear(0.0, 1.0, begin=0.2, until=0.6)(progress) == pytest.approx(factor)

    @pytest.mark.parametrize(("progress", "clamped"), [(-0.5, 0.0), (1.5, 1.0), (math.inf, 1.0), (-math.inf, 0.0)])
    def test_progress_is_clamped(self, progress: float, clamped: float) -> None:
        for schedule in (Linear(0.0, 3.0), Linear(3.0, 0.0), Linear(1.0, 0.2, 0.1, 0.9, stages=7)):
            assert schedule(progress) == schedule(clamped)

    @pytest.mark.parametrize("epochs", [1, 7, 100, 120])
    def test_stages_hold_the_factor_over_an_epoch(self, epochs: int) -> None:
        steps = 13
        schedule = Linear(0.0, 1.0, stages=epochs)
        for epoch in range(epochs):
            for step in range(steps):
                # Exactly the epoch's share, its own first step included, however the division rounds.
                assert schedule((epoch * steps + step) / (epochs * steps)) == epoch / epochs
        assert schedule(1.0) == 1.0

    @pytest.mark.parametrize(
        "arguments",
        [
            {"start": -1, "end": 1},
            {"start": 1, "end": -0.1},
            {"start": math.nan, "end": 1},
            {"start": math.inf, "end": 0},
            {"start": 0, "end": 1, "begin": 0.5, "until": 0.5},
            {"start": 0, "end": 1, "begin": 0.6, "until": 0.5},
            {"start": 0, "end": 1, "begin": -0.1},
            {"start": 0, "end": 1, "until": 1.1},
            {"start": 0, "end": 1, "stages": 0},
        ],
    )
    def test_values_out_of_range_are_errors(self, arguments: dict[str, float]) -> None:
        with pytest.raises(SegkdError, match="a linear schedule needs"):
            Linear(**arguments)


class TestALW:
    def test_the_preset_is_the_paper(self) -> None:
        schedule = alw()
        assert set(schedule) == {"task", "icsd", "kd"}
        for alpha in (0.0, 0.3, 1.0):
            assert schedule["task"](alpha) == schedule["icsd"](alpha) == alpha
            assert schedule["kd"](alpha) == 1 - alpha

    def test_terms_are_the_users_to_name(self) -> None:
        schedule = alw(rise=["cwd"], fall=["task", "pkd"])
        assert {name: factor(0.25) for name, factor in schedule.items()} == {"cwd": 0.25, "task": 0.75, "pkd": 0.75}

    def test_stages_give_the_epoch_wise_alpha(self) -> None:
        schedule = alw(stages=10)
        assert schedule["icsd"](0.59) == 0.5
        assert schedule["kd"](0.59) == 0.5

    def test_a_name_given_twice_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match="'kd' twice"):
            alw(rise=["kd"], fall=["kd"])
        with pytest.raises(SegkdError, match="'kd' twice"):
            alw(rise=["kd", "kd"], fall=[])

    def test_a_single_string_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match="lists of term names"):
            alw(rise="icsd")

    def test_no_name_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match="at least one term"):
            alw(rise=[], fall=[])
