"""CIRKD's channel terms: how channels relate to those of other images (Yang et al., CIRKDV2)."""

from typing import Any

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import check_maps, check_temperature, full_precision, pooled, unit
from segkd.losses._contrast import ContrastKL
from segkd.losses._generator import Draws
from segkd.losses._projector import Projector, ready
from segkd.losses._queue import Queue, some, unit_vectors
from segkd.losses._rows import gathered
from segkd.losses.base import Loss


class CIRKDChannel(Draws, Loss):
    """Cross-image relations of channels: between the images of a batch, to a queue, and each channel to the teacher's.

        relation = mean over images i, j and channels of KL(softmax(T_i T_j^T / T) || softmax(S_i S_j^T / T))
        memory = mean over images and channels of KL(softmax(T_i Q^T / T) || softmax(S_i Q^T / T))
        mse = mean of (S - T)^2
        L = relation_weight * relation + memory_weight * memory + mse_weight * mse

    Both maps are averaged over squares of ``pool`` pixels, the student's goes through a projector (1x1, batch
    normalisation, ReLU, 1x1; trained along, part of the loss), and each channel is a vector of its positions, of length
    1: a row of S_i and T_i. Q are vectors drawn from a queue of the teacher's channels.

    In a distributed run the relation is that of each process's images, as `CIRKDMiniBatch`'s is; the queue and the
    projector's statistics are those of all.

    Before that up to ``max_channels`` channels of the batch, of each process of a distributed run, enter the queue. It
    is a buffer, saved with the state of ``generator``, a `torch.Generator` that may be replaced by another; in eval
    mode it stands still. Its vectors have a value for each position: all maps must be of one size, that of the crop.

    The default weights are the authors'. Their students learn with `FitNet` as well, from maps after a layer that we
    leave out. Published also: on ADE20K ResNet-18 from 36.92 to 39.82 mIoU.

    Args:
        temperature: divides the similarities, above 0.
        pool: average the maps over squares of so many pixels first, the last ones cut at the border.
        slots: of the queue.
        max_channels: at most so many channels enter from one batch.
        contrasts: at most so many vectors are drawn from the queue.
        relation_weight: of ``relation``, at least 0.
        memory_weight: of ``memory``.
        mse_weight: of ``channel_mse``.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient. target is not read. Returns a
        scalar.

    Raises:
        SegkdError: batch or size differ, an option is out of its range, the channels are not those that it was prepared
            for, or the size of the maps is not that of the batches before.

    Reference: Yang et al., CIRKDV2, 2025, "Cross-Image Relational Knowledge Distillation with Contextual Modeling for
    Efficient Semantic Segmentation", which goes on from arXiv 2204.06986.

    Config:
        distill:
          terms:
            channels:
              {loss: cirkd_channel, student: decoder,
               teacher: decoder, slots: 1000, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import CIRKDChannel
        >>> loss = CIRKDChannel(slots=100)
        >>> student, teacher = torch.randn(2, 5, 7, 9), torch.randn(2, 8, 7, 9)
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher).shape, loss.queue.pointer
        (torch.Size([]), tensor([16]))
    """

    name = "cirkd_channel"
    title = "Cross-image relations of channels"
    paper = "CIRKDV2, 2025"
    takes = "features"
    default_weight = 1.0
    normalization = "means of KL over B^2 * C_t and B * C_t and of squares, times 1, 0.1 and 100"
    trains = "projector"
    published = "VOC, MobileNetV3-L: 69.33 to 71.90 mIoU"
    any_channels = True
    made_later = ("queue.vectors", "queue.pointer")

    temperature: float = 0.1
    pool: int = 4
    slots: int = 10000
    max_channels: int = 256
    contrasts: int = 2048
    relation_weight: float = 1.0
    memory_weight: float = 0.1
    mse_weight: float = 100.0

    def check(self) -> None:
        """Look at the options; layers and the queue depend on the maps."""
        check_temperature(self.temperature)
        for option in ("pool", "slots", "max_channels", "contrasts"):
            if (number := getattr(self, option)) < 1:
                raise SegkdError(f"{option} must be at least 1, got {number}")
        for option in ("relation_weight", "memory_weight", "mse_weight"):
            if not (weight := getattr(self, option)) >= 0:
                raise SegkdError(f"{option} must be at least 0, got {weight}")
        self.generator = torch.Generator().manual_seed(0)
        self.projector: Projector | None = None
        self.queue: Queue | None = None

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make the projector for maps of these channels; what has one keeps it."""
        if self.projector is None:
            self.projector = Projector(student.shape[1], teacher.shape[1], student.device)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        found = self.parts(student, teacher)
        return (
            self.relation_weight * found["relation"]
            + self.memory_weight * found["memory"]
            + self.mse_weight * found["channel_mse"]
        )

    def parts(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Return what the loss is the weighted sum of, by name."""
        check_maps(self.name, student, teacher)
        projector = ready(self.name, self.projector, student, teacher)
        with full_precision(student, teacher.detach()) as maps:
            s, t = (pooled(x, self.pool) for x in maps)
            s, t = (unit(x.flatten(2), 2) for x in (projector(s), t))
            of_s, of_t = s.flatten(0, 1), t.flatten(0, 1)
            drawn = self.remembered(of_t)[None]
            weight = s.new_full((len(of_s),), 1 / len(of_s))
            return {
                "relation": ContrastKL.apply(of_s, s, of_t, t, weight / len(s), self.temperature),
                "memory": ContrastKL.apply(of_s, drawn, of_t, drawn, weight, self.temperature),
                "channel_mse": (s - t).square().mean(),
            }

    @torch.compiler.disable
    @torch.no_grad()
    def remembered(self, vectors: Tensor) -> Tensor:
        """Put some of the teacher's channels (B * C_t, n) into the queue, and return vectors (M, n) drawn from it."""
        positions = vectors.shape[1]
        if self.queue is None:
            self.queue = Queue(unit_vectors(1, self.slots, positions, generator=self.generator, like=vectors))
        if (known := self.queue.vectors.shape[2]) != positions:
            raise SegkdError(
                f"cirkd_channel's queue has channels of {known} positions, and maps of this batch have {positions}: "
                "they must be of one size"
            )
        if self.training:
            index = some(len(vectors), min(self.max_channels, self.slots), self.generator)
            given = gathered(vectors[index.to(vectors.device)])
            self.queue.write([(0, len(index))] * (len(given) // len(index)), given)
        return self.queue.draw(self.contrasts, self.generator)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        vectors = state_dict.get(f"{prefix}queue.vectors")
        if (
            self.queue is None and vectors is not None
        ):  # there was no batch yet, whose maps say how long its vectors are
            like = vectors if self.projector is None else next(self.projector.parameters())
            self.queue = Queue(torch.zeros((1, self.slots, vectors.shape[2]), dtype=like.dtype, device=like.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
