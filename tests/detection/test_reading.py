import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_coco, make_voc_detection

from segkd.common.orientation import upright_boxes
from segkd.detection.check import check_dataset
from segkd.detection.datasets import load_detection_spec
from segkd.detection.reading import read_annotated, read_annotated_image, read_annotations, scan_annotations
from segkd.errors import SegkdError

MAKERS = [make_coco, make_voc_detection]


@pytest.fixture(params=MAKERS)
def spec(request, tmp_path):
    return load_detection_spec(request.param(tmp_path))


def test_images_are_read_by_index(spec):
    annotations = read_annotations(spec, "train")
    for index, path in enumerate(annotations.images):
        np.testing.assert_array_equal(read_annotated_image(annotations, index).image, np.asarray(Image.open(path)))


def test_an_image_of_another_size_is_named_with_both(spec):
    annotations = read_annotations(spec, "train")
    path = annotations.images[1]
    Image.fromarray(np.zeros((96, 64, 3), np.uint8)).save(path)
    with pytest.raises(SegkdError, match=rf"^image {path} is 64x96, but its annotation says 96x64"):
        read_annotated_image(annotations, 1)


def test_a_missing_and_a_truncated_image_are_named(spec):
    annotations = read_annotations(spec, "train")
    first, second = annotations.images[:2]
    first.write_bytes(first.read_bytes()[:-300])
    second.unlink()
    with pytest.raises(SegkdError, match=rf"^cannot read image {first}: ") as error:
        read_annotated_image(annotations, 0)
    assert "\n" not in str(error.value)
    with pytest.raises(SegkdError, match=rf"^no image {second}$"):
        read_annotated_image(annotations, 1)


def test_reading_annotations_opens_no_image(spec):
    for path in read_annotations(spec, "train").images:
        path.write_bytes(b"")
    assert len(read_annotations(spec, "train")) == 3


def test_every_image_must_be_there(spec):
    first, second, _ = read_annotations(spec, "train").images
    first.unlink()
    with pytest.raises(SegkdError, match=rf"^no image {first}$"):
        read_annotations(spec, "train")
    second.unlink()
    with pytest.raises(SegkdError, match=rf"^no image {first} \(and 1 more like it\)$"):
        read_annotations(spec, "train")
    first.parent.rename(first.parent.with_name("elsewhere"))
    with pytest.raises(SegkdError, match=r"^no image |no folder of images"):
        read_annotations(spec, "train")


def test_classes_without_a_box_are_said(spec):
    annotations = read_annotations(spec, "val")
    without = [name for name, label in spec.label_of.items() if label not in annotations.objects.labels]
    first = ", ".join(map(repr, without[:5]))
    assert annotations.remarks == [f"{spec.name} val: classes {first} and {len(without) - 5} more have no box"]
    present = [item for item in spec.classes if item.name not in without]
    spec = spec.model_copy(update={"classes": present})
    assert read_annotations(spec, "val").remarks == []
    extra = present[0].model_copy(update={"name": "rarity"})
    spec = spec.model_copy(update={"classes": [extra, *present]})
    assert read_annotations(spec, "val").remarks == [f"{spec.name} val: class 'rarity' has no box"]
    assert f"    {spec.name} val: class 'rarity' has no box\n" in str(check_dataset(spec))


def test_splits_and_roots_that_are_not_there(spec, tmp_path):
    with pytest.raises(SegkdError, match=r"has no split 'trian'; did you mean 'train'\?"):
        scan_annotations(spec, "trian")
    with pytest.raises(SegkdError, match=r"no folder .*nowhere; set data\.root, or SEGKD_DATA"):
        scan_annotations(spec, "train", tmp_path / "nowhere")


def test_boxes_alone_make_no_masks(tmp_path):
    spec = load_detection_spec(make_voc_detection(tmp_path))
    with pytest.raises(SegkdError, match=r"'voc_detection' has format 'voc', which has no masks, as Mask R-CNN needs$"):
        read_annotations(spec, "train", masks=True)


REAL = Path(os.environ.get("SEGKD_DATA", "")) / "bccd"


@pytest.mark.skipif(not (os.environ.get("SEGKD_DATA") and REAL.is_dir()), reason="needs bccd under SEGKD_DATA")
def test_real_bccd_has_the_counts_of_its_files():
    spec = load_detection_spec("bccd")
    splits = {split: read_annotations(spec, split) for split in ("train", "val")}
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
        path = read_annotations(spec, "train").images[0]
        exif = Image.Exif()
        exif[0x0112] = tag
        with Image.open(path) as image:
            width, height = image.size
            if not stored_size and tag > 4:
                image = image.resize((height, width))
            image.save(path, exif=exif)
        return read_annotated(read_annotations(spec, "train", masks=spec.format == "coco"), 0, spec.format == "coco")

    @pytest.mark.parametrize("tag", range(1, 9))
    def test_boxes_and_masks_stay_or_turn_as_the_annotated_size_says(self, spec, tag):
        before = read_annotations(spec, "train", masks=spec.format == "coco")
        boxes, size = before.of(0).boxes, tuple(before.sizes[0])
        turns = tag > 4
        image, objects, masks = self.seen(spec, tag, stored_size=True)
        assert image.shape[:2] == (size[::-1] if turns else size)
        np.testing.assert_array_equal(objects.boxes, upright_boxes(boxes, tag, size) if turns else boxes)
        if masks is not None:
            for box, mask in zip(objects.boxes, masks, strict=True):
                rows, columns = np.nonzero(mask)
                assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]

    @pytest.mark.parametrize("tag", range(1, 9))
    def test_what_is_annotated_as_the_image_is_seen_stays(self, spec, tag):
        boxes = read_annotations(spec, "train").of(0).boxes
        image, objects, _ = self.seen(spec, tag, stored_size=False)
        assert image.shape == (64, 96, 3)
        np.testing.assert_array_equal(objects.boxes, boxes)

    def test_the_check_says_so(self, spec):
        self.seen(spec, 6, stored_size=True)
        report = check_dataset(spec)
        assert report.problems == []
        assert str(report).count("turned upright by their orientation tag: 1 images, and the boxes of 1 with them") == (
            1 if spec.format == "coco" else 2  # the train split of Pascal VOC is in its trainval too
        )
