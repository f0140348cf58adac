"""What is exported: a student of either task as a network of tensors, with real images and a comparison to check it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.data.loading import SeededDataset, spread
from segkd.deployment.check import Comparison, Pairs, compare_boxes, compare_logits
from segkd.deployment.formats import Runner
from segkd.detection.models import detect
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.training.run import Run
from segkd.training.task import Task
from segkd.training.tasks import task_of

Size = tuple[int, int]


#: What `Student.predict` does with an image as a whole, in this order; the names are keys of what is recorded.
STEPS = (
    "read the image as uint8 RGB, upright",
    "resize it, still uint8, to resize (height, width): by interpolation.smaller (OpenCV's INTER_AREA) if either side "
    "gets smaller, else by interpolation.larger (INTER_LINEAR); not at all if resize is null",
    "divide by 255, subtract mean, divide by std, in float32",
    "repeat the last row and column at the bottom and on the right, up to multiples of size_multiple",
    "run the file",
    "cut off of the logits what was added",
    "resize the logits to the image's own size (bilinear, half-pixel centres: INTER_LINEAR)",
    "take the class of the largest logit",
)


class Subject(ABC):
    """A student as it is exported.

    Args:
        task: of the run.
        student: put on the CPU.
        dataset: whose first image gives the size, where there is a choice.

    Attributes:
        network: maps an input to a tensor or several.
        size: height and width of the input, in the file's fixed size or as the one it was made for.
        device: where `run` computes.
    """

    input: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]
    formats: ClassVar[tuple[str, ...]]
    """Those that the network can be written in, see `segkd.deployment.formats.FORMATS`."""
    has_control_flow: ClassVar[bool]
    ladder: ClassVar[tuple[Mapping[int, str], ...]]
    """The names of the dimensions that may change, the most first: what does not work gives way to the next."""
    multiple: int = 1
    network: nn.Module
    device = torch.device("cpu")

    def __init__(self, task: Task, student: Network, dataset: SeededDataset) -> None:
        self.task = task
        self.student = student.cpu().eval()
        first = self._image(dataset, 0)
        height, width = (-(-side // self.multiple) * self.multiple for side in first.shape[-2:])
        self.size: Size = (height, width)

    @abstractmethod
    def _image(self, dataset: SeededDataset, index: int) -> Tensor:
        """Return an image as the network takes it, of its own size."""

    def images(self, dataset: SeededDataset, count: int) -> Iterable[Tensor]:
        """Yield inputs from images that are evenly spread over a data set, at `size`.

        Args:
            dataset: of the task, without augmentation.
            count: how many; all where there are fewer.
        """
        for index in spread(list(range(len(dataset))), count):
            yield resized(self._image(dataset, index), self.size)

    @abstractmethod
    def info(self, axes: Mapping[int, str]) -> dict[str, Any]:
        """Return what a user of the file alone has to know, as JSON.

        Args:
            axes: those of `ladder` that the file has.
        """

    @abstractmethod
    def probes(self, image: Tensor, axes: Mapping[int, str]) -> list[Tensor]:
        """Return inputs that a file with these axes must take, made of one image: the plainest first."""

    @abstractmethod
    def of_batch(self, model: nn.Module) -> Callable[[Tensor], object]:
        """Return what runs a model of this task on a batch (B, 3, H, W)."""

    @abstractmethod
    def of_file(self, run: Runner) -> Callable[[Tensor], object]:
        """Return what runs a file on a batch (B, 3, H, W), of one image where it takes no batch."""

    @abstractmethod
    def compare(self, pairs: Pairs) -> Comparison:
        """Compare outputs of the student with those of a file."""

    @torch.no_grad()
    def run(self, image: Tensor) -> list[Tensor]:
        """Return what the student gives for an input, in the order of `outputs`: computed on `device`, in float32."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a file has all of its digits
            outputs = self.network.to(self.device)(image.to(self.device))
        return [output.cpu() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]


