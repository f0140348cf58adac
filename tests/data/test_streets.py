import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import read_pair

from segkd.data.description import read_spec
from segkd.data.masks import MaskSpec
from segkd.data.streets import Drawing, draw_scene, ensure_streets
from segkd.errors import SegkdError

SMALL = Drawing(train=3, val=2, size=(32, 64))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_scene_follows_from_its_seed():
    for first, second in zip(draw_scene(5), draw_scene(5), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(draw_scene(5)[1], draw_scene(6)[1])


def test_scenes_hold_every_class_with_the_thin_ones_rare():
    spec = read_spec("streets", MaskSpec)
    counts = np.zeros(256, dtype=np.int64)
    present = np.zeros(256, dtype=np.int64)
    for seed in range(60):
        image, raw = draw_scene(seed)
        assert image.shape == (128, 256, 3)
        assert image.dtype == raw.dtype == np.uint8
        assert raw.shape == (128, 256)
        ids = spec.lookup[raw]
        assert ids.min() >= 0
        found = np.bincount(ids.ravel(), minlength=256)
        counts += found
        present += found > 0
    share = dict(zip(spec.class_names, counts[: spec.num_classes] / counts.sum(), strict=True))
    assert min(share.values()) > 0.001
    assert max(share.values()) < 0.5
    assert all(share[thin] < 0.04 for thin in ("pole", "traffic sign", "person", "lane marking"))
    assert (present[: spec.num_classes] > 30).all()
    assert 0 < counts[255] / counts.sum() < 0.05


def test_colour_alone_does_not_tell_the_classes_apart():
    """The nearest mean colour gets few pixels right, so that there is something for a bigger model to learn."""
    spec = read_spec("streets", MaskSpec)
    pixels, labels = [], []
    for seed in range(40):
        image, raw = draw_scene(seed)
        ids = spec.lookup[raw]
        pixels.append(image[ids < 255])
        labels.append(ids[ids < 255])
    x, y = np.concatenate(pixels)[::17].astype(float), np.concatenate(labels)[::17]
    means = np.stack([x[y == number].mean(0) for number in range(spec.num_classes)])
    guess = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    recall = np.mean([(guess[y == number] == number).mean() for number in range(spec.num_classes)])
    assert recall < 0.4


@pytest.mark.parametrize("size", [(32, 64), (100, 100), (64, 256)])
def test_any_size_can_be_drawn(size):
    for seed in range(10):
        image, mask = draw_scene(seed, size)
        assert image.shape == (*size, 3)
        assert mask.shape == size


def test_the_set_is_drawn_on_first_use_and_kept(tmp_path):
    spec = read_spec("streets", MaskSpec).model_copy(update={"drawing": SMALL, "root": tmp_path / "deep" / "streets"})
    pairs = spec.samples("train").pairs
    assert len(pairs) == 3
    assert len(spec.samples("val").pairs) == 2
    assert read_pair(pairs[0], spec)[0].shape == (32, 64, 3)
    before = {pair.image: pair.image.stat().st_mtime_ns for pair in pairs}
    assert {pair.image: pair.image.stat().st_mtime_ns for pair in spec.samples("train").pairs} == before
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["streets"]


def test_files_hold_the_scenes_in_rgb_and_raw_ids(tmp_path):
    ensure_streets(tmp_path / "s", Drawing(train=1, val=1, size=(32, 64), seed=4))
    (path,) = (tmp_path / "s/leftImg8bit/train").rglob("*.png")
    (label,) = (tmp_path / "s/gtFine/train").rglob("*.png")
    image, mask = draw_scene((4, 0), (32, 64))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    np.testing.assert_array_equal(np.asarray(Image.open(label)), mask)


def test_splits_share_no_scene_and_seeds_differ(tmp_path):
    for seed in (0, 1):
        ensure_streets(tmp_path / str(seed), Drawing(train=4, val=4, size=(32, 64), seed=seed))
    contents = [content for root in ("0", "1") for name, content in files(tmp_path / root).items() if "leftImg" in name]
    assert len(set(contents)) == len(contents) == 16


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SegkdError, match="is not empty and was not drawn"):
        ensure_streets(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_set_drawn_otherwise_is_not_taken_for_this_one(tmp_path):
    ensure_streets(tmp_path / "s", SMALL)
    with pytest.raises(SegkdError, match=r"remove that folder or set data\.root"):
        ensure_streets(tmp_path / "s", SMALL.model_copy(update={"train": 9}))
    (tmp_path / "s/streets.json").write_text("{")
    with pytest.raises(SegkdError, match="remove that folder"):
        ensure_streets(tmp_path / "s", SMALL)


def test_an_unwritable_place_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkdError, match=r"cannot draw scenes into .*set data\.root"):
        ensure_streets(tmp_path / "file" / "streets", SMALL)


def test_an_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("segkd.data.streets.layout.draw_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure_streets(tmp_path / "s", SMALL)
    assert list(tmp_path.iterdir()) == []


def _ensure(root, barrier):
    barrier.wait()
    ensure_streets(root, SMALL)


def test_two_processes_at_once_do_not_break_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    workers = [context.Process(target=_ensure, args=(tmp_path / "shared", barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    ensure_streets(tmp_path / "alone", SMALL)
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
    assert json.loads((tmp_path / "shared/streets.json").read_text())["train"] == 3
