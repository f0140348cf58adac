import copy

import pytest
import torch
import torch.nn.functional as F
from losses.base import value_and_grad
from losses.features import FeatureLossTests
from torch import nn

from segkd.errors import SegkdError
from segkd.losses import Foundation


class TestFoundation(FeatureLossTests):
    loss = Foundation
    name = "foundation"
    settings = ({}, {"cosine": "image", "standardize": False, "l1_weight": 0.5})
    wrong_shapes = (((2, 5, 7, 9), (3, 8, 7, 9)), ((2, 5, 7), (2, 8, 7)), ((5, 7, 9), (2, 8, 7, 9)))

    def variants(self, channels: int = 5) -> list[nn.Module]:
        return [loss.eval() for loss in super().variants(channels)]  # the running statistics stand still

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        teacher = self.pair(dtype=torch.float64)[1]
        for loss in super().variants(8):
            layers = loss.double().layers[0]
            layers.connector = nn.Identity()
            student = teacher if not loss.standardize else layers.standardization(teacher).detach()
            value, grad = value_and_grad(loss.eval(), student, teacher)
            assert abs(value) < 1e-12
            assert grad.abs().max() < 1e-12

    def test_equals_the_definition_at_the_teachers_size(self) -> None:
        student = self.pair((2, 5, 14, 18))[0]
        teacher = self.pair()[1]
        for loss, axis in zip(super().variants(), (1, (1, 2, 3)), strict=True):
            s, t = F.interpolate(loss.layers[0].connector(student), (7, 9), mode="bilinear"), teacher
            if loss.standardize:  # in the first batch by its own statistics
                t = (t - t.mean((0, 2, 3), keepdim=True)) / t.var((0, 2, 3), correction=0, keepdim=True).sqrt()
            cosine = (s * t).sum(axis) / (s.square().sum(axis) * t.square().sum(axis)).sqrt()
            expected = 0.9 * (1 - cosine.mean()) + loss.l1_weight * F.smooth_l1_loss(s, t)
            torch.testing.assert_close(loss(student, teacher), expected)

    def test_the_statistics_are_those_of_all_batches_and_are_saved(self) -> None:
        loss, other = super().variants()[0], super().variants()[0]
        batches = [self.pair((count, 5, 7, 9))[1] * count + count for count in (1, 2, 5)]
        for teacher in batches:
            loss(self.pair((len(teacher), 5, 7, 9))[0], teacher)
        found, together = loss.layers[0].standardization, torch.cat(batches)
        torch.testing.assert_close(found.mean, together.mean((0, 2, 3)))
        torch.testing.assert_close(found.variance, together.var((0, 2, 3), correction=0))
        assert found.count == 8 * 63
        other.load_state_dict(copy.deepcopy(loss.state_dict()))
        assert loss(*self.pair()) == other(*self.pair())

    def test_a_constant_channel_is_zero(self) -> None:
        (loss, _), (student, teacher) = super().variants(), self.pair()
        teacher[:, 3] = 7.0
        assert loss(student, teacher).isfinite()
        assert not loss.layers[0].standardization(teacher)[:, 3].any()

    def test_bad_options_are_errors(self) -> None:
        for options, says in (
            ({"cosine": "pixel"}, "no cosine 'pixel'"),
            ({"l1_weight": -1.0}, "at least 0, got -1.0"),
        ):
            with pytest.raises(SegkdError, match=says):
                Foundation(**options)
