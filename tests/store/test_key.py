"""Keys of stores: the same for the same thing, another for any change."""

from pathlib import Path

import pytest
import torch
from nets import Net, seeded

from segkd.errors import SegkdError
from segkd.store.key import key, of_files, of_libraries, of_module


def test_a_key_is_of_values_not_of_their_order() -> None:
    assert key({"a": 1, "b": [1, 2]}) == key({"b": [1, 2], "a": 1})
    assert len({key({"a": 1}), key({"a": 2}), key({"a": "1"}), key({})}) == 4


def test_a_module_changes_with_its_weights_its_buffers_and_its_layers() -> None:
    same = of_module(seeded(Net, 0))
    assert of_module(seeded(Net, 0)) == same
    weight, buffer, layer = seeded(Net, 0), seeded(Net, 0), seeded(Net, 0)
    with torch.no_grad():
        weight.head.bias[0] += 1e-6
        buffer.encoder[1].running_mean[0] += 1e-6
    layer.encoder[0].dilation = (2, 2)
    assert len({same, *map(of_module, (weight, buffer, layer)), of_module(seeded(Net, 0).half())}) == 5


@pytest.mark.parametrize("arch", ["FPN", "Unet", "MAnet", "UnetPlusPlus"])
def test_a_module_changes_with_a_setting_that_its_repr_does_not_show(arch: str) -> None:
    import segmentation_models_pytorch as smp

    with torch.random.fork_rng():
        digests = []
        for interpolation in ("nearest", "bilinear", "nearest"):
            torch.manual_seed(0)
            model = smp.create_model(arch, "resnet18", encoder_weights=None, decoder_interpolation=interpolation)
            digests.append(of_module(model))
    assert digests[0] == digests[2] != digests[1]


def test_a_module_of_ones_own_changes_with_its_settings_and_its_code_but_not_with_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "of_my_own.py"
    code.write_text(
        "from torch import nn\n\n\nclass Scaled(nn.Module):\n"
        "    def __init__(self, scale):\n        super().__init__()\n"
        "        self.scale = scale\n\n    def forward(self, x):\n        return x * self.scale\n"
    )
    from of_my_own import Scaled

    same = of_module(Scaled(1.0))
    used = Scaled(1.0).eval()
    used(torch.ones(2))
    assert of_module(used) == same != of_module(Scaled(1.5))
    code.write_text(code.read_text().replace("x * ", "x / "))
    assert of_module(Scaled(1.0)) != same


def test_files_change_with_content_names_order_and_number(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    same = of_files(paths, tmp_path)
    (tmp_path / "moved").mkdir()
    for path in paths:
        (tmp_path / "moved" / path.name).write_text(path.name)
    assert of_files([tmp_path / "moved" / path.name for path in paths], tmp_path / "moved") == same
    others = {of_files(paths[::-1], tmp_path), of_files(paths[:1], tmp_path)}
    paths[0].write_text("c")
    assert len({same, *others, of_files(paths, tmp_path)}) == 4


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegkdError, match="gone"):
        of_files([tmp_path / "gone"], tmp_path)


def test_libraries_are_named_with_versions() -> None:
    assert of_libraries()["torch"] == torch.__version__ or of_libraries()["torch"] in torch.__version__
