"""IFV: how like its class each pixel's feature is (Wang et al., ECCV 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.losses._common import check_maps, full_precision, labels_like, unit
from segkd.losses.base import Loss


@torch.compiler.disable  # how many classes there are is read from the labels
def members(labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Return (B, K, h * w) bool, which pixels each class has, of labels (B, h, w) below K; ignored ones have none."""
    ids = torch.where(labels == ignore_index, -1, labels).flatten(1)[:, None]
    return ids == torch.arange(int(ids.max()) + 1, device=ids.device)[:, None]


def similarity_to_class(features: Tensor, member: Tensor) -> Tensor:
    """Return the cosine of each pixel's feature with the mean feature of its class in that image.

    The gradient flows through the mean, whose denominator is the number of pixels + 1e-6. A zero vector has cosine 0
    and no gradient; norms count as 1e-8 at least.

    Args:
        features: (B, C, h, w).
        member: (B, K, h * w) bool, which pixels each class has, see `members`.

    Returns:
        (B, h * w) in [-1, 1], in float32 (float64 for float64 features); 0 for pixels of no class.
    """
    with full_precision(features.flatten(2)) as (x,):
        # Products with it sum over a class's pixels, and fetch what a pixel's class has.
        member = member.to(x.dtype)
        means = (member @ x.transpose(1, 2)) / (member.sum(2, keepdim=True) + 1e-6)
        return ((unit(means, 2, 1e-8) @ unit(x, 1, 1e-8)) * member).sum(1)


class IFV(Loss):
    """Intra-class feature variation: how like the mean of its class in that image a pixel's feature is.

        S_x = cos(F_x, m_y), m_y the mean feature of the pixels with x's label y
        L = mean over B * h * w of (S^s - S^t)^2

    See `similarity_to_class`. Ignored pixels add nothing and count in the mean. CIRKD weighs it by 20, on the maps
    before the classifiers, the original paper by 200, both beside pixel KD; the published gain is of CIRKD's runs.

    Args:
        ignore_index: pixels with this label have no class.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; target: (B, H, W) labels, at
        the maps' size by nearest neighbour. Returns a scalar.

    Raises:
        SegkdError: batch or size differ, or there are no labels.

    Reference: ECCV 2020, Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation".

    Config:
        distill:
          terms:
            ifv: {loss: ifv, student: decoder, teacher: decoder, weight: 20.0}

    Example:
        >>> import torch
        >>> from segkd.losses import IFV
        >>> student, teacher = torch.randn(2, 5, 7, 9), torch.randn(2, 8, 7, 9)
        >>> IFV()(student, teacher, torch.randint(0, 3, (2, 28, 36))).shape
        torch.Size([])
    """

    name = "ifv"
    title = "Intra-class feature variation"
    paper = "ECCV 2020, Wang et al."
    takes = "features, and labels"
    default_weight = 20.0
    normalization = "mean over B * h * w; the original paper's weight is 200"
    published = "Cityscapes, DeepLabV3, R101 teaches R18: 74.21 to 75.59 mIoU"
    any_channels = True

    ignore_index: int = 255

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_maps(self.name, student, teacher)
        member = members(labels_like(target, student, self.name), self.ignore_index)
        s, t = (similarity_to_class(x, member) for x in (student, teacher.detach()))
        return F.mse_loss(s, t)
