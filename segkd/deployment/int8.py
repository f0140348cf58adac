"""An exported file in int8, by onnxruntime's static quantisation, and what that costs and gains on real images."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from segkd.common.progress import shown
from segkd.deployment.bench import interleaved
from segkd.deployment.formats import FORMATS, Runner, quiet, save_onnx
from segkd.deployment.images import of_dataset
from segkd.deployment.signature import Comparison, Reference, resized
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.training.measure import Measure, measure
from segkd.training.task import Task

#: The share of a convolution's output range that the rounding error of its input may reach in a channel.
MOST_NOISE = 0.03

# How many training images scales are calibrated on, and bytes that their logits, which are kept, may take.
_CALIBRATED, _MEMORY = 100, 2**30

# What multiplies its input with weights.
_WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass
class Int8:
    """What int8 has cost and gained."""

    check: Comparison  # of the int8 file against the student
    score: Measure  # what was measured over the validation split,
    before: float  # of the file in float32,
    after: float  # and of that in int8
    seconds: tuple[float, float]  # median latency of one image, float32 and int8
    images: int  # how many images it was calibrated on
    left: list[str]  # the nodes that stay in float32

    def __str__(self) -> str:
        """Return lines for a person."""
        float32, int8 = self.seconds
        left = f"; {len(self.left)} nodes stay in float32, whose rounding would cost most" if self.left else ""
        return (
            f"int8: calibrated on {self.images} training images{left}\n"
            f"  {self.score.label}: {self.score.shown(self.before)} float32, {self.score.shown(self.after)} int8 "
            f"({100 * (self.after - self.before):+.2f} points)\n"
            f"  latency of one image: {1e3 * float32:.1f} ms float32, {1e3 * int8:.1f} ms int8 "
            f"({float32 / int8:.2f} times as fast)\n"
            f"  against PyTorch: largest {self.check.value} difference {self.check.difference:.2g}, "
            f"{100 * self.check.share:.2f} % of {self.check.total} {self.check.unit} equal"
        )


def make_int8(
    reference: Reference,
    task: Task,
    info: dict[str, Any],
    source: Path,
    target: Path,
    images: list[Tensor],
    console: Console | None,
) -> Int8:
    """Write `source`, the ONNX file of a segmentation student, in int8, and measure both beside each other.

    To `info`, which is recorded, is added how scales were calibrated. Outputs and latency are of `images`, inputs.
    """
    import onnx

    threads = torch.get_num_threads()
    before = FORMATS["onnx"].open(source, threads)
    training = task.train_set()
    training.transform = task.val_set().transform  # without augmentation
    most = min(_CALIBRATED, max(_MEMORY // before(images[0])[0].nbytes, 1))
    shots = of_dataset(training, most, "training images")
    inputs = list(shown(map(reference.input_of, shots), len(shots), "reading images", console))
    try:
        with quiet():
            left = quantise(source, target, reference.input, inputs)
    # onnxruntime says in many ways what it cannot quantise.
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise SegkdError(f"onnxruntime cannot quantise the student ({type(error).__name__}: {reason})") from error
    info["int8"] = {"calibrated_on": f"{len(shots)} images of {task.config.data.train_split}", "float32_nodes": left}
    save_onnx(onnx.load(target), info, target)
    after = FORMATS["onnx"].open(target, threads)
    scores = []
    for run in (before, after):
        network = as_network(run, reference, info["dynamic"])
        measured = measure(task, network, "student", torch.device("cpu"), console)
        scores.append(float(measured[task.score.key]))
    float32, int8 = interleaved([before, after], images)
    check = reference.compare((reference.run(image), after(image)) for image in images)
    return Int8(check, task.score, scores[0], scores[1], (float32, int8), len(shots), left)


def as_network(run: Runner, reference: Reference, dynamic: list[str]) -> Network:
    """Return a file as a network that sees what the student sees: images padded to the multiples that it takes."""
    seen = reference.network.preprocess
    module = _File(run, reference, dynamic)
    return Network(module, mean=seen.mean, std=seen.std, white=seen.white, multiple=seen.multiple)


class _File(nn.Module):
    """A file as a module that takes images of any number, and of any size in those multiples."""

    def __init__(self, run: Runner, reference: Reference, dynamic: list[str]) -> None:
        super().__init__()
        self.run, self.reference, self.dynamic = run, reference, dynamic

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w); of images of another size, where the file takes one alone, at that size."""
        batch = images.cpu() if "height" in self.dynamic else resized(images.cpu(), self.reference.size)
        parts = [batch] if "batch" in self.dynamic else batch.split(1)
        return torch.cat([self.run(part)[0] for part in parts]).to(images.device)


