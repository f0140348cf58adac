from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from experiments import make_experiment, refused, segkd
from trees import make_bccd, make_camvid

from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.hold_out import hold_out, places_of
from segkd.data.transforms import eval_transform, train_transform
from segkd.errors import SegkdError


def files(count: int) -> list[Path]:
    return [Path(f"{index:04d}.png") for index in range(count)]


def blocks(places: list[int]) -> list[list[int]]:
    """Return the runs of neighbours."""
    return [[place for _, place in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.6, 0.95])
@pytest.mark.parametrize("count", [2, 3, 7, 13, 100, 367])
def test_parts_are_disjoint_and_together_all(count: int, share: float):
    if not 0 < round(count * share) < count:
        return
    rest, held = (places_of(name, files(count)) for name in hold_out("train", share))
    assert len(held) == round(count * share)
    assert sorted([*rest, *held]) == list(range(count))
    assert len(blocks(held)) <= 5


def test_what_is_held_out_lies_in_blocks_spread_over_the_split():
    held = places_of("train/held_out/0.2", files(100))
    assert [len(block) for block in blocks(held)] == [4] * 5
    starts = [block[0] for block in blocks(held)]
    assert np.ptp(np.diff([-4, *starts, 100])) <= 1  # as many images between any two, and at both ends
    assert places_of("train/held_out/0.2", files(100)) == held


def test_neighbours_are_those_of_the_sorted_images():
    shuffled = [files(20)[place] for place in np.random.default_rng(0).permutation(20)]
    ours = {shuffled[place] for place in places_of("train/held_out/0.25", shuffled)}
    assert ours == {files(20)[place] for place in places_of("train/held_out/0.25", files(20))}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("train/held_out/0.01", "train/held_out/0.01: of 10 images a share of 0.01 leaves none to hold out"),
        ("train/rest/0.99", "train/rest/0.99: of 10 images a share of 0.99 leaves none to train on"),
        ("train/rest/1.5", "train/rest/1.5: what is held out is a share between 0 and 1, got 1.5"),
        ("train/rest/nan", "between 0 and 1, got nan"),
        ("train/rest/some", "between 0 and 1, got some"),
    ],
)
def test_a_part_that_is_none(name: str, says: str):
    with pytest.raises(SegkdError) as raised:
        places_of(name, files(10))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [make_camvid, make_bccd])
def test_a_data_set_reads_its_parts(make, tmp_path: Path):
    spec = read_spec(make(tmp_path, train=6, val=2))
    whole = SeededDataset(spec, "train", eval_transform())
    rest, held = (SeededDataset(spec, name, eval_transform()) for name in hold_out("train", 0.3))
    assert (len(rest), len(held)) == (4, 2)
    images = [[data[index]["image"].sum().item() for index in range(len(data))] for data in (whole, rest, held)]
    assert sorted([*images[1], *images[2]]) == sorted(images[0])
    assert len(SeededDataset(spec, "train/rest/0.3", eval_transform(), limit=3)) == 3
    assert held.samples.split == "train/held_out/0.3"
    with pytest.raises(SegkdError, match="no split 'trian'; did you mean 'train'"):
        spec.samples("trian/rest/0.3")


def test_what_is_held_out_is_not_learnt_from_without_its_labels_either(tmp_path: Path):
    spec = read_spec(make_camvid(tmp_path, train=10, val=2))
    images = spec.find_images(["train/*.png", "val/*.png"])
    data = SeededDataset(spec, "train/rest/0.2", train_transform((32, 48)), limit=3, unlabelled=images)
    held = spec.samples("train/held_out/0.2")
    assert len(data.unlabelled) == 5 + 2
    assert not {held.images[place] for place in held.chosen}.intersection(data.unlabelled)


def test_a_config_names_parts(tmp_path: Path):
    folder = make_experiment(tmp_path)
    parts = ["data.train_split=train/rest/0.4", "data.val_split=train/held_out/0.4"]
    outcome = segkd("train", folder / "tiny.yaml", *parts, "trainer.max_steps=1")
    assert outcome.status == 0, outcome.err
    assert "training on cpu, 3 images" in outcome.out
    assert "train/held_out/0.4" in outcome.out
    shown = segkd("data", "show", folder / "tiny.yaml", *parts, "--count", 9, "--out", tmp_path / "shown.png")
    assert shown.status == 0, shown.err
    refused(segkd("train", folder / "tiny.yaml", "data.val_split=train/rest/0.01", "name=b"), "leaves none to hold out")
