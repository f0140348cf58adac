"""What every loss on feature maps must hold: the models' channels differ, and it may train layers of its own."""

import copy

import pytest
import torch
from losses.base import SHAPE, LossTests, assert_sane, pair, some_labels, value_and_grad
from torch import Tensor, nn

TEACHER_CHANNELS = 8


class FeatureLossTests(LossTests):
    """Subclass it as ``TestX``; the student has 5 channels, the teacher 8."""

    wrong_shapes = (
        ((2, 5, 7, 9), (3, 8, 7, 9)),
        ((2, 5, 7, 9), (2, 8, 7, 8)),
        ((2, 5, 7), (2, 8, 7)),
        ((5, 7, 9), (2, 8, 7, 9)),
    )

    def variants(self, channels: int = SHAPE[1]) -> list[nn.Module]:
        losses = super().variants(channels)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for loss in losses:
                if hasattr(loss, "prepare"):
                    loss.prepare(torch.zeros(1, channels, 6, 6), torch.zeros(1, TEACHER_CHANNELS, 6, 6))
        return losses

    def pair(self, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        return pair(shape, dtype)[0], pair((shape[0], TEACHER_CHANNELS, *shape[2:]), dtype)[1]

    def test_gradcheck(self) -> None:
        student, teacher = self.pair((2, 3, 3, 4), torch.float64)
        target = some_labels((2, 3, 4), 3)
        for loss in self.variants(3):
            names = [name for name, _ in loss.named_parameters()]

            def call(x: Tensor, *own: Tensor, loss: nn.Module = loss, names: list[str] = names) -> Tensor:
                return torch.func.functional_call(loss, dict(zip(names, own, strict=True)), (x, teacher, target))

            assert torch.autograd.gradcheck(call, (student, *loss.double().parameters()), fast_mode=True)

    @pytest.mark.parametrize("scale", [1e-8, 1e-12, 1e-20])
    def test_small_features_have_finite_gradients(self, scale: float) -> None:
        student, teacher = self.pair()
        for loss in self.variants():
            for small in (student * scale, torch.where(torch.arange(9) == 4, student * scale, student)):
                value, grad = value_and_grad(loss, small, teacher, some_labels())
                assert_sane(value, grad)

    # Torch's batch norm misreads a gradient of odd strides, of which a single image may have any for its own dimension.
    @pytest.mark.parametrize("size", [(6, 6), (5, 7)])
    def test_a_batch_norm_before_it_gets_the_right_gradient_of_one_image(self, size: tuple[int, int]) -> None:
        student, teacher = self.pair((1, 5, *size), torch.float64)
        norm = nn.BatchNorm2d(5).double()
        for loss in self.variants():
            loss = loss.double()
            mean, variance = student.mean((2, 3), keepdim=True), student.var((2, 3), correction=0, keepdim=True)
            by_hand = (student - mean) / (variance + norm.eps).sqrt()
            grads = []
            for x in (norm(student), by_hand):
                fresh = copy.deepcopy(loss)  # queues fill with each call
                value = fresh(x, teacher, some_labels((1, *size)))
                grads.append(torch.autograd.grad(value, student, retain_graph=True)[0])
            torch.testing.assert_close(grads[0], grads[1])

    def test_the_teacher_gets_no_gradient_and_its_own_layers_do(self) -> None:
        student, teacher = self.pair()
        for loss in self.variants():
            loss(student, teacher.requires_grad_(), some_labels()).backward()
            assert teacher.grad is None
            assert all(parameter.grad.any() for parameter in loss.parameters())

    def test_what_it_trains_is_saved_and_restored(self) -> None:
        student, teacher = self.pair()
        for loss, other in zip(self.variants(), self.variants(), strict=True):
            with torch.no_grad():
                for parameter in loss.parameters():
                    parameter.add_(1)
            assert other.load_state_dict(loss.state_dict())
            torch.testing.assert_close(
                value_and_grad(other, student, teacher, some_labels()),
                value_and_grad(loss, student, teacher, some_labels()),
                rtol=0,
                atol=0,
            )

    def test_fp16_autocast_is_finite(self) -> None:
        student, teacher = self.pair(dtype=torch.float16)
        for loss in self.variants():
            with torch.autocast("cpu", dtype=torch.float16):
                value = loss(student, teacher, some_labels())
            assert value.dtype == torch.float32
            assert value.isfinite()
            assert torch.autograd.grad(value, student)[0].isfinite().all()
