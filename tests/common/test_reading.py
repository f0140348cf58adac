import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segkd.common.orientation import upright
from segkd.common.reading import ALPHA, DEEP, open_image, read_photo, read_stems, refuse, rgb_pixels
from segkd.errors import SegkdError


def save(path, array):
    Image.fromarray(array).save(path)


def test_images_arrive_as_rgb_whatever_their_mode(tmp_path):
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    for name, image in {
        "rgb.png": Image.fromarray(pixels),
        "rgba.png": Image.fromarray(pixels).convert("RGBA"),
        "palette.png": Image.fromarray(pixels).quantize(4),
    }.items():
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_photo(tmp_path / name).pixels, pixels)
    save(tmp_path / "grey.png", pixels[..., 0])
    np.testing.assert_array_equal(read_photo(tmp_path / "grey.png").pixels, np.full((4, 6, 3), 200))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_images_arrive_upright(tmp_path, tag, suffix):
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = tag
    pixels = np.kron(np.arange(20, 260, 10, dtype=np.uint8).reshape(4, 6), np.ones((8, 8), np.uint8))
    Image.fromarray(np.stack([pixels] * 3, axis=2)).save(path, exif=exif)
    image, found, _ = read_photo(path)
    assert found == tag
    np.testing.assert_allclose(image[..., 0].astype(int), upright(pixels, tag), atol=6)  # what a JPEG loses
    np.testing.assert_array_equal(read_photo(path).pixels, image)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_jpeg_is_named(tmp_path, keep):
    path = tmp_path / "half.jpg"
    save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(SegkdError, match=f"^cannot read image {path}: ") as error:
        read_photo(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_by_its_kind(tmp_path):
    with pytest.raises(SegkdError, match=rf"^no map {tmp_path}/gone\.png$"):
        open_image(tmp_path / "gone.png", "map")


def test_16_bit_images_are_refused(tmp_path):
    save(tmp_path / "deep.png", np.zeros((4, 6), dtype=np.uint16))
    with pytest.raises(SegkdError, match=r"deep\.png has mode .*; expected 8 bits"):
        read_photo(tmp_path / "deep.png")


@pytest.mark.parametrize("name", ["rgb.png", "rgb.tif", "rgb.ppm", "rgba.png", "rgba.tif"])
def test_the_upper_eight_of_16_bits_are_read_and_that_is_said(name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (4, 6, 4), dtype=np.uint16)
    has_alpha = name.startswith("rgba")
    cv2.imwrite(str(tmp_path / name), pixels if has_alpha else pixels[..., :3])  # BGR
    photo = read_photo(tmp_path / name)
    np.testing.assert_allclose(photo.pixels, pixels[..., 2::-1] / 257, atol=1)
    assert photo.converted == ([DEEP, ALPHA] if has_alpha else [DEEP])


@pytest.mark.parametrize("name", ["rgba.tif", "rgba.png", "la.tif", "rgba.webp"])
def test_alpha_is_left_out_and_that_is_said(name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if name.startswith("la"):
        image = Image.merge("LA", [image.getchannel(0), image.getchannel(3)])
        pixels = np.stack([pixels[..., 0]] * 3, 2)
    image.save(tmp_path / name, **{"lossless": True, "exact": True} if name.endswith("webp") else {})
    photo = read_photo(tmp_path / name)
    np.testing.assert_array_equal(photo.pixels, pixels[..., :3])
    assert photo.converted == [ALPHA]


def test_images_beyond_pils_limit_are_read_up_to_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    save(tmp_path / "large.png", np.zeros((4, 6, 3), dtype=np.uint8))
    assert read_photo(tmp_path / "large.png", 24).pixels.shape == (4, 6, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    for read in (lambda path: read_photo(path, 23), lambda path: open_image(path, "image", 23)):
        with pytest.raises(SegkdError, match=r"large\.png has 24 pixels \(6x4\), more than data\.max_pixels=23 allows"):
            read(tmp_path / "large.png")


def test_stems_come_once_each_in_the_order_of_the_list(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("b\n\n a \r\nb\n")
    assert read_stems(listing) == ["b", "a"]
    with pytest.raises(SegkdError, match=r"^no list .*other\.txt$"):
        read_stems(tmp_path / "other.txt")
    listing.write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")  # as Windows' editors mark UTF-8
    assert read_stems(listing) == ["a", "b"]
    listing.write_text("a\u0308\n\xe4\n", encoding="utf-8")
    assert read_stems(listing) == ["\xe4"]
    for text in ("", "\n \n"):
        listing.write_text(text)
        with pytest.raises(SegkdError, match=r"^list .*list\.txt is empty: it names no image of the split$"):
            read_stems(listing)
    listing.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SegkdError, match=r"^cannot read list .*list\.txt: "):
        read_stems(listing)


def test_the_first_problem_stands_for_all():
    refuse([])
    with pytest.raises(SegkdError, match=r"^one$"):
        refuse(["one"])
    with pytest.raises(SegkdError, match=r"^one \(and 2 more like it\)$"):
        refuse(["one", "two", "three"])


def test_pixels():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    assert rgb_pixels(image) is image
    np.testing.assert_array_equal(rgb_pixels(Image.fromarray(image)), image)
    grey = Image.fromarray(image[..., 0])
    np.testing.assert_array_equal(rgb_pixels(grey), np.repeat(image[..., :1], 3, 2))
    turned = Image.fromarray(image)
    turned.getexif()[0x0112] = 6  # to be seen turned clockwise
    np.testing.assert_array_equal(rgb_pixels(turned), np.rot90(image, -1))
    for bad in (image[..., 0], image.astype(float), np.zeros((4, 5, 4), np.uint8), image[:0], torch.zeros(4, 5, 3)):
        with pytest.raises(SegkdError, match=r"uint8 \(H, W, 3\), got .*\("):
            rgb_pixels(bad)
    for other in ("photo.jpg", [[1]], None):
        with pytest.raises(SegkdError, match=rf"uint8 \(H, W, 3\), got {type(other).__name__}"):
            rgb_pixels(other)
    # PIL would cut all above 255 to white.
    deep = Image.fromarray(image[..., 0].astype(np.uint16) * 257)
    with pytest.raises(SegkdError, match="8 bits a channel, such as RGB, got mode 'I;16'"):
        rgb_pixels(deep)
