from pathlib import Path

import pytest

from segkd.data.patterns import Pattern, unclaimed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.JPG", "a/3.jpeg", "a/4.txt", "a/5_x.jpg", "b/1.jpg", "a/._1.jpg", "a/6.b.Png", "a/7"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found", "beside"),
    [
        ("a/*.jpg", ["1.jpg", "2.JPG", "5_x.jpg"], ["3.jpeg", "6.b.Png"]),
        ("a/*.JPG", ["1.jpg", "2.JPG", "5_x.jpg"], ["3.jpeg", "6.b.Png"]),
        ("a/*.{jpg, JPEG,png}", ["1.jpg", "2.JPG", "3.jpeg", "5_x.jpg", "6.b.Png"], []),
        ("a/*_x.{jpg}", ["5_x.jpg"], []),
        ("a/*.b.jpg", [], ["6.b.Png"]),
        ("a/*.*", ["1.jpg", "2.JPG", "3.jpeg", "4.txt", "5_x.jpg", "6.b.Png"], []),
        ("a/*", ["1.jpg", "2.JPG", "3.jpeg", "4.txt", "5_x.jpg", "6.b.Png", "7"], []),
    ],
)
def test_suffixes_may_be_several_and_of_either_case(root, text, found, beside):
    files = Pattern(text).files(root)
    for part, expected in zip(files, (found, beside), strict=True):
        assert [file for names in part.values() for file in names] == [f"a/{name}" for name in expected]


def test_a_key_is_what_the_wildcards_stand_for(root):
    pattern = Pattern("*/*.{jpg,png}")
    assert list(pattern.files(root).found) == [("a", "1"), ("a", "2"), ("a", "5_x"), ("a", "6.b"), ("b", "1")]
    assert pattern.key("a/1.PNG") == ("a", "1")
    assert pattern.key("a/1.gif") is None
    assert pattern.key("a/b/1.jpg") is None


def test_a_pattern_is_filled_with_a_key():
    assert Pattern("JPEGImages/*.JPG").fill(["2007_000001"], Path("root")) == Path("root/JPEGImages/2007_000001.JPG")
    assert Pattern("a/*/*_x.{tif,png}").fill(["b", "c"], Path("root")) == Path("root/a/b/c_x.tif")
    assert Pattern("a/*.*").fill(["b", "c"], Path()) == Path("a/b.c")


def test_the_advice_takes_in_what_is_beside(root):
    pattern = Pattern("a/*.jpg")
    advice = pattern.advice(["a/3.jpeg", "a/6.b.Png"])
    assert advice == ': write "a/*.{jpg,jpeg,png}"'
    assert not Pattern(advice.split('"')[1]).files(root).beside
    assert pattern.advice(None) == pattern.advice([]) == ""


@pytest.mark.parametrize("text", ["{a,b}/*.jpg", "a/*{.jpg,.png}", "a/*.{jpg,png}.x", "a/*.{jpg", "a/*.{}"])
def test_braces_list_suffixes_only(text):
    with pytest.raises(ValueError, match=r"braces may only list suffixes at the end, such as \*\.\{jpg,png\}"):
        Pattern(text)


def test_what_is_left_over_may_be_another_splits(root):
    files = Pattern("a/*.jpg").files(root).found
    assert unclaimed(files, {("1",), ("2",)}, [], root) == {("5_x",): "a/5_x.jpg"}
    assert unclaimed(files, {("5_x",)}, [("a/*.jpg", "b/*.jpg")], root) == {("2",): "a/2.JPG"}
    assert unclaimed(files, files, [], root) == {}
