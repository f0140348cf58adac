import doctest

import pytest
import torch
import torch.nn.functional as F
from losses.base import pair
from torch import Tensor

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import DSD


def sides(shape: tuple[int, ...] = (2, 7, 9), dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    """Return three maps of a student that take gradients, and of a teacher, whose channels differ but in the last."""
    batch, *size = shape
    maps = [pair((batch, channels, *size), dtype) for channels in (3, 4, 6, 7, 5)]
    return [maps[i][0] for i in (0, 1, 4)], [maps[i][1] for i in (2, 3, 4)]


def test_equals_the_definition():
    student, teacher = sides(dtype=torch.float64)
    found = []
    for maps in (student, teacher):
        q = [F.normalize(x.square().mean(1).flatten(1), dim=1) for x in maps]
        r = [F.normalize(q[m] - q[n], dim=1) for m, n in ((1, 0), (2, 0), (2, 1))]
        p = F.softmax(F.avg_pool2d(maps[-1], 2, ceil_mode=True).flatten(2) / 4, 2)
        found.append((r, torch.einsum("bin,bjn->bij", p, p)))
    (r_s, g_s), (r_t, g_t) = found
    pixel = sum(F.mse_loss(s, t) for s, t in zip(r_s, r_t, strict=True)) / 3
    torch.testing.assert_close(DSD()(student, teacher), 1000 * pixel + 10 * F.mse_loss(g_s, g_t))


def test_gradients_are_right_and_none_goes_into_the_teacher():
    student, teacher = sides((2, 3, 4), torch.float64)
    assert torch.autograd.gradcheck(lambda *x: DSD()(x, teacher), student, fast_mode=True)
    DSD()(student, [x.requires_grad_() for x in teacher]).backward()
    assert all(x.grad is None for x in teacher)


@pytest.mark.parametrize("shape", [(2, 7, 9), (1, 7, 9), (2, 1, 1), (1, 1, 1)])
def test_corners_and_low_precision_are_finite(shape: tuple[int, ...]):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        student, teacher = sides(shape, dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = DSD()(student, teacher)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(value, student))
        same = DSD()(student, [x.detach() for x in student])
        assert same == 0
        assert not any(grad.any() for grad in torch.autograd.grad(same, student))


def test_places_of_several_sizes_meet_at_the_smallest():
    student, teacher = sides()
    larger = (
        [*student[:2], F.interpolate(student[2], scale_factor=2)],
        [*teacher[:2], F.interpolate(teacher[2], (14, 18))],
    )
    assert DSD().parts(*larger)["pixel"] != 0
    small = [F.interpolate(x, (7, 9), mode="bilinear") for x in (larger[0][2], larger[1][2])]
    expected = DSD().parts([*student[:2], small[0]], [*teacher[:2], small[1]])
    torch.testing.assert_close(DSD().parts(*larger)["pixel"], expected["pixel"])


def test_what_does_not_fit_is_told():
    student, teacher = sides()
    for given in ((student[0], teacher[0]), (student, teacher[:2]), (student[:1], teacher[:1])):
        with pytest.raises(SegkdError, match="dsd compares two places or more of each model: give lists"):
            DSD()(*given)
    with pytest.raises(SegkdError, match=r"dsd expects .* got student \(2, 5, 7, 9\) and teacher \(2, 7, 7, 9\)"):
        DSD()([student[0], student[2]], [teacher[0], teacher[1]])
    with pytest.raises(SegkdError, match=r"dsd expects .* got student \(2, 3, 7, 9\) and teacher \(1, 6, 7, 9\)"):
        DSD()(student, [x[:1] for x in teacher])
    net = torch.nn.Conv2d(3, 5, 1)
    with pytest.raises(SegkdError, match="give lists, such as"):  # when the distiller is made
        Distiller(net, torch.nn.Conv2d(3, 5, 1), {"dsd": Term(DSD())}, F.cross_entropy)
    nets = [torch.nn.Sequential(torch.nn.Conv2d(3, n, 1), torch.nn.Conv2d(n, 5, 1)) for n in (4, 6)]
    with pytest.raises(SegkdError, match="give lists, such as"):  # also where channels differ
        Distiller(*nets, {"dsd": Term(DSD(), student="0", teacher="0")}, F.cross_entropy)
    for options, says in (({"temperature": 0}, "temperature"), ({"pixel_weight": -1.0}, "at least 0, got -1.0")):
        with pytest.raises(SegkdError, match=says):
            DSD(**options)


def test_the_docstring_example_holds():
    (example,) = doctest.DocTestFinder(recurse=False).find(DSD, globs={})
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
