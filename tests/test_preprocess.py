"""What a model's images are: normalised in the model's own units, whatever they came in."""

import pytest
import torch

from segkd.errors import SegkdError
from segkd.network import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_bytes_and_floats_of_one_image_come_out_alike() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    for white in (1.0, 255.0):
        mean, std = ([value * white for value in of] for of in (MEAN, STD))
        prepared = Preprocess(tuple(mean), tuple(std), white)
        torch.testing.assert_close(prepared(pixels), prepared(pixels.float() / 255))
        expected = (pixels.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        torch.testing.assert_close(prepared(pixels).double(), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_stays() -> None:
    assert Preprocess(MEAN, STD)(torch.rand(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_other_channels_are_refused_and_named() -> None:
    depth = Preprocess((0.0,), (1.0,))
    assert depth.channels == 1
    with pytest.raises(SegkdError, match=r"1 channels, got \(1, 3, 4, 4\)"):
        depth(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mean": (0.0,), "std": (1.0, 1.0)}, "one value for each channel"),
        ({"mean": (), "std": ()}, "one value for each channel"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"white": 0.0}, "above 0"),
    ],
)
def test_what_is_no_normalisation_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(SegkdError, match=says):
        Preprocess(**arguments)
