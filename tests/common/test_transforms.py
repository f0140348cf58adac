import subprocess
import sys

import numpy as np
import pytest

from segkd.common.transforms import A, apply, resize_step, train_steps
from segkd.errors import SegkdError


def test_importing_opens_no_connection_and_ignores_the_users_setting():
    code = (
        "import socket, urllib.request\n"
        "def refuse(*a, **k): raise SystemExit('reached for the network')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "urllib.request.OpenerDirector.open = refuse\n"
        "import segkd.common.transforms\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_steps_come_in_order_and_only_those_asked_for():
    def names(*options):
        return [type(step).__name__ for step in train_steps(*options)]

    assert names(None, None, (1.0, 1.0), 0.0, 0.0) == []
    assert names((8, 8), (9, 9), (0.5, 2.0), 0.5, 0.1) == [
        "Resize", "RandomScale", "RandomCrop", "HorizontalFlip", "ColorJitter",
    ]  # fmt: skip


def test_the_seed_alone_decides():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    pipeline = A.Compose(train_steps((8, 8), None, (0.5, 2.0), 0.5, 0.3))
    first = [apply(pipeline, seed, image=image)["image"] for seed in range(10)]
    again = [apply(pipeline, seed, image=image)["image"] for seed in reversed(range(10))]
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({picture.tobytes() for picture in first}) == 10


@pytest.mark.parametrize("size", [(0, 5), (5,), (1, 2, 3), (4, -1)])
def test_a_size_that_is_none(size):
    with pytest.raises(SegkdError, match=r"^resize must be \[height, width\] in pixels, got \["):
        resize_step(size)
