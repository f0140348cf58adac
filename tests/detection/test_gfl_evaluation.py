import pytest
import torch
from detection.tiny import detector, rectangles
from torch import Tensor
from torchvision.ops import box_iou

from segkd.detection.gfl import GFL


class TestEvaluation:
    def test_gives_boxes_labels_and_scores_in_the_given_pixels(self) -> None:
        model = detector(score_thresh=0.0, detections_per_img=40).eval()
        images = [torch.rand(3, 60, 90), torch.rand(3, 300, 150)]
        with torch.no_grad():
            found = model(images)
        for detections, image in zip(found, images, strict=True):
            assert {key: tuple(value.shape) for key, value in detections.items()} == {
                "boxes": (40, 4),
                "labels": (40,),
                "scores": (40,),
            }
            boxes, labels, scores = (detections[key] for key in ("boxes", "labels", "scores"))
            assert (boxes[:, 2:] >= boxes[:, :2]).all()
            assert (boxes >= 0).all()
            assert boxes[:, [0, 2]].max() <= image.shape[2] + 1e-3
            assert boxes[:, [1, 3]].max() <= image.shape[1] + 1e-3
            assert boxes[:, 3].max() > 0.9 * image.shape[1]
            assert set(labels.tolist()) <= {1, 2}
            assert torch.equal(scores, scores.sort(descending=True).values)

    def test_targets_are_not_read(self) -> None:
        images, _ = rectangles(1)
        model = detector(score_thresh=0.0).eval()
        torch.testing.assert_close(model(images, [{"boxes": "none"}]), model(images), rtol=0, atol=0)

    def test_an_untrained_model_scores_below_the_threshold(self) -> None:
        found = detector().eval()(rectangles(2)[0])
        assert [len(detections["boxes"]) for detections in found] == [0, 0]
        assert [tuple(detections["boxes"].shape) for detections in found] == [(0, 4), (0, 4)]

    def test_decodes_in_float32_under_autocast(self) -> None:
        model = detector(score_thresh=0.0).eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            (detections,) = model(rectangles(1)[0])
        assert detections["boxes"].dtype == detections["scores"].dtype == torch.float32

    def test_modes_can_be_switched(self) -> None:
        images, targets = rectangles(1)
        model = detector()
        before = model(images, targets)
        assert isinstance(model.eval()(images), list)
        torch.testing.assert_close(model.train()(images, targets), before, rtol=0, atol=0)


class TestPostprocess:
    """Two levels of one image of 200 x 100 pixels, with known scores and distances."""

    priors = torch.tensor([[18.0, 18, 82, 82], [20, 18, 84, 82]]), torch.tensor([[0.0, -20, 128, 108]])  # strides 8, 16

    def run(self, model: GFL, scores: list[list[float]], distances: list[float]) -> dict[str, Tensor]:
        logits = torch.tensor(scores).logit().split([2, 1])
        sides = torch.full((3, 4, 17), -100.0)
        for row, distance in enumerate(distances):
            sides[row, :, int(distance)] = 100.0
        (found,) = model.postprocess_detections(
            {
                "cls_logits": [x[None] for x in logits],
                "bbox_regression": [x[None] for x in sides.flatten(1).split([2, 1])],
            },
            [list(self.priors)],
            [(100, 200)],
        )
        return found

    def test_overlapping_boxes_of_one_class_are_suppressed(self) -> None:
        found = self.run(detector(), [[0.9, 0.04], [0.7, 0.6], [0.01, 0.3]], [3, 3, 2])
        # (50, 50) -+ 24 at 0.9; (52, 50) -+ 24 is suppressed in class 1 and stays in class 2, where it suppresses the
        # last: (64, 44) -+ 32 has an IoU of 0.5.
        torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.6, 0.3]))
        assert found["labels"].tolist() == [1, 2, 2]
        expected = torch.tensor([[26.0, 26, 74, 74], [28, 26, 76, 74], [32, 12, 96, 76]])
        torch.testing.assert_close(found["boxes"], expected)

    def test_the_threshold_of_the_suppression_is_an_option(self) -> None:
        first, second = self.run(detector(), [[0.01, 0.01], [0.01, 0.6], [0.01, 0.3]], [3, 3, 2])["boxes"]
        iou = box_iou(first[None], second[None]).item()
        for threshold, count in ((iou - 0.01, 1), (iou + 0.01, 2)):
            model = detector(nms_thresh=threshold)
            assert len(self.run(model, [[0.01, 0.01], [0.01, 0.6], [0.01, 0.3]], [3, 3, 2])["boxes"]) == count

    def test_boxes_are_clipped_to_the_image(self) -> None:
        found = self.run(detector(), [[0.9, 0.01], [0.01, 0.01], [0.01, 0.01]], [16, 0, 0])
        assert found["boxes"].tolist() == [[0.0, 0.0, 178.0, 100.0]]

    def test_scores_at_the_threshold_are_dropped(self) -> None:
        model = detector(score_thresh=0.5)
        assert self.run(model, [[0.5, 0.4], [0.1, 0.1], [0.1, 0.51]], [1, 1, 1])["labels"].tolist() == [2]

    def test_candidates_are_counted_per_level_and_detections_per_image(self) -> None:
        scores = [[0.9, 0.8], [0.2, 0.1], [0.6, 0.5]]
        assert len(self.run(detector(), scores, [1, 6, 2])["scores"]) == 6
        found = self.run(detector(topk_candidates=1), scores, [1, 6, 2])
        assert found["scores"].tolist() == pytest.approx([0.9, 0.6])
        found = self.run(detector(detections_per_img=3), scores, [1, 6, 2])
        assert found["scores"].tolist() == pytest.approx([0.9, 0.8, 0.6])
