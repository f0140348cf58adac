"""Files that a description of a data set leaves out, and how that is told."""

from pathlib import Path

import pytest

from segkd.data.masks import PairSplit, match_files

FLAT = PairSplit(images="images/*.jpg", masks="masks/*.png")


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def match(root: Path, **splits: PairSplit):
    return match_files("my train", splits or {"train": FLAT}, "train", root)


def test_upper_and_lower_case_of_a_suffix_are_the_same(tmp_path):
    fill(tmp_path, "images/a.jpg", "images/b.JPG", "masks/a.png", "masks/b.PNG")
    pairs, problems, remarks = match(tmp_path)
    assert [(pair.image.name, pair.mask.name) for pair in pairs] == [("a.jpg", "a.png"), ("b.JPG", "b.PNG")]
    assert problems == remarks == []


def test_a_labelled_image_of_another_suffix_is_a_problem_until_it_is_listed(tmp_path):
    fill(tmp_path, "images/a.jpg", "images/b.jpeg", "images/c.JPEG", "masks/a.png", "masks/b.png", "masks/c.tif")
    pairs, problems, remarks = match(tmp_path)
    assert [pair.image.name for pair in pairs] == ["a.jpg"]
    assert problems == [
        f"my train: image {tmp_path}/images/b.jpeg has a mask and is left out, since splits.train.images is "
        'images/*.jpg: write "images/*.{jpg,jpeg}"'
    ]
    assert remarks == [
        f"my train: images of another suffix and without a mask, left out: 1, such as {tmp_path}/images/c.JPEG"
    ]
    listed = PairSplit(images="images/*.{jpg,jpeg}", masks="masks/*.{png,tif}")
    pairs, problems, remarks = match(tmp_path, train=listed)
    assert [pair.mask.name for pair in pairs] == ["a.png", "b.png", "c.tif"]
    assert problems == remarks == []


def test_a_mask_of_another_suffix_is_said_with_the_image_that_lacks_one(tmp_path):
    fill(tmp_path, "images/a.jpg", "masks/a.tif")
    (problem,) = match(tmp_path).problems
    assert problem == (
        f'my train: image {tmp_path}/images/a.jpg has no mask {tmp_path}/masks/a.png: write "masks/*.{{png,tif}}"'
    )


def test_masks_without_an_image_are_counted_and_the_first_is_named(tmp_path):
    fill(tmp_path, "images/a.jpg", *(f"masks/{name}.png" for name in "abc"))
    pairs, problems, remarks = match(tmp_path)
    assert (len(pairs), problems) == (1, [])
    assert remarks == [
        f"my train: masks without an image, left out: 2, such as {tmp_path}/masks/b.png, whose image would be "
        f"{tmp_path}/images/b.jpg"
    ]


def test_what_is_another_splits_is_not_left_out(tmp_path):
    fill(tmp_path, "train/a.jpg", "val/b.jpg", "val/c.png", "masks/a.png", "masks/b.png", "masks/d.png")
    train = PairSplit(images="train/*.jpg", masks="masks/*.png")
    val = PairSplit(images="val/*.jpg", masks="masks/*.png")
    (remark,) = match(tmp_path, train=train, val=val).remarks
    assert "left out: 1, such as" in remark
    assert "d.png" in remark
    fill(tmp_path, "val/d.jpg")
    assert match(tmp_path, train=train, val=val).remarks == []
    # Splits that differ in the suffix.
    mixed = {"train": FLAT, "val": PairSplit(images="images/*.png", masks="masks/*.png")}
    fill(tmp_path, "images/a.jpg", "images/b.png", "images/d.png")
    assert match(tmp_path, **mixed)[1:] == ([], [])


@pytest.mark.parametrize("name", ["*", "*_mask"])
def test_masks_beside_their_images_are_no_images_of_another_suffix(tmp_path, name):
    spec = PairSplit(images="data/*.jpg", masks=f"data/{name}.png")
    fill(tmp_path, "data/a.jpg", f"data/{name.replace('*', 'a')}.png", "data/b.jpg")
    pairs, problems, remarks = match(tmp_path, train=spec)
    assert len(pairs) == 1
    assert problems == [
        f"my train: image {tmp_path}/data/b.jpg has no mask {tmp_path}/data/{name.replace('*', 'b')}.png"
    ]
    assert remarks == []


def test_another_suffix_of_an_image_that_is_used_is_no_loss(tmp_path):
    fill(tmp_path, "images/a.jpg", "images/a.png", "images/notes.txt", "masks/a.png")
    assert match(tmp_path)[1:] == ([], [])


def test_files_that_differ_in_their_suffix_only_are_named(tmp_path):
    fill(tmp_path, "images/a.jpg", "images/a.JPG", "images/b.jpg", "masks/a.png", "masks/b.png", "masks/b.PNG")
    pairs, problems, _ = match(tmp_path)
    assert pairs == []
    assert [problem.split(": ")[1] for problem in problems] == [
        f"{tmp_path}/images/a.JPG and {tmp_path}/images/a.jpg differ in their suffix only",
        f"{tmp_path}/masks/b.PNG and {tmp_path}/masks/b.png differ in their suffix only",
    ]


class TestLists:
    listed = PairSplit(images="images/*.jpg", masks="masks/*.png", list="list.txt")

    def test_what_is_not_in_the_list_is_left_out_in_silence(self, tmp_path):
        fill(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpeg", *(f"masks/{name}.png" for name in "abcd"))
        (tmp_path / "list.txt").write_text("a")
        pairs, problems, remarks = match(tmp_path, train=self.listed)
        assert (len(pairs), problems, remarks) == (1, [], [])

    def test_a_stem_whose_image_has_another_suffix_is_a_problem(self, tmp_path):
        fill(tmp_path, "images/a.jpg", "images/c.jpeg", "masks/a.png", "masks/c.png")
        (tmp_path / "list.txt").write_text("a\nc\nd")
        assert match(tmp_path, train=self.listed).problems == [
            f"my train: {tmp_path}/list.txt lists 'c', but no image matches images/*.jpg: "
            'write "images/*.{jpg,jpeg}"',
            f"my train: {tmp_path}/list.txt lists 'd', but no image matches images/*.jpg",
        ]
