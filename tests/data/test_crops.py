"""Where in an image a view lies, held against pixels that say where they were."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trees import make_camvid

from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.transforms import train_transform

SIZES = [(61, 83), (80, 120)]


def places(height: int, width: int) -> np.ndarray:
    """Return an image whose pixels hold their own middle, x and y, as shares of its width and height."""
    y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    return np.stack([x / width, y / height, 0 * x], axis=2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {"crop": (32, 48), "resize": (60, 90), "scale": (0.6, 1.7)},
        {"crop": (32, 48), "scale": (0.5, 2.0)},
        {"crop": (100, 140), "scale": (0.7, 0.9)},  # all of the image, and padding
        {"crop": None, "resize": (50, 64)},
        {"crop": (32, 48), "flip": 0.0},
    ],
)
def test_it_is_where_the_pixels_come_from(size: Sequence[int], options: dict[str, Any]) -> None:
    transform = train_transform(**options).with_crops()
    image, seen = np.zeros((*size, 3), np.uint8), set()
    for seed in range(20):
        _, moved, crop = transform.apart(image, None, seed, places(*size))
        assert crop is not None
        left, top, right, bottom = crop
        seen.add(left < right)
        height, width = moved.shape[:2]
        x = left + (np.arange(width) + 0.5) / width * (right - left)
        y = top + (np.arange(height) + 0.5) / height * (bottom - top)
        # A pixel of the view in shares of the image; at the image's border interpolation repeats its last pixels.
        pixel = abs(right - left) / width, (bottom - top) / height
        inside_x, inside_y = (x > 0.03) & (x < 0.97), (y > 0.03) & (y < 0.97)
        assert inside_x.any()
        assert inside_y.any()
        inner = moved[inside_y][:, inside_x]
        assert np.abs(inner[..., 0] - x[inside_x]).max() < 0.2 * pixel[0]
        assert np.abs(inner[..., 1] - y[inside_y, None]).max() < 0.2 * pixel[1]
    assert seen == ({True} if options.get("flip") == 0.0 else {True, False})


def test_it_changes_no_view_and_comes_in_batches(tmp_path: Path) -> None:
    spec = read_spec(make_camvid(tmp_path))
    transform = train_transform((32, 48), scale=(0.5, 2.0), color_jitter=0.3)
    plain = SeededDataset(spec, "train", transform, seed=3)
    told = SeededDataset(spec, "train", transform, seed=3, crops=True)
    for key in ((0, 0), (1, 2)):
        item, other = plain[key], told[key]
        assert "crop" not in item
        assert all(torch.equal(item[name], other[name]) for name in ("image", "mask"))
    batch = SeededDataset.collate([told[0, 0], told[0, 1]])
    assert batch["crop"].dtype == torch.float32
    assert batch["crop"].shape == (2, 4)
    whole = told.whole(train_transform(resize=(60, 90), flip=0.0))
    assert whole.view((5, 1)) == (0, 1)
    assert torch.equal(whole[0, 1]["image"], whole[7, 1]["image"])
    assert whole[0, 1]["image"].shape == (3, 60, 90)
    assert told[0, 0]["image"].shape == (3, 32, 48)
