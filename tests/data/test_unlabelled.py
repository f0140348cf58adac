import itertools
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trees import make_camvid, make_coco

from segkd.data.check import check_unlabelled
from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.loading import Batches, endless, train_loader
from segkd.data.transforms import train_transform
from segkd.errors import SegkdError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "extra").mkdir()
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (50, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"extra/{index}.png")
    return tmp_path


@pytest.fixture
def dataset(root: Path) -> SeededDataset:
    spec = read_spec(make_camvid(root, train=3))
    transform = train_transform((32, 48), scale=(0.5, 2.0), color_jitter=0.4)
    return SeededDataset(spec, "train", transform, seed=3, unlabelled=spec.find_images("extra/*.png"))


def test_their_pixels_count_for_nothing_and_the_batch_says_which_they_are(dataset):
    batch = next(iter(train_loader(dataset, batch_size=4, share=3, seed=3)))
    assert batch["labelled"].tolist() == [True, False, False, False]
    assert batch["image"].shape == (4, 3, 32, 48)
    assert (batch["mask"][1:] == 255).all()
    assert (batch["mask"][0] != 255).any()
    assert (batch["index"] >= 3).tolist() == [False, True, True, True]
    plain = next(iter(train_loader(dataset, batch_size=4, seed=3)))
    assert plain["labelled"].all()


def test_they_are_augmented_as_the_others(dataset):
    first, again, later = (dataset[key]["image"] for key in ((0, 4), (0, 4), (1, 4)))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_each_kind_is_drawn_in_an_order_of_its_own_that_repeats_nothing():
    batches = list(islice(Batches(6, 8, 4, 2, seed=1), 12))
    labelled = [key for batch in batches for key in batch[:2]]
    unlabelled = [(epoch, index - 6) for batch in batches for epoch, index in batch[2:]]
    assert labelled == list(islice(endless(6, 1), 24))
    for epoch in range(3):
        assert sorted(index for number, index in unlabelled if number == epoch) == list(range(8))
    assert [index for epoch, index in unlabelled if epoch == 0] != [index for epoch, index in unlabelled if epoch == 1]
    alike = Batches(8, 8, 4, 2, seed=1)  # of one size the two orders still differ
    batch = list(islice(alike, 4))
    assert [key for keys in batch for key in keys[:2]] != [(e, i - 8) for keys in batch for e, i in keys[2:]]


@pytest.mark.parametrize("world", [1, 2])
def test_resuming_goes_on_where_it_stopped_whatever_the_number_of_ranks(world):
    whole = [list(islice(Batches(5, 7, 4, 1, 3, 0, rank, world), 9)) for rank in range(world)]
    for done in (1, 4):
        resumed = [list(islice(Batches(5, 7, 4, 1, 3, done * 4 * world, r, world), 9 - done)) for r in range(world)]
        assert resumed == [batches[done:] for batches in whole]
    dealt = sorted(key for batches in whole for batch in batches for key in batch[3:])
    assert dealt == sorted((e, 5 + i) for e, i in islice(endless(7, 3, stream=1), 9 * world))


def test_workers_change_nothing(dataset):
    alone, helped = (islice(train_loader(dataset, batch_size=3, share=1, workers=n, seed=3), 5) for n in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_images_with_boxes_take_them_too(root):
    spec = read_spec(make_coco(root))
    data = SeededDataset(
        spec, "train", train_transform(), seed=3, masks=True, unlabelled=spec.find_images("extra/*.png")
    )
    batch = next(iter(train_loader(data, batch_size=4, share=2)))
    assert batch["labelled"].tolist() == [True, True, False, False]
    for image, target in itertools.islice(zip(batch["images"], batch["targets"], strict=True), 2, 4):
        assert image.shape == (3, 50, 70)
        assert (target["boxes"].shape, target["labels"].shape) == ((0, 4), (0,))
        assert target["masks"].shape == (0, 50, 70)


def test_several_patterns_find_each_image_once_and_labelled_ones_are_left_out(root, dataset):
    spec = dataset.spec
    assert len(spec.find_images(["extra/*.png", str(root / "extra/1*.png"), "extra/*.{jpg,png}"])) == 5
    images = spec.find_images(["extra/*.png", "train/*.png"])
    few = SeededDataset(spec, "train", dataset.transform, limit=1, unlabelled=images)
    assert (len(few), len(few.unlabelled)) == (1, 7)
    with pytest.raises(SegkdError, match="finds only images of the split that is trained on"):
        SeededDataset(spec, "train", dataset.transform, unlabelled=spec.find_images("train/*.png"))


def test_an_image_is_known_by_whatever_path_or_link(root, dataset, monkeypatch):
    monkeypatch.chdir(root)
    (root / "linked").symlink_to(root / "train")
    (root / "links").mkdir()
    for image in (root / "train").glob("*.png"):
        (root / "links" / f"to_{image.name}").symlink_to(image)
    spec, rest = dataset.spec, "train/rest/0.3"
    for pattern in (str(root / "train/*.png"), "train/../train/*.png", "linked/*.png", "links/*.png"):
        images = spec.find_images(["extra/*.png", pattern], ".")
        data = SeededDataset(spec, rest, dataset.transform, ".", limit=1, unlabelled=images)
        assert len(data.samples) == 3  # one of them labelled, one held out, and one is left
        assert len({image.resolve() for image in data.unlabelled}) == len(data.unlabelled) == 6
        held_out = SeededDataset(spec, "train/held_out/0.3", dataset.transform, ".")
        apart = [data.samples.images[place] for place in (*data.indices, *held_out.indices)]
        assert not {image.resolve() for image in apart} & {image.resolve() for image in data.unlabelled}
    images = spec.find_images(["train/*.png", "linked/*.png", "links/*.png"], ".")
    assert len(SeededDataset(spec, rest, dataset.transform, ".", limit=1, unlabelled=images).unlabelled) == 1


def test_a_pattern_that_finds_none_says_so(dataset):
    with pytest.raises(SegkdError, match=r'no image matches .*extra/\*\.jpg: write "extra/\*\.{jpg,png}"$'):
        dataset.spec.find_images("extra/*.jpg")


def test_the_check_reads_them(root, dataset):
    (root / "extra/2.png").write_bytes(b"x")
    report = check_unlabelled(dataset.unlabelled, 10**9)
    assert report.lines() == ["  unlabelled: 5 images; width x height 70x50 (4)"]
    (problem,) = report.problems
    assert problem.startswith(f"cannot read image {root}/extra/2.png: ")
