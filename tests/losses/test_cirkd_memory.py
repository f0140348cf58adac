import copy

import pytest
import torch
import torch.nn.functional as F
from losses.base import some_labels, value_and_grad
from losses.features import FeatureLossTests
from torch import nn

from segkd.errors import SegkdError
from segkd.losses import CIRKDMemory


class TestCIRKDMemory(FeatureLossTests):
    loss = CIRKDMemory
    name = "cirkd_memory"
    settings = ({"classes": 5, "pixel_slots": 40, "region_slots": 6},)
    fullgraph = False  # what enters the queues is chosen outside of the graph

    def variants(self, channels: int = 5) -> list[nn.Module]:
        # In eval mode the queues stand still, and all of their slots are compared: nothing is drawn.
        return [loss.eval() for loss in super().variants(channels)]

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        teacher = self.pair(dtype=torch.float64)[1].abs()
        (loss,) = super().variants(8)
        loss.double().projector = nn.Identity()
        loss.projector.channels = (8, 8)
        value, grad = value_and_grad(loss, teacher, teacher.clone(), some_labels())
        assert value == 0
        assert not grad.any()

    def test_equals_the_definition(self) -> None:
        student, teacher = self.pair()
        (loss,) = self.variants()
        valid = some_labels() != 255
        s, t = (F.normalize(x, dim=1).permute(0, 2, 3, 1)[valid] for x in (loss.projector(student), teacher))
        expected = torch.zeros(())
        for queue in (loss.pixels, loss.regions):
            s_, t_ = (x @ queue.vectors.flatten(0, 1).T / 0.1 for x in (s, t))
            expected = expected + F.kl_div(F.log_softmax(s_, 1), F.softmax(t_, 1), reduction="batchmean")
        torch.testing.assert_close(loss(student, teacher, some_labels()), expected)

    def test_a_batch_enters_the_queues_and_wraps_around(self) -> None:
        _, teacher = self.pair()
        loss = CIRKDMemory(classes=2, pixel_slots=20, region_slots=3, max_pixels=6)
        loss.prepare(teacher, teacher)
        before = loss.pixels.vectors.clone()
        target = torch.full((2, 7, 9), 255)
        target[0, 0, :4], target[0, 1], target[1, 2] = 0, 1, 1  # 4 pixels of class 0, then 9 and 9 of class 1
        loss(teacher, teacher, target)
        assert loss.pixels.pointer.tolist() == [4, 12]
        assert loss.regions.pointer.tolist() == [1, 2]
        vectors = F.normalize(teacher, dim=1)
        torch.testing.assert_close(loss.pixels.vectors[0, :4], vectors[0, :, 0, :4].T)
        region = F.normalize(vectors[1, :, 2].mean(1), dim=0)
        torch.testing.assert_close(loss.regions.vectors[1, 1], region)
        own = vectors[0, :, 1].T
        assert all((own - x).abs().amax(1).min() < 1e-6 for x in loss.pixels.vectors[1, :6])  # of the class itself
        assert torch.equal(loss.pixels.vectors[0, 4:], before[0, 4:])
        loss(teacher, teacher, target)
        assert loss.pixels.pointer.tolist() == [8, 0]  # 12 + 6, then what reaches the end is put in the last slots
        assert loss.regions.pointer.tolist() == [2, 1]
        torch.testing.assert_close(loss.regions.vectors[1, 0], region)

    def test_the_first_pixels_of_the_image_enter_as_released(self) -> None:
        _, teacher = self.pair()
        target = torch.full((2, 7, 9), 255)
        target[1, 6, :4] = 0
        loss = CIRKDMemory(classes=2, pixel_slots=20, region_slots=3, variant="released")
        loss.prepare(teacher, teacher)
        loss(teacher, teacher, target)
        torch.testing.assert_close(loss.pixels.vectors[0, :4], F.normalize(teacher, dim=1)[1, :, 0, :4].T)

    def test_a_run_goes_on_from_what_was_saved_as_if_it_had_never_stopped(self) -> None:
        student, teacher = self.pair()
        options = {"classes": 5, "pixel_slots": 40, "region_slots": 6, "max_pixels": 3, "pixel_contrasts": 30}
        loss, other, given = (CIRKDMemory(**options) for _ in range(3))
        for each in (loss, other, given):
            each.prepare(student, teacher)
        loss(student, teacher, some_labels())
        state = copy.deepcopy(loss.state_dict())
        following = [loss(student, teacher, some_labels()) for _ in range(3)]
        other.load_state_dict(state)
        assert [other(student, teacher, some_labels()) for _ in range(3)] == following
        given.load_state_dict(state)
        given.generator = torch.Generator().manual_seed(1)
        assert [given(student, teacher, some_labels()) for _ in range(3)] != following

    def test_without_labelled_pixels_it_is_zero(self) -> None:
        student, teacher = self.pair()
        (loss,) = super().variants()
        value, grad = value_and_grad(loss, student, teacher, torch.full((2, 7, 9), 255))
        assert value == 0
        assert not grad.any()
        assert loss.pixels.pointer.tolist() == [0] * 5

    def test_what_does_not_fit_is_told(self) -> None:
        student, teacher = self.pair()
        (loss,) = super().variants()
        with pytest.raises(SegkdError, match="cirkd_memory has classes=5, and a label is 7"):
            loss(student, teacher, torch.full((2, 7, 9), 7))
        with pytest.raises(SegkdError, match="cirkd_memory compares by class: it needs labels"):
            loss(student, teacher)
        with pytest.raises(SegkdError, match=r"call prepare\(student, teacher\) first"):
            CIRKDMemory(classes=5)(student, teacher, some_labels())
        with pytest.raises(SegkdError, match="cirkd_memory was prepared for 5 and 8 channels, got student"):
            loss(teacher, student, some_labels())
        for options, says in (
            ({"classes": 0}, "classes must be at least 1, got 0"),
            ({"classes": 5, "max_pixels": 0}, "max_pixels must be at least 1, got 0"),
            ({"classes": 5, "variant": "fixed"}, "cirkd_memory has no variant 'fixed'"),
        ):
            with pytest.raises(SegkdError, match=says):
                CIRKDMemory(**options)
        other = CIRKDMemory(classes=4, pixel_slots=40, region_slots=6)
        other.prepare(student, teacher)
        with pytest.raises(SegkdError, match="pixels has 4 classes of 40 vectors of 8 values, and what is rest"):
            other.load_state_dict(loss.state_dict())
