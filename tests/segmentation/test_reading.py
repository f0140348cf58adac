import numpy as np
import pytest
from PIL import Image
from trees import make_camvid

from segkd.errors import SegkdError
from segkd.segmentation.datasets import load_dataset_spec
from segkd.segmentation.reading import read_mask, read_pair


@pytest.fixture
def camvid(tmp_path):
    return load_dataset_spec(make_camvid(tmp_path))


def save(path, array):
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("which", ["image", "mask"])
def test_a_truncated_file_is_named(camvid, which, keep):
    pair = camvid.pairs("train")[0]
    path = getattr(pair, which)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(SegkdError, match=f"cannot read {which} ") as error:
        read_pair(pair, camvid)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(camvid, tmp_path):
    with pytest.raises(SegkdError, match=r"no mask .*gone\.png"):
        read_mask(tmp_path / "gone.png", camvid)


@pytest.mark.parametrize(("shape", "dtype"), [((4, 6), np.uint16), ((4, 6, 3), np.uint8), ((4, 6, 4), np.uint8)])
def test_masks_of_16_bits_or_colours_are_refused(camvid, tmp_path, shape, dtype):
    save(tmp_path / "odd.png", np.zeros(shape, dtype=dtype))
    with pytest.raises(SegkdError, match=r"odd\.png has mode .*; expected one 8-bit channel of ids"):
        read_mask(tmp_path / "odd.png", camvid)


def test_an_id_outside_the_map_is_named_with_its_file(camvid):
    path = camvid.pairs("train")[0].mask
    raw = np.zeros((64, 96), dtype=np.uint8)
    raw[3, 4], raw[5, 6] = 12, 255
    save(path, raw)
    with pytest.raises(SegkdError, match="raw id 12, 255, which label_map of data set 'camvid'") as error:
        read_mask(path, camvid)
    assert str(path) in str(error.value)


def test_without_a_map_ids_from_the_number_of_classes_on_are_errors(tmp_path):
    spec = load_dataset_spec("voc2012")
    save(tmp_path / "mask.png", np.array([[0, 20, 255]], dtype=np.uint8))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", spec), [[0, 20, 255]])
    save(tmp_path / "mask.png", np.array([[0, 21, 255]], dtype=np.uint8))
    with pytest.raises(SegkdError, match="raw id 21, which the 21 classes"):
        read_mask(tmp_path / "mask.png", spec)


def test_a_size_mismatch_names_both_files_and_sizes(camvid):
    pair = camvid.pairs("train")[0]
    save(pair.mask, np.zeros((32, 48), dtype=np.uint8))
    with pytest.raises(SegkdError) as error:
        read_pair(pair, camvid)
    assert all(text in str(error.value) for text in (str(pair.image), str(pair.mask), "96x64", "48x32"))


class TestOrientation:
    """Images that a camera stored lying on their side, and the masks that belong to them."""

    seen = np.arange(12, dtype=np.uint8).reshape(4, 3) % 11  # the mask over the image as it is seen

    def pair(self, camvid, mask, *, image_tag=6, mask_tag=None):
        """Store a pair whose image is seen as 3x4 (width x height)."""
        pair = camvid.pairs("train")[0]
        exif = Image.Exif()
        exif[0x0112] = image_tag
        Image.new("RGB", (4, 3) if image_tag > 4 else (3, 4)).save(pair.image, exif=exif)
        exif[0x0112] = mask_tag
        Image.fromarray(np.ascontiguousarray(mask)).save(pair.mask, exif=exif if mask_tag else None)
        return pair

    def test_a_mask_as_the_image_is_seen_stays(self, camvid):
        image, mask = read_pair(self.pair(camvid, self.seen), camvid)
        assert image.shape == (4, 3, 3)
        np.testing.assert_array_equal(mask, self.seen)

    def test_a_mask_as_the_image_is_stored_is_turned_along(self, camvid):
        pair = self.pair(camvid, np.rot90(self.seen))
        np.testing.assert_array_equal(read_pair(pair, camvid)[1], self.seen)

    @pytest.mark.parametrize("image_tag", [1, 6])
    def test_a_mask_with_a_tag_is_turned_by_its_own(self, camvid, image_tag):
        pair = self.pair(camvid, np.rot90(self.seen, -1), image_tag=image_tag, mask_tag=8)
        np.testing.assert_array_equal(read_pair(pair, camvid)[1], self.seen)

    def test_where_sizes_do_not_tell_the_mask_is_as_the_image_is_seen(self, camvid):
        pair = self.pair(camvid, self.seen, image_tag=3)
        np.testing.assert_array_equal(read_pair(pair, camvid)[1], self.seen)

    def test_a_mask_of_a_third_size_is_refused(self, camvid):
        pair = self.pair(camvid, np.zeros((5, 3), np.uint8))
        with pytest.raises(SegkdError, match=r"is 3x4 but mask .* is 3x5"):
            read_pair(pair, camvid)
