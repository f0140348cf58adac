"""An ONNX file in int8: onnxruntime's static quantisation, and which layers are better left in float32."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

#: The share of a convolution's output range that the rounding error of its input may reach in a channel.
MOST_NOISE = 0.03

# What multiplies its input with weights.
_WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantise(source: Path, target: Path, name: str, images: Iterable[Tensor]) -> list[str]:
    """Write an ONNX file of convolutions in int8, with scales at each tensor (QDQ).

    Weights have a scale per output channel, activations one per tensor, from the mean over the images of their
    smallest and their largest value: one odd image does not stretch the range for all.

    A convolution stays in float32, with the one before and the one after it, where it would carry the rounding error of
    its input to more than `MOST_NOISE` of its output's range. Networks with batch norm can have such a one: folded into
    a convolution, the norm of a channel that hardly varied gives very large weights.

    Args:
        source: the file in float32.
        target: the file to write.
        name: of the input.
        images: inputs that scales are calibrated on.

    Returns:
        The names of the nodes that are left in float32.
    """
    batches = [image.numpy() for image in images]
    _quantise(source, target, name, batches, [])
    left = _with_neighbours(source, noisy_convolutions(target))
    if left:
        _quantise(source, target, name, batches, left)
    return left


def _quantise(source: Path, target: Path, name: str, batches: list[np.ndarray], left: list[str]) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs: Iterator[dict[str, np.ndarray]] = ({name: batch} for batch in batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    # Unsigned activations with signed weights: what the int8 instructions of x86 multiply.
    quantization.quantize_static(
        source,
        target,
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=left,
        extra_options={"CalibMovingAverage": True},  # of all at once: their mean
    )


def noisy_convolutions(path: Path) -> list[str]:
    """Return the names of the convolutions in a quantised file that carry more than `MOST_NOISE` to their outputs.

    An input rounded to a multiple of s is off by s / sqrt(12), root mean square. The error in an output channel is
    that times the norm of the channel's weights, if the errors of its inputs are independent.

    Args:
        path: of a file with QuantizeLinear and DequantizeLinear at each tensor.
    """
    import onnx

    graph = onnx.load(path).graph
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    users = _users(graph)
    noisy = []
    for node in graph.node:
        inputs = [makers.get(name) for name in node.input[:2]]
        if node.op_type != "Conv" or not all(
            part is not None and part.op_type == "DequantizeLinear" for part in inputs
        ):
            continue
        image, weight = inputs
        after = [user for user in users.get(node.output[0], []) if user.op_type == "QuantizeLinear"]
        if not after:
            continue
        steps = float(values[image.input[1]]), float(values[after[0].input[1]])  # type: ignore[union-attr]
        stored, scale = (values[name].astype(np.float64) for name in weight.input[:2])  # type: ignore[union-attr]
        gains = np.linalg.norm(stored.reshape(len(stored), -1), axis=1) * scale
        if steps[0] / 12**0.5 * gains.max() > MOST_NOISE * steps[1] * 255:
            noisy.append(str(node.name))
    return noisy


def _with_neighbours(path: Path, names: list[str]) -> list[str]:
    """Return the names of convolutions, of what makes their inputs, of what reads their outputs, and of activations.

    What makes the input would round it, which is where the error comes from. Without what reads the output onnxruntime
    would find the convolution between two quantised tensors, and quantise its weights with one scale for all channels:
    worse than before.
    """
    import onnx

    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node if node.op_type != "Constant" for output in node.output}
    users = _users(graph)

    def is_activation(node: Any) -> bool:
        return node.op_type not in _WEIGHED and sum(name in makers for name in node.input) == 1

    found: dict[str, None] = {}
    for node in (node for node in graph.node if node.name in names):
        before, after = [makers.get(node.input[0])], list(users.get(node.output[0], []))
        found[node.name] = None
        while before:
            maker = before.pop()
            if maker is not None:
                found[maker.name] = None
                before += [makers.get(name) for name in maker.input] if is_activation(maker) else []
        while after:
            user = after.pop()
            found[user.name] = None
            after += users.get(user.output[0], []) if is_activation(user) else []
    return list(found)


def _users(graph: Any) -> Mapping[str, list[Any]]:
    """Return the nodes that read each tensor."""
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users
