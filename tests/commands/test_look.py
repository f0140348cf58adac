"""What there is: lists of configs and methods, data sets checked and drawn."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trees
from experiments import make_experiment, refused, segkd
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs and data, read only."""
    return make_experiment(tmp_path_factory.mktemp("look"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The same for tests that change its files."""
    return make_experiment(tmp_path)


class TestLists:
    @pytest.mark.parametrize("width", [80, 120])
    def test_configs(self, width: int, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("COLUMNS", str(width))
        outcome = segkd("configs")
        assert outcome.status == 0
        assert max(map(len, outcome.out.splitlines())) <= width
        names = {line.split()[0] for line in outcome.out.splitlines()[1:] if line[0] != " "}
        assert {"quickstart", "camvid_plain", "camvid_kd", "camvid_aicsd", "camvid_rdd", "camvid_teacher"} <= names
        assert not any(name.startswith("_") for name in names)

    @pytest.mark.parametrize("width", [80, 120])
    def test_methods_show_every_option_whole(self, width: int, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("COLUMNS", str(width))
        outcome = segkd("methods")
        assert outcome.status == 0
        assert max(map(len, outcome.out.splitlines())) <= width
        assert "…" not in outcome.out
        words = " ".join(outcome.out.split())
        for text in ("icsd: Inter-class", "temperature: 4.0", "arXiv 2407.03719", "without_auxiliary: error", "alw:"):
            assert text in words


class TestData:
    def test_check_passes_a_whole_data_set(self, folder: Path):
        outcome = segkd("data", "check", folder / "tiny.yaml")
        assert outcome.status == 0
        for text in ("train: 5 pairs", "val: 3 pairs", "96x64", "bicyclist", "0 problem(s)"):
            assert text in outcome.out

    def test_check_of_a_run_names_its_config(self, tmp_path: Path):
        (tmp_path / "config.yaml").touch()
        refused(segkd("data", "check", tmp_path), "is a run, but a config is expected", f"name {tmp_path}/config.yaml")

    def test_a_picture_for_no_folder_is_told_in_words(self, folder: Path, tmp_path: Path):
        out = tmp_path / "none/samples.png"
        outcome = segkd("data", "show", folder / "tiny.yaml", "--out", out)
        refused(outcome, f"the picture {out} cannot be written: No such file or directory")
        assert "Errno" not in outcome.err

    def test_check_names_all_that_is_wrong(self, own: Path):
        data = own / "camvid"
        Image.new("L", (4, 4)).save(data / "trainannot" / "0001TP_000000.png")
        Image.fromarray(np.full((64, 96), 99, np.uint8)).save(data / "trainannot" / "0001TP_000001.png")
        (data / "train" / "0001TP_000002.png").write_bytes(b"\x89PNG broken")
        (data / "trainannot" / "0001TP_000003.png").unlink()
        outcome = segkd("data", "check", own / "tiny.yaml")
        refused(outcome, "4 problem(s)", "camvid")
        for index in range(4):
            assert f"0001TP_00000{index}.png" in outcome.out

    def test_check_of_a_data_set_without_a_config(self, folder: Path, tmp_path: Path):
        of_config = segkd("data", "check", folder / "tiny.yaml")
        described = folder / "camvid" / "camvid.yaml"
        assert segkd("data", "check", described) == of_config
        moved = shutil.move(shutil.copytree(folder / "camvid", tmp_path / "copy"), tmp_path / "moved")
        outcome = segkd("data", "check", "camvid", f"data.root={moved}")
        assert (outcome.status, outcome.out.splitlines()[1:3]) == (0, of_config.out.splitlines()[1:3])
        boxes = trees.make_bccd(tmp_path / "bccd", train=3, val=2)
        assert "train: 3 images" in segkd("data", "check", boxes).out

    @pytest.mark.parametrize("make", [trees.make_camvid, trees.make_bccd])
    def test_check_has_a_limit_of_pixels(self, make: Callable[[Path], Path], tmp_path: Path):
        described = make(tmp_path / "data")
        assert segkd("data", "check", described, "data.max_pixels=6144").status == 0
        outcome = segkd("data", "check", described, "data.max_pixels=6143")
        refused(outcome, "problem(s)")
        assert "has 6144 pixels (96x64), more than data.max_pixels=6143" in outcome.out

    def test_check_says_what_is_converted(self, folder: Path, tmp_path: Path):
        data = shutil.copytree(folder / "camvid", tmp_path / "camvid")
        images = list((data / "val").iterdir())
        for image in images:
            Image.open(image).convert("RGBA").save(image)
        outcome = segkd("data", "check", data / "camvid.yaml")
        assert outcome.status == 0
        said = f"{len(images)} images have an alpha channel, left out: transparent pixels count as opaque; the first"
        assert said in outcome.out

    def test_check_lists_twenty_problems_and_counts_the_others(self, tmp_path: Path):
        described = trees.make_camvid(tmp_path / "camvid", train=25, val=1)
        for mask in (tmp_path / "camvid" / "trainannot").iterdir():
            mask.unlink()
        outcome = segkd("data", "check", described)
        refused(outcome, "25 problem(s) in data set 'camvid'")
        assert outcome.out.count(" has no mask ") == 20
        assert outcome.out.endswith("    ... and 5 more\n")

    def test_show_writes_a_picture(self, folder: Path, tmp_path: Path):
        for split, name in ((None, "a.png"), ("val", "b.png")):
            options = [] if split is None else ["--split", split]
            outcome = segkd("data", "show", folder / "tiny.yaml", "--count", 2, "--out", tmp_path / name, *options)
            assert outcome.status == 0
            assert outcome.out.startswith(f"{tmp_path / name} shows 2 samples")
            assert np.asarray(Image.open(tmp_path / name)).std() > 10

    def test_show_refuses(self, folder: Path, tmp_path: Path):
        command = ("data", "show", folder / "tiny.yaml")
        refused(segkd(*command, "--split", "vla"), "'vla'", "did you mean 'val'?")
        refused(segkd(*command, "--count", 0), "--count")
        refused(segkd(*command, "--out", tmp_path / "none" / "a.png"), str(tmp_path / "none" / "a.png"))
        refused(segkd(*command, "--out", tmp_path / "a.xyz"), "a.xyz")
        described = folder / "camvid/camvid.yaml"
        for name in (described, "camvid"):
            for command in (("data", "show"), ("train",), ("store",)):
                text = f"{name} describes a data set, but a config is expected: name one, with data.dataset={name}"
                refused(segkd(*command, name), text)
        assert not list(tmp_path.iterdir())
