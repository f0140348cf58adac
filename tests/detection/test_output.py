import pytest
import torch
from detection.detectors import CLASSES, DENSE, NO_BOXES, batch, crosskd, detector, distil

from segkd.detection.adapter import DetectionAdapter
from segkd.detection.output import DenseOutput

IMAGES, TARGETS = batch()


def output_of(kind: str) -> tuple[DenseOutput, list[dict[str, torch.Tensor]]]:
    model, adapter = detector(kind), DetectionAdapter()
    adapter.prepare(model, None, {})
    inputs, _, targets = adapter.inputs(IMAGES, TARGETS)
    return adapter.run("student", model, inputs), targets


@pytest.mark.parametrize("kind", DENSE)
class TestDenseOutput:
    def test_matches_as_the_detector_does_and_once(self, kind: str) -> None:
        output, targets = output_of(kind)
        cells = [x.shape[2] * x.shape[3] * output.head.anchors_per_cell for x in output.maps.values()]
        assert output.matched is None
        matched = output.match(targets)
        torch.testing.assert_close(
            matched,
            output.head.match(targets, output.anchors, cells, output.images.image_sizes),
            rtol=0,
            atol=0,
        )
        assert any((indices >= 0).any() for indices in matched)
        assert output.match([NO_BOXES] * 2) is matched
        assert all(len(indices) == len(a) == sum(cells) for indices, a in zip(matched, output.anchors, strict=True))

    def test_losses_are_float32_under_autocast(self, kind: str) -> None:
        output, targets = output_of(kind)
        exact = output.loss(targets)
        output.predictions = {name: x.bfloat16() for name, x in output.predictions.items()}
        with torch.autocast("cpu", torch.bfloat16):
            losses = output.loss(targets)
        for name, value in losses.items():
            assert value.dtype == torch.float32, name
            torch.testing.assert_close(value, exact[name], rtol=0.01, atol=1e-3)


def test_a_distiller_matches_for_the_student_alone() -> None:
    out = distil(detector("gfl"), detector("gfl", 1), crosskd())(IMAGES, TARGETS)
    assert [len(indices) for indices in out.student.matched] == [out.student.predictions["cls_logits"].shape[1]] * 2
    assert out.student.predictions["cls_logits"].shape[2] == CLASSES
    assert out.teacher.matched is None
