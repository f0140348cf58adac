"""Pixel weightings of one's own in a distiller."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller
from segkd.errors import SegkdError
from segkd.weighting import PixelWeights

IMAGES, MASKS = batch()


def entropy(student: Tensor, teacher: Tensor, auxiliary: Tensor | None, target: Tensor, progress: float) -> Tensor:
    """Return how sure the teacher is, (B, H, W), and nothing else."""
    p = teacher.softmax(1)
    return 1 + (p * p.log()).sum(1) / torch.tensor(float(CLASSES)).log()


def step(weighting: Any, teacher: Any = None, loss: Any = None, masks: Tensor = MASKS) -> tuple[Any, Tensor]:
    """Return a step's output, and the loss of each pixel."""
    distiller = Distiller(seeded(Net, 0), teacher, {}, loss or cross_entropy(), pixel_weighting=weighting).eval()
    out = distiller(IMAGES, masks, 0.5)
    return out, F.cross_entropy(out.student, MASKS, ignore_index=255, reduction="none")


def test_a_map_is_divided_by_the_valid_pixels() -> None:
    teacher, valid = seeded(Net, 1), MASKS != 255
    out, pixels = step(entropy, teacher)
    weights = entropy(None, teacher(IMAGES), None, None, 0) * valid  # type: ignore[arg-type]
    torch.testing.assert_close(out.pixel_weights, weights)
    torch.testing.assert_close(out.loss, (weights * pixels).sum() / valid.sum())


def test_weights_of_ones_own_are_taken_as_they_are() -> None:
    def own(student: Tensor, teacher: Tensor, auxiliary: Any, target: Tensor, progress: float) -> PixelWeights:
        return PixelWeights(torch.ones(target.shape), torch.full(target.shape, progress))

    out, pixels = step(own, seeded(Net, 1))
    torch.testing.assert_close(out.loss, 0.5 * pixels.sum())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_of_any_type_and_without_teacher(dtype: torch.dtype) -> None:
    def first_row(student: Tensor, teacher: None, auxiliary: None, target: Tensor, progress: float) -> Tensor:
        assert teacher is auxiliary is None
        assert not student.requires_grad
        weights = torch.zeros(target.shape, dtype=dtype)
        weights[:, 0] = 1
        return weights

    out, pixels = step(first_row)
    torch.testing.assert_close(out.loss.float(), pixels[:, 0].sum() / (MASKS != 255).sum())


def test_one_that_reads_no_teacher_needs_none_of_several() -> None:
    class Ones(nn.Module):
        teacher = None

        def forward(self, student: Tensor, teacher: Any, auxiliary: Any, target: Tensor, progress: float) -> Tensor:
            assert teacher is None
            return torch.ones(target.shape)

    out, pixels = step(Ones(), {"one": seeded(Net, 1), "features": seeded(Net, 2).encoder})
    torch.testing.assert_close(out.loss, pixels.sum() / (MASKS != 255).sum())


def test_the_auxiliary_head_is_handed_over_where_there_is_one() -> None:
    seen: list[Any] = []

    def own(student: Tensor, teacher: Tensor, auxiliary: Any, target: Tensor, progress: float) -> Tensor:
        seen.append(auxiliary)
        return torch.ones(target.shape)

    out, _ = step(own, seeded(WithAux, 1))
    assert seen[0] is out.teacher["aux"]
    step(own, seeded(Net, 1))
    assert seen[1] is None
    own.needs_auxiliary = True  # type: ignore[attr-defined]
    with pytest.raises(SegkdError, match="pixel_weighting needs a teacher with an auxiliary head"):
        step(own, seeded(Net, 1))


def test_its_own_label_to_leave_out_goes_before_the_losss() -> None:
    def own(student: Tensor, teacher: Tensor, auxiliary: Any, target: Tensor, progress: float) -> Tensor:
        return torch.ones(target.shape)

    loss = nn.CrossEntropyLoss(ignore_index=0)
    out, _ = step(own, loss=loss, masks=MASKS.clamp(max=CLASSES - 1))
    assert torch.equal(out.pixel_weights == 0, MASKS == 0)
    own.ignore_index = 1  # type: ignore[attr-defined]
    out, _ = step(own, loss=loss, masks=MASKS.clamp(max=CLASSES - 1))
    assert torch.equal(out.pixel_weights == 0, MASKS == 1)


@pytest.mark.parametrize(("given", "says"), [(torch.ones(2, 4, 4), r"\(2, 4, 4\)"), (1.0, "float"), (None, "NoneType")])
def test_what_is_no_map(given: Any, says: str) -> None:
    with pytest.raises(SegkdError, match=rf"the labels' shape \(2, 16, 24\), got {says}"):
        step(lambda *_: given)
