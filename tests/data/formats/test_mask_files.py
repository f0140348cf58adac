import cv2
import numpy as np
import pytest
from PIL import Image
from trees import make_camvid, read_mask, read_pair

from segkd.data.description import read_spec
from segkd.data.masks import MaskSpec
from segkd.errors import SegkdError


@pytest.fixture
def camvid(tmp_path):
    return read_spec(make_camvid(tmp_path), MaskSpec)


def save(path, array):
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("which", ["image", "mask"])
def test_a_truncated_file_is_named(camvid, which, keep):
    pair = camvid.samples("train").pairs[0]
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


def test_masks_of_16_bits_are_refused(camvid, tmp_path):
    save(tmp_path / "odd.png", np.zeros((4, 6), dtype=np.uint16))
    with pytest.raises(SegkdError, match=r"odd\.png has mode .*; expected 8 bits a channel: ids, a palette or RGB$"):
        read_mask(tmp_path / "odd.png", camvid)
    cv2.imwrite(str(tmp_path / "odd.png"), np.full((4, 6, 3), 2, dtype=np.uint16))  # which PIL would read as 0
    with pytest.raises(SegkdError, match=r"odd\.png has ids of 16 bits; expected 8 bits a channel$"):
        read_mask(tmp_path / "odd.png", camvid.model_copy(update={"masks": "ids"}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m.jpg", {}),
        ("m.png", {"format": "JPEG"}),
        ("m.jpg", {"format": "MPO"}),
        ("m.tif", {"compression": "jpeg"}),
    ],
)
def test_jpeg_masks_are_refused_whatever_their_name(camvid, tmp_path, name, options):
    Image.new("L", (16, 16)).save(tmp_path / name, **options)
    with pytest.raises(SegkdError, match=r"m\.\w+ is a JPEG inside, whose compression changes ids: save it as PNG"):
        read_mask(tmp_path / name, camvid)