def quantise(source: Path, target: Path, name: str, images: Iterable[Tensor]) -> list[str]:
    """Write an ONNX file of convolutions in int8, with scales at each tensor; return the nodes that stay in float32.

    Weights have a scale per output channel, activations one per tensor, from the mean over the images (inputs by the
    name `name`) of their smallest and their largest value: one odd image does not stretch the range for all.

    A convolution stays in float32, with the one before and the one after it, where it would carry the rounding error of
    its input to more than `MOST_NOISE` of its output's range. Networks with batch norm can have such a one: folded into
    a convolution, the norm of a channel that hardly varied gives very large weights.
    """
    from onnxruntime import quantization

    batches = [{name: image.numpy()} for image in images]

    def write(left: list[str]) -> None:
        quantization.quantize_static(
            source,
            target,
            SimpleNamespace(get_next=functools.partial(next, iter(batches), None)),
            per_channel=True,
            # Unsigned activations with signed weights: what the int8 instructions of x86 multiply.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=left,
            extra_options={"CalibMovingAverage": True},  # of all at once: their mean
        )

    write([])
    left = _with_neighbours(source, noisy_convolutions(target))
    if left:
        write(left)
    return left


def noisy_convolutions(path: Path) -> list[str]:
    """Return the names of the convolutions in a file with scales that carry more than `MOST_NOISE` to their outputs.

    An input rounded to a multiple of s is off by s / sqrt(12), root mean square. The error in an output channel is
    that times the norm of the channel's weights, if the errors of its inputs are independent.
    """
    import onnx

    graph, makers, users = _read(path)
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    noisy = []
    for node in graph.node:
        inputs = [makers[name] for name in node.input[:2] if name in makers]
        after = [user for user in users.get(node.output[0], []) if user.op_type == "QuantizeLinear"]
        if node.op_type != "Conv" or not after or [part.op_type for part in inputs] != ["DequantizeLinear"] * 2:
            continue
        image, weight = inputs
        steps = float(values[image.input[1]]), float(values[after[0].input[1]])
        stored, scale = (values[name].astype(np.float64) for name in weight.input[:2])
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
    graph, makers, users = _read(path)

    def before(inputs: Iterable[str]) -> list[Any]:
        return [makers[name] for name in inputs if name in makers and makers[name].op_type != "Constant"]

    def is_activation(node: Any) -> bool:
        return node.op_type not in _WEIGHED and len(before(node.input)) == 1

    found: dict[str, None] = {}
    for node in (node for node in graph.node if node.name in names):
        found[node.name] = None
        back, on = before(node.input[:1]), [*users.get(node.output[0], [])]
        for other in back:  # which grows
            found[other.name] = None
            back += before(other.input) if is_activation(other) else []
        for other in on:
            found[other.name] = None
            on += users.get(other.output[0], []) if is_activation(other) else []
    return list(found)


def _read(path: Path) -> tuple[Any, dict[str, Any], dict[str, list[Any]]]:
    """Return a file's graph, what node makes each tensor, and which nodes read it."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(onnx.load(path))
    return model.graph(), model.output_name_to_node(), model.input_name_to_nodes()
