"""MasKD: masks that learnt tokens put on the teacher's logits (Huang et al., ICLR 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._common import check_pair, full_precision, labelled_pixels, pixel_mean
from segkd.losses.base import Loss


class MaskD(Loss):
    """Masked distillation: the squared difference of logits, under masks that say what belongs together.

        M_k = sigmoid(m_k . z_t), of K tokens m_k, vectors of a number per class
        L = 0.5 * mean over B, K and C of sum_x (M_k (z_s - z_t))^2 / (sum_x M_k + 1e-5)

    The tokens are trained and belong to the loss. In the paper that is a first stage of 10000 steps; here they learn
    beside the student, at each step with labels, from the labels and the frozen teacher alone, so that one run is all:
    of the gradient, not of the value, the same term has cross-entropy of the logits sum_k M_k z_t with the labels,
    taken at the logits' size, and the mean over images and pairs of masks of Dice 2 a.b / (a.a + b.b). No gradient of
    it reaches the student, and none of L the tokens. They begin at N(0, 0.01): masks of a half everywhere. For a first
    stage of its own train `token_loss` beforehand and fix them, ``loss.vectors.requires_grad_(False)``. (The released
    first stage has the teacher in train mode.)

    Weight 1 on logits, and 0.4 on auxiliary logits in a term of its own. With ResNet-101 as teacher PSPNet-R18 gets to
    75.34 mIoU, DeepLabV3-R18 to 77.00.

    Args:
        tokens: how many there are.
        ignore_index: the label of pixels that have none.

    Shape:
        student, teacher: (B, C, h, w) logits, the teacher's taken without gradient; target: (B, H, W) labels, or None:
        the tokens then stay as they are. Returns a scalar.

    Raises:
        SegkdError: shapes differ, the classes are not those that it was prepared for, or there is no token.

    Reference: Huang et al., "Masked Distillation with Receptive Tokens", ICLR 2023, arXiv 2205.14589.

    Config:
        distill:
          terms:
            maskd: {loss: maskd, tokens: 8, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import MaskD
        >>> loss, student, teacher = MaskD(tokens=4), torch.randn(2, 5, 7, 9), torch.randn(2, 5, 7, 9)
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher, torch.randint(0, 5, (2, 14, 18))).shape, loss.vectors.shape
        (torch.Size([]), torch.Size([4, 5]))
    """

    name = "maskd"
    title = "Masked distillation with receptive tokens"
    paper = "arXiv 2205.14589"
    default_weight = 1.0
    normalization = "half the mean over B, tokens and C; each mask's sum over positions is divided by the mask's"
    trains = "mask tokens"
    published = "Cityscapes, DeepLabV3-R18: to 77.00 mIoU"

    tokens: int = 8
    ignore_index: int = 255

    def check(self) -> None:
        """Look at the number of tokens; they are made once the classes are known."""
        if self.tokens < 1:
            raise SegkdError(f"maskd has one token at least, got {self.tokens}")
        self.vectors: nn.Parameter | None = None

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make the tokens for logits of these classes; a loss that has tokens keeps them."""
        if self.vectors is None:
            self.vectors = nn.Parameter(torch.randn(self.tokens, teacher.shape[1], device=student.device) * 0.01)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar; its gradient is also that of `token_loss`."""
        check_pair(self.name, student, teacher)
        if self.vectors is None:
            raise SegkdError("maskd has no tokens yet: call prepare(student, teacher), as a Distiller does")
        if self.vectors.shape[1] != teacher.shape[1]:
            raise SegkdError(f"maskd has tokens for {self.vectors.shape[1]} classes, got {tuple(teacher.shape)}")
        with full_precision(student, teacher.detach()) as (s, t):
            masks = receptive_masks(self.vectors.detach().to(t.dtype), t)
            shares = (masks.square() / (masks.sum((2, 3), keepdim=True) + 1e-5)).sum(1, keepdim=True)
            value = 0.5 * ((s - t).square() * shares).sum() / (len(s) * self.tokens * s.shape[1])
            if target is None or not self.vectors.requires_grad or not torch.is_grad_enabled():
                return value
            learning = token_loss(self.vectors.to(t.dtype), t, target, self.ignore_index)
            return value + (learning - learning.detach())


def receptive_masks(tokens: Tensor, logits: Tensor) -> Tensor:
    """Return sigmoid(m_k . z), (B, K, h, w), of tokens (K, C) and logits (B, C, h, w)."""
    return torch.einsum("kc,bchw->bkhw", tokens, logits).sigmoid()


def token_loss(tokens: Tensor, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """Return what tokens are trained by: cross-entropy of masked logits, plus the mean Dice of two masks of an image.

    Args:
        tokens: (K, C).
        logits: (B, C, h, w), the frozen teacher's.
        target: (B, H, W) labels, taken at the logits' size.
        ignore_index: the label of pixels that have none.
    """
    masks = receptive_masks(tokens, logits)
    labels, valid = labelled_pixels("maskd", target, ignore_index, logits)
    masked = logits * masks.sum(1, keepdim=True)
    supervised = pixel_mean(F.cross_entropy(masked, labels, reduction="none"), valid)
    if len(tokens) == 1:
        return supervised
    flat = masks.flatten(2)
    products = flat @ flat.transpose(1, 2)
    own = products.diagonal(dim1=1, dim2=2)
    # The least number beside a sum of squares of which each may underflow.
    dice = 2 * products / (own[:, :, None] + own[:, None]).clamp(min=torch.finfo(own.dtype).tiny)
    pairs = len(tokens) * (len(tokens) - 1) * len(dice)
    return supervised + (dice.sum() - dice.diagonal(dim1=1, dim2=2).sum()) / pairs
