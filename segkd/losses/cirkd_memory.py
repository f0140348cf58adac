"""CIRKD's memory terms: how pixels relate to those of earlier images (Yang et al., arXiv 2204.06986)."""

from typing import Literal, get_args

import torch
from torch import Tensor

from segkd.errors import SegkdError, nearest
from segkd.losses._common import (
    check_maps,
    check_temperature,
    full_precision,
    labels_like,
    share_of_all,
    unit,
)
from segkd.losses._contrast import ContrastKL
from segkd.losses._generator import Draws
from segkd.losses._projector import Projector, ready
from segkd.losses._queue import Queue, some, unit_vectors
from segkd.losses._rows import gathered
from segkd.losses.base import Loss

Variant = Literal["paper", "released"]


class CIRKDMemory(Draws, Loss):
    """Cross-image relations to a memory: how like vectors of earlier images the pixels are, of pixels and of regions.

        L = sum over both queues of the mean over labelled pixels x of KL(softmax(t_x X^T / T) || softmax(s_x X^T / T))

    t is the teacher's feature of length 1 of a pixel, s that of the student behind a projector (1x1, batch
    normalisation, ReLU, 1x1; trained along, part of the loss). X are vectors of the teacher drawn from a queue, of each
    class the same slots: there is one queue of pixels and one of regions, the means of a class's pixels in an image.
    Without labelled pixels both means are 0. Before that a batch enters the queues: of each class in each image its
    region, and up to ``max_pixels`` pixels at random.

    The queues hold what all processes of a distributed run saw. They are buffers, saved with the state of
    ``generator``, a `torch.Generator` that may be replaced by another; in eval mode they stand still. At 19 classes and
    256 channels they take 430 MB, also in every checkpoint; ``pixel_slots`` makes them smaller. The similarities are
    computed for some pixels at a time.

    CIRKD has it beside `CIRKDMiniBatch` and pixel KD (``camvid_cirkd``), and weighs both KL by 0.1 (0.01 on VOC). Its
    released code takes as many of the image's first pixels where the class's own are meant, so that a queue holds other
    classes; ``variant="released"`` does so too. (It is NaN where a batch has no label; here that is 0.)

    Args:
        classes: how many there are.
        temperature: divides the similarities, above 0.
        pixel_slots: of the queue of pixels, for each class.
        region_slots: of the queue of regions, for each class.
        max_pixels: at most so many pixels of a class enter from one image.
        pixel_contrasts: about so many vectors are drawn from the queue of pixels: this // classes + 1 of each class.
        region_contrasts: likewise from the queue of regions.
        variant: ``"paper"`` or ``"released"``.
        ignore_index: pixels with this label are left out.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; target: (B, H, W) labels, at
        the maps' size by nearest neighbour. Returns a scalar.

    Raises:
        SegkdError: batch or size differ, there are no labels or some of other classes, the channels are not those that
            it was prepared for, or queues of another shape are restored.

    Reference: Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", arXiv 2204.06986.

    Config:
        distill:
          terms:
            memory:
              {loss: cirkd_memory, classes: 11, student: decoder,
               teacher: decoder, pixel_slots: 500, weight: 0.1}

    Example:
        >>> import torch
        >>> from segkd.losses import CIRKDMemory
        >>> loss = CIRKDMemory(classes=3, pixel_slots=100, region_slots=10)
        >>> student, teacher = torch.randn(2, 5, 7, 9), torch.randn(2, 8, 7, 9)
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher, torch.randint(0, 3, (2, 28, 36))).shape, loss.regions.pointer
        (torch.Size([]), tensor([2, 2, 2]))
    """

    name = "cirkd_memory"
    title = "Cross-image relations to a memory"
    paper = "arXiv 2204.06986"
    takes = "features, and labels"
    default_weight = 0.1
    normalization = "mean of KL over labelled pixels, of pixels and of regions; 0.01 on VOC"
    trains = "projector"
    published = "Cityscapes, DeepLabV3, R101 teaches R18: 74.21 to 76.38 mIoU, with the batch's relations and pixel KD"
    any_channels = True

    classes: int
    temperature: float = 0.1
    pixel_slots: int = 20000
    region_slots: int = 2000
    max_pixels: int = 16
    pixel_contrasts: int = 4096
    region_contrasts: int = 1024
    variant: Variant = "paper"
    ignore_index: int = 255

    def check(self) -> None:
        """Look at the options; layers and queues depend on the channels."""
        check_temperature(self.temperature)
        for option in ("classes", "pixel_slots", "region_slots", "max_pixels", "pixel_contrasts", "region_contrasts"):
            if (number := getattr(self, option)) < 1:
                raise SegkdError(f"{option} must be at least 1, got {number}")
        if self.variant not in get_args(Variant):
            raise SegkdError(
                f"cirkd_memory has no variant {self.variant!r}, {nearest(self.variant, get_args(Variant))}"
            )
        self.generator = torch.Generator().manual_seed(0)
        self.projector: Projector | None = None

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make projector and queues, of random vectors, for maps of these channels; what has them keeps them."""
        if self.projector is None:
            channels = teacher.shape[1]
            self.projector = Projector(student.shape[1], channels, student.device)
            self.pixels, self.regions = (
                Queue(unit_vectors(self.classes, slots, channels, generator=self.generator, like=student))
                for slots in (self.pixel_slots, self.region_slots)
            )

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        pixel, region = self.parts(student, teacher, target).values()
        return pixel + region

    def parts(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> dict[str, Tensor]:
        """Return what the loss is the sum of: the KL of the queue of ``pixel``s and of that of ``region``s."""
        check_maps(self.name, student, teacher)
        projector = ready(self.name, self.projector, student, teacher)
        labels = labels_like(target, student, self.name)
        with full_precision(student, teacher.detach()) as (s, t):
            s, t = (unit(x, 1).flatten(2).transpose(1, 2).flatten(0, 1) for x in (projector(s), t))
            if self.training:
                self.enqueue(t, labels)
            valid = (labels != self.ignore_index).flatten()
            count = valid.sum()
            weight = valid.to(s.dtype) / count.clamp(min=1) * share_of_all(count)
            found = {}
            for name, queue, total in (
                ("pixel", self.pixels, self.pixel_contrasts),
                ("region", self.regions, self.region_contrasts),
            ):
                contrasts = self.draw(queue, total // self.classes + 1)[None]
                found[name] = ContrastKL.apply(s, contrasts, t, contrasts, weight, self.temperature)
            return found

    @torch.compiler.disable
    def draw(self, queue: Queue, each: int) -> Tensor:
        """Return vectors (M, C_t) of a queue, see `Queue.draw`."""
        return queue.draw(each, self.generator)

    @torch.compiler.disable
    @torch.no_grad()
    def enqueue(self, vectors: Tensor, labels: Tensor) -> None:
        """Put a batch into the queues: image after image, and class after class.

        Args:
            vectors: (B * h * w, C_t), of length 1.
            labels: (B, h, w).
        """
        runs, pixels, regions = [], [], []
        for first, image in zip(range(0, labels.numel(), labels[0].numel()), labels.flatten(1).cpu(), strict=True):
            for of_class in image[image != self.ignore_index].unique().tolist():
                if not 0 <= of_class < self.classes:
                    raise SegkdError(f"cirkd_memory has classes={self.classes}, and a label is {of_class}")
                own = (image == of_class).nonzero()[:, 0] + first
                candidates = own if self.variant == "paper" else torch.arange(len(own)) + first
                chosen = candidates[some(len(own), min(self.max_pixels, self.pixel_slots), self.generator)]
                runs.append((of_class, len(chosen)))
                pixels.append(chosen)
                regions.append(vectors[own.to(vectors.device)].mean(0))
        empty = vectors[:0]
        chosen = vectors[torch.cat(pixels).to(vectors.device)] if pixels else empty
        means = torch.stack(regions) if regions else empty
        # Each process chooses among its own images, and all write what all have chosen.
        table = gathered(torch.tensor(runs, dtype=torch.int64, device=vectors.device).view(-1, 2)).tolist()
        self.pixels.write([(of_class, count) for of_class, count in table], gathered(chosen))
        self.regions.write([(of_class, 1) for of_class, _ in table], gathered(unit(means, 1)), wraps=True)
