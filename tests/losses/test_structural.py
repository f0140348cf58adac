from typing import Any

import pytest
import torch
import torch.nn.functional as F
from losses.base import pair, value_and_grad
from losses.features import FeatureLossTests

from segkd.errors import SegkdError
from segkd.losses import Structural, structural
from segkd.losses._layers import Maps
from segkd.losses.structural import blur, bounds


def prepared(student: Maps, teacher: Maps, **options: Any) -> Structural:
    loss = Structural(**options)
    loss.prepare(student, teacher)
    return loss


class TestStructural(FeatureLossTests):
    loss = Structural
    name = "structural"
    settings = ({}, {"normalise": "channel", "window": 5}, {"normalise": "batch"})

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        student, _ = pair(dtype=torch.float64)
        for settings in self.settings:
            loss = prepared(student, student, **settings)
            value, grad = value_and_grad(loss, student, student.detach() * 2 + 1)
            assert abs(value) < 1e-12
            assert grad.abs().max() < 1e-6

    def test_equal_channels_need_no_prepare_and_others_do(self) -> None:
        student, teacher = pair()
        torch.testing.assert_close(Structural()(student, teacher), prepared(student, teacher)(student, teacher))
        for loss in (Structural(adapter=True), Structural()):
            with pytest.raises(SegkdError, match="has no layers yet: call prepare"):
                loss(*(self.pair() if not loss.adapter else (student, teacher)))

    def test_a_constant_map_passes_no_gradient(self) -> None:
        _, teacher = pair()
        value, grad = value_and_grad(prepared(teacher, teacher), torch.full_like(teacher, 3.0), teacher)
        assert 0 < value <= 1
        assert not grad.any()

    def test_parts_of_a_map_are_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = pair(dtype=torch.float64)
        loss = prepared(student, teacher)
        whole = value_and_grad(loss, student, teacher)
        monkeypatch.setattr(structural, "PART", 3 * 7 * 9)
        torch.testing.assert_close(value_and_grad(loss, student, teacher), whole)

    def test_each_level_has_an_adapter_where_channels_or_architectures_differ(self) -> None:
        same, other = [list(sides) for sides in zip(pair(), pair((2, 5, 3, 4)), strict=True)], [self.pair()] * 2
        for loss, count in (
            (prepared(*same), 0),
            (prepared(*same, adapter=True), 2),
            (prepared(*map(list, zip(*other, strict=True))), 2),
        ):
            assert [parameter.shape[0] for parameter in loss.parameters()] == [loss.channels[0][1]] * 2 * count
        student, teacher = same
        loss = prepared(student, teacher, adapter=True)
        alone = [prepared(s, t)(layer(s), t) for layer, s, t in zip(loss.layers, student, teacher, strict=True)]
        torch.testing.assert_close(loss(student, teacher), sum(alone))

    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ({"normalise": "chanel"}, "did you mean 'channel'"),
            ({"window": 4}, "odd number"),
            ({"window": -1}, "odd number"),
            ({"sigma": 0.0}, "sigma must be above 0"),
            ({"k2": float("nan")}, "k2 must be above 0"),
        ],
    )
    def test_options_out_of_range(self, option: dict[str, float], says: str) -> None:
        with pytest.raises(SegkdError, match=says):
            Structural(**option)


@pytest.mark.parametrize(("length", "window"), [(12, 11), (6, 11), (5, 9), (1, 1), (3, 1)])
def test_blur_is_a_gaussian_window_with_reflect_padding(length: int, window: int) -> None:
    x = pair((2, 1, 3, length), torch.float64)[1]
    weight = (-(torch.arange(window, dtype=torch.float64) - window // 2).square() / 4.5).exp()
    padded = F.pad(x, (window // 2, window // 2, 0, 0), mode="reflect")
    expected = F.conv2d(padded, (weight / weight.sum()).view(1, 1, 1, -1))
    torch.testing.assert_close(x @ blur(length, window, 1.5, x), expected)


def test_bounds_scale_to_0_and_1() -> None:
    x = pair()[1]
    for normalise, dims in (("image", (1, 2, 3)), ("channel", (2, 3)), ("batch", (0, 1, 2, 3))):
        least, factor = bounds(x, normalise)
        found = (x - least) * factor
        assert (found.amin(dims) == 0).all()
        torch.testing.assert_close(found.amax(dims), torch.ones_like(found.amax(dims)))
