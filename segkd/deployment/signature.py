"""How a model is exported: the inputs and outputs of its file, what is recorded in it, how it is compared."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.adapter import read_logits
from segkd.deployment.formats import Graph, Runner
from segkd.detection.models import detect
from segkd.network import Network

Size = tuple[int, int]

#: What `Network.predict` does with an image as a whole, in this order; the names are keys of what is recorded.
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


#: Outputs of the student, and the same of the file.
Pairs = Iterable[tuple[list[Tensor], list[Tensor]]]

# Pixels that a box's side may be off.
_BOX_TOLERANCE = 0.01


@dataclass
class Comparison:
    """How far a file's outputs are from the student's."""

    value: str  # what the difference is of, ``logit`` or ``score``
    unit: str  # what is counted, ``pixels`` or ``boxes``
    required: float  # the share of them that must be equal
    images: int = 0  # how many were compared
    difference: float = 0.0  # the largest
    largest: float = 0.0  # the value that is furthest from zero
    equal: int = 0
    total: int = 0

    def add(self, images: int, expected: Tensor, got: Tensor, equal: Tensor, total: int) -> None:
        """Count one more pair: values of both, which pixels or boxes are equal, of how many."""
        self.images += images
        self.difference = _larger(self.difference, expected - got)
        self.largest = _larger(self.largest, expected)
        self.equal += int(equal.sum())
        self.total += total

    @property
    def share(self) -> float:
        """The share of pixels or boxes that are equal; 1 where there are none."""
        return self.equal / self.total if self.total else 1.0

    @property
    def limit(self) -> float:
        """The difference that float32 explains: 1e-4 for values up to 10, in proportion beyond."""
        return 1e-4 * max(1.0, self.largest / 10)

    @property
    def passed(self) -> bool:
        """Whether the file gives what the student gives."""
        # The other way round NaN would pass.
        return self.difference < self.limit and self.share > self.required

    def __str__(self) -> str:
        """Return both measures for a person."""
        if not self.total:
            return f"nothing was compared, neither the student nor the file finds {self.unit}"
        share = f"{math.floor(self.share * 1e5) / 1e3:.3f} % of {self.total} {self.unit} equal"
        return f"largest {self.value} difference {self.difference:.1e} (limit {self.limit:.1e}), {share}"


def compare_logits(pairs: Pairs) -> Comparison:
    """Compare logits (B, C, H, W), and which class has the largest in a pixel."""
    result = Comparison("logit", "pixels", 0.999)
    for (expected,), (got,) in pairs:
        same = expected.argmax(1) == got.argmax(1)
        result.add(len(expected), expected, got, same, same.numel())
    return result


def compare_boxes(pairs: Pairs) -> Comparison:
    """Compare boxes (N, 4), labels (N,) and scores (N,), best first: the scores, and which boxes have their like.

    Boxes of one score may change places, and one at the threshold may be on either side of it: 99 % must be the same.
    """
    result = Comparison("score", "boxes", 0.99)
    for (boxes, labels, scores), (got_boxes, got_labels, got_scores) in pairs:
        count = min(len(boxes), len(got_boxes))
        close = ((boxes[:, None] - got_boxes).abs() < _BOX_TOLERANCE).all(-1)
        same = (close & (labels[:, None] == got_labels)).any(1)
        result.add(1, scores[:count], got_scores[:count], same, max(len(boxes), len(got_boxes)))
    return result


def _larger(known: float, values: Tensor) -> float:
    """Return the largest distance from zero, NaN if there is one."""
    return float(torch.cat([torch.tensor([known]), values.flatten().float().abs().cpu()]).max())


class _Dense(nn.Module):
    """A model whose output is a tensor, whatever it was."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return read_logits(self.module(images))


