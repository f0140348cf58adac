import numpy as np
import pytest
from trees import blocks

from segkd.data.transforms import MEAN_COLOR, eval_transform, train_transform
from segkd.errors import SegkdError


def pair(size=(64, 96)):
    """A mask and an image whose red channel is the mask, ten times, so that each shows what happened to the other."""
    mask = blocks(12, size)
    return np.stack([mask * 10, mask * 0 + 100, mask * 0 + 50], axis=-1), mask


def test_without_options_pixels_pass_unchanged():
    image, mask = pair()
    out, labels = train_transform((64, 96), flip=0.0)(image, mask, 3)
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(labels, mask)
    assert out.dtype == labels.dtype == np.uint8


def test_image_and_mask_stay_aligned_under_crop_and_flip():
    image, mask = pair()
    transform = train_transform((40, 48), flip=0.5)
    seen = set()
    for seed in range(20):
        out, labels = transform(image, mask, seed)
        assert labels.shape == (40, 48)
        np.testing.assert_array_equal(out[..., 0], labels * 10)
        seen.add(labels.tobytes())
    assert len(seen) > 10


def test_image_and_mask_stay_aligned_under_scale():
    image, mask = pair((128, 192))
    for factor in (0.5, 0.75, 1.5, 2.0):
        transform = train_transform((32, 48), scale=(factor, factor), flip=0.0)
        for seed in range(5):
            out, labels = transform(image, mask, seed)
            assert set(np.unique(labels)) <= {*range(12), 255}
            # Interpolation mixes values at the edges between stripes only.
            assert (np.abs(out[..., 0].astype(int) - labels * 10.0) < 6).mean() > 0.85


def test_padding_has_mean_colour_and_ignore_index():
    image, mask = pair((10, 12))
    out, labels = train_transform((32, 32), flip=0.0, ignore_index=200)(image, mask, 1)
    padded = labels == 200
    assert padded.sum() == 32 * 32 - 10 * 12
    assert (out[padded] == MEAN_COLOR).all()
    np.testing.assert_array_equal(out[~padded][:, 0], labels[~padded] * 10)


def test_shrinking_averages_the_image_and_picks_labels():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[::2] = 200  # stripes that plain bilinear at a quarter of the size would keep or lose
    out, _ = train_transform((16, 16), resize=(16, 16), flip=0.0)(image, np.zeros((64, 64), np.uint8), 0)
    assert (out == 100).all()
    labels = train_transform((16, 16), resize=(16, 16), flip=0.0)(image, blocks(12, (64, 64)), 0)[1]
    assert set(np.unique(labels)) <= set(range(12))


def test_the_seed_alone_decides():
    image, mask = pair()
    options = {"scale": (0.5, 2.0), "color_jitter": 0.5}
    one, other = train_transform((40, 48), **options), train_transform((40, 48), **options)
    other(image, mask, 99)  # what was drawn before must not matter
    for seed in (0, 1, 2**32 - 1):
        for first, second in zip(one(image, mask, seed), other(image, mask, seed), strict=True):
            np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one(image, mask, 0)[0], one(image, mask, 1)[0])


def test_draws_of_different_steps_are_independent():
    """With one seed for every step, a small scale would always come with a crop at the top."""
    rows = np.arange(200, dtype=np.uint8)
    image = np.broadcast_to(rows[:, None, None], (200, 100, 3)).copy()
    transform = train_transform((32, 32), scale=(0.5, 2.0))
    scales, tops = [], []
    for seed in range(300):
        column = transform(image, image[..., 0], seed)[0][:, 0, 0].astype(float)
        scale = 31 / (column[-1] - column[0])
        scales.append(scale)
        tops.append(column[0] * scale / (200 * scale - 32))  # 0: crop at the top, 1: at the bottom
    assert np.ptp(scales) > 1.2
    assert np.ptp(tops) > 0.9
    assert abs(np.corrcoef(scales, tops)[0, 1]) < 0.2


def test_flips_come_as_often_as_asked():
    ramp = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
    image = np.stack([ramp] * 3, axis=-1)
    for flip, low, high in ((0.0, 0, 0), (0.25, 0.15, 0.35), (1.0, 1, 1)):
        transform = train_transform((32, 32), flip=flip)
        flipped = [np.diff(transform(image, ramp, seed)[0][0, :2, 0].astype(int)) < 0 for seed in range(200)]
        assert low <= np.mean(flipped) <= high


def test_colour_jitter_changes_the_image_only():
    image, mask = pair()
    out, labels = train_transform((64, 96), flip=0.0, color_jitter=0.5)(image, mask, 0)
    assert not np.array_equal(out, image)
    np.testing.assert_array_equal(labels, mask)


def test_validation_resizes_the_image_only():
    image, mask = pair()
    out, labels = eval_transform((32, 40))(image, mask)
    assert out.shape == (32, 40, 3)
    assert labels is mask
    assert eval_transform()(image, mask)[0].shape == image.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 10)}, "crop must be"),
        ({"crop": (10,)}, "crop must be"),
        ({"crop": (8, 8), "resize": (8, -1)}, "resize must be"),
        ({"crop": (8, 8), "scale": (2.0, 0.5)}, "scale must be"),
        ({"crop": (8, 8), "scale": (0.0, 1.0)}, "scale must be"),
        ({"crop": (8, 8), "flip": 1.5}, "flip must lie in 0 to 1, got 1.5"),
        ({"crop": (8, 8), "color_jitter": -0.1}, "color_jitter must lie"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(SegkdError, match=message):
        train_transform(**options)
