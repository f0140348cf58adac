"""AT: attention transfer (Zagoruyko and Komodakis, arXiv 1612.03928)."""

import torch.nn.functional as F
from torch import Tensor

from segkd.losses._common import check_maps, full_precision, unit
from segkd.losses.base import Loss


def attention(features: Tensor) -> Tensor:
    """Return how strong each position of an image is: the mean over channels of F^2, as a vector of length 1.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, h * w); zeros for an image that is zero everywhere, which passes no gradient.
    """
    return unit(features.square().mean(1).flatten(1), 1)


class AT(Loss):
    """Attention transfer: the student copies where a map is strong, whatever its channels.

        a_x = mean over the channels d of F_dx^2, q = a / ||a||_2
        L = mean over B * h * w of (q^s_x - q^t_x)^2

    The original sums over several layers: give a term for each. With a single position both are 1, and the loss is 0.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient. target is not read. Returns a
        scalar.

    Raises:
        SegkdError: batch or size differ.

    Reference: Zagoruyko and Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional
    Neural Networks via Attention Transfer", arXiv 1612.03928.

    Config:
        distill:
          terms:
            at: {loss: at, student: decoder, teacher: decoder, weight: 10000.0}

    Example:
        >>> import torch
        >>> from segkd.losses import AT
        >>> x = torch.randn(2, 8, 7, 9)
        >>> bool(AT()(x, 3 * x.flip(1)) < 1e-12)
        True
    """

    name = "at"
    title = "Attention transfer"
    paper = "arXiv 1612.03928"
    takes = "features"
    default_weight = 10000.0
    normalization = "mean over B * h * w of vectors of length 1"
    any_channels = True

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_maps(self.name, student, teacher)
        with full_precision(student, teacher.detach()) as (s, t):
            return F.mse_loss(attention(s), attention(t))
