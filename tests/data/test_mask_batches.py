import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from trees import make_camvid

from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.loading import eval_loader, train_loader
from segkd.data.masks import MaskSpec
from segkd.data.transforms import eval_transform, train_transform
from segkd.errors import SegkdError


def augment():
    return train_transform((32, 48), scale=(0.5, 2.0), color_jitter=0.4)


@pytest.fixture
def spec(tmp_path):
    return read_spec(make_camvid(tmp_path, train=5, val=5), MaskSpec)


@pytest.fixture
def dataset(spec):
    return SeededDataset(spec, "train", augment(), seed=3)


def keys(batch):
    return batch["index"].tolist()


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key])


def test_item_types_and_values(spec):
    data = SeededDataset(spec, "val", eval_transform())
    item = data[1]
    assert item["image"].dtype == torch.uint8
    assert item["image"].shape == (3, 64, 96)
    assert item["mask"].dtype == torch.int64
    assert item["mask"].shape == (64, 96)
    assert item["index"] == 1
    image, mask = data.samples.read(1)
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0), image)
    np.testing.assert_array_equal(item["mask"], mask)


def test_augmentation_depends_on_seed_epoch_and_index_alone(spec, dataset):
    def image(data, key):
        return data[key]["image"]

    assert torch.equal(image(dataset, 2), image(dataset, (0, 2)))
    assert torch.equal(image(dataset, (4, 2)), image(SeededDataset(spec, "train", augment(), seed=3), (4, 2)))
    assert not torch.equal(image(dataset, (0, 2)), image(dataset, (1, 2)))
    assert not torch.equal(image(dataset, 2), image(SeededDataset(spec, "train", augment(), seed=4), 2))


def test_workers_change_nothing(dataset):
    with_two = list(islice(train_loader(dataset, batch_size=2, workers=2, seed=3), 6))
    assert_equal(islice(train_loader(dataset, batch_size=2, seed=3), 6), with_two)


def test_a_data_set_travels_to_workers_that_do_not_fork(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1, 2]["image"], dataset[1, 2]["image"])


def test_resuming_goes_on_where_it_stopped(dataset):
    whole = list(islice(train_loader(dataset, batch_size=2, seed=3), 7))
    resumed = islice(train_loader(dataset, batch_size=2, seed=3, start=3 * 2), 4)
    assert_equal(whole[3:], resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_sees_every_image_once_in_order(spec, workers):
    data = SeededDataset(spec, "val", eval_transform())
    loader = eval_loader(data, batch_size=2, workers=workers)
    assert [keys(batch) for batch in loader] == [[0, 1], [2, 3], [4]]
    assert len(loader) == 3
    assert [keys(batch) for batch in eval_loader(data, rank=1, world=2)] == [[1], [3]]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_surfaces_as_it_was_raised(spec, dataset, workers):
    path = dataset.samples.pairs[1].mask
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SegkdError) as error:
        list(islice(train_loader(dataset, batch_size=2, workers=workers), 4))
    assert str(error.value).startswith(f"cannot read mask {path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_mixed_sizes_in_a_validation_batch_say_what_to_do(spec, workers):
    pair = spec.samples("val").pairs[1]
    for path, shape in ((pair.image, (40, 48, 3)), (pair.mask, (40, 48))):
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(path)
    data = SeededDataset(spec, "val", eval_transform())
    with pytest.raises(SegkdError, match=r"mixes image sizes 48x40, 96x64 .*set validation\.batch_size=1$"):
        list(eval_loader(data, batch_size=2, workers=workers))
    assert len(list(eval_loader(data, batch_size=1))) == 5
    resized = SeededDataset(spec, "val", eval_transform((32, 32)))
    with pytest.raises(SegkdError, match="mixes mask sizes"):
        list(eval_loader(resized, batch_size=2))


def test_a_limit_beyond_the_split_is_told(spec):
    count = len(spec.samples("train"))
    for limit, told in ((count + 1, [f"data.limit is {count + 1}, and train has {count} images"]), (count, [])):
        data = SeededDataset(spec, "train", eval_transform(), limit=limit)
        assert [line for line in data.told() if "data.limit" in line] == told
