"""What a teacher sees instead of the images: depth of 16 bits beside CamVid's."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from trees import make_bccd, make_camvid

from segkd.data.check import check_dataset
from segkd.data.dataset import SeededDataset
from segkd.data.description import DatasetSpec, read_spec
from segkd.data.loading import train_loader
from segkd.data.transforms import eval_transform, train_transform
from segkd.errors import SegkdError

RAMP = (np.arange(64)[:, None] * 500 + np.arange(96)).astype(np.uint16)


def with_depth(root: Path, pattern: str = "depth/*.png") -> DatasetSpec:
    path = make_camvid(root)
    content = yaml.safe_load(path.read_text())
    content["splits"]["train"]["images_teacher"] = pattern
    path.write_text(yaml.safe_dump(content))
    (root / "depth").mkdir()
    for index in range(3):
        Image.fromarray(RAMP + index).save(root / f"depth/0001TP_{index:06d}.png")
    return read_spec(path)


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    return with_depth(tmp_path)


def test_it_is_paired_by_the_star_and_grey_of_16_bits_is_a_share_of_white(spec):
    data = SeededDataset(spec, "train", eval_transform())
    for index in range(3):
        second = data[index]["image_teacher"]
        assert (second.dtype, tuple(second.shape)) == (torch.float32, (1, 64, 96))
        np.testing.assert_allclose(second[0].numpy() * 65535, RAMP + index, rtol=1e-6)
    assert "image_teacher" not in SeededDataset(spec, "val", eval_transform())[0]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3)])
def test_other_images_are_taken_too(spec, mode, channels):
    Image.new(mode, (96, 64), "white").save(spec.resolve_root() / "depth/0001TP_000001.png")
    second = SeededDataset(spec, "train", eval_transform())[1]["image_teacher"]
    assert (second.dtype, tuple(second.shape)) == (torch.float32, (channels, 64, 96))
    assert (second == 1).all()


def test_it_is_cropped_flipped_and_scaled_as_the_image_and_nothing_else_is_done_to_it(spec):
    """The image shows the ramp as the second input does, in 8 bits, but its colours are jittered and blurred."""
    options = {"crop": (40, 50), "scale": (0.5, 1.5)}
    plain, jittered = train_transform(**options), train_transform(**options, color_jitter=0.5, blur=0.5)
    shown = (RAMP >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)
    second, label = RAMP[..., None].astype(np.float32) / 65535, np.zeros((64, 96), np.uint8)
    for seed in range(20):
        (image, mask), moved, _ = plain.apart(shown, label, seed, second)
        assert moved.shape == (40, 50, 1)
        inside = mask != 255
        assert np.abs(image[..., 0][inside] - moved[..., 0][inside] * 65535 / 256).max() < 2
        assert (moved[..., 0][~inside] == 0).all()
        (other, _), same, _ = jittered.apart(shown, label, seed, second)
        np.testing.assert_array_equal(moved, same)
        np.testing.assert_array_equal(other, jittered(shown, label, seed).image)
        assert not np.array_equal(image, other)


def test_it_has_no_jitter_also_where_the_images_is_the_students_own(spec):
    transform = train_transform((32, 48), color_jitter=0.5)
    own, shared = (SeededDataset(spec, "train", transform, views=1, own_jitter=own) for own in (True, False))
    for index in range(3):
        seen = [data[epoch, index]["image_teacher"] for data in (own, shared) for epoch in (0, 1)]
        assert all(torch.equal(seen[0], each) for each in seen)
        assert not torch.equal(own[0, index]["image"], own[1, index]["image"])


def test_padding_of_colours_is_their_mean():
    image, label = np.full((20, 20, 3), 200, np.uint8), np.zeros((20, 20), np.uint8)
    (padded, mask), moved, _ = train_transform((30, 30), flip=0.0).apart(
        image, label, second=image.astype(np.float32) / 255
    )
    np.testing.assert_allclose(moved * 255, padded, atol=1e-3)
    assert (mask == 255).sum() == 500


def test_a_batch_holds_them_all(spec):
    data = SeededDataset(spec, "train", train_transform((32, 32)), seed=1)
    batch = next(iter(train_loader(data, batch_size=3)))
    assert batch["image_teacher"].shape == (3, 1, 32, 32)


def test_one_that_lacks_or_has_another_size_is_named(spec):
    root = spec.resolve_root()
    Image.fromarray(RAMP[:10, :20]).save(root / "depth/0001TP_000000.png")
    (root / "depth/0001TP_000002.png").rename(root / "depth/0001TP_000002.tif")
    lacks = (
        f"camvid train: image {root}/train/0001TP_000002.png has no second input {root}/depth/0001TP_000002.png: "
        'write "depth/*.{png,tif}"'
    )
    size = (
        f"second input {root}/depth/0001TP_000000.png is 20x10, but image {root}/train/0001TP_000000.png is 96x64 "
        "(width x height)"
    )
    with pytest.raises(SegkdError) as error:
        SeededDataset(spec, "train", eval_transform())
    assert str(error.value) == lacks
    assert check_dataset(spec).problems == [lacks, size]
    (root / "depth/0001TP_000002.tif").rename(root / "depth/0001TP_000002.png")
    with pytest.raises(SegkdError) as error:
        SeededDataset(spec, "train", eval_transform())[0]
    assert str(error.value) == size


def test_what_it_cannot_be(tmp_path):
    with pytest.raises(SegkdError, match=r"splits.train.images_teacher 'depth/a.png' must hold 1 \*, as the images do"):
        with_depth(tmp_path, "depth/a.png")
    path = make_bccd(tmp_path / "bccd")
    content = yaml.safe_load(path.read_text())
    content["splits"]["train"]["images_teacher"] = "depth/*.png"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SegkdError, match=r"splits.train.images_teacher is for masks"):
        read_spec(path)


def test_images_without_labels_have_none(spec):
    images = [spec.resolve_root() / "val/0001TP_000000.png"]
    with pytest.raises(SegkdError, match=r"see images_teacher, which images without labels lack"):
        SeededDataset(spec, "train", eval_transform(), unlabelled=images)
