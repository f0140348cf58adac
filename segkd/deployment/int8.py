"""An exported file in int8, and what that costs and gains on real images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from segkd.common.progress import shown
from segkd.deployment.check import Comparison
from segkd.deployment.formats import FORMATS, Runner, quiet, write_onnx_info
from segkd.deployment.images import of_dataset
from segkd.deployment.quantise import quantise
from segkd.deployment.signature import Reference, resized
from segkd.deployment.timing import interleaved
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.training.measure import Measure, measure
from segkd.training.task import Task

# How many training images scales are calibrated on, and bytes that their logits, which are kept, may take.
_CALIBRATED, _MEMORY = 100, 2**30


@dataclass
class Int8:
    """What int8 has cost and gained.

    Attributes:
        check: of the int8 file against the student.
        score: what was measured over the validation split,
        before: of the file in float32,
        after: and of that in int8.
        seconds: median latency of one image, float32 and int8.
        images: how many images it was calibrated on.
        left: the nodes that stay in float32.
    """

    check: Comparison
    score: Measure
    before: float
    after: float
    seconds: tuple[float, float]
    images: int
    left: list[str]

    def __str__(self) -> str:
        """Return lines for a person."""
        float32, int8 = self.seconds
        return "\n".join(
            [
                f"int8: calibrated on {self.images} training images"
                + (f"; {len(self.left)} nodes stay in float32, whose rounding would cost most" if self.left else ""),
                f"  {self.score.label}: {self.score.shown(self.before)} float32, {self.score.shown(self.after)} int8 "
                f"({100 * (self.after - self.before):+.2f} points)",
                f"  latency of one image: {1e3 * float32:.1f} ms float32, {1e3 * int8:.1f} ms int8 "
                f"({float32 / int8:.2f} times as fast)",
                f"  against PyTorch: largest {self.check.value} difference {self.check.difference:.2g}, "
                f"{100 * self.check.share:.2f} % of {self.check.total} {self.check.unit} equal",
            ]
        )


def make_int8(
    reference: Reference,
    task: Task,
    info: dict[str, Any],
    source: Path,
    target: Path,
    images: list[Tensor],
    console: Console | None = None,
) -> Int8:
    """Write an ONNX file of a segmentation student in int8, and measure it beside the one in float32.

    Args:
        reference: what was exported.
        task: of the run.
        info: recorded in `source`; that scales were calibrated, and what stays in float32, is added.
        source: the file in float32.
        target: the file to write.
        images: inputs to compare outputs and measure latency on.
        console: see `segkd.common.progress.shown`.
    """
    import onnx

    threads = torch.get_num_threads()
    open_file = FORMATS["onnx"].open
    before = open_file(source, threads)
    training = task.train_set()
    training.transform = task.val_set().transform  # without augmentation
    most = min(_CALIBRATED, max(_MEMORY // before(images[0])[0].nbytes, 1))
    shots = of_dataset(training, most, "training images")
    count = len(shots)
    inputs = list(shown(reference.inputs(shots), count, "reading images", console))
    try:
        with quiet():
            left = quantise(source, target, reference.signature.input, inputs)
    # onnxruntime says in many ways what it cannot quantise.
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise SegkdError(f"onnxruntime cannot quantise the student ({type(error).__name__}: {reason})") from error
    info["int8"] = {"calibrated_on": f"{count} images of {task.config.data.train_split}", "float32_nodes": left}
    model = onnx.load(target)
    write_onnx_info(model, info)
    onnx.save(model, target)
    after = open_file(target, threads)
    cpu = torch.device("cpu")
    scores = [measure(task, _network(run, reference, info), "student", cpu, console) for run in (before, after)]
    seconds = interleaved([before, after], images)
    check = reference.signature.compare((reference.run(image), after(image)) for image in images)
    reached = [float(found[task.score.key]) for found in scores]
    return Int8(check, task.score, reached[0], reached[1], (seconds[0], seconds[1]), count, left)


def _network(run: Runner, reference: Reference, info: Mapping[str, Any]) -> Network:
    seen = reference.network.preprocess
    return Network(_File(run, reference, info), mean=seen.mean, std=seen.std, white=seen.white)


class _File(nn.Module):
    """A file as a module that takes images of any size and number."""

    def __init__(self, run: Runner, reference: Reference, info: Mapping[str, Any]) -> None:
        super().__init__()
        self.run, self.size, self.dynamic = run, reference.size, info["dynamic"]
        self.multiple = reference.network.preprocess.multiple

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w), of the nearest size that the file takes."""
        size = self.size
        if "height" in self.dynamic:
            height, width = (-(-side // self.multiple) * self.multiple for side in images.shape[-2:])
            size = (height, width)
        batch = resized(images.cpu(), size)
        parts = [batch] if "batch" in self.dynamic else batch.split(1)
        return torch.cat([self.run(part)[0] for part in parts]).to(images.device)
