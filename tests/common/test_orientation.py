import numpy as np
import pytest
from PIL import Image, ImageOps

from segkd.common.orientation import orientation, upright, upright_boxes, upright_size

TAGS = range(1, 9)


def tagged(tag: object, size: tuple[int, int] = (4, 6)) -> Image.Image:
    """An image (H, W) that says how it is to be turned."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    image.getexif()[0x0112] = tag
    return image


@pytest.mark.parametrize("tag", TAGS)
def test_pixels_are_turned_as_pil_turns_them(tag):
    image = tagged(tag)
    assert orientation(image) == tag
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(upright(np.asarray(image), tag), expected)
    assert upright_size(image) == expected.shape[:2]


@pytest.mark.parametrize("tag", TAGS)
def test_a_box_stays_around_what_it_is_around(tag):
    stored = np.zeros((7, 9), dtype=np.uint8)
    stored[1:3, 2:6] = 1
    turned = upright(stored, tag)
    ((left, top, right, bottom),) = upright_boxes(np.array([[2, 1, 6, 3]], dtype=np.float32), tag, stored.shape)
    rows, columns = np.nonzero(turned)
    assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("tag", [0, 9, 300, "6"])
def test_a_tag_that_nobody_has_defined_turns_nothing(tag):
    assert orientation(tagged(tag)) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_tags_that_cannot_be_decoded_turn_nothing():
    for junk in (b"Exif\0\0junk", b"", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        image = Image.new("RGB", (6, 4))
        image.info["exif"] = junk
        assert orientation(image) == 1
