"""Structural KD: feature maps compared by their structural similarity (de Rijk et al., arXiv 2211.13133)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segkd.errors import SegkdError, nearest
from segkd.losses._layers import LayerLoss

Normalise = Literal["image", "channel", "batch"]
PART = 2**20
"""Values of a map that are compared at once."""


def bounds(features: Tensor, normalise: Normalise = "image") -> tuple[Tensor, Tensor]:
    """Return the minimum and 1 / (maximum - minimum), (B, C, 1, 1): (x - minimum) times this lies in [0, 1].

    The gradient flows through both. Of a constant map the factor is 0, without gradient.

    Args:
        features: (B, C, h, w).
        normalise: what they are of: each ``"image"``'s whole map, each ``"channel"`` of it, or the ``"batch"``.
    """
    dims = {"image": (1, 2, 3), "channel": (2, 3), "batch": (0, 1, 2, 3)}[normalise]
    least, most = features.amin(dims, keepdim=True), features.amax(dims, keepdim=True)
    varies = most - least > 1e-12
    factor = torch.where(varies, 1 / torch.where(varies, most - least, 1.0), 0.0)
    shape = (*features.shape[:2], 1, 1)
    return least.expand(shape), factor.expand(shape)


def blur(length: int, window: int, sigma: float, like: Tensor) -> Tensor:
    """Return the (length, length) matrix that blurs rows, x @ matrix: a Gaussian window with reflect padding.

    As a product of matrices it takes a tenth of a convolution's time.
    """
    reach = window // 2
    offset = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    weight = (-offset.square() / (2 * sigma**2)).exp()
    column = torch.arange(length, device=like.device)
    source = (column[:, None] + torch.arange(-reach, reach + 1, device=like.device)).abs()
    source = (length - 1) - ((length - 1) - source).abs()  # reflected at both ends, which are not repeated
    matrix = like.new_zeros(length, length)
    return matrix.scatter_add(1, source, (weight / weight.sum()).expand(length, -1)).T


class Structural(LayerLoss):
    """Structural similarity: feature maps are compared as images are, in a Gaussian window of each channel.

        SSIM = (2 mu_s mu_t + c1) (2 cov + c2) / ((mu_s^2 + mu_t^2 + c1) (var_s + var_t + c2)), c1 = k1^2, c2 = k2^2
        L = mean over B * C_t * h * w of clamp((1 - SSIM) / 2, 0, 1), summed over the pairs of maps

    Both maps are scaled to [0, 1] first (see `bounds`). Where the student's channels are others, a 1x1 convolution with
    bias, made by `prepare`, maps them; each FPN level has its own, as in `FGD` and `MGD`. The paper has one also where
    the teacher is another architecture, whose equal channels need not mean the same: a loss does not see that, so
    ``adapter`` says it. Without one, maps of the same architecture are compared as they are. The window is at most 2 *
    the shorter side - 1, as reflect padding has it: P6 and P7 are small. It asks for less than `PKD`: what is the same
    in each window up to scale counts as alike. For segmentation name any module on both sides.

    The paper does not say over what minimum and maximum go: here over each image's map. It weighs a detector's levels,
    which are summed, by 2 or 4. There is no released code. Published on COCO, 1x, also: R101 teaches R18 from 32.6 to
    36.1 AP.

    Args:
        window: odd, at least 1.
        sigma: of the window, in positions, above 0.
        normalise: ``"image"``, ``"channel"`` or ``"batch"``.
        k1: above 0.
        k2: above 0.
        adapter: have the convolutions where channels are equal too, for a teacher of another architecture.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; or lists of such pairs.
        target is not read. Returns a scalar, of one pair in [0, 1].

    Raises:
        SegkdError: batch or size differ, channels are not those that it was prepared for, or an option is out of range.

    Reference: de Rijk, Schneider, Cordts, Gavrila, "Structural Knowledge Distillation for Object Detection",
    arXiv 2211.13133.

    Config:
        task: detection
        distill:
          terms:
            structural: {loss: structural, student: fpn, teacher: fpn, weight: 4.0}

    Example:
        >>> import torch
        >>> from segkd.losses import Structural
        >>> x = torch.randn(2, 8, 7, 9)
        >>> bool(Structural()(x, 3 * x + 1) < 1e-6)
        True
    """

    name = "structural"
    title = "Structural similarity of features"
    paper = "arXiv 2211.13133"
    takes = "features, or the FPN of detectors"
    default_weight = 4.0
    normalization = "mean over B * C_t * h * w, each level"
    trains = "1x1 convolution where the channels differ, or with adapter"
    published = "COCO, RetinaNet, R101 teaches R50: 36.4 to 40.1 AP"

    window: int = 11
    sigma: float = 1.5
    normalise: Normalise = "image"
    k1: float = 0.01
    k2: float = 0.03
    adapter: bool = False

    def check(self) -> None:
        """Look at the options."""
        super().check()
        if self.normalise not in get_args(Normalise):
            raise SegkdError(
                f"structural cannot normalise by {self.normalise!r}, {nearest(self.normalise, get_args(Normalise))}"
            )
        if self.window < 1 or self.window % 2 == 0:
            raise SegkdError(f"structural's window is an odd number of at least 1, got {self.window}")
        for name in ("sigma", "k1", "k2"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise SegkdError(f"structural's {name} must be above 0, got {value}")

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return what maps the student's channels, if anything does."""
        needed = self.adapter or student_channels != teacher_channels
        return nn.Conv2d(student_channels, teacher_channels, 1) if needed else nn.Identity()

    def compare(self, layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        s, t = layers(student), teacher
        # A row for each channel of each image.
        maps = [x.flatten(0, 1) for x in (s, *bounds(s, self.normalise), t, *bounds(t, self.normalise))]
        parts = list(zip(*(x.split(max(PART // maps[0][0].numel(), 1)) for x in maps), strict=True))
        if len(parts) == 1:
            return self.dissimilarity(*maps) / s.numel()
        # A dozen temporaries of the map's size would be kept for backward: they are computed anew there.
        sums = [checkpoint(self.dissimilarity, *part, use_reentrant=False) for part in parts]
        return torch.stack(sums).sum() / s.numel()

    def dissimilarity(
        self, s: Tensor, least_s: Tensor, factor_s: Tensor, t: Tensor, least_t: Tensor, factor_t: Tensor
    ) -> Tensor:
        """Return the sum of clamp((1 - SSIM) / 2, 0, 1) of maps (N, h, w), with their `bounds`."""
        height, width = s.shape[1:]
        window = min(self.window, 2 * min(height, width) - 1)
        down, across = (blur(length, window, self.sigma, s) for length in (height, width))

        def mean(x: Tensor) -> Tensor:
            return down.T @ (x @ across)

        # Around 0 fewer digits cancel in the variances.
        s, t = (s - least_s) * factor_s - 0.5, (t - least_t) * factor_t - 0.5
        mean_s, mean_t, c1, c2 = mean(s), mean(t), self.k1**2, self.k2**2
        variances = mean(s * s + t * t) - mean_s.square() - mean_t.square()
        covariance = mean(s * t) - mean_s * mean_t
        mean_s, mean_t = mean_s + 0.5, mean_t + 0.5
        similar = (2 * mean_s * mean_t + c1) * (2 * covariance + c2)
        similar = similar / ((mean_s.square() + mean_t.square() + c1) * (variances + c2))
        return ((1 - similar) / 2).clamp(0, 1).sum()
