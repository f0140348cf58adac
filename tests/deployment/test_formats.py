import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segkd.deployment.formats import FORMATS, Graph, find_format, quiet, read_info
from segkd.errors import SegkdError

INFO = {"classes": ["road", "Straße"], "mean": [0.485, 0.456, 0.406], "size": [8, 12]}


class Net(nn.Module):
    """Two outputs, one of another size, so that names and order count."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.conv(images).relu()
        return found, found.mean((2, 3))


def write(name: str, path: Path, axes: dict[int, str] | None = None, has_control_flow: bool = False) -> nn.Module:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    torch.manual_seed(0)
    network = Net().eval()
    axes = {0: "batch", 2: "height", 3: "width"} if axes is None else axes
    example = torch.rand(2 if axes else 1, 3, 8, 12)
    with quiet(), torch.no_grad():
        FORMATS[name].write(Graph(network, example, "images", ("maps", "means"), axes, INFO, has_control_flow), path)
    return network


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_opens_alone_and_computes_the_same(name: str, tmp_path: Path):
    path = tmp_path / f"net{FORMATS[name].suffix}"
    network = write(name, path)
    assert read_info(path) == INFO
    run = FORMATS[name].open(path, 1)
    for shape in ((1, 3, 8, 12), (3, 3, 8, 12), (2, 3, 10, 7)):
        images = torch.rand(shape)
        expected = network(images)
        got = run(images)
        assert [tensor.shape for tensor in got] == [tensor.shape for tensor in expected]
        assert not any(tensor.requires_grad for tensor in got)
        for left, right in zip(got, expected, strict=True):
            assert torch.allclose(left, right, atol=1e-6)


def test_names_in_onnx(tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    write("onnx", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (images,) = session.get_inputs()
    assert images.name == "images"
    batch, channels, height, width = images.shape
    assert channels == 3
    assert all(isinstance(side, str) for side in (batch, height, width))  # PyTorch 2.6 gives them names of its own
    assert [output.name for output in session.get_outputs()] == ["maps", "means"]
    assert session.get_modelmeta().custom_metadata_map.keys() == {"segkd"}


@pytest.mark.parametrize("has_control_flow", [False, True])
def test_a_fixed_onnx_takes_no_other_size(has_control_flow: bool, tmp_path: Path):
    network = write("onnx", tmp_path / "net.onnx", {}, has_control_flow)
    run = FORMATS["onnx"].open(tmp_path / "net.onnx", 1)
    images = torch.rand(1, 3, 8, 12)
    assert torch.allclose(run(images)[1], network(images)[1], atol=1e-6)
    assert read_info(tmp_path / "net.onnx") == INFO
    with pytest.raises(Exception, match="invalid dimensions"):
        run(torch.rand(1, 3, 8, 16))


def test_a_name_that_is_none():
    with pytest.raises(SegkdError, match=r"no format 'onx': did you mean 'onnx'\?"):
        find_format("onx")
    assert find_format("pt2").suffix == ".pt2"


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SegkdError, match=r'ONNX needs onnxruntime: pip install "segkd\[export\]"'):
        find_format("onnx")
    assert find_format("torchscript").title == "TorchScript"


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_files_of_others(suffix: str, tmp_path: Path):
    path = tmp_path / f"file{suffix}"
    with pytest.raises(SegkdError, match=rf"file{suffix} is no file that segkd exported"):
        read_info(path)
    path.write_bytes(b"weights of someone else")
    with pytest.raises(SegkdError, match=rf"file{suffix} is no file that segkd exported"):
        read_info(path)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(SegkdError, match=rf"file{suffix} is no file that segkd exported"):
        read_info(path)


def test_quiet_ends(caplog: pytest.LogCaptureFixture):
    with quiet():
        logging.warning("unheard")
        warnings.warn("unseen", stacklevel=1)
    logging.warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)
