"""Several models as one teacher: the mean of their probabilities."""

import pytest
import torch
from nets import Net, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import PixelKD
from segkd.network import Network
from segkd.teachers import Average

IMAGES, MASKS = batch()


def test_is_the_log_of_the_mean_probability() -> None:
    members = [seeded(Net, seed).eval() for seed in (1, 2, 3)]
    p = torch.stack([member(IMAGES).softmax(1) for member in members])
    torch.testing.assert_close(Average(members)(IMAGES), p.mean(0).log())
    weighted = Average(members, weights=[1, 1, 2])(IMAGES)
    torch.testing.assert_close(weighted.exp(), p[0] / 4 + p[1] / 4 + p[2] / 2)
    torch.testing.assert_close(weighted.softmax(1).log(), weighted)


def test_as_a_teacher() -> None:
    average = Average([seeded(Net, 1), seeded(WithAux, 2)])
    out = Distiller(seeded(Net, 0), average, {"kd": Term(PixelKD())}, cross_entropy())(IMAGES, MASKS)
    torch.testing.assert_close(out.terms["kd"], PixelKD()(out.student, average(IMAGES)).detach())
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


def test_other_sizes_and_classes() -> None:
    coarse, other = seeded(Net, 1, stride=2).eval(), seeded(Net, 2, classes=7).eval()
    mapped = Network(other, class_map=[0, 1, 2, 3, 4, 4, None])
    p = mapped.map_classes(other(IMAGES))
    p = nn.functional.interpolate(p, size=(8, 12), mode="bilinear").softmax(1)
    torch.testing.assert_close(Average([coarse, mapped])(IMAGES).exp(), (coarse(IMAGES).softmax(1) + p) / 2)
    with pytest.raises(SegkdError, match="differ in classes: 5 and 7"):
        Average([coarse, other])(IMAGES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_stable_in_half_precision(dtype: torch.dtype) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    z = torch.tensor([0.0, 60000.0, -60000.0]).to(dtype).view(1, 3, 1, 1)
    found = Average([Fixed(), Fixed()])(z)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, z.float().log_softmax(1))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(SegkdError, match="a weight above 0 for each, got"):
        Average([Net(), Net()], weights)


def test_of_nothing() -> None:
    with pytest.raises(SegkdError, match="one model at least"):
        Average([])
