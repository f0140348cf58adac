import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from segkd.common.student import CONFIG_FILE, INFO_KEY, STUDENT_FILE, rgb_pixels, student_dir, write_student
from segkd.errors import SegkdError


def test_a_student_is_written_and_found_from_its_run_or_itself(tmp_path):
    module = nn.Linear(2, 3)
    write_student(tmp_path / "run" / "student", {STUDENT_FILE: module}, {"arch": "a", INFO_KEY: {"classes": ["b"]}})
    folder = tmp_path / "run" / "student"
    assert student_dir(tmp_path / "run") == student_dir(folder) == folder
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["arch"] == "a"
    assert config[INFO_KEY]["classes"] == ["b"]
    assert config[INFO_KEY]["version"]
    weights = safetensors.torch.load_file(folder / STUDENT_FILE)
    assert torch.equal(weights["weight"], module.weight)
    modes = {file.stat().st_mode for file in folder.iterdir()}
    assert len(modes) == 1  # the weights are as readable as the description


def test_writing_again_replaces_removes_what_is_none_and_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "student"
    write_student(folder, {STUDENT_FILE: nn.Linear(1, 1), "b.safetensors": nn.Linear(1, 1)}, {INFO_KEY: {}})
    (folder / "notes.txt").write_text("kept")
    write_student(folder, {STUDENT_FILE: nn.Linear(5, 1), "b.safetensors": None}, {INFO_KEY: {}})
    assert {file.name for file in folder.iterdir()} == {STUDENT_FILE, CONFIG_FILE, "notes.txt"}
    assert [file.name for file in tmp_path.iterdir()] == ["student"]
    assert safetensors.torch.load_file(folder / STUDENT_FILE)["weight"].shape == (1, 5)


def test_a_config_that_is_no_json_writes_nothing(tmp_path):
    with pytest.raises(SegkdError, match="cannot be written as JSON"):
        write_student(tmp_path / "student", {STUDENT_FILE: nn.Linear(1, 1)}, {INFO_KEY: {"classes": {1, 2}}})
    assert not list(tmp_path.iterdir())


def test_what_is_no_student(tmp_path):
    with pytest.raises(SegkdError, match=r"there is no run .*absent'"):
        student_dir(tmp_path / "absent")
    with pytest.raises(SegkdError, match="not a finished run or a student"):
        student_dir(tmp_path)


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