class _Detector(_Dense):
    """A detector of one image, whose result is a tuple."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        (found,) = detect(self.module, [image])
        return found["boxes"], found["labels"], found["scores"]


class Reference:
    """A dense model as its file will be, at one size: a batch of normalised images (B, C, H, W) in, logits out.

    Args:
        network: put on the CPU, in eval mode.
        first: an image, uint8 (C, H, W) as the model sees it, which gives the size.
        size: (height, width) in its place.

    Attributes:
        module: maps an input to a tensor or several.
        size: height and width of the input, in the file's fixed size or as the one it was made for.
        device: where `run` computes.
    """

    input = "images"
    outputs: tuple[str, ...] = ("logits",)
    formats: tuple[str, ...] = ("onnx", "torchscript", "pt2")
    """Those of `segkd.deployment.formats.FORMATS` that such a model can be written in."""
    batched = True
    """Whether the input is a batch of any values; else what is computed depends on what is found in one image."""
    ladder: tuple[Mapping[int, str], ...] = ({0: "batch", 2: "height", 3: "width"}, {0: "batch"}, {})
    """The names of the dimensions that may change, the most first: what does not work gives way to the next."""
    compare = staticmethod(compare_logits)
    words: Mapping[str, str] = {
        "input": "images: float32 (batch, 3, height, width), RGB; pixels / 255, less mean, over std",
        "output": "logits: float32 (batch, classes, height, width); the largest is the pixel's class",
    }
    """What the input and the output are, for who uses the file alone."""

    def __init__(self, network: Network, first: Tensor, size: Size | None = None) -> None:
        self.network, self.device = network.cpu().eval(), torch.device("cpu")
        self.size = size or self.padded(first)
        self.module: nn.Module = network.module
        with torch.no_grad():
            if not self.batched:
                self.module = _Detector(network.module).eval()
            elif size is None and not isinstance(self.module(self.input_of(first)), Tensor):
                self.module = _Dense(network.module).eval()

    def padded(self, image: Tensor) -> Size:
        """Return the size of an image (..., H, W), up to what the model takes."""
        multiple = self.network.preprocess.multiple
        height, width = (-(-side // multiple) * multiple for side in image.shape[-2:])
        return height, width

    def input_of(self, image: Tensor) -> Tensor:
        """Return an image, uint8 (C, H, W), as an input at `size`."""
        return resized(self.network.preprocess(image[None] if self.batched else image), self.size)

    @torch.no_grad()
    def run(self, image: Tensor) -> list[Tensor]:
        """Return what the model gives for an input, by the names of `outputs`: computed on `device`, in float32."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a file has all of its digits
            outputs = self.module.to(self.device)(image.to(self.device))
        return [output.cpu() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]

    def graph(self, probes: list[Tensor], axes: Mapping[int, str], info: Mapping[str, Any]) -> Graph:
        """Return what is written to a file."""
        example = probes[min(1, len(probes) - 1)]  # a batch of one would be taken for a constant
        return Graph(self.module.cpu(), example, self.input, self.outputs, axes, info, not self.batched)

    def info(self, axes: Mapping[int, str]) -> dict[str, Any]:
        """Return what a user of the file alone has to know, as JSON, of a file that has these axes of `ladder`."""
        known, images = self.network.info, self.network.preprocess
        of_file = {"size": list(self.size), "dynamic": list(axes.values()), **self.words}
        if not self.batched:
            return {key: value for key, value in known.items() if key not in ("mean", "std")} | of_file
        known.pop("white", None)
        return {
            **known,
            **of_file,
            "mean": [value / images.white for value in images.mean],
            "std": [value / images.white for value in images.std],
            "size_multiple": images.multiple,
            "resize": known["size"],
            "interpolation": {"smaller": "area", "larger": "linear"},
            "steps": list(STEPS),
        }

    def probes(self, image: Tensor, axes: Mapping[int, str]) -> list[Tensor]:
        """Return inputs that a file with these axes must take, made of one image: the plainest first."""
        probes = [image]
        if 0 in axes:
            probes.append(torch.cat([image, image.flip(-1), image.flip(-2)]))
        if 2 in axes:
            multiple = self.network.preprocess.multiple
            step = multiple * (32 // multiple + 1)  # where any size is taken, one that is no power of two
            probes.append(resized(probes[-1], (self.size[0] + step, self.size[1] + 2 * step)))
        return probes

    def of_batch(self, module: nn.Module) -> Callable[[Tensor], object]:
        """Return what runs such a module on a batch (B, C, H, W)."""
        return module if self.batched else lambda batch: module(list(batch))

    def of_file(self, run: Runner) -> Callable[[Tensor], object]:
        """Return what runs a file on a batch (B, C, H, W), of one image where it takes no batch."""
        return run if self.batched else lambda batch: run(batch[0])


class DetectorReference(Reference):
    """A detector as its file will be: one image (C, H, W) in, what is found in it out."""

    input, outputs = "image", ("boxes", "labels", "scores")
    formats = ("onnx", "torchscript")  # torch.export does not follow what depends on how many boxes there are
    batched, ladder, compare = False, ({},), staticmethod(compare_boxes)
    words: Mapping[str, str] = {
        "input": "image: float32 (3, height, width), RGB; pixels / 255, not normalised: the file does that itself",
        "output": "boxes: float32 (N, 4), xyxy in pixels of the input; labels: int64 (N,), 1 is the first class; "
        "scores: float32 (N,), best first",
    }


def reference_of(network: Network, first: Tensor, size: Size | None = None) -> Reference:
    """Return the `Reference` of a network by its task."""
    return (DetectorReference if network.task == "detection" else Reference)(network, first, size)


def resized(image: Tensor, size: Size) -> Tensor:
    """Return an image (3, H, W), or several (B, 3, H, W), at another size (bilinear), or itself where it has it."""
    if image.shape[-2:] == size:
        return image
    batch = image if image.ndim == 4 else image[None]
    return F.interpolate(batch, size=size, mode="bilinear").reshape(*image.shape[:-2], *size)
