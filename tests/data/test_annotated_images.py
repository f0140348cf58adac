import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_coco, make_voc_detection

from segkd.common.orientation import upright_boxes
from segkd.data.boxes import BoxSpec
from segkd.data.check import check_dataset
from segkd.data.description import read_spec
from segkd.errors import SegkdError

MAKERS = [make_coco, make_voc_detection]


@pytest.fixture(params=MAKERS)
def spec(request, tmp_path):
    return read_spec(request.param(tmp_path), BoxSpec)


def test_images_are_read_by_index(spec):
    samples = spec.samples("train")
    for index, path in enumerate(samples.images):
        np.testing.assert_array_equal(samples.read(index).image, np.asarray(Image.open(path)))


def test_an_image_of_another_size_is_named_with_both(spec):
    samples = spec.samples("train")
    path = samples.images[1]
    Image.fromarray(np.zeros((96, 64, 3), np.uint8)).save(path)
    with pytest.raises(SegkdError, match=rf"^image {path} is 64x96, but its annotation says 96x64"):
        samples.read(1)


def test_a_missing_and_a_truncated_image_are_named(spec):
    samples = spec.samples("train")
    first, second = samples.images[:2]
    first.write_bytes(first.read_bytes()[:-300])
    second.unlink()
    with pytest.raises(SegkdError, match=rf"^cannot read image {first}: ") as error:
        samples.read(0)
    assert "\n" not in str(error.value)
    with pytest.raises(SegkdError, match=rf"^no image {second}$"):
        samples.read(1)


def test_reading_annotations_opens_no_image(spec):
    for path in spec.samples("train").images:
        path.write_bytes(b"")
    assert len(spec.samples("train")) == 3


def test_every_image_must_be_there(spec):
    first, second, _ = spec.samples("train").images
    first.unlink()
    with pytest.raises(SegkdError, match=rf"^no image {first}$"):
        spec.samples("train")
    second.unlink()
    with pytest.raises(SegkdError, match=rf"^no image {first} \(and 1 more like it\)$"):
        spec.samples("train")
    first.parent.rename(first.parent.with_name("elsewhere"))
    with pytest.raises(SegkdError, match=r"^no image |no folder of images"):
        spec.samples("train")


def test_classes_without_a_box_are_said(spec):
    samples = spec.samples("val")
    without = [name for name, label in spec.label_of.items() if label not in samples.objects.labels]
    first = ", ".join(map(repr, without[:5]))
    assert samples.remarks == [f"{spec.name} val: classes {first} and {len(without) - 5} more have no box"]
    present = [item for item in spec.classes if item.name not in without]
    spec = spec.model_copy(update={"classes": present})
    assert spec.samples("val").remarks == []
    extra = present[0].model_copy(update={"name": "rarity"})
    spec = spec.model_copy(update={"classes": [extra, *present]})
    assert spec.samples("val").remarks == [f"{spec.name} val: class 'rarity' has no box"]
    assert f"    {spec.name} val: class 'rarity' has no box\n" in str(check_dataset(spec))


def test_splits_and_roots_that_are_not_there(spec, tmp_path):
    with pytest.raises(SegkdError, match=r"has no split 'trian'; did you mean 'train'\?"):
        spec.scan("trian")
    with pytest.raises(SegkdError, match=r"no folder .*nowhere; set data\.root, or SEGKD_DATA"):
        spec.scan("train", tmp_path / "nowhere")


def test_boxes_alone_make_no_masks(tmp_path):
    spec = read_spec(make_voc_detection(tmp_path), BoxSpec)
    with pytest.raises(SegkdError, match=r"'voc_detection' has format 'voc', which has no masks, as Mask R-CNN needs$"):
        spec.samples("train", masks=True)


REAL = Path(os.environ.get("SEGKD_DATA", "")) / "bccd"


@pytest.mark.skipif(not (os.environ.get("SEGKD_DATA") and REAL.is_dir()), reason="needs bccd under SEGKD_DATA")
def test_real_bccd_has_the_counts_of_its_files():
    spec = read_spec("bccd", BoxSpec)
    splits = {split: spec.samples(split) for split in ("train", "val")}
    assert [len(part) for part in splits.values()] == [205, 87]
    counts = sum(np.bincount(part.objects.labels, minlength=4) for part in splits.values())
    # 3943 objects in the files: 3350 RBC, two of which have no area, 301 WBC and 292 platelets.
    assert counts.tolist() == [0, 3348, 301, 292]
    assert [part.dropped for part in splits.values()] == [
        {"zero area": [f"{REAL}/JPEGImages/BloodImage_00343.jpg: box [181, 329, 181, 329]"]},
        {"zero area": [f"{REAL}/JPEGImages/BloodImage_00338.jpg: box [504, 337, 504, 337]"]},
    ]


class TestOrientation:
    """A camera stored the first image lying on its side."""

    def seen(self, spec, tag, stored_size):
        """Return what is read of it where its annotation gives the size as stored, or as it is seen."""
        path = spec.samples("train").images[0]
        exif = Image.Exif()
        exif[0x0112] = tag
        with Image.open(path) as image:
            width, height = image.size
            if not stored_size and tag > 4:
                image = image.resize((height, width))
            image.save(path, exif=exif)
        return spec.samples("train", masks=spec.format == "coco").read(0)

    @pytest.mark.parametrize("tag", range(1, 9))
    def test_boxes_and_masks_stay_or_turn_as_the_annotated_size_says(self, spec, tag):
        before = spec.samples("train", masks=spec.format == "coco")
        boxes, size = before.of(0).boxes, tuple(before.sizes[0])
        turns = tag > 4
        image, objects = self.seen(spec, tag, stored_size=True)
        masks = objects.masks
        assert image.shape[:2] == (size[::-1] if turns else size)
        np.testing.assert_array_equal(objects.boxes, upright_boxes(boxes, tag, size) if turns else boxes)
        if masks is not None:
            for box, mask in zip(objects.boxes, masks, strict=True):
                rows, columns = np.nonzero(mask)
                assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]

    @pytest.mark.parametrize("tag", range(1, 9))
    def test_what_is_annotated_as_the_image_is_seen_stays(self, spec, tag):
        boxes = spec.samples("train").of(0).boxes
        image, objects = self.seen(spec, tag, stored_size=False)
        assert image.shape == (64, 96, 3)
        np.testing.assert_array_equal(objects.boxes, boxes)

    def test_the_check_says_so(self, spec):
        self.seen(spec, 6, stored_size=True)
        report = check_dataset(spec)
        assert report.problems == []
        assert str(report).count("turned upright by their orientation tag: 1 images, and the boxes of 1 with them") == (
            1 if spec.format == "coco" else 2  # the train split of Pascal VOC is in its trainval too
        )
