import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_coco, make_voc_detection

from segkd.detection.datasets import load_detection_spec
from segkd.detection.reading import read_annotated_image, read_annotations, scan_annotations
from segkd.errors import SegkdError

MAKERS = [make_coco, make_voc_detection]


@pytest.fixture(params=MAKERS)
def spec(request, tmp_path):
    return load_detection_spec(request.param(tmp_path))


def test_images_are_read_by_index(spec):
    annotations = read_annotations(spec, "train")
    for index, path in enumerate(annotations.images):
        np.testing.assert_array_equal(read_annotated_image(annotations, index), np.asarray(Image.open(path)))


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
