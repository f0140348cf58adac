import os
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import SIZE, make_coco, make_voc_detection, things, write_voc

from segkd.data.boxes import BoxSpec
from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.loading import eval_loader, train_loader
from segkd.data.transforms import eval_transform, train_transform
from segkd.detection.metrics import DetectionMetrics
from segkd.errors import SegkdError


def augment():
    return train_transform(scale=(0.5, 2.0), crop=(48, 64), color_jitter=0.4)


@pytest.fixture
def coco(tmp_path):
    return read_spec(make_coco(tmp_path, train=5, val=5), BoxSpec)


@pytest.fixture
def voc(tmp_path):
    return read_spec(make_voc_detection(tmp_path, train=5, val=5), BoxSpec)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
        assert same, key


def test_an_item_for_training(coco):
    data = SeededDataset(coco, "train", train_transform(flip=0.0), masks=True)
    item = data[1]
    assert {
        key: (value.dtype, tuple(value.shape)) for key, value in item.items() if key not in ("index", "epoch", "size")
    } == {
        "image": (torch.uint8, (3, 64, 96)),
        "boxes": (torch.float32, (3, 4)),
        "labels": (torch.int64, (3,)),
        "masks": (torch.uint8, (3, 64, 96)),
    }
    assert (item["index"], item["epoch"], item["size"]) == (1, 0, (64, 96))
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0), data.samples.read(1).image)
    expected = sorted(things(1, 80), key=lambda thing: thing.label)
    order = item["labels"].argsort()
    assert item["labels"][order].tolist() == [thing.label for thing in expected]
    torch.testing.assert_close(item["boxes"][order], torch.tensor([thing.box for thing in expected]).float())
    for box, mask in zip(item["boxes"].round().int().tolist(), item["masks"], strict=True):
        assert mask.sum() == mask[box[1] : box[3], box[0] : box[2]].sum() == (box[3] - box[1]) * (box[2] - box[0])
    assert "masks" not in SeededDataset(coco, "train", train_transform())[1]


def test_crowds_and_difficult_objects_are_for_evaluation_only(tmp_path):
    coco = read_spec(make_coco(tmp_path / "coco"), BoxSpec)
    training = SeededDataset(coco, "train", train_transform(), masks=True)[0]
    evaluation = SeededDataset(coco, "train", eval_transform(), masks=True)[0]
    assert len(training["boxes"]) == len(training["masks"]) == 3
    assert len(evaluation["boxes"]) == len(evaluation["masks"]) == 4
    assert evaluation["crowd"].sum() == 1
    assert evaluation["crowd"].dtype == evaluation["difficult"].dtype == torch.bool
    assert not {"crowd", "difficult", "area"} & training.keys()
    voc = read_spec(make_voc_detection(tmp_path / "voc"), BoxSpec)
    assert SeededDataset(voc, "train", train_transform())[0]["labels"].tolist() == [1, 2]
    item = SeededDataset(voc, "train", eval_transform())[0]
    assert (item["labels"].tolist(), item["difficult"].tolist()) == ([1, 2, 3], [False, False, True])


def test_a_difficult_object_of_a_file_is_no_crowd_to_the_metric(tmp_path):
    spec = read_spec(make_voc_detection(tmp_path), BoxSpec)
    path = tmp_path / "Annotations" / "2008_000000.xml"
    write_voc(path, SIZE, [("cat", (1, 1, 40, 40), True), ("cat", (51, 1, 90, 40), False)])
    item = SeededDataset(spec, "val", eval_transform())[0]
    boxes = torch.tensor([[4.0, 4, 8, 8], [50.0, 0, 90, 40]])
    metrics = DetectionMetrics(spec.class_names)
    metrics.update([{"boxes": boxes, "labels": item["labels"], "scores": torch.tensor([0.9, 0.5])}], [item])
    assert metrics.compute()["ap50"] == 0.5


def test_resizing_for_evaluation_takes_boxes_and_areas_along(coco):
    plain, resized = (SeededDataset(coco, "val", eval_transform(size), masks=True)[1] for size in (None, (128, 48)))
    assert resized["image"].shape == (3, 128, 48)
    assert resized["masks"].shape == (3, 128, 48)
    torch.testing.assert_close(resized["boxes"], plain["boxes"] * torch.tensor([0.5, 2, 0.5, 2]))
    torch.testing.assert_close(resized["area"], plain["area"])
    assert resized["size"] == (64, 96)
    larger = SeededDataset(coco, "val", eval_transform((128, 192)))[1]
    torch.testing.assert_close(larger["area"], 4 * plain["area"])


