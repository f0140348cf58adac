"""CIRKD's mini-batch term: how pixels relate to those of every image (Yang et al., arXiv 2204.06986)."""

from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import check_maps, check_temperature, full_precision, pooled, unit
from segkd.losses._contrast import ContrastKL
from segkd.losses.base import Loss


class CIRKDMiniBatch(Loss):
    """Cross-image relations in a batch: how like each other pixels are, also those of different images.

        S_ij = F_i^T F_j / T, F_i the features of image i, of length 1 at each of n pixels
        L = mean over images i, j and the pixels of i of KL(softmax(S^t_ij) || softmax(S^s_ij))

    i = j is one of the pairs. The mean is over B^2 * n; T^2 is left out. The matrix is never made: memory grows with
    the maps, but time with the square of the number of pixels, which ``pool`` makes smaller. In a distributed run the
    pairs are those of each process's images. CIRKD has this at weight 1 with `CIRKDMemory` and pixel KD beside it.

    Args:
        temperature: divides the similarities, above 0.
        pool: average the maps over squares of so many pixels first, the last ones cut at the border; 1 leaves them as
            they are. The released code has had 2, and 4 for maps of 256 and more pixels a side.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient. target is not read. Returns a
        scalar.

    Raises:
        SegkdError: batch or size differ, or an option is out of its range.

    Reference: Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", arXiv 2204.06986.

    Config:
        distill:
          terms:
            relations: {loss: cirkd_minibatch, student: decoder, teacher: decoder, pool: 2, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import CIRKDMiniBatch
        >>> CIRKDMiniBatch()(torch.randn(2, 5, 7, 9), torch.randn(2, 8, 7, 9)).shape
        torch.Size([])
    """

    name = "cirkd_minibatch"
    title = "Cross-image relations in a batch"
    paper = "arXiv 2204.06986"
    takes = "features"
    default_weight = 1.0
    normalization = "mean over B^2 * h * w of KL, without T^2"
    published = "Cityscapes, DeepLabV3, R101 teaches R18: 74.21 to 76.38 mIoU, with its memory and pixel KD"
    any_channels = True

    temperature: float = 0.1
    pool: int = 1

    def check(self) -> None:
        """Look at temperature and pool."""
        check_temperature(self.temperature)
        if self.pool < 1:
            raise SegkdError(f"pool must be a number of pixels, at least 1, got {self.pool!r}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_maps(self.name, student, teacher)
        with full_precision(student, teacher.detach()) as maps:
            s, t = (self._vectors(x) for x in maps)
            count = len(s) * s.shape[0] * s.shape[1]
            weight = s.new_full((s.shape[0] * s.shape[1],), 1 / count)
            loss: Tensor = ContrastKL.apply(s.flatten(0, 1), s, t.flatten(0, 1), t, weight, self.temperature)
            return loss

    def _vectors(self, x: Tensor) -> Tensor:
        """Return (B, n, C), of length 1 each."""
        return unit(pooled(x, self.pool), 1).flatten(2).transpose(1, 2)
