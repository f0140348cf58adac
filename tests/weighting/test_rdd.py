import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe import labels, normal
from torch import Tensor

from segkd.errors import SegkdError
from segkd.weighting import (
    RelativeDifficulty,
    teacher_full_difficulty,
    teacher_student_difficulty,
    true_class_probability,
)


def logits_of(probability: list[float], classes: int = 3) -> Tensor:
    """Return float64 logits (1, C, 1, N) that give class 0 these softmax probabilities."""
    p = torch.tensor(probability, dtype=torch.float64)
    rest = ((1 - p) / (classes - 1)).expand(classes - 1, -1)
    return torch.cat([p[None], rest]).log()[None, :, None]


def target_of(values: list[int]) -> Tensor:
    return torch.tensor(values)[None, None]


class TestTeacherFullDifficulty:
    def test_heads_that_agree_weigh_one(self) -> None:
        teacher = normal(1, [1, 5, 4, 6], 3.0)
        for variant in ("paper", "released"):
            torch.testing.assert_close(
                teacher_full_difficulty(teacher, teacher.clone(), variant), torch.ones(1, 4, 6, dtype=torch.float64)
            )

    def test_the_released_direction_is_the_papers_with_the_heads_swapped(self) -> None:
        one, other = normal(1, [1, 5, 4, 6], 3.0), normal(2, [1, 5, 4, 6], 1.0)
        paper, released = teacher_full_difficulty(one, other), teacher_full_difficulty(other, one, "released")
        torch.testing.assert_close(paper, released)
        assert not torch.allclose(paper, teacher_full_difficulty(one, other, "released"))

    def test_the_weights_are_resized_after_the_exponential(self) -> None:
        one, other = normal(1, [1, 5, 4, 6], 3.0), normal(2, [1, 5, 4, 6], 1.0)
        for variant, aligned in (("paper", False), ("released", True)):
            small = teacher_full_difficulty(one, other, variant)
            expected = F.interpolate(small[:, None], size=(8, 9), mode="bilinear", align_corners=aligned)[:, 0]
            torch.testing.assert_close(teacher_full_difficulty(one, other, variant, (8, 9)), expected)

    def test_passes_no_gradient(self) -> None:
        teacher = normal(1, [1, 5, 4, 6]).requires_grad_()
        assert not teacher_full_difficulty(teacher, teacher * 2).requires_grad

    @pytest.mark.parametrize(("gap", "dtype"), [(200.0, torch.float32), (60000.0, torch.bfloat16)])
    def test_extreme_logits_stay_in_range(self, gap: float, dtype: torch.dtype) -> None:
        teacher = (torch.eye(5).view(1, 5, 1, 5) * gap).to(dtype)
        for auxiliary in (teacher, -teacher, teacher.flip(1), torch.zeros_like(teacher)):
            for variant in ("paper", "released"):
                weights = teacher_full_difficulty(teacher, auxiliary, variant, (3, 7))
                assert weights.dtype == torch.float32
                assert weights.isfinite().all()
                assert (weights >= 0).all()
                assert (weights <= 1).all()

    def test_shapes_and_variant_are_checked(self) -> None:
        with pytest.raises(SegkdError, match=r"\(1, 5, 4, 4\) and \(1, 5, 2, 2\)"):
            teacher_full_difficulty(torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 2, 2))
        with pytest.raises(SegkdError, match="did you mean 'paper'"):
            teacher_full_difficulty(torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 4, 4), "papers")


class TestTrueClassProbability:
    def test_is_the_softmax_at_the_label(self) -> None:
        logits, target = normal(1, [2, 5, 4, 6], 3.0), labels(2, [2, 4, 6], 5)
        probability = true_class_probability(logits, target, target != 255)
        softmax = logits.softmax(1)
        for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(6)).tolist():
            label = int(target[b, y, x])
            expected = 1.0 if label == 255 else float(softmax[b, label, y, x])
            assert float(probability[b, y, x]) == pytest.approx(expected, rel=1e-12)