def test_a_limit_keeps_each_image_with_its_own_boxes(coco):
    few, whole = (
        SeededDataset(coco, "val", eval_transform(), limit=3),
        SeededDataset(coco, "val", eval_transform()),
    )
    assert len(few) == 3
    for index, place in enumerate((0, 2, 4)):
        assert_equal({**few[index], "index": place}, whole[place])


def test_images_without_boxes_are_background(coco):
    for transform in (train_transform(crop=(48, 64)), eval_transform()):
        item = SeededDataset(coco, "train", transform, masks=True)[4]
        assert (item["boxes"].shape, item["labels"].shape) == ((0, 4), (0,))
        assert item["masks"].shape == (0, *item["image"].shape[1:])
    assert len(SeededDataset(coco, "train", augment())) == 5


def test_augmentation_depends_on_seed_epoch_and_index_alone(coco):
    data = SeededDataset(coco, "train", augment(), seed=3, masks=True)
    assert_equal(data[2], data[0, 2])
    assert_equal(data[4, 2], SeededDataset(coco, "train", augment(), seed=3, masks=True)[4, 2])
    assert not torch.equal(data[0, 2]["image"], data[1, 2]["image"])
    assert not torch.equal(data[2]["image"], SeededDataset(coco, "train", augment(), seed=4)[2]["image"])
    assert_equal(pickle.loads(pickle.dumps(data))[1, 2], data[1, 2])


def test_workers_change_nothing(coco):
    data = SeededDataset(coco, "train", augment(), seed=3)
    alone, helped = (list(islice(train_loader(data, batch_size=2, workers=n, seed=3), 6)) for n in (0, 2))
    for ours, theirs in zip(alone, helped, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours["images"], theirs["images"], strict=True))
        for one, other in zip(ours["targets"], theirs["targets"], strict=True):
            assert_equal(one, other)


def test_a_batch_holds_images_of_any_size_and_their_targets(coco):
    data = SeededDataset(coco, "train", train_transform(scale=(0.5, 2.0)), seed=3)
    batch = data.collate([data[0], data[1], data[4]])
    assert batch.keys() == {"images", "targets", "index", "epoch"}
    assert len({image.shape for image in batch["images"]}) == 3
    assert [target["index"] for target in batch["targets"]] == [0, 1, 4]
    assert all(target.keys() == {"boxes", "labels", "index", "size"} for target in batch["targets"])


def test_validation_sees_every_image_once_in_order(voc):
    data = SeededDataset(voc, "val", eval_transform())
    seen = [[target["index"] for target in batch["targets"]] for batch in eval_loader(data, batch_size=2, workers=2)]
    assert seen == [[0, 1], [2, 3], [4]]


def test_dropped_boxes_are_counted_and_never_met(voc):
    path = voc.resolve_root() / "Annotations/2007_000001.xml"
    path.write_text(path.read_text().replace("<xmin>", "<xmin>900"))
    data = SeededDataset(voc, "train", eval_transform())
    assert {why: len(lines) for why, lines in data.samples.dropped.items()} == {"inverted": 3}
    assert data[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_image_is_one_line(voc, workers):
    data = SeededDataset(voc, "train", augment())
    data.samples.images[3].unlink()
    with pytest.raises(SegkdError) as error:
        list(islice(train_loader(data, batch_size=2, workers=workers), 5))
    assert str(error.value) == f"no image {data.samples.images[3]}"


REAL = Path(os.environ.get("SEGKD_DATA", "")) / "bccd"


@pytest.mark.skipif(not (os.environ.get("SEGKD_DATA") and REAL.is_dir()), reason="needs bccd under SEGKD_DATA")
def test_real_bccd_makes_batches_that_a_detector_takes():
    data = SeededDataset(read_spec("bccd", BoxSpec), "train", train_transform(scale=(0.5, 1.5), crop=(256, 320)))
    assert {why: len(lines) for why, lines in data.samples.dropped.items()} == {"zero area": 1}
    for batch in islice(train_loader(data, batch_size=8, seed=1), 5):
        for image, target in zip(batch["images"], batch["targets"], strict=True):
            assert image.shape == (3, 256, 320)
            boxes = target["boxes"]
            assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-3).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([320, 256, 320, 256])).all()
            assert set(target["labels"].tolist()) <= {1, 2, 3}
