from pathlib import Path

import pytest
import yaml

from segkd.data.description import read_spec
from segkd.errors import SegkdError
from segkd.resources import resource_dir

CONTENT = {
    "name": "animals",
    "splits": {part: {"images": "a/*.png", "masks": "b/*.png"} for part in ("train", "val")},
    "classes": [{"name": "cat", "color": [1, 2, 3]}, {"name": "dog", "color": [4, 5, 6]}],
}


def write(path: Path, **changes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return path


def test_names_and_colours_keep_their_order(tmp_path):
    spec = read_spec(write(tmp_path / "animals.yaml"))
    assert (spec.num_classes, spec.class_names, spec.colors) == (2, ["cat", "dog"], [(1, 2, 3), (4, 5, 6)])


def test_root_is_argument_then_yaml_then_environment_then_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SEGKD_DATA", raising=False)
    spec = read_spec(write(tmp_path / "animals.yaml"))
    assert spec.resolve_root() == Path("datasets/animals")
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path))
    assert spec.resolve_root() == tmp_path / "animals"
    own = read_spec(write(tmp_path / "own" / "animals.yaml", root="data"))
    assert own.resolve_root() == tmp_path / "own" / "data"
    assert own.resolve_root(tmp_path / "x") == tmp_path / "x"


def test_a_missing_root_says_how_to_set_it(tmp_path):
    spec = read_spec(write(tmp_path / "animals.yaml", root="."))
    assert spec.existing_root() == tmp_path
    with pytest.raises(SegkdError, match=rf"'animals': no folder {tmp_path}/gone; set data\.root, or SEGKD_DATA"):
        spec.existing_root(tmp_path / "gone")


def test_an_unknown_split_names_the_nearest(tmp_path):
    spec = read_spec(write(tmp_path / "animals.yaml"))
    spec.check_split("val")
    with pytest.raises(SegkdError, match=r"'animals' has no split 'valid'; did you mean 'val'\?"):
        spec.check_split("valid")


def test_unknown_name_and_missing_file():
    assert {"camvid", "bccd"} <= {path.stem for path in resource_dir("datasets").glob("*.yaml")}
    with pytest.raises(SegkdError, match=r"no data set 'camvit'; did you mean 'camvid'\?"):
        read_spec("camvit")
    with pytest.raises(SegkdError, match=r"no data-set file .*nothing\.yaml"):
        read_spec("nothing.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nmae": "x"}, r"unknown key 'nmae'; did you mean 'name'\?"),
        (
            {"classes": [{"name": "cat", "colour": [1, 2, 3]}]},
            r"'classes.0.colour'; did you mean 'color'\? \(and 1 more\)",
        ),
        ({"classes": [{"name": "cat", "color": [1, 2, 3], "colr": 1}]}, r"'classes.0.colr'; did you mean 'color'\?"),
        ({"classes": [{"name": "cat", "color": [1, 2, 300]}]}, r"classes\.0\.color\.2: .*255, got 300"),
        ({"classes": CONTENT["classes"] * 2}, r"class name 'cat' is used twice"),
        ({"classes": []}, r"classes: .*at least 1 item"),
        ({"splits": {}}, r"splits: .*at least 1 item"),
        ({"label_map": {0: True}}, r"label_map: raw id 0: .*from 0 to 1, or ignore, got true$"),
        ({"label_map": {0: None}}, r"label_map: raw id 0: .*from 0 to 1, or ignore, got null$"),
        ({"label_map": {2: "ignored"}}, r"raw id 2: .*, or ignore, got 'ignored' \(did you mean 'ignore'\?\)$"),
        ({"label_map": {2: "dog"}}, r"label_map: raw id 2: .*, or ignore, got 'dog' \('dog' has id 1\)$"),
        ({"label_map": {2: [1]}}, r"label_map: raw id 2: .*, or ignore, got \[1\]$"),
        ({"label_map": {2: 300}}, r"label_map: raw id 2: .*, or ignore, got 300$"),
        ({"label_map": {"a": 1}}, r"label_map: expected raw ids as keys, whole numbers from 0 to 255, got 'a'$"),
        ({"label_map": {True: 1}}, r"label_map: expected raw ids as keys, whole numbers from 0 to 255, got true$"),
        ({"label_map": {256: 1}}, r"label_map: expected raw ids as keys, whole numbers from 0 to 255, got 256$"),
    ],
)
def test_a_slip_is_one_line_that_names_file_and_key(changes, message, tmp_path):
    path = write(tmp_path / "animals.yaml", **changes)
    with pytest.raises(SegkdError, match=message) as error:
        read_spec(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["classes: [", "- a\n- b\n", ""])
def test_what_is_no_mapping_is_one_line_too(text, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SegkdError) as error:
        read_spec(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
