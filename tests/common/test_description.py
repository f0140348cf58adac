import json

import pytest
import torch
from torch import nn

from segkd.common.description import check_info, check_keys, no_larger_than, read_description, setting
from segkd.errors import SegkdError


class TestReading:
    def test_what_json_holds(self, tmp_path):
        (tmp_path / "a.json").write_text('{"a": [1, 2.5, null, true, "ä"]}', encoding="utf-8")
        assert read_description(tmp_path / "a.json") == {"a": [1, 2.5, None, True, "ä"]}

    @pytest.mark.parametrize("text", ["", "[]", "null", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', "9" * 5000])
    def test_what_is_no_description(self, text, tmp_path):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError):  # noqa: PT011 (of each kind, see `read_student` for the message)
            read_description(tmp_path / "a.json")

    def test_what_is_no_file(self, tmp_path):
        with pytest.raises(SegkdError, match="no such file"):
            read_description(tmp_path / "a.json")
        with pytest.raises(SegkdError, match="folder"):
            read_description(tmp_path)


KINDS = {"count": int, "rates": setting(list[float]), "free": setting(dict[str, int | str])}


class TestKeys:
    def test_values_of_their_types(self):
        check_keys({"count": 3, "rates": [1, 2.5], "free": {"a": 1, "b": "c"}}, KINDS, required=("count",))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({}, "^count is missing"),
            ({"count": 1, "cuont": 2}, "no key 'cuont': did you mean 'count'"),
            ({"count": True}, "count: expected a whole number, got true"),
            ({"count": "1"}, "count: .*'1'"),
            ({"count": 1.0}, "count: "),
            ({"count": 1, "rates": 5}, "rates: expected a list, got 5"),
            ({"count": 1, "rates": [2**25]}, "rates: .*16777216"),
            ({"count": 1, "rates": [1.0] * 33}, "rates: .*plain"),
            ({"count": 1, "free": {"a": [1]}}, "free: "),
            ({"count": 1, "free": {"a": "x" * 201}}, "free: .*200"),
        ],
    )
    def test_what_is_wrong_is_named(self, values, message):
        with pytest.raises(SegkdError, match=message) as error:
            check_keys(values, KINDS, required=("count",))
        assert len(str(error.value)) < 300


class TestInfo:
    def test_nothing_need_be_recorded_and_other_keys_are_let_through(self):
        for info in ({}, {"version": "0.1", "note": {"a": [1]}}, {"ignore_index": None, "size": None, "window": 64}):
            assert check_info(info, "_segkd", ("segmentation",), 3) == info

    def test_the_task_is_the_models(self):
        check_info({"task": "detection"}, "_segkd", ("detection",), 3)
        with pytest.raises(SegkdError, match=r"_segkd\.task: expected 'segmentation', got 'detection'"):
            check_info({"task": "detection"}, "_segkd", ("segmentation",), 3)

    def test_a_size_is_bounded_by_its_pixels_too(self):
        check_info({"size": [4096, 8192]}, "_segkd", ("segmentation",), 3)
        with pytest.raises(SegkdError, match="pixels in all"):
            check_info({"size": [32768, 32768]}, "_segkd", ("segmentation",), 3)

    def test_6000_classes_fit(self, tmp_path):
        info = {"classes": [f"a name of class {i}" for i in range(6000)], "colors": [[0, 100, 255]] * 6000}
        (tmp_path / "a.json").write_text(json.dumps(info, indent=2))
        check_info(read_description(tmp_path / "a.json"), "_segkd", ("detection",), 6000)


class TestMemory:
    def test_a_network_of_its_files_size_is_built_and_a_far_larger_one_is_not(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"x" * 400)
        with no_larger_than(tmp_path / "model.safetensors"):
            assert nn.Conv2d(3, 4, 3).weight.shape == (4, 3, 3, 3)
            with torch.device("meta"):
                assert nn.Linear(100_000, 100_000).weight.is_meta
            for make in (lambda: nn.Linear(100_000, 100_000), lambda: torch.zeros(10**5, 10**5)):
                with pytest.raises(SegkdError, match=r"larger than what model\.safetensors holds"):
                    make()
        assert torch.zeros(2, 3).shape == (2, 3)

    def test_many_layers_count_together(self, tmp_path):
        (tmp_path / "a").touch()
        with no_larger_than(tmp_path / "a"), pytest.raises(SegkdError, match="larger"):
            nn.ModuleList(nn.Linear(2**11, 2**11) for _ in range(100))
