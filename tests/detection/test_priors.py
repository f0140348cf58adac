import pytest
import torch
from detection.figures import MAPS, PRIORS
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from segkd.detection.priors import SquarePriors, centres_and_strides, decode, encode
from segkd.errors import SegkdError


def batch(count: int, height: int, width: int) -> ImageList:
    return ImageList(torch.zeros(count, 3, height, width), [(height, width)] * count)


def maps(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.zeros(2, 4, height, width) for height, width in sizes]


class TestSquarePriors:
    def test_level_by_level_and_row_by_row(self) -> None:
        priors = SquarePriors()(batch(2, 256, 320), maps(*((rows, columns) for _, rows, columns in MAPS)))
        assert len(priors) == 2
        assert all(torch.equal(of_image, PRIORS) for of_image in priors)

    def test_strides_are_fixed_on_odd_sizes(self) -> None:
        # P6 and P7 round up: 800 / 13 is 61.5 and 1344 / 21 is 64.
        sizes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
        (priors, _) = SquarePriors()(batch(2, 800, 1344), maps(*sizes))
        centres, strides = centres_and_strides(priors)
        expected = torch.cat(
            [torch.full((h * w, 1), s) for (h, w), s in zip(sizes, (8.0, 16, 32, 64, 128), strict=True)]
        )
        assert torch.equal(strides, expected)
        assert centres[-1].tolist() == [10 * 128, 6 * 128]

    def test_the_smallest_batch_has_one_cell(self) -> None:
        (priors, _) = SquarePriors()(batch(2, 32, 32), maps((4, 4), (2, 2), (1, 1), (1, 1), (1, 1)))
        assert priors.shape == (23, 4)

    @pytest.mark.parametrize(
        "sizes",
        [
            [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)],  # P2..P6
            [(32, 40), (16, 20), (8, 10)],
            [(32, 40), (16, 20), (8, 10), (4, 5), (3, 3)],
            [(32, 40), (16, 20), (8, 12), (4, 5), (2, 3)],
        ],
    )
    def test_other_strides_are_an_error(self, sizes: list[tuple[int, int]]) -> None:
        with pytest.raises(SegkdError, match="strides 8, 16, 32, 64, 128; for images of 256x320 it gave") as error:
            SquarePriors()(batch(2, 256, 320), maps(*sizes))
        assert ", ".join(f"{h}x{w}" for h, w in sizes) in str(error.value)


class TestCoding:
    def test_a_distribution_on_whole_bins_decodes_exactly(self) -> None:
        sides = torch.full((1, 4, 17), -100.0)
        for side, distance in enumerate((1, 2, 3, 16)):
            sides[0, side, distance] = 100
        prior = torch.tensor([[96.0, 32.0, 224.0, 160.0]])  # stride 16, centre (160, 96)
        expected = torch.tensor([[160.0 - 16, 96 - 32, 160 + 48, 96 + 256]])
        torch.testing.assert_close(decode(sides.flatten(1), prior), expected)
        torch.testing.assert_close(encode(expected, prior), torch.tensor([[1.0, 2.0, 3.0, 16.0]]))

    def test_encode_is_the_inverse_of_decode(self) -> None:
        generator = torch.Generator().manual_seed(0)
        regression = torch.randn(2, len(PRIORS), 68, generator=generator, dtype=torch.float64)
        boxes = decode(regression, PRIORS)
        assert boxes.shape == (2, len(PRIORS), 4)
        assert (boxes[..., 2:] > boxes[..., :2]).all()
        distances = encode(boxes, PRIORS)
        torch.testing.assert_close(decode(regression, PRIORS * 2), boxes * 2)
        centres, strides = centres_and_strides(PRIORS)
        again = torch.cat([centres - distances[..., :2] * strides, centres + distances[..., 2:] * strides], -1)
        torch.testing.assert_close(again, boxes)

    def test_decodes_in_float32_under_autocast(self) -> None:
        regression = torch.randn(len(PRIORS), 68).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            boxes = decode(regression, PRIORS)
        assert boxes.dtype == torch.float32
        assert torch.equal(boxes, decode(regression.float(), PRIORS))

    def test_beyond_a_side_the_distance_is_negative(self) -> None:
        prior = torch.tensor([[-32.0, -32.0, 32.0, 32.0]])
        assert encode(torch.tensor([[8.0, -8.0, 16.0, 24.0]]), prior).tolist() == [[-1.0, 1.0, 2.0, 3.0]]
