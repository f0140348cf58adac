import numpy as np
import pytest
import torch
import torch.nn.functional as F
from losses.base import SHAPE, LossTests, pair, some_labels, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import PseudoLabels
from segkd.losses.pseudo_labels import quantile_cuts


class TestPseudoLabels(LossTests):
    loss = PseudoLabels
    name = "pseudo_labels"
    settings = (
        {},
        {"threshold": 0.0, "quantile": 0.7},
        {"threshold": 0.5, "quantile": 0.9, "unlabelled": 255},
    )

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        # Not a cross-entropy: there it is the teacher's own loss.
        student, _ = pair(dtype=torch.float64)
        expected = -student.log_softmax(1).amax(1).mean()
        torch.testing.assert_close(PseudoLabels(0)(student, student.detach()), expected)

    def test_is_torch_cross_entropy_with_the_kept_labels(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        largest, classes = teacher.softmax(1).max(1)
        sure = torch.where(largest >= 0.8, classes, 255)
        expected = F.cross_entropy(student, sure, ignore_index=255)
        torch.testing.assert_close(PseudoLabels(0.8)(student, teacher, some_labels()), expected)

    def test_of_each_class_the_surer_part_is_kept(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        largest, classes = teacher.softmax(1).max(1)
        kept = torch.zeros_like(classes, dtype=torch.bool)
        for c in range(5):
            of_class = -largest[classes == c].log()
            kept |= (classes == c) & (-largest.log() < np.quantile(of_class, 0.6))
        expected = F.cross_entropy(student, torch.where(kept, classes, 255), ignore_index=255)
        torch.testing.assert_close(PseudoLabels(0, quantile=0.6)(student, teacher), expected)

    def test_labelled_pixels_are_left_to_the_labels(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        target[0] = 255  # an image without labels
        for options in ({"threshold": 0.5}, {"threshold": 0.0, "quantile": 0.5}):
            loss = PseudoLabels(**options, unlabelled=255)
            value, grad = value_and_grad(loss, student, teacher, target)
            assert not grad.movedim(1, -1)[target != 255].any()
            # Nor do they count for the quantile: what the teacher says of them makes no difference.
            other = torch.where((target != 255)[:, None], teacher.flip(1) * 5, teacher)
            torch.testing.assert_close(value_and_grad(loss, student, other, target), (value, grad))
            assert loss(student, teacher) == PseudoLabels(**options)(student, teacher, target)

    def test_where_nothing_is_kept_it_is_zero(self) -> None:
        student, teacher = pair()
        labelled = torch.zeros(2, 7, 9, dtype=torch.long)
        for loss, t in ((PseudoLabels(0.5), teacher * 0), (PseudoLabels(0, 0.5, unlabelled=255), teacher)):
            value, grad = value_and_grad(loss, student, t, labelled)
            assert value == 0
            assert not grad.any()

    def test_no_gradient_reaches_the_teacher(self) -> None:
        student, teacher = pair()
        PseudoLabels()(student, teacher.requires_grad_()).backward()
        assert teacher.grad is None
        assert student.grad.shape == SHAPE

    def test_bad_options_are_errors(self) -> None:
        for options in ({"threshold": 1.0}, {"threshold": -0.1}, {"threshold": float("nan")}):
            with pytest.raises(SegkdError, match="threshold"):
                PseudoLabels(**options)
        for quantile in (0.0, 1.1):
            with pytest.raises(SegkdError, match="quantile"):
                PseudoLabels(quantile=quantile)


def test_cuts_are_numpys_quantiles_of_each_class():
    generator = np.random.default_rng(0)
    losses, classes = generator.random(101), generator.integers(0, 7, 101)
    classes[classes == 4] = 5  # none of class 4; classes from 5 on are of none
    for quantile in (0.0, 0.25, 0.7, 0.9, 1.0):
        found = quantile_cuts(torch.from_numpy(losses), torch.from_numpy(classes), 5, quantile)
        expected = [np.quantile(losses[classes == c], quantile) for c in range(4)]
        assert found.tolist() == pytest.approx([*expected, float("nan")], nan_ok=True)
    empty = quantile_cuts(torch.zeros(0), torch.zeros(0, dtype=torch.long), 2, 0.5)
    assert empty.isnan().tolist() == [True, True]
