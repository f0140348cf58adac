import pytest
import torch
import torch.nn.functional as F
from losses.base import SHAPE, pair, value_and_grad
from losses.features import FeatureLossTests
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses import MGD


def uniform(like: Tensor) -> Tensor:
    """Return numbers in [0, 1) as a mask is drawn from, the same at each call."""
    return (torch.arange(like[:, :1].numel(), dtype=like.dtype) * 0.618 % 1).view_as(like[:, :1])


class MaskedLossTests(FeatureLossTests):
    """For losses that draw masks: here each call draws the same."""

    def variants(self, channels: int = SHAPE[1]) -> list[nn.Module]:
        losses = super().variants(channels)
        for loss in losses:
            loss.draw = uniform
        return losses

    @pytest.mark.slow
    def test_compiled_equals_eager(self) -> None:
        # In float64: convolutions are summed in another order.
        student, teacher = self.pair(dtype=torch.float64)
        loss = self.variants()[0].double()
        torch.compiler.reset()
        compiled = value_and_grad(torch.compile(loss, fullgraph=True, backend="aot_eager"), student, teacher)
        torch.testing.assert_close(compiled, value_and_grad(loss, student, teacher))

    def test_masks_are_drawn_from_the_generator_that_is_given(self) -> None:
        loss = self.loss(**self.settings[0])
        student, teacher = self.pair()
        loss.prepare(student, teacher)
        values = []
        for _ in range(2):
            loss.generator = torch.Generator().manual_seed(3)
            values.append([loss(student, teacher).item() for _ in range(2)])
        assert values[0] == values[1]
        assert values[0][0] != values[0][1]

    def test_the_state_of_a_given_generator_is_restored(self) -> None:
        student, teacher = self.pair()
        losses = [self.loss(**self.settings[0]) for _ in range(2)]
        for seed, loss in enumerate(losses):
            loss.prepare(student, teacher)
            loss.generator = torch.Generator().manual_seed(seed)
        losses[0](student, teacher)
        losses[1].load_state_dict(losses[0].state_dict())
        assert losses[1](student, teacher) == losses[0](student, teacher)
        del losses[1].generator
        with pytest.raises(SegkdError, match=f"{self.loss.__name__} was saved with a generator's state: set a gen"):
            losses[1].load_state_dict(losses[0].state_dict())

    def test_a_bad_ratio_is_an_error(self) -> None:
        for ratio in (-0.1, 1.1, float("nan")):
            with pytest.raises(SegkdError, match=r"mask_ratio must be in \[0, 1\]"):
                self.loss(mask_ratio=ratio)


class TestMGD(MaskedLossTests):
    loss = MGD
    name = "mgd"
    settings = ({}, {"mask_ratio": 0.0})

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        student = pair()[0].detach().relu().requires_grad_()
        loss = MGD(mask_ratio=0.0)
        loss.prepare(student, student)
        with torch.no_grad():
            for convolution in (loss.layers[0].conv1, loss.layers[0].conv2):
                nn.init.dirac_(convolution.weight)
                convolution.bias.zero_()
        value, grad = value_and_grad(loss, student, student.detach().clone())
        assert value == 0
        assert not grad.any()

    def test_equals_the_definition(self) -> None:
        student, teacher = self.pair()
        loss = self.variants()[0]
        layers = loss.layers[0]
        kept = uniform(student) <= 0.25
        x = layers.conv2(F.relu(layers.conv1(torch.where(kept, layers.align(student), 0.0))))
        value, grad = value_and_grad(loss, student, teacher)
        torch.testing.assert_close(value, ((x - teacher) ** 2).sum() / 2)
        assert not grad[~kept.expand_as(grad)].any()

    def test_each_map_of_a_list_has_its_own_layers(self) -> None:
        student, teacher = [list(side) for side in zip(self.pair(), self.pair((2, 5, 3, 4)), strict=True)]
        loss = MGD(mask_ratio=0.0)
        loss.prepare(student, teacher)
        alone = []
        for number, maps in enumerate(zip(student, teacher, strict=True)):
            one = MGD(mask_ratio=0.0)
            one.prepare(*maps)
            one.layers[0].load_state_dict(loss.layers[number].state_dict())
            alone.append(one(*maps))
        torch.testing.assert_close(loss(student, teacher), sum(alone))
        with pytest.raises(SegkdError, match=r"maps of \[\(5, 8\), \(5, 8\)\] channels, got \[\(5, 8\)\]"):
            loss(student[0], teacher[0])
        with pytest.raises(SegkdError, match="compares map by map, got 2 of the student and 1"):
            loss(student, teacher[:1])

    def test_what_is_prepared_keeps_its_weights(self) -> None:
        student, teacher = self.pair()
        loss = self.variants()[0]
        weight = loss.layers[0].conv1.weight.clone()
        loss.prepare(student, teacher)
        assert torch.equal(loss.layers[0].conv1.weight, weight)
        assert not any("align" in name for name, _ in _prepared(MGD(), teacher, teacher).named_parameters())

    def test_what_is_not_prepared_says_so(self) -> None:
        with pytest.raises(SegkdError, match=r"mgd has no layers yet: call prepare\(student, teacher\)"):
            MGD()(*self.pair())


def _prepared(loss: MGD, student: Tensor, teacher: Tensor) -> MGD:
    loss.prepare(student, teacher)
    return loss
