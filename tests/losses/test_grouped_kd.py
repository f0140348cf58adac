import pytest
import torch
from losses.base import LossTests, pair, some_labels, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import GDKD, GroupedKD, PixelKD
from segkd.losses.grouped_kd import group_size


class TestGroupedKD(LossTests):
    loss = GroupedKD
    name = "grouped_kd"
    settings = ({"rate": 0.6}, {"rate": 0.6, "secondary": 0.5, "temperature": 1.0, "group_by": "teacher"})

    def test_is_gdkd_where_the_label_is_the_teachers_class(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        everywhere = torch.ones(2, 7, 9, dtype=torch.bool)
        size = int(group_size(teacher, everywhere, 0.6))
        assert 1 < size < 5
        ours = GroupedKD(0.6, beta=3.0, secondary=0.5, group_by="teacher")(student, teacher, teacher.argmax(1))
        torch.testing.assert_close(ours, GDKD(size, w1=3.0, w2=0.5, temperature=4.0)(student, teacher))

    def test_the_label_is_of_the_group_and_then_the_students_likeliest(self) -> None:
        student, teacher = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
        student[0, :, 0, 0] = torch.tensor([3.0, 2.0, 0.0, 0.0])
        target, loss = torch.full((1, 1, 1), 3), GroupedKD(0.8, alpha=0.0, beta=1.0, temperature=1.0)
        assert group_size(student, target == 3, 0.8) == 2
        # Of classes 0 and 3 alone.
        expected = PixelKD()(student[:, [0, 3]], teacher[:, [0, 3]])
        torch.testing.assert_close(loss(student, teacher, target), expected)

    def test_with_all_classes_in_the_group_it_is_pixel_kd(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        expected = 8 * PixelKD(4.0, ignore_index=255)(student, teacher, target)
        torch.testing.assert_close(GroupedKD(1.0)(student, teacher, target), expected)

    def test_pixels_without_label_neither_count_nor_get_a_gradient(self) -> None:
        student, teacher = pair()
        target = some_labels()
        target[0, 0], target[0, 1] = 5, -1  # no classes
        left_out = (target == 255) | (target > 4) | (target < 0)
        for loss in self.variants():
            value, grad = value_and_grad(loss, student, teacher, target)
            assert not grad.movedim(1, -1)[left_out].any()
            other = student.detach().masked_fill(left_out[:, None], 9000.0)
            assert loss(other, teacher, target.masked_fill(left_out, 255)) == value
            value, grad = value_and_grad(loss, student, teacher, torch.full((2, 7, 9), 255))
            assert value == 0
            assert not grad.any()

    def test_labels_are_needed_at_any_size_and_of_any_integer_type(self) -> None:
        student, teacher = pair()
        target = some_labels()
        larger = target.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
        assert GroupedKD()(student, teacher, larger) == GroupedKD()(student, teacher, target)
        with pytest.raises(SegkdError, match="grouped_kd compares by class: it needs labels"):
            GroupedKD()(student, teacher)
        with pytest.raises(SegkdError, match=r"with B=2, got \(3, 7, 9\)"):
            GroupedKD()(student, teacher, torch.zeros(3, 7, 9, dtype=torch.long))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rate": 0.0}, "rate above 0 and at most 1, got 0.0"),
            ({"rate": 1.1}, "rate"),
            ({"step": 0}, "step of at least 1"),
            ({"group_by": "tacher"}, "group by 'tacher', did you mean 'teacher'"),
            ({"temperature": 0.0}, "temperature"),
        ],
    )
    def test_bad_options_are_errors(self, options: dict, message: str) -> None:
        with pytest.raises(SegkdError, match=message):
            GroupedKD(**options)


def test_the_size_is_the_first_that_holds_the_rate():
    logits = torch.tensor([0.5, 0.2, 0.2, 0.06, 0.04]).log().view(1, 5, 1, 1).repeat(1, 1, 2, 2)
    logits[0, :, 0, 0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 900.0])  # which is not valid
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    valid[0, 0, 0] = False
    sizes = [int(group_size(logits, valid, rate)) for rate in (0.4, 0.6, 0.85, 0.95, 1.0)]
    assert sizes == [1, 2, 3, 4, 5]
    assert [int(group_size(logits, valid, rate, 2)) for rate in (0.4, 0.6, 0.85, 0.95)] == [1, 3, 3, 5]
    assert [int(group_size(logits, valid, rate, 3)) for rate in (0.4, 0.6, 0.95, 0.99)] == [1, 4, 4, 5]
    assert int(group_size(logits, ~valid & False, 0.5)) == 5
