import pytest
import torch
from losses.base import SHAPE, pair, value_and_grad
from losses.features import FeatureLossTests

from segkd.errors import SegkdError
from segkd.losses import AttnFD
from segkd.losses.attnfd import pooled_attention, unit_difference


class TestAttnFD(FeatureLossTests):
    loss = AttnFD
    name = "attnfd"
    settings = ({"reduction": 2}, {"reduction": 1, "teacher_attention": "frozen", "seed": 3})

    @pytest.mark.parametrize("shape", [SHAPE, (1, 5, 7, 9), (2, 5, 1, 1), (2, 5, 1, 9)])
    def test_smoke(self, shape: tuple[int, ...]) -> None:
        super().test_smoke(shape)

    def test_one_position_alone_has_no_batch_statistics(self) -> None:
        for loss in self.variants():
            with pytest.raises(SegkdError, match=r"attnfd's batch norm needs two positions at least, got \(1, 5, 1, 1"):
                loss(torch.zeros(1, 5, 1, 1), torch.zeros(1, 8, 1, 1))

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        student, _ = pair()
        value, grad = value_and_grad(unit_difference, student, student.detach().clone())
        assert value == 0
        assert not grad.any()

    def test_the_teacher_gets_no_gradient_and_its_own_layers_do(self) -> None:
        student, teacher = self.pair()
        for loss in self.variants():
            loss(student, teacher.requires_grad_()).backward()
            assert teacher.grad is None
            for name, parameter in loss.named_parameters():
                assert (parameter.grad is None) == (".teacher." in name)
                assert parameter.requires_grad == (".teacher." not in name)
                assert parameter.grad is None or parameter.grad.any()

    def test_places_are_summed_and_have_layers_each(self) -> None:
        student, teacher = [list(side) for side in zip(self.pair(), self.pair((2, 5, 3, 4)), strict=True)]
        loss = AttnFD(reduction=2)
        loss.prepare(student, teacher)
        alone = []
        for number, maps in enumerate(zip(student, teacher, strict=True)):
            one = AttnFD(reduction=2)
            one.prepare(*maps)
            one.layers[0].load_state_dict(loss.layers[number].state_dict())
            alone.append(one(*maps))
        torch.testing.assert_close(loss(student, teacher), sum(alone))

    def test_the_frozen_attention_is_drawn_from_its_seed_alone(self) -> None:
        maps = self.pair()
        frozen, others = [], []
        for kind, seed in (("frozen", 0), ("frozen", 0), ("frozen", 1), ("pool", 0)):
            loss = AttnFD(kind, 1, seed)
            torch.manual_seed(len(frozen))
            loss.prepare(*maps)
            frozen.append(loss.layers[0].teacher.fc1.weight if kind == "frozen" else None)
            torch.manual_seed(5)
            (loss := AttnFD(kind, 1, seed)).prepare(*maps)
            others.append(loss.layers[0].student[1].weight)
        assert torch.equal(frozen[0], frozen[1])
        assert not torch.equal(frozen[0], frozen[2])
        assert all(torch.equal(weight, others[0]) for weight in others)

    def test_bad_options_are_errors(self) -> None:
        with pytest.raises(SegkdError, match="no teacher_attention 'poll', did you mean 'pool'"):
            AttnFD("poll")
        with pytest.raises(SegkdError, match="reduction must be at least 1, got 0"):
            AttnFD(reduction=0)
        with pytest.raises(SegkdError, match="a reduction of 16 leaves none of 5 channels: give a smaller"):
            AttnFD().prepare(*self.pair())
        with pytest.raises(SegkdError, match="a reduction of 10 leaves none of 8 channels"):
            AttnFD("frozen", 10).prepare(torch.zeros(1, 16, 2, 2), torch.zeros(1, 8, 2, 2))


class TestUnitDifference:
    def test_zeros_on_either_side_are_finite(self) -> None:
        student, teacher = pair()
        nothing = torch.zeros_like(teacher)
        value, grad = value_and_grad(unit_difference, student, nothing)
        assert value == pytest.approx(0.5)
        assert grad.isfinite().all()
        value, grad = value_and_grad(unit_difference, nothing, teacher)
        assert value == pytest.approx(0.5)
        assert not grad.any()


def test_pooled_attention_equals_the_definition() -> None:
    x = pair(dtype=torch.float64)[1]
    by_hand = torch.empty_like(x)
    for b in range(2):
        for c in range(5):
            by_hand[b, c] = x[b, c] * torch.sigmoid(x[b, c].mean() + x[b, c].max())
        by_hand[b] = by_hand[b] * torch.sigmoid(by_hand[b].mean(0) + by_hand[b].max(0).values)
    torch.testing.assert_close(pooled_attention(x), by_hand)
