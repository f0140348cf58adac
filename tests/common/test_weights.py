import pytest
import safetensors.torch
import torch
from torch import nn

from segkd.common.weights import check_fit, is_weight_file, load_pretrained, read_state_dict
from segkd.errors import SegkdError


def net(width=4, classes=2, deep=False):
    layers = {"stem": nn.Conv2d(3, width, 3), "norm": nn.BatchNorm2d(width), "head": nn.Linear(width, classes)}
    return nn.ModuleDict({**layers, **({"more": nn.Linear(1, 1)} if deep else {})})


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in state.items())


def test_weight_files_are_told_from_names(tmp_path):
    file = tmp_path / "weights"
    file.touch()
    assert all(is_weight_file(path) for path in ("a/b", "b.pth", "b.safetensors", file, str(file)))
    assert not is_weight_file("imagenet")


def test_every_kind_of_file_is_read_and_wrappers_are_taken_off(tmp_path):
    state = net().state_dict()
    ours = {f"distiller.student.{key}": value for key, value in state.items()}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"model": state}, tmp_path / "c.bin")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "d.pt")
    torch.save(
        {"epoch": 3, "state_dict": {**ours, "distiller.connectors.pkd.weight": torch.zeros(1)}}, tmp_path / "e.ckpt"
    )
    for file in tmp_path.iterdir():
        assert same(read_state_dict(file), state), file


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_are_no_weights(tmp_path, capsys):
    (tmp_path / "broken.pth").write_bytes(b"not a pickle")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "odd.pht").write_text("x")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": Payload()}, tmp_path / "hostile.pth")
    expected = {
        "broken.pth": "not a readable",
        "broken.safetensors": "not a readable",
        "odd.pht": "'.pt'",
        "empty.pth": "no weights",
        "list.pth": "no state dict",
        "hostile.pth": "not a readable",
        "absent.pth": "no such file",
    }
    for name, text in expected.items():
        with pytest.raises(SegkdError) as error:
            read_state_dict(tmp_path / name)
        assert name in str(error.value)
        assert text in str(error.value)
        assert "\n" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def classes(key, value):
    return value.shape[0] if key.startswith("head.") else None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (net(deep=True), "it has 2 keys that the model lacks, first 'p.more.weight' 1x1"),
        (net(width=5), "'p.stem.weight' is 5x3x3x3 in the file and 4x3x3x3 in the model"),
        (net(classes=7), "the file has 7 classes, the model 2 ('p.head.weight' is 7x4 in the file and 2x4"),
        (nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3)}), "it lacks 6 of the model's 9 keys, first 'p.norm.weight' 4"),
        (nn.ModuleDict({"other": nn.Linear(1, 1)}), "and has 2 others, first 'p.other.weight'"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(given, expected, tmp_path):
    with pytest.raises(SegkdError) as error:
        check_fit(net(), given.state_dict(), tmp_path / "a.pth", "p.", classes)
    assert expected in str(error.value)
    assert "a.pth" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_fits_is_no_error_with_or_without_batch_norms_counter(tmp_path):
    state = net().state_dict()
    check_fit(net(), state, tmp_path)
    del state["norm.num_batches_tracked"]
    check_fit(net(), state, tmp_path)
    frozen = net()
    del frozen.norm.num_batches_tracked
    check_fit(frozen, net().state_dict(), tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_numbers_of_another_kind_are_not_taken_for_weights(dtype, tmp_path):
    state = net().state_dict()
    expected = f"'p.stem.weight' is {str(dtype).removeprefix('torch.')} in the file and float32 in the model"
    with pytest.raises(SegkdError, match=expected):
        check_fit(net(), {**state, "stem.weight": state["stem.weight"].to(dtype)}, tmp_path / "a.pth", "p.")
    for precision in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64):
        check_fit(net(), {**state, "stem.weight": state["stem.weight"].to(precision)}, tmp_path / "a.pth")


def test_weights_are_finite_in_the_models_own_precision(tmp_path):
    state = {"a": torch.tensor([1e39, 1.0], dtype=torch.float64)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(SegkdError, match="'a' is not finite: 1 of 2"):
        read_state_dict(tmp_path / "a.safetensors")
    safetensors.torch.save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    assert read_state_dict(tmp_path / "a.safetensors")["a"].float().tolist() == [1, 1]


def features(module):
    return nn.ModuleDict({key: part for key, part in module.items() if key != "head"})


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_pretrained_weights_without_their_classifier(prefix):
    given, module = net(), features(net())
    state = {f"{prefix}{key}": value for key, value in given.state_dict().items()}
    load_pretrained(module, {**state, "elsewhere.weight": torch.zeros(1)}, "a.pth", "network 'n'", within="backbone.")
    assert same(module.state_dict(), features(given).state_dict())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stages.0.conv.weight", "stages_0.conv.weight"),
        ("stages.0.conv.weight", "model.stages_0.conv.weight"),
        ("stages.0.conv.weight", "model.stages.0.conv.weight"),
        ("features.denselayer3.conv.1.weight", "features.denselayer3.conv1.weight"),
    ],
)
def test_other_spellings(theirs, ours):
    value = torch.rand(2, 3, 1, 1)
    module = nn.Module()
    inner = module
    for part in ours.split(".")[:-2]:
        inner.add_module(part, nn.Module())
        inner = getattr(inner, part)
    inner.add_module(ours.split(".")[-2], nn.Conv2d(3, 2, 1, bias=False))
    load_pretrained(module, {theirs: value}, "a.pth", "network 'n'", within="encoder.")
    assert torch.equal(module.state_dict()[ours], value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda s: s.pop("stem.weight"),
            "1 of 7 keys missing, 0 of another shape, 0 unexpected; first missing stem.weig",
        ),
        (
            lambda s: s.update({"stem.weight": torch.zeros(4, 3)}),
            "stem.weight is 4x3 in the file and 4x3x3x3 in the net",
        ),
        (lambda s: s.update({"stem.2.weight": torch.zeros(1)}), "first unexpected stem.2.weight"),
    ],
)
def test_pretrained_weights_that_do_not_fit_change_nothing(change, expected):
    state, module = net().state_dict(), features(net())
    change(state)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(SegkdError) as error:
        load_pretrained(module, state, "a.pth", "network 'n'", within="encoder.")
    assert "a.pth does not fit network 'n'" in str(error.value)
    assert expected in str(error.value)
    assert same(module.state_dict(), before)