class TestColors:
    ids = np.array([[0, 1, 10], [255, 3, 3]], dtype=np.uint8)
    void = (7, 7, 9)

    @pytest.fixture
    def spec(self, camvid):
        return camvid.model_copy(update={"ignore_colors": [self.void], "label_map": None})

    def painted(self, spec):
        return np.array([*spec.colors, *[self.void] * 245], dtype=np.uint8)[self.ids]

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    @pytest.mark.parametrize("masks", [None, "colors"])
    def test_files_of_colours_are_read_by_colour(self, spec, tmp_path, mode, masks):
        spec = spec.model_copy(update={"masks": masks})
        Image.fromarray(self.painted(spec)).convert(mode).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", spec), self.ids)

    def test_a_palette_is_ids_unless_the_data_set_says_colors(self, spec, tmp_path):
        indexed = Image.fromarray(self.painted(spec)).quantize(8)
        indexed.save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", spec), np.asarray(indexed))
        spec = spec.model_copy(update={"masks": "colors"})
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", spec), self.ids)

    def test_grey_is_a_colour_where_the_data_set_says_so(self, spec, tmp_path):
        save(tmp_path / "mask.png", np.full((2, 3), 128, dtype=np.uint8))
        with pytest.raises(SegkdError, match="raw id 128"):
            read_mask(tmp_path / "mask.png", spec)
        spec = spec.model_copy(update={"masks": "colors"})
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", spec), np.zeros((2, 3)))  # the sky's colour

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L"])
    def test_ids_in_channels_that_are_equal(self, spec, tmp_path, mode):
        Image.fromarray(self.ids).convert(mode).save(tmp_path / "mask.png")
        if mode.startswith("RGB"):
            with pytest.raises(SegkdError, match=r"all are grey: if they are ids, say masks: ids$"):
                read_mask(tmp_path / "mask.png", spec)
        spec = spec.model_copy(update={"masks": "ids"})
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", spec), self.ids)
        Image.fromarray(self.painted(spec)).save(tmp_path / "mask.png")
        with pytest.raises(SegkdError, match=r"mask\.png has colours, but its data set says masks: ids$"):
            read_mask(tmp_path / "mask.png", spec)

    def test_a_colour_of_no_class_is_named_with_file_and_pixels(self, spec, tmp_path):
        path = tmp_path / "mask.png"
        pixels = self.painted(spec)
        pixels[1, 1:] = (1, 2, 3)
        save(path, pixels)
        expected = f"mask {path}: 2 pixels have the colour [1, 2, 3], which is of no class of data set 'camvid' and not"
        with pytest.raises(SegkdError) as error:
            read_mask(path, spec)
        assert str(error.value) == f"{expected} in its ignore_colors"

    def test_smoothed_edges_are_told_as_such(self, spec, tmp_path):
        Image.fromarray(self.painted(spec)).resize((30, 20), Image.Resampling.BILINEAR).save(tmp_path / "mask.png")
        with pytest.raises(
            SegkdError, match=r"as are \d+ pixels of \d+ other colours \(edges that were smoothed"
        ) as error:
            read_mask(tmp_path / "mask.png", spec)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
    def test_pixels_that_are_not_opaque_are_refused(self, spec, tmp_path, mode):
        mask = Image.new("L", (3, 2)).convert("LA" if mode == "PA" else mode).convert(mode)
        path = tmp_path / ("mask.tif" if mode == "PA" else "mask.png")
        mask.putpixel((1, 1), {"RGBA": (128, 128, 128, 254)}.get(mode, (0, 254)))
        mask.save(path)
        with pytest.raises(SegkdError, match=r"mask\.\w+: 1 pixels are not opaque: save it without transparency$"):
            read_mask(path, spec)

    def test_a_colour_of_two_classes_cannot_be_read(self, spec, tmp_path):
        save(tmp_path / "mask.png", self.painted(spec))
        twin = spec.classes[1].model_copy(update={"color": spec.classes[0].color})
        spec = spec.model_copy(update={"classes": [spec.classes[0], twin, *spec.classes[2:]]})
        with pytest.raises(SegkdError, match=r"classes 'sky' and 'building' share the colour \[128, 128, 128\]$"):
            read_mask(tmp_path / "mask.png", spec)


def test_an_id_outside_the_map_is_named_with_its_file(camvid):
    path = camvid.samples("train").pairs[0].mask
    raw = np.zeros((64, 96), dtype=np.uint8)
    raw[3, 4], raw[5, 6] = 12, 255
    save(path, raw)
    with pytest.raises(SegkdError, match="raw id 12, 255, which label_map of data set 'camvid'") as error:
        read_mask(path, camvid)
    assert str(path) in str(error.value)


def test_without_a_map_ids_from_the_number_of_classes_on_are_errors(tmp_path):
    spec = read_spec("voc2012", MaskSpec)
    save(tmp_path / "mask.png", np.array([[0, 20, 255]], dtype=np.uint8))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", spec), [[0, 20, 255]])
    save(tmp_path / "mask.png", np.array([[0, 21, 255]], dtype=np.uint8))
    with pytest.raises(SegkdError, match="raw id 21, which the 21 classes"):
        read_mask(tmp_path / "mask.png", spec)


def test_a_size_mismatch_names_both_files_and_sizes(camvid):
    pair = camvid.samples("train").pairs[0]
    save(pair.mask, np.zeros((32, 48), dtype=np.uint8))
    with pytest.raises(SegkdError) as error:
        read_pair(pair, camvid)
    assert all(text in str(error.value) for text in (str(pair.image), str(pair.mask), "96x64", "48x32"))


class TestOrientation:
    """Images that a camera stored lying on their side, and the masks that belong to them."""

    seen = np.arange(12, dtype=np.uint8).reshape(4, 3) % 11  # the mask over the image as it is seen

    def pair(self, camvid, mask, *, image_tag=6, mask_tag=None):
        """Store a pair whose image is seen as 3x4 (width x height)."""
        pair = camvid.samples("train").pairs[0]
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
