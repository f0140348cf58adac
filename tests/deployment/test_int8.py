from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkd.deployment.formats import FORMATS, quiet
from segkd.deployment.int8 import as_network, noisy_convolutions, quantise
from segkd.deployment.signature import reference_of
from segkd.network import Network
from segkd.segmentation.inference import predict_logits

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def chain(path: Path, gain: float) -> Path:
    """Write convolutions a to d with ReLU6 between; a makes its first channel small, and b makes it large again.

    Args:
        path: the file.
        gain: by how much.
    """
    random = np.random.default_rng(0)
    nodes, values, before = [], [], "images"
    for name, (inputs, outputs) in {"a": (3, 8), "b": (8, 8), "c": (8, 8), "d": (8, 4)}.items():
        weight = random.normal(0, 0.25, (outputs, inputs, 1, 1)).astype(np.float32)
        if name == "a":
            weight[0] /= gain
        if name == "b":
            weight[0] = 0
            weight[0, 0] = gain
        values += [onnx.numpy_helper.from_array(weight, f"{name}.weight")]
        nodes += [onnx.helper.make_node("Conv", [before, f"{name}.weight"], [f"{name}.conv"], name=name)]
        before = f"{name}.conv"
        if name != "d":
            nodes += [onnx.helper.make_node("Clip", [before, "low", "high"], [f"{name}.clip"], name=f"{name}.clip")]
            before = f"{name}.clip"
    values += [onnx.numpy_helper.from_array(np.float32(value), key) for key, value in (("low", 0), ("high", 6))]
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, "height", "width"])
        for name, channels in (("images", 3), (before, 4))
    ]
    graph = onnx.helper.make_graph(nodes, "chain", tensors[:1], tensors[1:], values)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def images(count: int = 4) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, 3, 16, 16) for _ in range(count)]


def run(path: Path, batch: Tensor) -> Tensor:
    return FORMATS["onnx"].open(path, 1)(batch)[0]


def stored(path: Path) -> dict[str, Any]:
    """Return the type of the weights that each convolution reads."""
    graph = onnx.load(path).graph
    values = {item.name: onnx.numpy_helper.to_array(item).dtype for item in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    return {
        node.name: str(values[makers[node.input[1]].input[0] if node.input[1] in makers else node.input[1]])
        for node in graph.node
        if node.op_type == "Conv"
    }


def test_a_plain_network_goes_to_int8_whole(tmp_path: Path):
    source = chain(tmp_path / "net.onnx", gain=1)
    with quiet():
        assert quantise(source, tmp_path / "int8.onnx", "images", images()) == []
    assert stored(tmp_path / "int8.onnx") == dict.fromkeys("abcd", "int8")
    (batch,) = images(1)
    expected = run(source, batch)
    error = (run(tmp_path / "int8.onnx", batch) - expected).abs().mean() / expected.abs().mean()
    assert 0 < error < 0.05


def test_a_convolution_of_very_large_weights_stays_in_float32_with_its_neighbours(tmp_path: Path):
    source, target = chain(tmp_path / "net.onnx", gain=400), tmp_path / "int8.onnx"
    with quiet():
        left = quantise(source, target, "images", images())
    assert sorted(left) == ["a", "a.clip", "b", "b.clip", "c"]
    assert stored(target) == {"a": "float32", "b": "float32", "c": "float32", "d": "int8"}
    assert noisy_convolutions(target) == []


def test_leaving_it_in_float32_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = chain(tmp_path / "net.onnx", gain=400)
    with quiet():
        quantise(source, tmp_path / "mixed.onnx", "images", images())
        monkeypatch.setattr("segkd.deployment.int8.MOST_NOISE", float("inf"))
        assert quantise(source, tmp_path / "whole.onnx", "images", images()) == []
        assert noisy_convolutions(tmp_path / "whole.onnx") == []
    batch = torch.cat(images())
    mixed, whole = ((run(tmp_path / f"{name}.onnx", batch) - run(source, batch)).norm() for name in ("mixed", "whole"))
    assert mixed < whole / 2


def test_the_noise_is_as_calculated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The noise of b by hand, from the scales in the file: the threshold goes just above and just below it."""
    source, target = chain(tmp_path / "net.onnx", gain=400), tmp_path / "int8.onnx"
    monkeypatch.setattr("segkd.deployment.int8.MOST_NOISE", float("inf"))
    with quiet():
        quantise(source, target, "images", images())
    values = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(target).graph.initializer}
    weight = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(source).graph.initializer}["b.weight"]
    noise = values["a.clip_scale"] / np.sqrt(12) * np.sqrt((weight[0].astype(float) ** 2).sum())
    share = noise / (255 * values["b.clip_scale"])
    monkeypatch.setattr("segkd.deployment.int8.MOST_NOISE", 1.02 * share)
    assert "b" not in noisy_convolutions(target)
    monkeypatch.setattr("segkd.deployment.int8.MOST_NOISE", 0.98 * share)
    assert "b" in noisy_convolutions(target)


def test_the_range_is_the_mean_over_images_so_that_one_image_does_not_stretch_it(tmp_path: Path):
    source, target = chain(tmp_path / "net.onnx", gain=1), tmp_path / "int8.onnx"
    low, high = torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), 1.0)
    with quiet():
        quantise(source, target, "images", [torch.cat([low, high], -1)] * 9 + [11 * torch.cat([low, high], -1)])
    values = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(target).graph.initializer}
    assert values["images_scale"] == pytest.approx(4 / 255, rel=1e-5)  # from -2 to 2: the mean of 9 times 1, and 11


@pytest.mark.parametrize("dynamic", [["batch", "height", "width"], []])
def test_a_file_is_measured_on_what_the_student_sees(dynamic: list[str]):
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 8, stride=8)
    student = Network(module, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2), multiple=8).eval()
    pixels = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
    network = as_network(lambda images: [module(images).detach()], reference_of(student, pixels[0]), dynamic)
    expected, got = (predict_logits(each, pixels, (20, 30)) for each in (student, network))
    torch.testing.assert_close(got, expected)
