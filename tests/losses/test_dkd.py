import pytest
import torch
import torch.nn.functional as F
from losses.base import LossTests, pair, some_labels, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import DKD, PixelKD
from segkd.losses.pixel_kd import standardized


class TestDKD(LossTests):
    loss = DKD
    name = "dkd"
    settings = ({}, {"alpha": 2.0, "beta": 0.5, "temperature": 1.0})

    def test_equals_the_definition_pixel_by_pixel(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        total, count = torch.zeros((), dtype=torch.float64), 0
        for b, y, x in (target != 255).nonzero().tolist():
            label = int(target[b, y, x])
            p, q = ((z[b, :, y, x] / 4).softmax(0) for z in (teacher, student))
            rest = [c for c in range(5) if c != label]
            binary = [torch.stack([m[label], m[rest].sum()]) for m in (q, p)]
            others = [m[rest] / m[rest].sum() for m in (q, p)]
            total = total + F.kl_div(binary[0].log(), binary[1], reduction="sum")
            total = total + 8 * F.kl_div(others[0].log(), others[1], reduction="sum")
            count += 1
        torch.testing.assert_close(DKD()(student, teacher, target), 16 * total / count)

    def test_with_the_teachers_own_weight_it_is_pixel_kd(self) -> None:
        # KL = TCKD + (1 - the teacher's mass of the label) * NCKD, which is the same everywhere here.
        student, _ = pair(dtype=torch.float64)
        teacher = torch.zeros_like(student)
        teacher[:, 2] = 1.0
        mass = teacher.softmax(1)[0, 2, 0, 0].item()
        target = torch.full((2, 7, 9), 2)
        torch.testing.assert_close(DKD(1.0, 1 - mass, 1.0)(student, teacher, target), PixelKD()(student, teacher))

    def test_ignored_pixels_and_labels_of_no_class_neither_count_nor_get_a_gradient(self) -> None:
        student, teacher = pair()
        target = some_labels()
        target[0, 0] = 5
        target[0, 1] = -1
        left_out = (target == 255) | (target > 4) | (target < 0)
        value, grad = value_and_grad(DKD(), student, teacher, target)
        assert not grad.transpose(0, 1)[:, left_out].any()
        assert value == DKD()(student, teacher, target.masked_fill(left_out, 255))
        unlabelled = value_and_grad(DKD(), student, teacher, torch.full((2, 7, 9), 255))
        assert unlabelled[0] == 0
        assert not unlabelled[1].any()

    def test_labels_of_another_size_and_type(self) -> None:
        student, teacher = pair()
        target = some_labels()
        larger = target.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
        assert DKD()(student, teacher, larger) == DKD()(student, teacher, target)

    def test_labels_are_needed_and_wrong_ones_named(self) -> None:
        with pytest.raises(SegkdError, match="dkd compares by class: it needs labels"):
            DKD()(*pair())
        with pytest.raises(SegkdError, match=r"with B=2, got \(3, 7, 9\)"):
            DKD()(*pair(), torch.zeros(3, 7, 9, dtype=torch.long))
        with pytest.raises(SegkdError, match="temperature"):
            DKD(temperature=0.0)

    def test_standardized(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        expected = DKD()(standardized("x", student), standardized("x", teacher), some_labels())
        torch.testing.assert_close(DKD(standardize=True)(student, teacher, some_labels()), expected)
        with pytest.raises(
            SegkdError, match=r"dkd with standardize needs at least 3 classes, got logits \(1, 2, 3, 3\)"
        ):
            DKD(standardize=True)(*torch.zeros(2, 1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long))