class TestTeacherStudentDifficulty:
    @pytest.mark.parametrize(
        ("combine", "expected"),
        [("xor", [0, 1, 1, 0]), ("or", [1, 1, 1, 0]), ("and", [1, 0, 0, 0])],
    )
    def test_combines(self, combine: str, expected: list[int]) -> None:
        kept = teacher_student_difficulty(
            logits_of([0.5, 0.5, 0.9, 0.9]), logits_of([0.5, 0.9, 0.5, 0.9]), target_of([0] * 4), combine=combine
        )
        assert kept.dtype == torch.bool
        assert kept.flatten().tolist() == [bool(value) for value in expected]

    def test_a_tie_at_the_threshold_is_hard(self) -> None:
        # Two equal logits: a softmax of exactly one half.
        tied = torch.zeros(1, 2, 1, 1)
        easy = torch.tensor([50.0, 0.0]).view(1, 2, 1, 1)
        assert teacher_student_difficulty(tied, easy, target_of([0]), threshold=0.5).all()
        assert not teacher_student_difficulty(tied, easy, target_of([0]), threshold=0.4999).any()

    def test_an_equal_probability_at_the_kth_place_is_hard_too(self) -> None:
        student = torch.cat([logits_of([0.8]), logits_of([0.9] * 3), logits_of([0.95])], -1)
        teacher = logits_of([0.99] * 5)
        target = target_of([0] * 5)
        for min_kept, hard in ((0, 0), (1, 1), (2, 4), (4, 4), (5, 5)):
            # "and" with a teacher that is at its own floor everywhere leaves the student's mask
            kept = teacher_student_difficulty(student, teacher, target, min_kept=min_kept, combine="and")
            assert int(kept.sum()) == hard

    def test_min_kept_raises_the_threshold_and_never_lowers_it(self) -> None:
        student, teacher = logits_of([0.1, 0.2, 0.3, 0.9]), logits_of([0.9] * 4)
        kept = teacher_student_difficulty(student, teacher, target_of([0] * 4), min_kept=1, combine="or")
        assert kept.flatten().tolist() == [True] * 4  # all of the teacher's tie at its first place
        student_alone = teacher_student_difficulty(
            student, torch.zeros_like(student), target_of([0] * 4), min_kept=1, combine="and"
        )
        assert student_alone.flatten().tolist() == [True, True, True, False]

    def test_the_floor_ignores_what_is_ignored(self) -> None:
        student = logits_of([0.01, 0.8, 0.9])
        teacher = torch.zeros_like(student)
        kept = teacher_student_difficulty(student, teacher, target_of([255, 0, 0]), min_kept=1, combine="and")
        assert kept.flatten().tolist() == [False, True, False]

    def test_fewer_valid_pixels_than_min_kept_keeps_them_all(self) -> None:
        student, teacher = logits_of([0.8, 0.9, 0.99]), torch.zeros(1, 3, 1, 3).double()
        kept = teacher_student_difficulty(student, teacher, target_of([0, 0, 255]), min_kept=100000, combine="and")
        assert kept.flatten().tolist() == [True, True, False]

    @pytest.mark.parametrize("min_kept", [0, 5])
    def test_nothing_labelled_keeps_nothing(self, min_kept: int) -> None:
        student = logits_of([0.1, 0.9])
        for combine in ("xor", "or", "and"):
            for ignored in (255, -1, 3, 200):  # the ignore index, and labels of no class
                kept = teacher_student_difficulty(
                    student, student, target_of([ignored] * 2), min_kept=min_kept, combine=combine
                )
                assert not kept.any()

    def test_labels_of_any_integer_type(self) -> None:
        student, teacher = logits_of([0.5, 0.9, 0.5]), logits_of([0.9, 0.9, 0.9])
        for dtype in (torch.uint8, torch.int32, torch.int64):
            kept = teacher_student_difficulty(student, teacher, target_of([0, 0, 255]).to(dtype))
            assert kept.flatten().tolist() == [True, False, False]

    @pytest.mark.parametrize(
        ("teacher", "target"), [((2, 3, 4, 5), (2, 4, 4)), ((2, 4, 4, 4), (2, 4, 4)), ((2, 3, 4, 4), (1, 4, 4))]
    )
    def test_wrong_shapes_are_named(self, teacher: tuple[int, ...], target: tuple[int, ...]) -> None:
        with pytest.raises(SegkdError, match="rdd expects both logits at label size") as error:
            teacher_student_difficulty(torch.zeros(2, 3, 4, 4), torch.zeros(teacher), torch.zeros(target).long())
        for shape in ((2, 3, 4, 4), teacher, target):
            assert str(shape) in str(error.value)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"threshold": 1.1}, "threshold is a probability"),
            ({"threshold": -0.1}, "threshold is a probability"),
            ({"threshold": math.nan}, "threshold is a probability"),
            ({"min_kept": -1}, "min_kept"),
            ({"combine": "nor"}, "did you mean 'xor'|did you mean 'or'"),
        ],
    )
    def test_values_out_of_range_are_errors(self, setting: dict[str, Any], message: str) -> None:
        with pytest.raises(SegkdError, match=message):
            teacher_student_difficulty(*(torch.zeros(1, 2, 1, 1),) * 2, target_of([0]), **setting)
        with pytest.raises(SegkdError, match=message):
            RelativeDifficulty(**setting)
