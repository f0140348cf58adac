import pytest
import torch
import torch.nn.functional as F
from losses.base import LogitLossTests, pair, some_labels, value_and_grad
from recipe import normal
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses import ICSD, inter_class_similarity
from segkd.losses.icsd import released_similarity


def double_loop(logits: Tensor, temperature: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """KL between the spatial distributions of each pair of classes, straight from the definition."""
    batch, classes = logits.shape[:2]
    matrix = logits.new_zeros(batch, classes, classes)
    for b in range(batch):
        kept = torch.ones_like(logits[b, 0], dtype=torch.bool) if valid is None else valid[b]
        for i in range(classes):
            for j in range(classes):
                p = F.softmax(logits[b, i][kept] / temperature, 0)
                q = F.softmax(logits[b, j][kept] / temperature, 0)
                matrix[b, i, j] = (p * (p / q).log()).sum()
    return matrix


class TestICSD(LogitLossTests):
    loss = ICSD
    name = "icsd"
    compiler = "inductor"
    settings = (
        {},
        {"temperature": 4.0},
        {"variant": "released"},
        {"variant": "released", "temperature": 2.0},
    )

    def test_equals_the_double_loop(self) -> None:
        for shape in ((2, 5, 7, 9), (1, 3, 1, 4), (3, 1, 2, 2)):
            student, teacher = pair(shape, torch.float64)
            for temperature in (1.0, 4.0):
                plain = value_and_grad(
                    lambda s, t, T=temperature: (double_loop(s, T) - double_loop(t, T)).square().mean(),
                    student,
                    teacher,
                )
                ours = value_and_grad(ICSD(temperature), student, teacher)
                torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)

    def test_equals_the_double_loop_over_the_labelled_pixels(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        valid = target != 255

        def plain(s: Tensor, t: Tensor) -> Tensor:
            return (double_loop(s, valid=valid) - double_loop(t, valid=valid)).square().mean()

        ours = value_and_grad(ICSD(ignore_index=255), student, teacher, target)
        torch.testing.assert_close(ours, value_and_grad(plain, student, teacher), rtol=1e-9, atol=1e-12)

    def test_the_order_of_the_classes_does_not_matter(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        order = torch.tensor([3, 0, 4, 1, 2])
        value, grad = value_and_grad(ICSD(), student, teacher)
        permuted, permuted_grad = value_and_grad(ICSD(), student[:, order], teacher[:, order])
        torch.testing.assert_close(permuted, value)
        torch.testing.assert_close(permuted_grad, grad[:, order])

    def test_a_constant_added_to_a_channel_does_not_matter(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        shift = torch.linspace(-30, 50, 5, dtype=torch.float64).view(1, 5, 1, 1)
        expected = value_and_grad(ICSD(), student, teacher)
        torch.testing.assert_close(value_and_grad(ICSD(), student + shift, teacher), expected)

    def test_the_paper_has_one_matrix_an_image(self) -> None:
        student, teacher = pair()
        each = [ICSD()(student[b : b + 1], teacher[b : b + 1]) for b in range(2)]
        torch.testing.assert_close(ICSD()(student, teacher), torch.stack(each).mean())

    def test_backward_under_autocast_stays_in_float32(self) -> None:
        student, teacher = pair()
        plain = value_and_grad(ICSD(), student, teacher)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = value_and_grad(ICSD(), student, teacher)
        torch.testing.assert_close(cast, plain, rtol=0, atol=0)

    def test_backward_twice_over_a_kept_graph(self) -> None:
        student, teacher = pair()
        value = ICSD()(student, teacher)
        first, second = (torch.autograd.grad(value, student, retain_graph=True)[0] for _ in range(2))
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_an_unknown_variant_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match=r"'papre', did you mean 'paper'\?"):
            ICSD(variant="papre")
        with pytest.raises(SegkdError, match="did you mean 'released'"):
            ICSD(variant="release")


class TestInterClassSimilarity:
    def test_equals_the_double_loop(self) -> None:
        logits = normal(5, [2, 4, 5, 6], 3.0)
        valid = some_labels((2, 5, 6)) != 255
        for temperature in (1.0, 2.5):
            for mask in (None, valid):
                torch.testing.assert_close(
                    inter_class_similarity(logits, temperature, mask), double_loop(logits, temperature, mask)
                )

    def test_gradcheck_of_the_matrix(self) -> None:
        logits = normal(6, [2, 3, 3, 4]).requires_grad_()
        valid = some_labels((2, 3, 4)) != 255
        valid[1] = False
        for mask in (None, valid):
            assert torch.autograd.gradcheck(lambda z, m=mask: inter_class_similarity(z, 1.5, m), (logits,))

    @pytest.mark.parametrize("scale", [1.0, 30.0, 60000.0])
    def test_a_divergence_is_at_least_zero_and_zero_on_the_diagonal(self, scale: float) -> None:
        matrix = inter_class_similarity(normal(8, [2, 6, 9, 11], scale).float())
        assert matrix.shape == (2, 6, 6)
        assert not matrix.diagonal(dim1=1, dim2=2).any()
        assert (matrix >= -1e-6 * scale).all()
        assert matrix.max() > 0.1

    def test_an_image_without_valid_pixel_gives_zeros(self) -> None:
        valid = torch.ones(2, 7, 9, dtype=torch.bool)
        valid[0] = False
        matrix = inter_class_similarity(pair()[0], valid=valid)
        assert not matrix[0].any()
        assert matrix[1].any()

    def test_memory_grows_with_the_map_and_the_matrix_alone(self) -> None:
        # At 60 classes and 64 positions an intermediate of C * C * h * w would be 60 times the map.
        logits = torch.randn(1, 60, 8, 8, requires_grad=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            inter_class_similarity(logits).sum().backward()
        largest = max(event.cpu_memory_usage for event in profile.events() if event.name.startswith("aten::"))
        assert 0 < largest <= 4 * 4 * max(logits.numel(), 60 * 60)

    def test_other_shapes_are_an_error(self) -> None:
        with pytest.raises(SegkdError, match=r"\(5, 7, 9\)"):
            inter_class_similarity(torch.zeros(5, 7, 9))


class TestReleasedSimilarity:
    def test_rows_have_unit_length_and_the_upper_triangle_is_mirrored(self) -> None:
        matrix = released_similarity(normal(9, [3, 5, 6, 7], 2.0))
        assert matrix.shape == (5, 5)
        torch.testing.assert_close(matrix.norm(dim=1), torch.ones(5, dtype=torch.float64))
        ratio = matrix / matrix.T  # a symmetric matrix with its rows scaled: ratio[i, j] = scale_i / scale_j
        torch.testing.assert_close(ratio[:, 0:1] * ratio[0:1, :], ratio)

    def test_the_order_of_the_classes_does_matter(self) -> None:
        logits = normal(9, [3, 5, 6, 7], 2.0)
        order = torch.tensor([3, 0, 4, 1, 2])
        permuted, matrix = released_similarity(logits[:, order]), released_similarity(logits)[order][:, order]
        assert not torch.allclose(permuted, matrix, rtol=1e-4)