class SegmentationSubject(Subject):
    """A segmentation student: normalised images (B, 3, H, W) to logits (B, C, H, W)."""

    input = "images"
    outputs = ("logits",)
    formats = ("onnx", "torchscript", "pt2")
    has_control_flow = False
    ladder = ({0: "batch", 2: "height", 3: "width"}, {0: "batch"}, {})

    def __init__(self, task: Task, student: Network, dataset: SeededDataset) -> None:
        self.network = student.module
        self.multiple = student.preprocess.multiple
        super().__init__(task, student, dataset)
        self._recorded = student.info

    def _image(self, dataset: SeededDataset, index: int) -> Tensor:
        images: Tensor = self.task.inputs(dataset.collate([dataset[index]]))[0]
        return images

    def info(self, axes: Mapping[int, str]) -> dict[str, Any]:
        """See `Subject.info`."""
        return {
            "task": "segmentation",
            **self._recorded,
            "size": list(self.size),
            "size_multiple": self.multiple,
            "dynamic": list(axes.values()),
            "resize": self._recorded.get("size"),
            "interpolation": {"smaller": "area", "larger": "linear"},
            "steps": list(STEPS),
            "input": "images: float32 (batch, 3, height, width), RGB; pixels / 255, less mean, over std",
            "output": "logits: float32 (batch, classes, height, width); the largest is the pixel's class",
        }

    def probes(self, image: Tensor, axes: Mapping[int, str]) -> list[Tensor]:
        """See `Subject.probes`."""
        batch = torch.cat([image, image.flip(-1), image.flip(-2)])
        probes = [image]
        if 0 in axes:
            probes.append(batch)
        if 2 in axes:
            step = self.multiple * (32 // self.multiple + 1)  # where any size is taken, one that is no power of two
            probes.append(resized(batch, (self.size[0] + step, self.size[1] + 2 * step)))
        return probes

    def of_batch(self, model: nn.Module) -> Callable[[Tensor], object]:
        """See `Subject.of_batch`."""
        return model

    def of_file(self, run: Runner) -> Callable[[Tensor], object]:
        """See `Subject.of_file`."""
        return run

    def compare(self, pairs: Pairs) -> Comparison:
        """See `compare_logits`."""
        return compare_logits(pairs)


class DetectionSubject(Subject):
    """A detector: one image (3, H, W) in [0, 1], of one size, to boxes, labels and scores, its own resizing within."""

    input = "image"
    outputs = ("boxes", "labels", "scores")
    formats = ("onnx", "torchscript")  # torch.export does not follow what depends on how many boxes there are
    has_control_flow = True
    ladder = ({},)

    def __init__(self, task: Task, student: Network, dataset: SeededDataset) -> None:
        self.network = _Detector(student.module).eval()
        super().__init__(task, student, dataset)
        self._recorded = student.info

    def _image(self, dataset: SeededDataset, index: int) -> Tensor:
        image: Tensor = self.task.inputs(dataset.collate([dataset[index]]))[0][0]
        return image

    def info(self, axes: Mapping[int, str]) -> dict[str, Any]:
        """See `Subject.info`."""
        return {
            **self._recorded,
            "size": list(self.size),
            "dynamic": [],
            "input": "image: float32 (3, height, width), RGB; pixels / 255, not normalised: the file does that itself",
            "output": "boxes: float32 (N, 4), xyxy in pixels of the input; labels: int64 (N,), 1 is the first class; "
            "scores: float32 (N,), best first",
        }

    def probes(self, image: Tensor, axes: Mapping[int, str]) -> list[Tensor]:
        """See `Subject.probes`."""
        return [image]

    def of_batch(self, model: nn.Module) -> Callable[[Tensor], object]:
        """See `Subject.of_batch`."""
        return lambda batch: model(list(batch))

    def of_file(self, run: Runner) -> Callable[[Tensor], object]:
        """See `Subject.of_file`."""
        return lambda batch: run(batch[0])

    def compare(self, pairs: Pairs) -> Comparison:
        """See `compare_boxes`."""
        return compare_boxes(pairs)


class _Detector(nn.Module):
    """A detector of one image, whose result is a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (found,) = detect(self.model, [image])
        return found["boxes"], found["labels"], found["scores"]


def open_run(directory: str | Path, overrides: Sequence[str] = ()) -> tuple[Run, Task]:
    """Return a finished run and its task.

    Args:
        directory: of the run.
        overrides: ``key.path=value`` changes to its config.

    Raises:
        SegkdError: this is no run, it is not finished, or its config cannot be read.
    """
    run = Run(directory)
    config = run.config(overrides)
    if not run.finished:
        raise SegkdError(f"{run.directory} is not finished: go on with 'segkd train --resume {run.directory}' first")
    return run, task_of(config)


def subject_of(task: Task, student: Network, dataset: SeededDataset) -> Subject:
    """Return what is exported of a student, see `Subject`."""
    if student.task == "detection":
        return DetectionSubject(task, student, dataset)
    return SegmentationSubject(task, student, dataset)


def resized(image: Tensor, size: Size) -> Tensor:
    """Return an image (3, H, W), or several (B, 3, H, W), at another size (bilinear), or itself where it has it."""
    if image.shape[-2:] == size:
        return image
    batch = image if image.ndim == 4 else image[None]
    larger = F.interpolate(batch, size=size, mode="bilinear", align_corners=False)
    return larger if image.ndim == 4 else larger[0]
