import subprocess
import sys

import numpy as np
import pytest

from segkd.data.transforms import eval_transform, train_transform
from segkd.errors import SegkdError


def test_importing_opens_no_connection_and_ignores_the_users_setting():
    code = (
        "import socket, urllib.request\n"
        "def refuse(*a, **k): raise SystemExit('reached for the network')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "urllib.request.OpenerDirector.open = refuse\n"
        "import segkd.data.transforms\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_steps_come_in_order_and_only_those_asked_for():
    def names(**options):
        transform = train_transform(**options)
        return [type(step).__name__ for step in (*transform.pipeline.transforms, *transform.jitter)]

    assert names(flip=0.0) == ["NoOp"]
    assert names(crop=(8, 8), resize=(9, 9), scale=(0.5, 2.0), color_jitter=0.1) == [
        "Resize", "RandomScale", "RandomCrop", "HorizontalFlip", "ColorJitter",
    ]  # fmt: skip
    assert names(color_jitter=0.1, blur=0.5) == ["HorizontalFlip", "ColorJitter", "GaussianBlur"]


def test_blur_is_as_frequent_as_asked_and_leaves_masks_alone():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    mask = image[..., 0].copy()
    transform = train_transform(flip=0.0, blur=0.5)
    out = [transform(image, mask, seed) for seed in range(100)]
    assert all(np.array_equal(one.label, mask) for one in out)
    roughness = [np.abs(np.diff(one.astype(int), axis=1)).mean() for one in (*(one.image for one in out), image)]
    assert max(roughness) == roughness[-1]  # nothing is sharper than the image itself
    # A sigma below about a third of a pixel changes nothing that 8 bits could show.
    assert 20 <= sum(value < roughness[-1] for value in roughness) <= 50


def test_the_seed_alone_decides():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    transform = train_transform((8, 8), scale=(0.5, 2.0), color_jitter=0.3)
    first = [transform(image, seed=seed).image for seed in range(10)]
    again = [transform(image, seed=seed).image for seed in reversed(range(10))]
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({picture.tobytes() for picture in first}) == 10


@pytest.mark.parametrize("size", [(0, 5), (5,), (1, 2, 3), (4, -1)])
def test_a_size_that_is_none(size):
    for make in (eval_transform, lambda size: train_transform(resize=size)):
        with pytest.raises(SegkdError, match=r"^resize must be \[height, width\] in pixels, got \["):
            make(size)
