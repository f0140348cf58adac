"""Reading configs: bases, overrides, and one line for each thing that is wrong, which names the file and the key."""

from pathlib import Path
from typing import Any

import pytest
from experiments import TINY, write

from segkd.errors import SegkdError
from segkd.training.config import describe, dump_config, find_config, load_config, shipped_configs
from segkd.training.distill import Distill
from segkd.training.layers import overlay
from segkd.training.teacher import teacher_configs

SMALL: dict[str, Any] = {"name": "small", "data": {"dataset": "camvid", "crop": [8, 8]}, "student": TINY["student"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "small.yaml", SMALL)
    return tmp_path


def error(*arguments: Any) -> str:
    with pytest.raises(SegkdError) as raised:
        load_config(*arguments)
    message = str(raised.value)
    assert "\n" not in message
    return message


class TestFind:
    def test_a_shipped_one_by_name_with_and_without_suffix(self):
        expected = next(path for path in shipped_configs() if path.stem == "quickstart")
        for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml"):
            assert find_config(name).resolve() == expected.resolve()

    def test_a_file_beside_another_comes_first(self, folder: Path):
        write(folder / "quickstart.yaml", SMALL)
        assert find_config("quickstart.yaml", beside=folder) == folder / "quickstart.yaml"

    def test_one_of_the_working_directory_without_its_suffix(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(folder)
        assert find_config("small") == Path("small.yaml")
        with pytest.raises(SegkdError, match=r"did you mean 'small'\?"):
            find_config("smal")

    @pytest.mark.parametrize("name", ["quickstrat", "nowhere/quickstrat.yaml"])
    def test_none_names_the_nearest(self, name: str):
        with pytest.raises(SegkdError, match=rf"there is no config '{name}': did you mean 'quickstart'\?"):
            find_config(name)

    def test_a_run_in_its_place_names_the_run_s(self, tmp_path: Path):
        write(tmp_path / "old/config.yaml", "name: old\n")
        with pytest.raises(SegkdError, match=rf"is a run, .*: name {tmp_path}/old/config.yaml, or .* --resume "):
            find_config(str(tmp_path / "old"))


class TestDescribe:
    def test_is_the_first_sentence_over_lines(self, tmp_path: Path):
        path = write(tmp_path / "a.yaml", "# Threshold 0.7, on two\n# lines. Needs: nothing.\nname: a\n# Not this.\n")
        assert describe(path) == "Threshold 0.7, on two lines."

    def test_every_shipped_config_has_one(self):
        for path in shipped_configs():
            assert describe(path).endswith("."), path


class TestMerge:
    def test_later_layers_win(self, folder: Path):
        write(folder / "base.yaml", {**SMALL, "seed": 1, "optimizer": {"lr": 0.5, "momentum": 0.5}})
        write(folder / "other.yaml", {"optimizer": {"momentum": 0.6}})
        path = write(folder / "top.yaml", {"base": ["base.yaml", "other.yaml"], "optimizer": {"power": 2.0}})
        config = load_config(str(path), ["seed=3"], {"seed": 2, "name": "changed"})
        assert (config.name, config.seed) == ("changed", 3)
        assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.power) == (0.5, 0.6, 2.0)

    def test_bases_have_bases_relative_to_themselves(self, folder: Path):
        write(folder / "deep" / "a.yaml", {"base": "../small.yaml", "seed": 4})
        path = write(folder / "top.yaml", {"base": "deep/a.yaml"})
        assert load_config(str(path)).seed == 4

    def test_null_takes_out_a_term_and_the_teacher(self, folder: Path):
        write(
            folder / "kd.yaml",
            {
                "base": "small.yaml",
                "teacher": {"config": "small.yaml"},
                "distill": {"terms": {"kd": {"loss": "pixel_kd"}}},
            },
        )
        config = load_config(str(folder / "kd.yaml"), ["distill.terms.kd=null", "teacher=null"])
        assert config.distill.build_terms() == {}
        assert config.teacher is None

    def test_an_empty_block_takes_out_what_a_base_has(self, folder: Path):
        write(folder / "base.yaml", {**SMALL, "student": {**SMALL["student"], "options": {"decoder_channels": 8}}})
        path = write(folder / "top.yaml", {"base": "base.yaml"})
        assert load_config(str(path)).student.options == {"decoder_channels": 8}
        assert load_config(str(path), ["student.options={}"]).student.options == {}
        both = ["student.options={}", "student.options.encoder_output_stride=8"]
        assert load_config(str(path), both).student.options == {"encoder_output_stride": 8}
        assert load_config(str(path), both[::-1]).student.options == {}
        cleared = write(folder / "cleared.yaml", {"base": "base.yaml", "student": {"options": {}}})
        assert load_config(str(cleared)).student.options == {}

    @pytest.mark.parametrize("order", [1, -1])
    def test_another_architecture_leaves_the_options_of_the_base_out(self, folder: Path, order: int):
        write(folder / "base.yaml", {**SMALL, "student": {**SMALL["student"], "options": {"decoder_channels": 8}}})
        path = write(folder / "top.yaml", {"base": "base.yaml", "student": {"arch": "Unet"}})
        assert load_config(str(path)).student.options == {}
        changes = ["student.arch=Unet", "student.options.encoder_depth=4"][::order]
        assert load_config(str(folder / "base.yaml"), changes).student.options == {"encoder_depth": 4}
        assert load_config(str(folder / "base.yaml"), ["student.arch=deeplabv3plus"]).student.options != {}

    @pytest.mark.parametrize("above", [{"family": "smp"}, {"family": "torchvision"}, {"build": "nets:Net"}])
    def test_another_family_leaves_what_describes_that_of_the_base_out(self, above: dict[str, str]):
        below = {"build": "nets:other", "options": {"width": 8}}
        if "build" in above:
            below = {"arch": "Unet", "encoder": "resnet18", "options": {"decoder_channels": [16]}}
        merged = overlay({"student": {**below, "checkpoint": "a.safetensors"}}, {"student": above})
        assert merged == {"student": {"checkpoint": "a.safetensors", **above}}

    def test_another_loss_leaves_the_options_of_the_base_out(self, folder: Path):
        term = {"loss": "pixel_kd", "temperature": 2.0, "weight": 3.0}
        teacher = {"config": "small.yaml"}
        path = write(folder / "kd.yaml", {"base": "small.yaml", "teacher": teacher, "distill": {"terms": {"kd": term}}})
        block = load_config(str(path), ["distill.terms.kd.loss=cwd"]).distill.named_terms()["kd"]
        assert (block.loss, block.weight, block.options) == ("cwd", 3.0, {})

    def test_another_connector_weighting_or_schedule_leaves_that_of_the_base_out(self, folder: Path):
        distill = {
            "terms": {"kd": {"loss": "pkd", "connector": {"mlp": {"hidden": 3}}}},
            "schedule": {"kd": {"linear": {"start": 1, "end": 0}}, "task": {"linear": {"start": 1, "end": 1}}},
            "pixel_weighting": {"rdd": {"min_kept": 5}},
        }
        base = {"base": "small.yaml", "teacher": {"config": "small.yaml"}, "distill": distill}
        path = str(write(folder / "kd.yaml", base))

        def changed(*changes: str) -> Distill:
            return load_config(path, [f"distill.{change}" for change in changes], build=False).distill

        assert changed("terms.kd.connector=conv1x1").named_terms()["kd"].connector == "conv1x1"
        assert changed("terms.kd.connector={m:f: {a: 1}}").named_terms()["kd"].connector == {"m:f": {"a": 1}}
        assert changed("terms.kd.connector.mlp.hidden=4").named_terms()["kd"].connector == {"mlp": {"hidden": 4}}
        assert changed("pixel_weighting={m:f: {}}").pixel_weighting == {"m:f": {}}
        assert changed("pixel_weighting.rdd.switch=0.2").pixel_weighting == {"rdd": {"min_kept": 5, "switch": 0.2}}
        schedule = changed("schedule={kd: {m:f: {until: 1}}}").schedule
        assert schedule == {"kd": {"m:f": {"until": 1}}, "task": {"linear": {"start": 1, "end": 1}}}
        assert changed("schedule.kd.linear.end=0.5").schedule["kd"] == {"linear": {"start": 1, "end": 0.5}}
        assert changed("schedule={alw: {fall: [kd], rise: [task]}}").schedule.keys() == {"alw"}
        whole = ["schedule={alw: {fall: [kd], rise: [task]}}", "schedule.alw.stages=4"]
        assert changed(*whole).schedule == {"alw": {"fall": ["kd"], "rise": ["task"], "stages": 4}}

    def test_a_teacher_of_another_kind_leaves_that_of_the_base_out(self, folder: Path):
        path = write(folder / "top.yaml", {"base": "small.yaml", "teacher": {"config": "small.yaml"}})
        teacher = load_config(str(path), ["teacher.checkpoint=runs/big"]).teacher
        assert teacher is not None
        assert (teacher.config, teacher.checkpoint) == (None, "runs/big")
        write(path, {"base": "small.yaml", "teacher": {"arch": "Unet", "encoder": "resnet18", "checkpoint": "a.pth"}})
        teacher = load_config(str(path), [f"teacher.config={folder / 'small.yaml'}"]).teacher
        assert teacher is not None
        assert (teacher.config, teacher.checkpoint, teacher.arch) == (str(folder / "small.yaml"), None, None)

    def test_a_data_set_is_named_relative_to_its_config(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        write(folder / "deep" / "set.yaml", "name: x")
        write(folder / "deep" / "base.yaml", {**SMALL, "data": {"dataset": "set.yaml", "crop": [8, 8]}})
        path = write(folder / "top.yaml", {"base": "deep/base.yaml"})
        assert Path(load_config(str(path)).data.dataset) == folder / "deep" / "set.yaml"
        monkeypatch.chdir(folder)
        config = load_config("top.yaml")
        assert config.data.dataset == "deep/set.yaml"
        # What a run directory keeps holds from everywhere.
        kept = write(folder / "runs" / "x" / "config.yaml", dump_config(config))
        monkeypatch.chdir("/")
        assert load_config(str(kept)).data.dataset == str(folder / "deep" / "set.yaml")

    def test_a_data_set_of_the_command_line_or_of_no_file_beside_is_of_the_working_directory(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        write(folder / "set.yaml", "name: x")
        path = write(folder / "deep" / "a.yaml", {**SMALL, "data": {"dataset": "set.yaml", "crop": [8, 8]}})
        monkeypatch.chdir(folder)
        assert load_config(str(path)).data.dataset == "set.yaml"
        write(folder / "deep" / "set.yaml", "name: x")
        assert load_config(str(path)).data.dataset == str(folder / "deep" / "set.yaml")
        assert load_config(str(path), ["data.dataset=./set.yaml"]).data.dataset == "./set.yaml"

    def test_interpolation_reads_other_keys_and_the_environment(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SEGKD_TEST_ROOT", "/somewhere")
        path = write(
            folder / "top.yaml",
            "base: small.yaml\nvalidation: {resize: '${data.crop}'}\ndata: {root: '${oc.env:SEGKD_TEST_ROOT}/x'}\n",
        )
        config = load_config(str(path))
        assert config.validation.resize == (8, 8)
        assert config.data.root == "/somewhere/x"

    def test_overrides_are_read_as_yaml(self, folder: Path):
        config = load_config(str(folder / "small.yaml"), ["data.crop=[4, 6]", "optimizer.lr=1e-3", "trainer.devices=2"])
        assert config.data.crop == (4, 6)
        assert config.optimizer.lr == 0.001
        assert config.trainer.devices == 2

    def test_a_dumped_config_reads_as_the_same(self, folder: Path):
        config = load_config(str(folder / "small.yaml"), ["distill.terms={}", "seed=7"])
        again = load_config(str(write(folder / "again.yaml", dump_config(config))))
        assert again == config

    def test_a_teachers_config_is_named_so_that_it_is_found_from_the_run(self, folder: Path):
        path = write(folder / "top.yaml", {"base": "small.yaml", "teacher": {"config": "small.yaml"}})
        config = load_config(str(path))
        assert config.teacher is not None
        assert config.teacher.config == str(folder / "small.yaml")
        shipped = load_config(str(path), ["teacher.config=quickstart_teacher"])
        assert shipped.teacher is not None
        assert shipped.teacher.config == "quickstart_teacher"


class TestErrors:
    """Which file a fault is laid to; the table of faults has most of them."""

    def test_a_stride_beyond_the_window(self, folder: Path):
        message = error(str(folder / "small.yaml"), ["validation.stride=[9,4]"])
        assert message == f"{folder / 'small.yaml'}: validation.stride must not be beyond the window [8, 8], got [9, 4]"

    def test_names_the_base_that_holds_the_key(self, folder: Path):
        write(folder / "bad.yaml", {"trainer": {"max_steps": -1}})
        path = write(folder / "top.yaml", {"base": ["small.yaml", "bad.yaml"], "trainer": {"threads": 1}})
        assert error(str(path)).startswith(f"{folder / 'bad.yaml'}: trainer.max_steps: ")
        write(folder / "bad.yaml", {"trainer": {"max_stesp": 1}})
        assert (
            error(str(path)) == f"{folder / 'bad.yaml'}: there is no key 'trainer.max_stesp', did you mean 'max_steps'?"
        )

    def test_a_missing_key(self, folder: Path):
        path = write(folder / "top.yaml", {"name": "top", "student": SMALL["student"]})
        assert error(str(path)) == f"{path}: the key 'data' is missing"
        path = write(folder / "top.yaml", {**SMALL, "student": {"arch": "Unet"}})
        assert error(str(path)) == f"{path}: the key 'student.encoder' is missing"

    def test_an_incomplete_teacher(self, folder: Path):
        path = write(folder / "top.yaml", {**SMALL, "teacher": {"arch": "Unet", "encoder": "resnet18"}})
        message = error(str(path))
        assert message.startswith(f"{path}: teacher: ")
        assert "a teacher needs a config, or a checkpoint" in message
        block = {"arch": "Unet", "encoder": "resnet18", "checkpoint": "a.pth", "overrides": {"seed": 2}}
        path = write(folder / "top.yaml", {**SMALL, "teacher": block})
        assert "overrides are changes to a config, and this teacher has none" in error(str(path))

    def test_bases_in_a_circle(self, folder: Path):
        write(folder / "a.yaml", {"base": "b.yaml"})
        write(folder / "b.yaml", {"base": "a.yaml"})
        assert error(str(folder / "a.yaml")) == f"{folder / 'a.yaml'}: its bases go round in a circle"

    def test_a_base_may_be_a_shipped_config_by_its_name(self, tmp_path: Path) -> None:
        for base in ("camvid_icsd", "camvid_icsd.yaml"):
            config = load_config(str(write(tmp_path / "mine.yaml", {"base": base, "name": "mine", "seed": 7})))
            shipped = load_config("camvid_icsd")
            assert config == shipped.model_copy(update={"name": "mine", "seed": 7})
        # What lies beside the file comes first.
        write(tmp_path / "camvid_icsd.yaml", {"base": "camvid_plain", "seed": 3})
        assert load_config(str(tmp_path / "mine.yaml"), ["name=mine"]).distill.named_terms() == {}
        path = write(tmp_path / "wrong.yaml", {"base": "camvid_icds"})
        assert "did you mean 'camvid_icsd" in error(str(path))

    def test_a_missing_base(self, folder: Path):
        path = write(folder / "a.yaml", {"base": "smal.yaml"})
        assert error(str(path)) == f"{path}: base 'smal.yaml' does not exist: did you mean 'small.yaml'?"

    def test_a_teachers_config_of_another_machine_is_missed_where_it_is_needed(self, folder: Path):
        path = write(folder / "config.yaml", {**SMALL, "name": "pupil", "teacher": {"config": "/elsewhere/big.yaml"}})
        config = load_config(str(path))
        assert load_config(str(path), ["teacher=null"]).teacher is None
        with pytest.raises(SegkdError, match=r"pupil: teacher.config: there is no config '/elsewhere/big.yaml'"):
            teacher_configs(config)
