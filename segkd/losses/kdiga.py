"""KDIGA: the student's gradient on the image copies a robust teacher's (Shao et al., arXiv 2110.12072)."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_pair, full_precision, labelled_pixels
from segkd.losses.base import Loss

Variant = Literal["per_image", "released"]


class KDIGA(Loss):
    """Input-gradient alignment: what of the image moves the student's cross-entropy is what moves the teacher's.

        L = mean over B of ||d CE(z_s, y) / d x - d CE(z_t, y) / d x||_2

    CE of an image is a mean over its labelled pixels, x the image as the distiller gets it. ``variant="released"``: the
    norm over the whole batch, of the cross-entropy's mean over it, divided by B, as in the authors' code. Where both
    agree the norm passes no gradient.

    Only a teacher that was trained to be robust has something to give: use it beside pixel KD, and judge the student
    under attack. It costs a second backward pass through the student and one through the teacher, needs the teacher
    itself (no store), is not compiled by ``torch.compile``, and with batch norm in train mode an image's gradient is
    also the others'. Published weights are 0.5 to 1000.

    Args:
        variant: ``"per_image"`` or ``"released"``.
        ignore_index: label to leave out, as are labels that name no class.

    Shape:
        student, teacher: (B, C, h, w) logits that depend on the step's images; target: (B, H, W) labels; step: a
        `segkd.step.Step` whose images take a gradient, as the distiller gives it. Returns a scalar.

    Raises:
        SegkdError: shapes differ, there are no labels, or the logits do not depend on the images.

    Reference: Shao, Yi, Chen, Hsieh, "How and When Adversarial Robustness Transfers in Knowledge Distillation?",
    arXiv 2110.12072.

    Config:
        distill:
          terms:
            gradient: {loss: kdiga, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import KDIGA
        >>> from segkd.step import Step
        >>> images, labels = torch.rand(2, 3, 8, 8, requires_grad=True), torch.zeros(2, 8, 8, dtype=torch.long)
        >>> KDIGA()(images, images.clone(), labels, Step(images)).item()
        0.0
    """

    name = "kdiga"
    title = "Input-gradient alignment"
    paper = "arXiv 2110.12072"
    takes = "logits, and labels"
    default_weight = 1.0
    normalization = "mean over the images of the norm of their gradients' difference"
    needs_step = True
    needs_live = True
    needs_image_grad = True

    variant: Variant = "per_image"
    ignore_index: int = 255

    def check(self) -> None:
        """Look at the variant."""
        if self.variant not in get_args(Variant):
            raise SegkdError(f"kdiga has no variant {self.variant!r}, {nearest(self.variant, get_args(Variant))}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None, step: Any) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        labels, valid = labelled_pixels(self.name, target, self.ignore_index, student)
        if not (isinstance(step.images, Tensor) and student.requires_grad and teacher.requires_grad):
            raise SegkdError("kdiga needs the gradient on the images, on which student and teacher do not depend here")
        per_image = self.variant == "per_image"
        with full_precision(student, teacher) as logits:
            gradients = []
            for z, create_graph in zip(logits, (True, False), strict=True):
                wrong = (F.cross_entropy(z, labels, reduction="none") * valid).flatten(1).sum(1)
                count = valid.flatten(1).sum(1)
                loss = (wrong / count.clamp(min=1)).sum() if per_image else wrong.sum() / count.sum().clamp(min=1)
                # Other terms may go through the teacher's graph too.
                (found,) = torch.autograd.grad(loss, step.images, retain_graph=True, create_graph=create_graph)
                gradients.append(found.flatten(1))
            square = (gradients[0] - gradients[1]).square().sum(1)
            square = square if per_image else square.sum()[None]
            differs = square > 0
            return (square.where(differs, 1.0).sqrt() * differs).sum() / len(student)
