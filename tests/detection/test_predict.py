import numpy as np
import pytest
import torch
from networks import detector
from PIL import Image

from segkd.errors import SegkdError
from segkd.network import Network


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class ByHand(torch.nn.Module):
    """Finds the bounding box of what is white."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        (self.seen,) = images
        rows, columns = torch.where(self.seen[0] == 1)
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        return [{"boxes": box[None], "labels": torch.tensor([1]), "scores": torch.tensor([0.5]), "masks": None}]


def test_predict_gives_the_model_the_image_in_0_to_1():
    image = picture(50, 70) // 2
    image[10:20, 30:60] = 255
    student = Network(ByHand(), task="detection")
    found = student.predict(image)
    assert sorted(found) == ["boxes", "labels", "scores"]
    np.testing.assert_array_equal(found["boxes"], np.array([[30, 10, 60, 20]], np.float32))
    assert (found["boxes"].dtype, found["labels"].dtype, found["scores"].dtype) == (np.float32, np.int64, np.float32)
    np.testing.assert_allclose(student.module.seen.permute(1, 2, 0).numpy(), image / 255, atol=1e-6)
    np.testing.assert_array_equal(student.predict(Image.fromarray(image))["boxes"], found["boxes"])


def test_boxes_are_in_the_images_own_pixels():
    """The detector resizes to 64 to 96 pixels; the boxes come back in those of the image."""
    sure_of_nothing = {"score_thresh": 0.0}  # as random weights are
    found = detector(options=sure_of_nothing).predict(picture(200, 300))
    assert found["boxes"][:, 2].max() > 200
    assert found["boxes"][:, 2].max() <= 300
    assert found["boxes"][:, 3].max() <= 200
    assert (np.diff(found["scores"]) <= 0).all()
    assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"])


class Counting(torch.nn.Module):
    """Finds in each image one box, as large as the image."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, images):
        self.batches.append([tuple(image.shape) for image in images])
        whole = [torch.tensor([[0, 0, image.shape[2], image.shape[1]]]).float() for image in images]
        return [{"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.5])} for box in whole]


def test_a_batch_holds_images_of_one_size_and_comes_back_in_order():
    images = [picture(50, 70), picture(20, 30), Image.fromarray(picture(50, 70)), picture(70, 50)]
    student = Network(Counting(), task="detection")
    found = student.predict(images)
    assert student.module.batches == [[(3, 50, 70), (3, 50, 70)], [(3, 20, 30)], [(3, 70, 50)]]
    assert [each["boxes"].tolist() for each in found] == [
        [[0, 0, width, height]] for height, width in ((50, 70), (20, 30), (50, 70), (70, 50))
    ]
    assert student.predict([]) == []
    with pytest.raises(SegkdError, match="uint8"):
        student.predict([images[0], np.zeros((5, 5))])


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8)])
def test_predict_names_a_wrong_array(bad):
    with pytest.raises(SegkdError, match="uint8"):
        Network(ByHand(), task="detection").predict(bad)
