import pytest
import torch
import torch.nn.functional as F
from losses.base import SHAPE, LossTests, pair, some_labels, value_and_grad
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses import MaskD
from segkd.losses.maskd import receptive_masks, token_loss


class TestMaskD(LossTests):
    loss = MaskD
    name = "maskd"
    settings = ({}, {"tokens": 1})

    def variants(self, channels: int = SHAPE[1]) -> list[nn.Module]:
        losses = super().variants(channels)
        for loss in losses:
            loss.prepare(*pair((1, channels, 2, 2)))
            loss.vectors.data = torch.linspace(-1, 1, loss.vectors.numel()).view_as(loss.vectors)
        return losses

    def test_gradcheck(self) -> None:
        student, teacher = pair((2, 3, 3, 4), torch.float64)
        for loss in self.variants(3):
            assert torch.autograd.gradcheck(loss, (student, teacher, some_labels((2, 3, 4), 3)))

    def test_equals_the_definition_token_by_token(self) -> None:
        def by_hand(student: Tensor, teacher: Tensor, tokens: Tensor) -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            for s, t in zip(student, teacher, strict=True):
                for token in tokens:
                    mask = torch.sigmoid((token[:, None, None] * t).sum(0))
                    for of_student, of_teacher in zip(s, t, strict=True):
                        total = total + ((mask * (of_student - of_teacher)) ** 2).sum() / (mask.sum() + 1e-5)
            return total / (2 * len(student) * len(tokens) * 5)

        maps = pair(dtype=torch.float64)
        for loss in self.variants():
            torch.testing.assert_close(
                value_and_grad(loss, *maps), value_and_grad(by_hand, *maps, loss.vectors.detach().double())
            )

    def test_labels_teach_the_tokens_and_nothing_else(self) -> None:
        student, teacher = pair()
        for loss in self.variants():
            plain, labelled = (value_and_grad(loss, student, teacher, y) for y in (None, some_labels()))
            torch.testing.assert_close(labelled, plain, rtol=0, atol=0)
            tokens = loss.vectors.detach().requires_grad_()
            token_loss(tokens, teacher.detach(), some_labels()).backward()
            loss(student, teacher.requires_grad_(), some_labels()).backward()
            torch.testing.assert_close(loss.vectors.grad, tokens.grad)
            assert tokens.grad.any()
            assert teacher.grad is None
            loss.vectors.requires_grad_(False)
            torch.testing.assert_close(value_and_grad(loss, student, teacher, some_labels()), plain, rtol=0, atol=0)

    def test_its_tokens_are_saved_and_restored(self) -> None:
        for loss in self.variants():
            other = MaskD(loss.tokens)
            other.prepare(*pair())
            assert other(*pair()) != loss(*pair())
            other.load_state_dict(loss.state_dict())
            other.prepare(*pair())
            assert other(*pair()) == loss(*pair())

    def test_what_does_not_fit_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match=r"maskd has no tokens yet: call prepare\(student, teacher\)"):
            MaskD()(*pair())
        with pytest.raises(SegkdError, match="maskd has one token at least, got 0"):
            MaskD(0)
        with pytest.raises(SegkdError, match=r"tokens for 5 classes, got \(2, 6, 3, 3\)"):
            self.variants()[0](*pair((2, 6, 3, 3)))


class TestTokenLoss:
    def test_equals_the_definition(self) -> None:
        teacher = pair(dtype=torch.float64)[1]
        tokens, target = torch.randn(3, 5, dtype=torch.float64), some_labels()
        masks = receptive_masks(tokens, teacher)
        supervised = F.cross_entropy(sum(masks[:, k : k + 1] * teacher for k in range(3)), target, ignore_index=255)
        dice = [
            2 * (a * b).sum() / ((a * a).sum() + (b * b).sum())
            for of_image in masks
            for k, a in enumerate(of_image)
            for b in of_image[k + 1 :]
        ]
        torch.testing.assert_close(token_loss(tokens, teacher, target), supervised + sum(dice) / len(dice))

    def test_gradcheck(self) -> None:
        tokens, target = torch.randn(2, 3, dtype=torch.float64, requires_grad=True), some_labels((2, 3, 4), 3)
        teacher = pair((2, 3, 3, 4), torch.float64)[1]
        assert torch.autograd.gradcheck(lambda m: token_loss(m, teacher, target), (tokens,))

    def test_without_a_label_or_a_mask_it_is_finite(self) -> None:
        teacher, nothing = pair()[1].abs(), torch.full((2, 7, 9), 255)
        tokens = torch.full((2, 5), -1e4, requires_grad=True)  # masks that are 0 everywhere
        value = token_loss(tokens, teacher, nothing)
        assert value == 0
        assert torch.autograd.grad(value, tokens)[0].isfinite().all()

    def test_tokens_learn_masks_that_differ(self) -> None:
        torch.manual_seed(0)
        target = some_labels()
        right = F.one_hot(target.masked_fill(target == 255, 0), 5).permute(0, 3, 1, 2)
        teacher = pair()[1] + 6 * right
        tokens = nn.Parameter(torch.randn(4, 5) * 0.01)
        optimizer, values = torch.optim.SGD([tokens], 0.01, 0.9), []
        for _ in range(40):
            optimizer.zero_grad()
            value = token_loss(tokens, teacher, target)
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < 0.7 * values[0]
        masks = receptive_masks(tokens, teacher).flatten(2)
        assert (masks[:, 0] - masks[:, 1]).abs().mean() > 0.1
