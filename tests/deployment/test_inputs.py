import unicodedata
from pathlib import Path

import pytest

from segkd.deployment.inputs import Source, find_sources
from segkd.errors import SegkdError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(*inputs: object) -> dict[str, str]:
    """Return, by the path below the common folder, what the results of each source are called."""
    return {str(source.relative): str(source.name) for source in find_sources(map(str, inputs))}


def test_a_file(tmp_path: Path):
    path = make(tmp_path, "a/b.c.jpg") / "a" / "b.c.jpg"
    assert find_sources([str(path)]) == [Source(path, Path("b.c.jpg"), Path("b.c"), is_video=False)]


def test_a_folder_at_any_depth_sorted_without_hidden_and_other_files(tmp_path: Path):
    shown = ["a/2.PNG", "a/1.tif", "b.webp", "clip.MP4"]
    make(tmp_path, *shown, ".hidden.png", ".git/a.png", "a/._1.tif", "notes.txt", "png")
    sources = find_sources([str(tmp_path)])
    assert [str(source.relative) for source in sources] == ["a/1.tif", "a/2.PNG", "b.webp", "clip.MP4"]
    assert [source.is_video for source in sources] == [False, False, False, True]
    assert all(source.path == tmp_path / source.relative for source in sources)


def test_links_to_folders_are_followed_once_and_in_no_circle(tmp_path: Path):
    make(tmp_path, "far/3.png", "asked/b/1.png", "asked/b/c/2.png")
    for link, target in {"a": "b", "far": "../far", "b/up": "..", "self": "self", "b/c/far": "../../far"}.items():
        (tmp_path / "asked" / link).symlink_to(target)
    (tmp_path / "asked" / ".hidden").symlink_to(tmp_path)
    assert list(names(tmp_path / "asked")) == ["b/1.png", "b/c/2.png", "far/3.png"]
    (tmp_path / "link").symlink_to("asked")
    assert list(names(tmp_path / "link")) == ["b/1.png", "b/c/2.png", "far/3.png"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_spelled_in_another_way_than_on_disk(forms: tuple[str, str], tmp_path: Path):
    there, asked = (unicodedata.normalize(form, "straßen für/ä.png") for form in forms)
    make(tmp_path, there)
    assert list(names(tmp_path / asked, tmp_path / Path(asked).parent)) == [Path(there).name]


def test_names_lie_below_the_deepest_folder_that_holds_all_inputs(tmp_path: Path):
    make(tmp_path, "x/a/1.png", "x/b/1.png", "x/b/c/1.png", "y/1.png")
    assert names(tmp_path / "x" / "b") == {"1.png": "1", "c/1.png": "c/1"}
    assert list(names(tmp_path / "x" / "a", tmp_path / "x" / "b")) == ["a/1.png", "b/1.png", "b/c/1.png"]
    assert list(names(tmp_path / "x" / "a" / "1.png", tmp_path / "y")) == ["x/a/1.png", "y/1.png"]
    assert list(names(tmp_path / "x" / "b" / "c", tmp_path / "x" / "b" / "1.png")) == ["c/1.png", "1.png"]


def test_relative_inputs_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, "a/1.png", "1.png")
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [source.path for source in find_sources(["1.png", "../1.png"])] == [tmp_path / "a/1.png", tmp_path / "1.png"]
    assert names("~/a") == {"1.png": "1"}


def test_patterns_mean_what_a_shell_would_make_of_them(tmp_path: Path):
    make(tmp_path, "a/1.png", "a/c/2.png", "b/1.png", "b/1.txt", "b/.3.png")
    assert list(names(tmp_path / "*" / "*.png")) == ["a/1.png", "b/1.png"]
    assert list(names(tmp_path / "**" / "*.png")) == ["a/1.png", "a/c/2.png", "b/1.png"]
    assert list(names(tmp_path / "[a]")) == ["1.png", "c/2.png"]
    assert list(names(tmp_path / "b" / "*")) == ["1.png", "1.txt"]  # named like this, it is meant


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path):
    make(tmp_path, "a[1].png", "a1.png")
    assert list(names(tmp_path / "a[1].png")) == ["a[1].png"]


def test_each_file_once_in_the_order_asked_for(tmp_path: Path):
    make(tmp_path, "1.png", "2.png", "a/3.png")
    asked = [tmp_path / "2.png", tmp_path, tmp_path / "a", tmp_path / "*.png", tmp_path / "a" / ".." / "1.png"]
    assert list(names(*asked)) == ["2.png", "1.png", "a/3.png"]


@pytest.mark.parametrize(
    "expected",
    [
        {"1.jpg": "1.jpg", "1.png": "1.png", "2.png": "2"},
        {"1.jpg": "1.jpg", "1.png": "1.png", "1.jpg.png": "1.jpg.png"},
        {"1.jpg": "1", "1.jpg.png": "1.jpg.png"},
        {"clip.avi": "clip.avi", "clip.mp4": "clip.mp4"},
        {"clip.mp4": "clip.mp4", "clip/frame_000001.png": "clip/frame_000001"},
        {"clip.png": "clip", "clip/1.png": "clip/1"},
    ],
    ids=str,
)
def test_no_two_results_have_one_name(expected: dict[str, str], tmp_path: Path):
    assert names(make(tmp_path, *expected)) == dict(sorted(expected.items()))
    assert len(set(expected.values())) == len(expected)


def test_what_matches_or_holds_nothing_is_named(tmp_path: Path):
    make(tmp_path, "a/1.png", "b/notes.txt", "b/.hidden.png")
    with pytest.raises(SegkdError, match=r"'.*/c' matches anything"):
        find_sources([str(tmp_path / "a"), str(tmp_path / "c")])
    with pytest.raises(SegkdError, match=r"\*\.jpg' matches anything"):
        find_sources([str(tmp_path / "*.jpg")])
    with pytest.raises(SegkdError, match=r"/b holds no image or video \(\.bmp .*\.wmv\)"):
        find_sources([str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(SegkdError, match="matches anything"):
        find_sources([""])
    with pytest.raises(SegkdError, match="inputs: expected at least one"):
        find_sources([])
    assert list(names(tmp_path / "[ab]")) == ["a/1.png"]  # the pattern as a whole holds something
