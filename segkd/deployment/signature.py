"""How a model is exported: the inputs and outputs of its file, and what the file is compared with."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.adapter import read_logits
from segkd.deployment.check import Comparison, Pairs, compare_boxes, compare_logits
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


class _Dense(nn.Module):
    """A model whose output is a tensor, whatever it was."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return read_logits(self.module(images))


class _Detector(nn.Module):
    """A detector of one image, whose result is a tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (found,) = detect(self.module, [image])
        return found["boxes"], found["labels"], found["scores"]


@dataclass(frozen=True)
class Signature:
    """How models of a kind of output are exported.

    Attributes:
        input: its name.
        outputs: their names.
        formats: those that such a model can be written in, see `segkd.deployment.formats.FORMATS`.
        batched: whether the input is a batch (B, C, H, W) of any values; else it is one image (C, H, W), and what is
            computed depends on what is found in it.
        ladder: the names of the dimensions that may change, the most first: what does not work gives way to the next.
        compare: outputs of the model with those of a file.
        words: what the input and the output are, for who uses the file alone.
    """

    input: str
    outputs: tuple[str, ...]
    formats: tuple[str, ...]
    batched: bool
    ladder: tuple[Mapping[int, str], ...]
    compare: Callable[[Pairs], Comparison]
    words: Mapping[str, str]


DENSE = Signature(
    "images",
    ("logits",),
    ("onnx", "torchscript", "pt2"),
    True,
    ({0: "batch", 2: "height", 3: "width"}, {0: "batch"}, {}),
    compare_logits,
    {
        "input": "images: float32 (batch, 3, height, width), RGB; pixels / 255, less mean, over std",
        "output": "logits: float32 (batch, classes, height, width); the largest is the pixel's class",
    },
)
DETECTION = Signature(
    "image",
    ("boxes", "labels", "scores"),
    ("onnx", "torchscript"),  # torch.export does not follow what depends on how many boxes there are
    False,
    ({},),
    compare_boxes,
    {
        "input": "image: float32 (3, height, width), RGB; pixels / 255, not normalised: the file does that itself",
        "output": "boxes: float32 (N, 4), xyxy in pixels of the input; labels: int64 (N,), 1 is the first class; "
        "scores: float32 (N,), best first",
    },
)


class Reference:
    """A model as its file will be: tensors in, tensors out, at one size.

    Args:
        network: put on the CPU, in eval mode.
        first: an image, uint8 (C, H, W) as the model sees it, which gives the size.
        size: (height, width) in its place.

    Attributes:
        signature: of the network's task.
        module: maps an input to a tensor or several.
        size: height and width of the input, in the file's fixed size or as the one it was made for.
        device: where `run` computes.
    """

    def __init__(self, network: Network, first: Tensor, size: Size | None = None) -> None:
        self.network, self.device = network.cpu().eval(), torch.device("cpu")
        self.signature = DETECTION if network.task == "detection" else DENSE
        multiple = network.preprocess.multiple
        height, width = (-(-side // multiple) * multiple for side in first.shape[-2:])
        self.size: Size = size or (height, width)
        self.module: nn.Module = network.module
        if not self.signature.batched:
            self.module = _Detector(network.module).eval()
        elif size is None and not isinstance(self._output(first), Tensor):
            self.module = _Dense(network.module).eval()

    @torch.no_grad()
    def _output(self, first: Tensor) -> Any:
        return self.module(self.input_of(first))

    def input_of(self, image: Tensor) -> Tensor:
        """Return an image, uint8 (C, H, W), as an input at `size`."""
        seen = self.network.preprocess(image[None] if self.signature.batched else image)
        return resized(seen, self.size)

    def inputs(self, images: Iterable[Tensor]) -> Iterable[Tensor]:
        """Yield images as inputs."""
        return map(self.input_of, images)

    @torch.no_grad()
    def run(self, image: Tensor) -> list[Tensor]:
        """Return what the model gives for an input, by the signature's outputs: computed on `device`, in float32."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a file has all of its digits
            outputs = self.module.to(self.device)(image.to(self.device))
        return [output.cpu() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]

    def graph(self, probes: list[Tensor], axes: Mapping[int, str], info: Mapping[str, Any]) -> Graph:
        """Return what is written to a file."""
        of = self.signature
        # A batch of one would be taken for a constant.
        example = probes[min(1, len(probes) - 1)]
        return Graph(self.module.cpu(), example, of.input, of.outputs, axes, info, has_control_flow=not of.batched)

    def info(self, axes: Mapping[int, str]) -> dict[str, Any]:
        """Return what a user of the file alone has to know, as JSON.

        Args:
            axes: those of the signature's ladder that the file has.
        """
        known, images = self.network.info, self.network.preprocess
        of_file = {"size": list(self.size), "dynamic": list(axes.values()), **self.signature.words}
        if not self.signature.batched:
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
            batch = torch.cat([image, image.flip(-1), image.flip(-2)])
            probes.append(batch)
            if 2 in axes:
                multiple = self.network.preprocess.multiple
                step = multiple * (32 // multiple + 1)  # where any size is taken, one that is no power of two
                probes.append(resized(batch, (self.size[0] + step, self.size[1] + 2 * step)))
        return probes

    def of_batch(self, module: nn.Module) -> Callable[[Tensor], object]:
        """Return what runs a module of this signature on a batch (B, C, H, W)."""
        return module if self.signature.batched else lambda batch: module(list(batch))

    def of_file(self, run: Runner) -> Callable[[Tensor], object]:
        """Return what runs a file on a batch (B, C, H, W), of one image where it takes no batch."""
        return run if self.signature.batched else lambda batch: run(batch[0])


def resized(image: Tensor, size: Size) -> Tensor:
    """Return an image (3, H, W), or several (B, 3, H, W), at another size (bilinear), or itself where it has it."""
    if image.shape[-2:] == size:
        return image
    batch = image if image.ndim == 4 else image[None]
    larger = F.interpolate(batch, size=size, mode="bilinear", align_corners=False)
    return larger if image.ndim == 4 else larger[0]
